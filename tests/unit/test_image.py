"""What the image is built from fits the project; what it installs is held against the project in test_lock.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def test_the_image_gets_every_package_that_the_wheel_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    for package in packages:
        assert f"COPY {package} {package}" in dockerfile
        assert re.search(rf"^!{package}(/|$)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
