# SPDX-License-Identifier: Apache-2.0
"""Leaves that were just committed are handed on as they are, and never others than those."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.merkle.tiles import Leaf, leaf_of
from arx_caps.audit.store.log_store import LogStore, Recent
from arx_caps.audit.store.tables import RECORD
from tests.audit.batches import batch_of, decision, facts
from tests.support import QUICK

pytestmark = pytest.mark.spec("LOG 1.8")

LOG = [leaf_of(b"record %d" % number) for number in range(60)]


@QUICK
@given(
    st.lists(st.tuples(st.sampled_from(["mine", "theirs", "asked"]), st.integers(1, 9), st.integers(0, 9)), max_size=20)
)
def test_only_the_logs_own_leaves_in_order(steps: list[tuple[str, int, int]]) -> None:
    """While others append, and at any start: nothing, or what the log has there."""
    recent, size = Recent(), 0
    for what, count, back in steps:
        if what == "asked":
            start = max(0, size - back)
            found = recent.take(start, min(size, start + count))
            assert found == LOG[start : start + len(found)]
            continue
        count = min(count, len(LOG) - size)
        size += count
        if what == "mine":
            recent.add(size, LOG[size - count : size])


def test_what_was_undone_is_not_handed_on(store: LogStore) -> None:
    """After an error in a transaction its records are in no one's hands; what follows has their places."""
    made = [decision(n, facts()) for n in range(1, 4)]
    try:
        with store.writing() as log:
            log.append(log.source("x", "y"), store._batches.read(batch_of(made[2:], 3)))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    store.take(batch_of(made[:2]), "s")
    with store.reading() as c:
        rows = [leaf_of(bytes(kept)) for kept in c.execute(RECORD.select().order_by(RECORD.c.idx)).scalars(8)]
    assert store.leaves(0, 2) == rows == store.leaves(0, 2)  # from memory, then from the database
    assert isinstance(rows[0], Leaf)
