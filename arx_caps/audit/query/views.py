# SPDX-License-Identifier: Apache-2.0
"""JSON objects of records and nodes, for the mint's API.  LOG 3.2."""

from collections.abc import Sequence
from typing import Any, Final

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.audit.merkle.tree import leaf_hash
from arx_caps.audit.query.questions import Found
from arx_caps.audit.store.totals import Counted
from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import unpack_record

DECISION: Final = "decision"
EVENT: Final = "event"
UNREADABLE: Final = "unreadable"


def show_record(found: Found) -> dict[str, Any]:
    """Return a record as JSON values, without secrets.

    They are ``index``, ``leaf`` (hex), ``node``, ``service``, ``type``, and the record's own facts.

    Args:
        found: The record.
    """
    place = {"index": found.idx, "leaf": leaf_hash(found.kept).hex(), "node": found.node}
    shown: dict[str, Any] = place | {"service": found.audience}
    try:
        if not is_event(found.kept):
            return {**shown, "type": DECISION, **unpack_record(found.kept, found.body).to_dict()}
        event = read_event(found.kept, found.body)
    except AuditError as error:  # a record of a later version, for example: show that it exists, and where
        return {**shown, "type": UNREADABLE, "at": None, "problem": str(error)}
    facts = {"at": event.at, "kind": event.kind, "by": event.by, "source": event.source, "number": event.number}
    return {**shown, "type": EVENT, **facts, "named": event.named, "facts": event.facts, "erased": event.facts is None}


def show_nodes(rows: Sequence[Counted]) -> list[dict[str, Any]]:
    """Return nodes as JSON values; ``parent`` is the position of the node above in this list, or None.

    Args:
        rows: Rows of ``log_node`` in the order of their paths, so that each comes after the node above it.
    """
    places: dict[int | None, int] = {row.id: place for place, row in enumerate(rows)}
    names = ("kind", "ref", "name", "session", "task", "agent", "subject", "allow", "deny", "other")
    return [
        {"node": row.id, "parent": places.get(row.parent)}
        | {name: getattr(row, name) for name in (*names, "first_ms", "last_ms")}
        for row in rows
    ]
