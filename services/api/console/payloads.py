"""The bytes of records, as a person can read them."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

from services.api.admin.repair import Content


def readable(content: Content) -> dict[str, Any]:
    """Return the bytes of a record as a person can read them: JSON with its structure, other text, or what each byte is."""
    headers = [(name, _text(value)) for name, value in content.headers]
    body = _text(content.value_base64)
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    return {"key": _text(content.key_base64), "headers": headers, "body": body}


def _text(value: str | None) -> str:
    return "" if value is None else base64.b64decode(value).decode("utf-8", "backslashreplace")
