# SPDX-License-Identifier: Apache-2.0
"""The log's database: taken once, in order, wholly or not at all, and found again."""

import pytest
from sqlalchemy import event, inspect, select, update

from arx_caps.audit.ingest.entries import LOST, is_event, read_event
from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.audit.query.node_search import Question, reach
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import META, METADATA, NODE, RECORD
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.journal.decision import COUNTED, UNPROVEN, Decision, unpack_record
from arx_verifier.journal.tally import RefusalCount
from arx_verifier.token.targets import subject_target
from tests.audit.batches import BOOT, batch_of, decision, facts, sources_of

pytestmark = pytest.mark.spec("LOG 2.3")


def kept_of(store: LogStore) -> list[bytes]:
    """The leaves, in order; their indices are contiguous and the tree is theirs."""
    with store.reading() as c:
        rows = c.execute(select(RECORD.c.idx, RECORD.c.kept).order_by(RECORD.c.idx)).all()
    with store.writing() as log:
        assert log.tree.root() == Frontier.of(leaf_hash(row.kept) for row in rows).root()
    assert [row.idx for row in rows] == list(range(store.size()))
    return [bytes(row.kept) for row in rows]


def test_a_batch_is_taken_once(store: LogStore) -> None:
    """A batch that comes again, in part or whole, adds nothing; one that leaves something out is not taken."""
    made = [decision(n, facts()) for n in range(1, 9)]
    assert store.take(batch_of(made[:5]), "s") == 5
    assert store.take(batch_of(made[:5]), "s") == 5
    assert store.take(batch_of(made[3:7], 4), "s") == 7
    assert store.take(batch_of(made[7:], 9), "s") == 7
    assert store.take(batch_of([], 1), "s") == 7
    kept = kept_of(store)
    assert [unpack_record(each, None).sequence for each in kept] == [1, 2, 3, 4, 5, 6, 7]
    assert store.find(BOOT, 7) == [6]
    assert store.find(BOOT, 8) == []


def test_what_is_lost_is_a_record(store: LogStore) -> None:
    """A loss that begins at or below the next number moves the mark over what never came, and the log records that."""
    assert store.take(batch_of([decision(1, facts())]), "s") == 1
    assert store.take(batch_of([decision(6, facts())], 6, lost_from=4), "s") == 1  # 2 and 3 may come yet
    sixth = batch_of([decision(6, facts())], 6, lost_from=2)
    assert store.take(sixth, "s") == 6
    assert store.take(sixth, "s") == 6
    assert store.take(batch_of([], 9, lost_from=7, closed=True), "s") == 8
    kept = kept_of(store)
    losses = [read_event(each, None) for each in kept if is_event(each)]
    assert [(each.kind, each.named["first"], each.named["last"]) for each in losses] == [(LOST, 2, 5), (LOST, 7, 8)]
    source = sources_of(store)[0]
    assert (source.high_water, source.lost, source.closed_ms is not None) == (8, 6, True)


def test_what_is_taken_is_counted_once(store: LogStore) -> None:
    """By decision and reason, counts of unproven refusals by what they say; a service makes up no reason of its own."""
    junk = Decision(
        COUNTED, 1, UNPROVEN, counts=(RefusalCount("bad_signature", "10.0.0.9", 40), RefusalCount("made.up", "", 2))
    )
    made = [decision(n, facts(), code) for n, code in enumerate(("ok", "ok", "expired", "made.up"))]
    ended = decision(9, facts(), "revoked", ends=1)
    for _ in range(2):
        assert store.take(batch_of([*made, junk, ended]), "s") == 6
    with pytest.raises(RequestError):
        store.take(batch_of([decision(7, facts())], 7)._replace(audience="payments"), "s")
    assert store.counts.decisions() == {
        ("allow", "ok"): 2,
        ("deny", "expired"): 1,
        ("deny", "other"): 3,
        ("deny", "bad_signature"): 40,
        ("end", "revoked"): 1,
    }


