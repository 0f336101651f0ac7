"""The manifests as they were: what a cluster has before it is upgraded."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.k8s.conftest import ROOT

_FOLDER = "deploy/k8s"
NEEDED = "an upgrade is tested from earlier commits, so this needs a clone with its history"


def earlier_versions(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the versions of deploy/k8s before what is here, newest first: the commit, and where it is unpacked.

    A version that equals what is here, or the one yielded before, is none. Fails where git has no history.
    """
    newer = None
    for commit in _git("rev-list", "HEAD", "--", _FOLDER).decode().split():
        tree = _git("rev-parse", f"{commit}:{_FOLDER}")
        if tree != newer and (newer or _differs(commit)):
            unpacked = folder / commit
            with tarfile.open(fileobj=BytesIO(_git("archive", commit, _FOLDER))) as archive:
                archive.extractall(unpacked, filter="data")
            yield commit[:9], unpacked / _FOLDER
        newer = tree


def _differs(commit: str) -> bool:
    """Whether what is here, committed or not, is another version than the commit's."""
    return bool(_git("diff", "--name-only", commit, "--", _FOLDER).strip())


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    if done.returncode != 0:
        pytest.fail(f"git {words[0]}: {done.stderr.decode().strip()}: {NEEDED}")
    return done.stdout
