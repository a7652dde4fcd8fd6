# SPDX-License-Identifier: Apache-2.0
"""Questions to the log: what is found is what a reader of the whole log would find, in order, page by page."""

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from arx_caps.audit.query import node_search, questions
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records, search, total
from arx_caps.audit.query.views import show_nodes, show_record
from arx_caps.audit.store.log_store import LogStore
from arx_verifier.journal.decision import COUNTED, UNPROVEN, Decision
from arx_verifier.journal.tally import RefusalCount
from arx_verifier.names import matches_path, matches_tool
from arx_verifier.token.targets import subject_target
from tests.audit.batches import START_MS, batch_of, decision, facts
from tests.servers import BOTH, empty_database

ADA = ("https://idp.example", "ada")
SESSIONS = {
    "s-1": {"agent": "acme/bot", "subject": ADA},
    "s-2": {"agent": "acme/support", "subject": None},
    "s-3": {"agent": "acme/support/triage", "subject": ADA},
}
CHAINS: tuple[tuple[str, ...], ...] = ((), ("acme/a",), ("acme/b",), ("acme/a", "acme/c"), ("acme/a", "acme/d"))
TOOLS = ("orders.get", "orders.list", "orders_x", "payments.refund")
CODES = ("ok", "ok", "ok", "revoked", "tool_not_allowed")


def drawn_decisions(count: int = 400) -> list[Decision]:
    """Decisions of three sessions, each with two tasks and some delegations."""
    dice = random.Random(5)
    made = []
    for number in range(1, count + 1):
        session, about = dice.choice(list(SESSIONS.items()))
        chain = facts(session, f"{session}-t{dice.randrange(2)}", *dice.choice(CHAINS), **about)
        if number % 50 == 0:
            counts = (RefusalCount("bad_signature", "10.0.0.9", 3), RefusalCount("expired", "10.0.0.8", 1))
            made.append(Decision(COUNTED, START_MS + number, UNPROVEN, counts=counts))
        else:
            made.append(decision(number, chain, dice.choice(CODES), dice.choice(TOOLS)))
    return made


DRAWN = drawn_decisions()


@pytest.fixture(scope="module", params=BOTH)
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogStore]:
    """A log that holds them."""
    for url in empty_database(request, tmp_path_factory.mktemp("log") / "audit.db"):
        with LogStore(url) as store:
            store.create()
            for first in range(0, len(DRAWN), 70):
                store.take(batch_of(DRAWN[first : first + 70], first + 1), "s")
            yield store


def chain_of(decided: Decision) -> list[tuple[str, str]]:
    """The nodes of a decision, as kind and id, from the session down."""
    steps = [("session", decided.session), ("task", decided.task)]
    return [*steps, *(("link", link) for link in decided.links)] if decided.session else []


WAYS = {tuple(chain_of(each)) for each in DRAWN}


def is_near(decided: Decision, kind: str, ref: str) -> bool:
    """Whether a decision is of a node above or below one, by looking at every chain that there is."""
    own = chain_of(decided)
    if (kind, ref) in own:
        return True
    return bool(own) and any((kind, ref) in chain and chain[: len(own)] == tuple(own) for chain in WAYS)


def is_wanted(question: Question, decided: Decision) -> bool:
    """What a question means, without a database."""
    about = SESSIONS.get(decided.session, {})
    subject = about.get("subject")
    ids = (("session", question.session), ("task", question.task), ("link", question.link))
    conditions = [is_near(decided, kind, ref) for kind, ref in ids if ref is not None]
    if question.agent is not None:
        pattern = question.agent
        pairs = {pair for each in DRAWN for pair in zip(each.named, each.links, strict=True)}
        named = [link for name, link in pairs if matches_path(pattern, name)]
        proven = bool(decided.agent) and matches_path(pattern, decided.agent)
        conditions.append(proven or any(is_near(decided, "link", link) for link in named))
    if question.subject is not None:
        conditions.append(subject is not None and subject_target(*subject) == question.subject)
    if question.tool is not None:
        conditions.append(matches_tool(question.tool, decided.tool))
    if question.reason is not None:
        codes = [decided.code, decided.outcome, *(each.code for each in decided.counts)]
        conditions.append(question.reason in codes)
    since, until = question.since_ms or 0, question.until_ms or 1 << 60
    return all(conditions) and since <= decided.at < until