def test_a_bad_record_keeps_all_of_its_batch_out(store: LogStore) -> None:
    """A batch with one record of another place, run or body is refused whole, and the mark stays."""
    good = batch_of([decision(n, facts()) for n in range(1, 4)])
    for bad in (
        good._replace(first=2),
        good._replace(boot="other"),
        good._replace(verifier="other"),
        good._replace(audience="payments"),
        good._replace(records=(*good.records[:2], good.records[2]._replace(body=good.records[1].body))),
        good._replace(records=(*good.records[:2], good.records[2]._replace(kept=b"\x97\x02"))),
    ):
        with pytest.raises(RequestError):
            store.take(bad, "s")
    assert (store.size(), sources_of(store)) == (0, [])
    assert store.take(good, "s") == 3


@pytest.mark.spec("LOG 3.1")
def test_a_node_leads_to_all_below_it(store: LogStore) -> None:
    """By session, task or link one finds all nodes below, each with the totals of its own records."""
    chain = [facts(), facts("s-1", "t-1", "a"), facts("s-1", "t-1", "a", "b"), facts("s-2", "t-9")]
    codes = ["ok", "ok", "expired", "ok", "revoked", "ok", "ok"]
    made = [decision(n, chain[n % 4], code) for n, code in enumerate(codes)]
    store.take(batch_of(made), "s")
    (link,) = store.node("link", "s-1-t-1-a")
    with store.reading() as c:
        reached = reach(c, Question(session="s-1"))
        assert reached is not None
        rows = [(node.name, node.allow, node.deny, node.first_ms, node.last_ms) for node in reached.nodes]
        under = c.execute(select(NODE.c.name).where(NODE.c.path.between(link.path, link.path + b"\xff"))).scalars()
        assert set(under) == {"a", "b"}
    start = made[0].at
    assert [row[:3] for row in rows] == [("acme/bot", 0, 0), ("acme/bot", 1, 1), ("a", 2, 0), ("b", 1, 1)]
    assert rows[1][3:] == (start, start + 4)


@pytest.mark.spec("LOG 3.1")
def test_two_stories_of_one_session_do_not_mix(store: LogStore) -> None:
    """What says another agent or subject of the same session is a tree of its own."""
    subject = ("https://idp.example", "ada")
    chains = [facts(), facts(agent="acme/other"), facts(subject=subject)]
    store.take(batch_of([decision(n, chain) for n, chain in enumerate(chains)]), "s")
    nodes = store.node("session", "s-1")
    assert {(node.agent, node.subject) for node in nodes} == {
        ("acme/bot", None),
        ("acme/other", None),
        ("acme/bot", subject_target(*subject)),
    }


def test_a_log_of_another_version_is_refused(store: LogStore, url: str) -> None:
    """Nothing is written to tables of another form; the error says what to do."""
    with store.writing() as log:
        log.connection.execute(update(META).values(value="99"))
    with LogStore(url) as again, pytest.raises(SettingsError, match=r"schema 99.*a newer version"):
        again.create()


def test_a_log_of_an_earlier_version_gets_its_indexes(store: LogStore) -> None:
    """A missing one, and one with other columns; a log that has them all is left as it is."""

    def indexes() -> set[tuple[str | None, ...]]:
        with store.reading() as c:
            found = [index for table in METADATA.tables for index in inspect(c).get_indexes(table)]
        return {(index["name"], *index["column_names"]) for index in found}

    whole, statements = indexes(), list[str]()
    with store.writing() as log:
        log.connection.exec_driver_sql("DROP INDEX log_record_by_outcome")
        log.connection.exec_driver_sql("DROP INDEX log_record_by_node")
        log.connection.exec_driver_sql("CREATE INDEX log_record_by_node ON log_record (node, idx)")
    assert indexes() != whole
    event.listen(store._engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    store.create()
    assert indexes() == whole
    made = [statement.split()[2] for statement in statements if "CREATE INDEX" in statement]
    assert sorted(made) == ["log_record_by_node", "log_record_by_outcome"]
    statements.clear()
    store.create()
    assert statements
    assert not any("INDEX" in statement.split() for statement in statements)
