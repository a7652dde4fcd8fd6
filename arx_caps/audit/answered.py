# SPDX-License-Identifier: Apache-2.0
"""Hold services' records to what they signed for: each batch's statement stands beside its records.  SPEC 17.11, 18.2.

The log signs what the mint has.  So whoever stops a mint within the second before it signs could rewrite what had just
come; but he cannot sign that in the service's name.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import select

from arx_caps.audit.disputes import logged
from arx_caps.audit.entries import EVENT_CODE, is_event, read_event
from arx_caps.audit.errors import TamperedError
from arx_caps.audit.recover import RECOVERED
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import BATCH, RECORD, SOURCE, STATE
from arx_caps.audit.tree import Frontier, leaf_hash
from arx_caps.audit.wire import read_statement
from arx_caps.keyfile import PublicKey
from arx_verifier import codec
from arx_verifier.errors import GrantError
from arx_verifier.macaroon import MINT_AUDIENCE

_AT_ONCE: Final = 500  # stretches of one look
FindKey = Callable[[str, str], PublicKey | None]


class Answered(NamedTuple):
    """How many batches hold.

    Attributes:
        held: Those whose service signed for exactly these records.
        unknown: Those of which that is not known: there is no statement, the key is not enrolled any more, or some of
            the records were taken by retention.
        recovered: Those that were taken back from the files, as the log says itself: what answered for them was in the
            database that was lost, and nowhere else.
    """

    held: int
    unknown: int
    recovered: int


def hold_answered(store: LogStore, size: int, find_key: FindKey, progress: Callable[[int, int], None]) -> Answered:
    """Hold all batches of services.

    Args:
        store: The log's database.
        size: Records from here on are not looked at.
        find_key: Returns the key that a holder (``service:<audience>``) enrolled under a thumbprint, or None.
        progress: Told now and then how many records are done, of how many.

    Raises:
        TamperedError: A batch's records are not those that its service signed for.
        StoreError: The database did not answer.
    """
    of, found, after = SOURCE.c.audience.not_in(("", MINT_AUDIENCE)), Counter[str | None](), -1
    recovered = _recovered(store)
    which = select(BATCH.c.idx, BATCH.c.source, BATCH.c.statement).join(SOURCE, SOURCE.c.id == BATCH.c.source)
    while True:
        with store.reading() as c:
            some = c.execute(
                which.where(of, BATCH.c.idx > after, BATCH.c.idx < size).order_by(BATCH.c.idx).limit(_AT_ONCE)
            )
            stretches = some.all()
        if not stretches:
            return Answered(found["held"], found["unknown"], found["recovered"])
        for row in stretches:
            if row.statement is None:
                found[_without_statement(store, row.idx, recovered)] += 1
            else:
                found["held" if _holds(store, row.idx, row.source, row.statement, find_key) else "unknown"] += 1
        after = stretches[-1].idx
        progress(after, size)


def _recovered(store: LogStore) -> list[range]:
    """Return which records were taken back from the files."""
    with store.reading() as c:
        notes = c.execute(
            select(RECORD.c.kept).where(RECORD.c.tool == RECOVERED, RECORD.c.code == EVENT_CODE)
        ).scalars()
        named = [read_event(bytes(kept), None).named for kept in notes]
    return [range(int(each["first"]), int(each["last"]) + 1) for each in named]


def _without_statement(store: LogStore, index: int, recovered: Sequence[range]) -> str | None:
    """Say what a stretch is for which nothing answers; None for a note of the log's own."""
    with store.reading() as c:
        kept = c.execute(select(RECORD.c.kept).where(RECORD.c.idx == index)).scalar()
    if kept is not None and is_event(bytes(kept)):
        return None
    return "recovered" if any(index in each for each in recovered) else "unknown"


def _holds(store: LogStore, index: int, source: int, raw: bytes, find_key: FindKey) -> bool:
    """Return whether it can be told that a stretch holds."""
    missing: list[str] = []

    def find(holder: str, kid: str) -> PublicKey | None:
        key = find_key(holder, kid)
        missing.extend([] if key else [kid])
        return key

    try:
        said = read_statement(bytes(raw).decode(errors="replace"), find).claims
    except GrantError as error:
        if missing:
            return False
        raise TamperedError(f"what answers for record {index} is no statement of its service: {error}", index) from None
    first, last = int(said.get("first", 0)), int(said.get("last", 0))
    with store.reading() as c:
        kept_by = logged(c, source, first, last)
        pruned = c.execute(select(STATE.c.first)).scalar_one() > 0
    if pruned and len(kept_by) < last - first + 1:
        return False
    root = Frontier.of(leaf_hash(kept_by.get(sequence, b"")) for sequence in range(first, last + 1)).root()
    if codec.text_of(root) != said.get("root"):
        told = f"the records {first} to {last} of the batch at {index} are not those that their service signed for"
        raise TamperedError(told, index)
    return True
