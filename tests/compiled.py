"""Which sweep the tests' own workers have: the one that is installed, unless TALLYSTICK_INGEST_COMPILED says another."""

from __future__ import annotations

import os
from typing import Final

from services.ingest.compiled import Compiled

COMPILED: Final = Compiled(os.environ.get("TALLYSTICK_INGEST_COMPILED", Compiled.AUTO))
