# SPDX-License-Identifier: Apache-2.0
"""Find the events about the log itself, such as disputed records and erasures.  LOG 1.7."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import EVENT_CODE, LOG, EventRecord, is_event, read_event
from arx_caps.audit.store.tables import RECORD


def log_events(connection: Connection, kinds: Collection[str], start: int, end: int) -> list[tuple[bytes, EventRecord]]:
    """Return the events about the log itself of these kinds, each with its leaf, in order.

    Args:
        connection: A transaction that reads the log.
        kinds: The kinds.
        start: The first index.
        end: The index after the last.
    """
    # A holder may call a tool that has the name of a kind: a decision is no event.
    its = (RECORD.c.tool.in_(kinds), RECORD.c.idx >= start, RECORD.c.idx < end, RECORD.c.code == EVENT_CODE)
    leaves = [
        bytes(kept) for kept in connection.execute(select(RECORD.c.kept).where(*its).order_by(RECORD.c.idx)).scalars()
    ]
    events = [(leaf, read_event(leaf, None)) for leaf in leaves if is_event(leaf)]
    return [(leaf, event) for leaf, event in events if event.source == LOG]
