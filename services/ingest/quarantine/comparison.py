"""Shows beside a refused event the version that was stored under its identity."""

from __future__ import annotations

from datetime import UTC, datetime

from services.ingest.acceptance import Limits, Rejected, accept
from services.ingest.identities import stored_versions
from services.ingest.quarantine.store import Quarantined
from shared.ids import event_id
from shared.postgres import Connection

_EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


async def stored_version(connection: Connection, record: Quarantined) -> dict[str, object] | None:
    """Return the columns of the row that is stored under the identity of a refused event; those that are empty are left out.

    None if the record is no event, or none is stored under its identity. If the month is archived, only the time is known.
    """
    event = accept(record.record_value, record.record_headers, Limits(), *_EVER)
    if isinstance(event, Rejected):
        return None
    id_ = event_id(event.source, event.id)
    stored = (await stored_versions(connection, [(id_, event.time)])).get(id_)
    if stored is None:
        return None
    if stored["id"] is None:
        return {"id": id_, "created_at": stored["guarded_at"], "archived": True}
    return {
        name: content
        for name, content in stored.items()
        if content is not None and name not in {"wanted", "guarded_at", "total_tokens"}
    }
