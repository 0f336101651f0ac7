"""Jars of Java programs such as the broker: the exact files that a committed lock names, fetched once per user and verified at every start.

`python -m deploy.local.jars` resolves the broker's coordinates below afresh and rewrites its lock; nothing else ever resolves it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import LocalStackError

COORDINATES = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
LOCK = Path(__file__).with_name("kafka.lock.toml")
_DOWNLOADS_AT_ONCE = 8
_ATTEMPTS_PER_JAR = 3
_TIMEOUT_SECONDS = 60
_LEFTOVER_SECONDS = 3600


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One locked file: Maven coordinates and the SHA-256 of its bytes in hexadecimal. An archive of jars has another packaging."""

    group: str
    artifact: str
    version: str
    sha256: str
    classifier: str = ""
    packaging: str = "jar"

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}{self.classifier and f'-{self.classifier}'}.{self.packaging}"

    def path_in(self, cache: Path) -> Path:
        """Where the jar is in a directory of Maven's layout."""
        return cache.joinpath(*self.group.split("."), self.artifact, self.version, self.filename)

    def is_intact(self, cache: Path) -> bool:
        try:
            with self.path_in(cache).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def cache_directory(environ: Mapping[str, str]) -> Path:
    """The user's jar cache, shared by all checkouts."""
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tallystick" / "jars"


def locked_jars(lock: Path = LOCK) -> list[Jar]:
    """The jars that the lock names, in class-path order."""
    with lock.open("rb") as file:
        return [Jar(**entry) for entry in tomllib.load(file)["jar"]]


def ensure_jars(jars: Sequence[Jar], cache: Path, say: Callable[[str], None]) -> list[Path]:
    """The paths of all jars, in order, each with the locked content; what is missing or damaged is fetched.

    Raises `LocalStackError` when a jar cannot be fetched or when what was fetched is not what the lock names.
    """
    try:
        missing = [jar for jar in jars if not jar.is_intact(cache)]
        if missing:
            say(f"fetching {len(missing)} jars from Maven Central into {cache}")
            cache.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(cache)
            # Fetched aside and renamed when verified, so that an interrupted run or a second one never sees half a jar.
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as aside:
                _fetch_all(missing, Path(aside), cache, say)
    except OSError as error:
        raise LocalStackError(
            f"the jar cache {cache} cannot be used: {error}; set XDG_CACHE_HOME to choose another place"
        ) from error
    return [jar.path_in(cache) for jar in jars]


def _remove_leftovers(cache: Path) -> None:
    """Remove what an interrupted download left; what is younger may belong to one that runs now."""
    for leftover in cache.glob(".fetching-*"):
        if leftover.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _fetch_all(jars: Sequence[Jar], aside: Path, cache: Path, say: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(max_workers=_DOWNLOADS_AT_ONCE, thread_name_prefix="jars") as pool:
        try:
            for done, future in enumerate(
                as_completed([pool.submit(_fetch, jar, aside, cache) for jar in jars]), start=1
            ):
                future.result()
                if done % 10 == 0 or done == len(jars):
                    say(f"fetched {done} of {len(jars)} jars")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(jar: Jar, aside: Path, cache: Path) -> None:
    """Download one jar, verify it, then move it to its place."""
    _download(jar, aside)
    if not jar.is_intact(aside):
        raise LocalStackError(
            f"the jar {jar.group}:{jar.artifact}:{jar.version} that Maven Central served is not the one that its lock names "
            "(its SHA-256 differs): something between here and there changes downloads"
        )
    jar.path_in(cache).parent.mkdir(parents=True, exist_ok=True)
    jar.path_in(aside).replace(jar.path_in(cache))


def _download(jar: Jar, aside: Path) -> None:
    # Only jgo's single-artifact download is used: its environment builder looks for a JDK on the network.
    from jgo.maven import MavenContext  # noqa: PLC0415 (slow to import, and not needed once the cache is filled)

    context = MavenContext(repo_cache=aside, timeout=_TIMEOUT_SECONDS)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact(jar.classifier, jar.packaging)
    for attempt in range(1, _ATTEMPTS_PER_JAR + 1):
        try:
            artifact.resolve()
            return
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo says RuntimeError for "not found"
            jar.path_in(aside).unlink(missing_ok=True)
            if attempt == _ATTEMPTS_PER_JAR:
                raise LocalStackError(
                    f"the jar {jar.group}:{jar.artifact}:{jar.version} cannot be fetched from Maven Central ({_short(error)}): "
                    "check the network, or name a broker in KAFKA_BOOTSTRAP_SERVERS"
                ) from error


def _short(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text[:200]}"


def resolve_lock(
    coordinates: Sequence[str] = COORDINATES, archives: Sequence[Jar] = (), made_by: str = __name__
) -> str:
    """Resolve coordinates with their runtime dependencies and return the text of a lock file. Downloads everything.

    `archives` are named as they are, without dependencies; their SHA-256 is found here.
    """
    from jgo.maven import MavenContext  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as cache:
        context = MavenContext(repo_cache=Path(cache), timeout=_TIMEOUT_SECONDS)
        inputs, transitive = context.resolver.resolve([context.create_dependency(text) for text in coordinates])
        found = [*inputs, *(one for one in transitive if one.scope in ("compile", "runtime"))]
        files = [(Jar(one.groupId, one.artifactId, one.version, ""), one.artifact.resolve()) for one in found]
        for archive in archives:
            _download(archive, Path(cache))
            files.append((archive, archive.path_in(Path(cache))))
        entries = [_entry(jar, hashlib.sha256(path.read_bytes()).hexdigest()) for jar, path in files]
    what = ", ".join([*coordinates, *(f"{one.group}:{one.artifact}:{one.version}" for one in archives)])
    return "\n".join([f"# Made by `python -m {made_by}` from {what}.\n", *entries])


def _entry(jar: Jar, sha256: str) -> str:
    fields = {"group": jar.group, "artifact": jar.artifact, "version": jar.version, "sha256": sha256}
    if jar.packaging != "jar":
        fields |= {"classifier": jar.classifier, "packaging": jar.packaging}
    return "[[jar]]\n" + "".join(f'{name} = "{value}"\n' for name, value in fields.items())


if __name__ == "__main__":
    LOCK.write_text(resolve_lock(made_by="deploy.local.jars"), encoding="utf-8")
