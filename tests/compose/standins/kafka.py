"""What the official image's entry point does with its KAFKA_ variables: Kafka's own KafkaDockerWrapper turns them into settings, which
the broker then starts with. Java is mounted at /opt/java, the jars are at /opt/jars, in Maven's layout."""

import os
import subprocess
from pathlib import Path

JAVA = "/opt/java/bin/java"
DEFAULTS = Path("/tmp/defaults")  # noqa: S108 (of the container)
SETTINGS = Path("/opt/kafka/config")


def main() -> None:
    """Write the settings, format the storage, then become the broker."""
    path = ":".join(os.environ["STANDIN_JARS"].split())
    java = [JAVA, "-XX:-UsePerfData", "-Dlog4j2.StatusLogger.level=OFF", "-cp", path]
    for folder in (DEFAULTS, SETTINGS / "mounted"):
        folder.mkdir(exist_ok=True)
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (DEFAULTS / name).touch()
    folders = ("--default-configs-dir", DEFAULTS, "--mounted-configs-dir", SETTINGS / "mounted")
    wrapper = ("kafka.docker.KafkaDockerWrapper", "setup", *folders, "--final-configs-dir", SETTINGS)
    subprocess.run([*java, "-Xmx128m", "-XX:TieredStopAtLevel=1", *wrapper], check=True)
    heap = os.environ["KAFKA_HEAP_OPTS"].split()
    broker = [*java[:-2], *heap, "-cp", path, "kafka.Kafka", str(SETTINGS / "server.properties")]
    os.execv(JAVA, broker)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
