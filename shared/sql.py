"""A small loader of named queries: SQL lives in one readable file per service, code asks for it by name.

A file is a sequence of blocks. Each begins with `-- name: some_query`, says its purpose in comment lines, and is one
statement with numbered parameters:

    -- name: lock_position
    -- Takes the partition's row, so that two owners at once are serialised.
    SELECT next_offset FROM ingest_positions WHERE … FOR UPDATE;
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

_NAME = re.compile(r"^--\s*name:\s*(\w+)\s*$", re.MULTILINE)
_IDENTIFIER = re.compile(r"^[a-z_][a-z0-9_]*$")


class Queries(Mapping[str, str]):
    """Queries by name, in the order of the file. Raises `KeyError` that lists the known names for an unknown one."""

    def __init__(self, text: str, *, origin: str) -> None:
        self._origin = origin
        self._queries: dict[str, str] = {}
        parts = _NAME.split(text)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in self._queries:
                raise ValueError(f"{origin}: the query '{name}' is defined twice")
            self._queries[name] = body.strip().rstrip(";")

    @classmethod
    def load(cls, package: str, file: str = "queries.sql", **tables: str) -> Queries:
        """Read `file` of `package`. `tables` replaces `{name}` in the text, for code that serves several tables of one shape."""
        text = files(package).joinpath(file).read_text(encoding="utf-8")
        for placeholder, table in tables.items():
            if not _IDENTIFIER.match(table):
                raise ValueError(f"'{table}' is not a plain table name")
            text = text.replace("{" + placeholder + "}", table)
        return cls(text, origin=f"{package}/{file}")

    def __getitem__(self, name: str) -> str:
        try:
            return self._queries[name]
        except KeyError:
            raise KeyError(f"{self._origin} has no query '{name}'; it has {', '.join(self._queries)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)
