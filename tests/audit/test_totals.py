# SPDX-License-Identifier: Apache-2.0
"""What nodes say that they have is what the log has, whenever it is added up."""

import random
from collections import Counter

import pytest
from sqlalchemy import func, select

from arx_caps.audit.ingest.entries import ALLOW, DENY
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import total
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import NODE, RECORD, STATE
from arx_caps.audit.store.totals import up_to_date
from tests.audit.batches import batch_of, decision, facts

pytestmark = pytest.mark.spec("LOG 3.4")

CHAINS = [facts(f"s-{n % 3}", "t-1", *("a", "b")[: n % 2]) for n in range(6)]


def counts_by_node(store: LogStore) -> dict[int, tuple[int, int, int]]:
    """Return the totals of each node that has records: allows, denials, others; its time spans theirs."""
    with store.reading() as c:
        rows = up_to_date(c, c.execute(select(*NODE.c)).all())
        own = select(RECORD.c.node, func.min(RECORD.c.at_ms), func.max(RECORD.c.at_ms)).group_by(RECORD.c.node)
        spans = {node: (since, until) for node, since, until in c.execute(own)}
    counts = {row.id: (row.allow, row.deny, row.other) for row in rows if row.allow or row.deny or row.other}
    assert all(row.first_ms <= spans[row.id][0] and spans[row.id][1] <= row.last_ms for row in rows if row.id in spans)
    return counts


def counted(store: LogStore) -> dict[int, tuple[int, int, int]]:
    """The same, from the records alone."""
    with store.reading() as c:
        rows = c.execute(select(RECORD.c.node, RECORD.c.outcome)).all()
    kinds = {node: Counter(row.outcome for row in rows if row.node == node) for node in {row.node for row in rows}}
    return {node: (n[ALLOW], n[DENY], n.total() - n[ALLOW] - n[DENY]) for node, n in kinds.items()}


def hold_questions(store: LogStore) -> None:
    """Hold the totals of questions to the records alone."""
    own = select(func.count(), func.min(RECORD.c.at_ms), func.max(RECORD.c.at_ms)).join(
        NODE, NODE.c.id == RECORD.c.node
    )
    with store.reading() as c:
        for session in ("s-0", "s-1", "s-2", "s-9"):
            count, since, until = c.execute(own.where(NODE.c.session == session)).one()
            found = total(c, Question(session=session))
            assert (found.records, found.exact, found.until_ms) == (count, True, until)
            assert found.since_ms == since or (
                since is not None and found.since_ms is not None and found.since_ms < since
            )


@pytest.mark.slow
def test_totals_are_those_of_the_records(store: LogStore) -> None:
    """Before, between and after checkpoints, and with losses among the records."""
    dice, mark = random.Random(9), 0
    for step in range(24):
        if step % 4 == 3:
            assert store.put_checkpoint(store.size(), b"note")
        else:
            made = [decision(dice.randrange(900), dice.choice(CHAINS), dice.choice(("ok", "expired"))) for _ in "12345"]
            lost = mark + 1 if step % 5 == 4 else None
            first = mark + 1 if lost is None else mark + 3
            mark = store.take(batch_of(made, first, lost_from=lost), "s")
        assert counts_by_node(store) == counted(store)
        hold_questions(store)
    with store.reading() as c:
        size, done = c.execute(select(STATE.c.size, STATE.c.counted)).one()
    assert size == done
