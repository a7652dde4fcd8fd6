# SPDX-License-Identifier: Apache-2.0
"""Two stories of one run: what comes a second time has to be what the log has of it.  SPEC 18.3.

Whoever stole a service's key can send records in its name, ahead of the verifier that makes them, or say that they are
lost; a machine that was resumed twice from one image gives its numbers to two calls each.  What the verifier itself
sends then would be passed over, as a batch that comes again is.  So it is compared.  Where it differs it is refused:
its sender keeps it, and the log says that there are two stories.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from arx_caps.audit.bulk import read_leaves
from arx_caps.audit.entries import DISPUTED, LOG, Entry, EventRecord, is_event, make_event
from arx_caps.audit.errors import DisputedError
from arx_caps.audit.nodes import SERVICE, Place, Step
from arx_caps.audit.tables import BATCH, GAP, STATE
from arx_caps.audit.tree import leaf_hash
from arx_caps.audit.wire import Batch


def logged(connection: Connection, source: int, first: int, last: int) -> dict[int, bytes]:
    """Return the kept parts that the log has of a source, by sequence, from ``first`` to ``last``.

    What was declared lost is not there, but for its end: there stands the record that says so.
    """
    of = BATCH.c.source == source
    start = connection.execute(select(func.max(BATCH.c.first)).where(of, BATCH.c.first <= first)).scalar() or first
    stretches = select(BATCH.c.idx, BATCH.c.first, BATCH.c.last).where(of, BATCH.c.first.between(start, last))
    found = {}
    for idx, begins, ends in connection.execute(stretches).all():
        some = max(begins, first), min(ends, last)
        for index, kept in read_leaves(connection, idx + some[0] - begins, idx + some[1] - begins + 1):
            found[begins + index - idx] = bytes(kept)
    return found


def hold_to_logged(connection: Connection, source: int, entries: Sequence[Entry]) -> None:
    """Compare records that came before with what the log has of them; what retention took cannot be compared.

    Raises:
        DisputedError: One is another, or was declared lost.
    """
    kept = logged(connection, source, entries[0].sequence, entries[-1].sequence)
    pruned = connection.execute(select(STATE.c.first)).scalar_one() > 0
    for entry in entries:
        held = kept.get(entry.sequence)
        if held == entry.kept or (held is None and pruned):
            continue
        lost = held is None or is_event(held)
        told = "was declared lost before it came" if lost else "is another one in the log"
        raise DisputedError(f"record {entry.sequence} of this run {told}", entry.sequence, leaf_hash(entry.kept))


def make_dispute(batch: Batch, error: DisputedError, at_ms: int) -> Entry:
    """Make the record that says that a run has two stories, with the hash of what the log does not have."""
    named: dict[str, Any] = {"verifier": batch.verifier, "boot": batch.boot, "audience": batch.audience}
    named |= {"first": error.sequence, "leaf": error.leaf.hex()}
    event = EventRecord(LOG, 0, at_ms, DISPUTED, f"service:{batch.audience}", named, {})
    return make_event(event, Place((Step(SERVICE, batch.audience, batch.audience),)), GAP)
