# SPDX-License-Identifier: Apache-2.0
"""The totals over time are those of the records, by minute, hour and day, and by each kind of name."""

import random
from collections import Counter

import pytest
from sqlalchemy import bindparam, delete, func, select, text

from arx_caps.audit.ingest.entries import ALLOW, DENY
from arx_caps.audit.query import questions
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records, total
from arx_caps.audit.query.top_names import OutcomeCounts, series, top
from arx_caps.audit.store import time_totals
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import NODE, RECORD, TOTAL
from arx_caps.audit.store.time_totals import KINDS, SPANS_MS, rebuild
from tests.audit.batches import batch_of, decision, facts

pytestmark = pytest.mark.spec("LOG 3.6")

START_MS = 1_800_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = SPANS_MS
COLUMNS = {"agent": NODE.c.agent, "session": NODE.c.session, "tool": RECORD.c.tool, "reason": RECORD.c.code}


def fill(store: LogStore, batches: int = 12, *, checkpoint: bool = True) -> None:
    """Take batches of decisions over five days, of some sessions, tools and reasons."""
    dice, mark = random.Random(4), 0
    chains = [facts(f"s-{n}", "t-1", *("a", "b")[: n % 2]) for n in range(7)]
    for step in range(batches):
        made = [
            decision(dice.randrange(5 * DAY_MS), dice.choice(chains), dice.choice(("ok", "ok", "expired")))
            for _ in range(40)
        ]
        mark = store.take(batch_of(made, mark + 1), "s")
        if step % 3 == 0:
            store.put_checkpoint(store.size(), b"note")
    if checkpoint:
        store.put_checkpoint(store.size(), b"note")


def counted(store: LogStore, by: str, since_ms: int, until_ms: int) -> Counter[tuple[str, int]]:
    """The numbers of allowed and denied records by name, from the records alone."""
    which = (RECORD.c.at_ms >= since_ms, RECORD.c.at_ms < until_ms, RECORD.c.outcome.in_((ALLOW, DENY)))
    if by == "reason":
        which = (*which, RECORD.c.outcome == DENY)
    column = COLUMNS[by]
    wanted = select(column, RECORD.c.outcome, func.count()).join(NODE, NODE.c.id == RECORD.c.node).where(*which)
    with store.reading() as c:
        rows = c.execute(wanted.where(column != "").group_by(column, RECORD.c.outcome)).all()
    return Counter({(name, outcome): count for name, outcome, count in rows})


@pytest.mark.parametrize("by", list(KINDS))
def test_top_is_that_of_the_records(store: LogStore, by: str) -> None:
    """For times of all lengths, within a minute, over hours, over days, and without an end."""
    fill(store)
    dice = random.Random(by)
    for length in (MINUTE_MS, 40 * MINUTE_MS, 5 * HOUR_MS, 30 * HOUR_MS, 4 * DAY_MS, 20 * DAY_MS):
        since = START_MS + dice.randrange(DAY_MS) // MINUTE_MS * MINUTE_MS
        with store.reading() as c:
            found = top(c, by, since_ms=since, until_ms=since + length, limit=100)
        assert found.until_ms is not None
        assert found.since_ms <= since < found.since_ms + DAY_MS
        assert since + length <= found.until_ms < since + length + DAY_MS
        names: Counter[tuple[str, int]] = Counter()
        for row in found.rows:
            names[row.name, ALLOW] += row.counts.allow
            names[row.name, DENY] += row.counts.deny
        assert +names == counted(store, by, found.since_ms, found.until_ms)
        assert found.rest == OutcomeCounts()
        assert [row.counts.decisions for row in found.rows] == sorted(r.counts.decisions for r in found.rows)[::-1]


def test_a_limit_adds_the_others_up(store: LogStore) -> None:
    """What is not listed is counted; the order is that of all decisions, or of the refusals."""
    fill(store)
    with store.reading() as c:
        all_ = top(c, "session", since_ms=START_MS, limit=100)
        three = top(c, "session", since_ms=START_MS, limit=3)
        refused = top(c, "session", since_ms=START_MS, order="refused", limit=100)
    assert three.rows == all_.rows[:3]
    assert three.rest.decisions == sum(row.counts.decisions for row in all_.rows[3:]) > 0
    assert [row.counts.refused for row in refused.rows] == sorted((r.counts.refused for r in all_.rows), reverse=True)
    assert {row.agent for row in all_.rows} == {"acme/bot"}


