"""Events that correct usage: void takes an event back, amend replaces it (pure). Beside usage events on `usage.events`.

An original is named by its CloudEvents id; its source is the correction's own. docs/reference/contracts.md says what becomes of it.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, Final, Literal

from msgspec import Struct

from shared.contracts import MAX_STRING, SPEC_VERSION, Instant, Name, Text, UsageData, usage_event_schema

VOID_TYPE: Final = "tallystick.usage.void.v1"
AMEND_TYPE: Final = "tallystick.usage.amend.v1"


class VoidData(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Which event is taken back: the id of one of the same source."""

    voids: Name


class VoidEvent(Struct, frozen=True, gc=False):
    """A CloudEvents 1.0 event of type `tallystick.usage.void.v1`. A `subject`, if given, must be the original's."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Literal["tallystick.usage.void.v1"]
    time: Instant
    data: VoidData
    subject: Text | None = None

    @property
    def corrects(self) -> str:
        return self.data.voids


class AmendData(UsageData, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True):
    """What was used indeed, in full, in place of the event that `amends` names."""

    amends: Name


class AmendEvent(Struct, frozen=True, gc=False):
    """A CloudEvents 1.0 event of type `tallystick.usage.amend.v1`: it counts at the original's time, whatever its own."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Literal["tallystick.usage.amend.v1"]
    time: Instant
    data: AmendData
    subject: Text | None = None

    @property
    def corrects(self) -> str:
        return self.data.amends


def usage_void_schema() -> dict[str, Any]:
    """Return the published JSON Schema (2020-12) of a void event, as structured-mode CloudEvents JSON."""
    usage = usage_event_schema()
    properties = {
        name: usage["properties"][name] for name in ("specversion", "id", "source", "subject", "datacontenttype")
    }
    properties |= {
        "type": {"const": VOID_TYPE},
        "time": {**usage["properties"]["time"], "description": "When it was taken back: RFC 3339 with a zone."},
        "data": {"$ref": "#/$defs/VoidData"},
    }
    return {
        "$schema": usage["$schema"],
        "$id": "urn:tallystick:usage-void:v1",
        "title": "Tallystick void event",
        "description": cleandoc(VoidEvent.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "required": ["specversion", "id", "source", "type", "time", "data"],
        "$defs": {
            "VoidData": {
                "type": "object",
                "description": cleandoc(VoidData.__doc__ or ""),
                "properties": {"voids": {"type": "string", "minLength": 1, "maxLength": MAX_STRING}},
                "required": ["voids"],
                "additionalProperties": False,
            }
        },
    }


def usage_amend_schema() -> dict[str, Any]:
    """Return the published JSON Schema (2020-12) of an amend event: a usage event whose data name another one."""
    usage = usage_event_schema()
    data = usage["$defs"]["UsageData"]
    amends = {"type": "string", "minLength": 1, "maxLength": MAX_STRING, "description": "Id of the event it replaces."}
    data = {
        **data,
        "title": "AmendData",
        "properties": {**data["properties"], "amends": amends},
        "required": [*data.get("required", []), "amends"],
    }
    return {
        **usage,
        "$id": "urn:tallystick:usage-amend:v1",
        "title": "Tallystick amend event",
        "description": cleandoc(AmendEvent.__doc__ or ""),
        "properties": {**usage["properties"], "type": {"const": AMEND_TYPE}, "specversion": {"const": SPEC_VERSION}},
        "$defs": {"UsageData": data},
    }