LINK = next(each.links[0] for each in DRAWN if len(each.links) == 2)
LEAF = next(each.links[1] for each in DRAWN if len(each.links) == 2)
QUESTIONS = [
    Question(),
    Question(session="s-1"),
    Question(task="s-2-t1"),
    Question(link=LINK),
    Question(link=LEAF),
    Question(link=LEAF, session="s-9"),
    Question(agent="acme/bot"),
    Question(agent="acme/support/**"),
    Question(agent="acme/c"),
    Question(agent="acme/*", tool="orders.get"),
    Question(subject=subject_target(*ADA)),
    Question(subject=subject_target(*ADA), reason="deny"),
    Question(tool="orders.*"),
    Question(tool="orders.get", reason="allow"),
    Question(tool="*", reason="revoked"),
    Question(reason="bad_signature"),
    Question(reason="counted"),
    Question(reason="gap"),
    Question(session="s-1", reason="deny", tool="payments.refund"),
    Question(since_ms=START_MS + 100, until_ms=START_MS + 200),
    Question(session="s-3", since_ms=START_MS + 333),
    Question(session="s-3", until_ms=START_MS),
]


@functools.cache
def wanted_of(question: Question) -> list[int]:
    """The indices of what a question means."""
    return [place for place, each in enumerate(DRAWN) if is_wanted(question, each)]


@pytest.mark.slow
@pytest.mark.spec("LOG 3.1", "LOG 3.3")
@pytest.mark.parametrize("way", ["gathered", "walked", "walked by many"])
@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_what_is_found_is_what_a_reader_of_it_all_finds(
    log: LogStore, question: Question, way: str, monkeypatch: Any
) -> None:
    """
    Whatever is asked, by few nodes or many: every record that is meant, newest or oldest first, counted and dated.
    """
    if way == "walked by many":
        monkeypatch.setattr(node_search, "GATHERED", 1)
    if way != "gathered":
        monkeypatch.setattr(questions, "_worth_gathering", lambda *_: False)
    wanted = wanted_of(question)
    with log.reading() as c:
        newest = records(c, question, limit=1000)
        assert [found.idx for found in newest] == wanted[::-1]
        assert [found.idx for found in records(c, question, after=-1, limit=1000)] == wanted
        counted = total(c, question)
    assert counted.records == len(wanted) if counted.exact else counted.records <= len(wanted)
    assert counted.exact or way == "walked by many"
    if wanted and question.of_nodes and counted.exact:
        times = [DRAWN[place].at for place in wanted]
        assert (counted.since_ms or 0) <= min(times)  # a node is dated from when something below it was first seen
        assert counted.until_ms == max(times)