def test_a_series_has_each_step(store: LogStore) -> None:
    """By minute, hour or day, of all records or of one name; its sum is the total."""
    fill(store)
    with store.reading() as c:
        for length, step in ((HOUR_MS, MINUTE_MS), (2 * DAY_MS, HOUR_MS), (30 * DAY_MS, DAY_MS)):
            found = series(c, since_ms=START_MS, until_ms=START_MS + length)
            assert found.step_ms == step
            assert found.total.decisions == sum(counts.decisions for _, counts in found.points)
            expected = counted(store, "tool", found.since_ms, found.until_ms)
            assert (found.total.allow, found.total.deny) == tuple(
                sum(n for (_, outcome), n in expected.items() if outcome == each) for each in (ALLOW, DENY)
            )
        empty = series(c, since_ms=0, until_ms=0)
        assert (empty.points, empty.step_ms, empty.until_ms) == ([], MINUTE_MS, 0)
        one = series(c, since_ms=START_MS, until_ms=START_MS + 5 * DAY_MS, by="session", name="s-3")
        assert one.size == store.size()
    assert one.total.allow == counted(store, "session", one.since_ms, one.until_ms)["s-3", ALLOW]


def test_invented_names_are_added_up(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller invents tools: the span keeps those with the most records, and no record is lost from the sum."""
    chain, mark = facts("s-1", "t-1"), 0
    monkeypatch.setattr(time_totals, "_IS_FULL", text(str(time_totals._IS_FULL).replace("2000", "40")))
    monkeypatch.setattr(
        time_totals, "_MANY", select(TOTAL.c.at).where(TOTAL.c.what == 0, TOTAL.c.span == bindparam("span"))
    )
    for least in ("_FOLD", "_DROP"):
        monkeypatch.setattr(time_totals, least, text(str(getattr(time_totals, least)).replace("LIMIT 500", "LIMIT 10")))
    for step in range(6):
        made = [decision(step, chain, "tool_not_allowed", f"invented.n{step}x{n}") for n in range(20)]
        made += [decision(step, chain, "ok", "orders.get") for _ in range(5)]
        mark = store.take(batch_of(made, mark + 1), "s")
        store.put_checkpoint(store.size(), b"note")
    with store.reading() as c:
        found = top(c, "tool", since_ms=START_MS, limit=100)
        rows = c.execute(select(func.count()).where(TOTAL.c.what == KINDS["tool"], TOTAL.c.span == 2)).scalar_one()
    assert rows <= 41
    assert (found.rows[0].name, found.rows[0].counts.allow) == ("orders.get", 30)
    assert sum(row.counts.deny for row in found.rows) + found.rest.deny == 120


def test_a_rebuild_counts_the_records_again(store: LogStore) -> None:
    """A log from before the totals, or with wrong ones, has the same after a rebuild."""

    def rows() -> list[object]:
        with store.reading() as c:
            return list(c.execute(select(*TOTAL.c).order_by(TOTAL.c.what, TOTAL.c.span, TOTAL.c.at, TOTAL.c.name)))

    fill(store, 7, checkpoint=False)
    before = rows()
    with store.writing() as log:
        log.connection.execute(delete(TOTAL).where(TOTAL.c.at % 2 == 0))
    assert rows() != before
    with store.writing() as log:
        rebuild(log.connection)
    assert rows() == before
    with store.writing() as log:
        TOTAL.drop(log.connection)
    store.create()
    assert rows() == before


def test_a_question_s_total_is_the_kept_one(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search by outcome, reason or tool over whole minutes has its exact total, with the records of a moment ago."""
    fill(store, 8, checkpoint=False)
    monkeypatch.setattr(questions, "COUNTED_TO", 3)
    minute = START_MS // MINUTE_MS * MINUTE_MS
    spans = ({}, {"since_ms": minute + DAY_MS}, {"until_ms": minute + 2 * DAY_MS})
    for asked in ({"reason": "deny"}, {"reason": "allow"}, {"reason": "expired"}, {"tool": "lookup"}, {"reason": None}):
        for span in spans:
            question = Question(**asked, **span)  # type: ignore[arg-type]
            with store.reading() as c:
                found = total(c, question)
                every = records(c, question, limit=1000)
            assert (found.records, found.exact) == (len(every), True), question
    with store.reading() as c:
        assert not total(c, Question(reason="deny", since_ms=minute + 1)).exact
        assert not total(c, Question(reason="deny", tool="*")).exact