@pytest.mark.spec("LOG 3.3")
@pytest.mark.parametrize("tested", [0, 20, 1000])
def test_a_total_that_stopped_testing_is_a_lower_bound(
    log: LogStore, tested: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many nodes to gather by, each record is tested, up to a bound; a total is exact only below the bound."""
    monkeypatch.setattr(node_search, "GATHERED", 1)
    monkeypatch.setattr(questions, "_TESTED", tested)
    asked = {"agent": "acme/support/**", "reason": "deny"}
    for question in (Question(**asked), Question(**asked, tool="orders.*"), Question(**asked, since_ms=START_MS + 90)):
        wanted = wanted_of(question)
        assert len(wanted) > 20
        with log.reading() as c:
            found = total(c, question)
        assert found.exact == (tested == 1000)
        assert found.records == len(wanted) if found.exact else found.records < len(wanted)
        assert found.records <= tested


@pytest.mark.spec("LOG 3.3")
@pytest.mark.parametrize("rising", [False, True], ids=["falling", "rising"])
@pytest.mark.parametrize(
    "question",
    [
        Question(agent="acme/support/**", reason="deny"),
        Question(agent="acme/c", tool="orders.*"),
        Question(agent="acme/c", tool="orders.*", reason="revoked"),
        Question(subject=subject_target(*ADA), reason="allow"),
        Question(tool="orders.get", reason="deny"),
        Question(session="s-1", reason="revoked", tool="payments.refund"),
        Question(reason="bad_signature"),
        Question(since_ms=START_MS + 100, until_ms=START_MS + 300),
        Question(agent="acme/unknown", reason="deny"),
    ],
    ids=range(9),
)
def test_a_search_stops_and_goes_on_where_it_stopped(
    log: LogStore, question: Question, rising: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A page says how far it looked; the pages after it have the rest.

    Each looks at few records, however many there are, and none before where it stopped is left out.
    """
    monkeypatch.setattr(node_search, "GATHERED", 1)
    monkeypatch.setattr(questions, "_WINDOW", 10)
    monkeypatch.setattr(questions, "_EACH_S", 0.0)
    wanted = wanted_of(question) if rising else wanted_of(question)[::-1]
    found, edge, ends = [], -1 if rising else None, []
    with log.reading() as c:
        reached = node_search.held(c, question)
        for _ in range(len(DRAWN)):
            place = {"after" if rising else "before": edge}
            page = search(c, question, reached, limit=5, **place)  # type: ignore[arg-type]
            found += [each.idx for each in page.records]
            if page.end is None and len(page.records) < 5:
                break
            ends.append(page.end)
            assert page.end is None or page.at_ms == DRAWN[page.end].at
            assert found == (wanted[: len(found)])
            edge = found[-1] if page.end is None else page.end
    assert found == wanted
    assert any(end is not None for end in ends) == (
        question.reason != "bad_signature" and question.agent != "acme/unknown"
    )


@pytest.mark.spec("LOG 3.3")
@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("question", [Question(tool="orders.*", reason="deny"), Question(agent="acme/bot", tool="*")])
def test_a_search_that_goes_on_leaves_no_record_out(
    log: LogStore, question: Question, rising: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one window of a page ends, the next one begins."""
    monkeypatch.setattr(node_search, "GATHERED", 1)
    monkeypatch.setattr(questions, "_WINDOW", 10)
    monkeypatch.setattr(questions, "_EACH_S", 60.0)
    wanted = wanted_of(question) if rising else wanted_of(question)[::-1]
    with log.reading() as c:
        page = search(c, question, node_search.held(c, question), limit=1_000, after=-1 if rising else None)
    assert [each.idx for each in page.records] == wanted
    assert page.end is None


@pytest.mark.spec("LOG 3.3")
@pytest.mark.parametrize("asked", [{}, {"reason": "deny"}, {"agent": "acme/bot"}, {"agent": "acme/bot", "tool": "*"}])
def test_a_time_after_the_whole_log_has_no_record(log: LogStore, asked: dict[str, str]) -> None:
    """Nor does it read the log: the search begins at its last batch.  One millisecond earlier has the last record."""
    end = START_MS + len(DRAWN)
    after = Question(**asked, since_ms=end + 1)  # type: ignore[arg-type]
    with log.reading() as c:
        assert questions._first_since(c, end + 1) == 350
        assert total(c, after) == (0, True, None, None)
        assert records(c, after) == records(c, after, after=-1) == []
        assert [found.idx for found in records(c, Question(since_ms=end))] == [len(DRAWN) - 1]


@pytest.mark.spec("LOG 3.3")
@pytest.mark.parametrize("question", [Question(), Question(link=LINK), Question(tool="orders.*", reason="deny")])
def test_pages_join_without_a_gap_or_a_repeat(log: LogStore, question: Question) -> None:
    """
    Page after page, from either end, gives what one large page gives.
    """
    with log.reading() as c:
        whole = [found.idx for found in records(c, question, limit=1000)]
        for rising in (False, True):
            pages: list[int] = []
            edge = -1 if rising else None
            while page := records(c, question, **{"after" if rising else "before": edge}, limit=7):  # type: ignore[arg-type]
                pages += [found.idx for found in page]
                edge = pages[-1]
            assert pages == (whole[::-1] if rising else whole)


@pytest.mark.spec("LOG 3.4")
def test_a_session_is_a_tree_with_its_counts(log: LogStore) -> None:
    """
    The nodes of a session come each before what is below it, and count what was decided there, allowed or not.
    """
    with log.reading() as c:
        reached = node_search.reach(c, Question(session="s-1"))
    assert reached is not None
    assert reached.complete
    nodes = show_nodes(reached.nodes)
    assert (nodes[0]["kind"], nodes[0]["parent"], nodes[0]["agent"]) == ("session", None, "acme/bot")
    assert all(node["parent"] < place for place, node in enumerate(nodes) if place)
    for node in nodes:
        own = [each for each in DRAWN if each.session and chain_of(each)[-1] == (node["kind"], node["ref"])]
        assert (node["allow"], node["deny"]) == (sum(e.allowed for e in own), sum(not e.allowed for e in own))
    assert sum(node["allow"] + node["deny"] for node in nodes) == sum(each.session == "s-1" for each in DRAWN)


@pytest.mark.spec("LOG 3.2")
def test_a_record_is_shown_as_it_was_decided(log: LogStore) -> None:
    """
    What is shown of a record is what the verifier decided, with its place and its leaf.
    """
    with log.reading() as c:
        [found] = records(c, Question(), before=8, limit=1)
    shown = show_record(found)
    wanted = DRAWN[7].to_dict()
    assert (shown["index"], shown["type"], shown["service"]) == (7, "decision", "orders")
    assert {name: shown[name] for name in ("tool", "code", "at", "session", "links", "subject", "failures")} == {
        name: wanted[name] for name in ("tool", "code", "at", "session", "links", "subject", "failures")
    }
