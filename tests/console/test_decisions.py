# SPDX-License-Identifier: Apache-2.0
"""The pages of the audit log: the feed, why a decision is so, the search with its exports, and the top."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from arx_caps.audit.ingest.entries import EventRecord, make_event, place_of_event
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.query.live import matches
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records
from arx_caps.audit.query.views import show_record
from arx_caps.audit.store.tables import RECORD
from arx_caps.console.pages import decisions
from arx_caps.console.pages.decisions import NewRecords, RecordReader
from arx_caps.console.records import command_of
from arx_caps.mint.api.routes.events.trail import records_after
from arx_verifier.constraints.rule import Rule
from arx_verifier.journal.decision import Decision
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import MemoryKeys, parse_stamp
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.targets import subject_target
from tests.audit.batches import START_MS, batch_of, decision, facts
from tests.audit.test_delegations import BOUND
from tests.console.harness import operator_with, sign_in
from tests.console.html import require_well_formed
from tests.mint.harness import Harness, now_ms
from tests.servers import until
from tests.verifier.test_holder import FIRST, SECOND, THIRD

ADA = ("https://idp.example", "ada")
DECISIONS = [
    decision(1, facts("s-1", "t-1")),
    decision(2, facts("s-1", "t-1", "acme/a")),
    decision(3, facts("s-1", "t-1", "acme/a", "acme/c"), "revoked"),
    decision(4, facts("s-1", "t-2"), tool="=HYPERLINK(1)"),
    decision(5, facts("s-2", "t-3", agent="acme/other", subject=ADA), "argument_not_allowed", tool="<b>bold"),
]
KINDS = ("operator.logged_in", "session.opened")
pytestmark = pytest.mark.sqlite


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch, unit: Harness) -> Harness:
    """A realm whose log has five decisions; nothing else is appended until a test signs it."""
    # Its thread would append the events of the mint and of the test's own requests, early or late.
    monkeypatch.setattr(unit.mint.log, "_run", lambda: None)
    unit.mint.log.start()
    take(unit, DECISIONS)
    return unit


def take(harness: Harness, made: list[Decision], first: int = 1) -> None:
    harness.mint.log.store.take(batch_of(made, first), None)


def rows(page: str) -> list[int]:
    """Return the indices of the rows of a page."""
    return [int(index) for index in re.findall(r'aria-label="Record (\d+): why"', page)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [4, 3, 2, 1, 0]),
        ("session=s-2", [4]),
        ("agent=acme/c", [2, 1, 0]),
        ("reason=deny", [4, 2]),
        ("person=https://idp.example%20ada", [4]),
        (f"until={START_MS + 3}", [1, 0]),
        ("tool=none", []),
    ],
)
def test_the_search_is_the_api_s(unit: Harness, query: str, found: list[int]) -> None:
    """Each filter of the page is one of the API; a delegate finds what it came from and what came from it."""
    browser = sign_in(unit)
    page = browser.get(f"/console/search?{query}")
    assert browser.status == 200
    assert rows(page) == found
    assert ("No record matches" in page) == (not found)
    if query == "session=s-2":
        assert "arx audit trail --session s-2" in page
        assert 'href="/console/sessions/s-2">Open the session' in page
        agent = 'href="/console/agents/acme/other">Open the agent'
        assert agent in browser.get("/console/search?agent=acme/other")
        assert agent not in browser.get("/console/search?agent=acme/**")


def test_the_search_pages(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older records are a link away, and the last page has none."""
    monkeypatch.setattr("arx_caps.console.pages.search.ROWS", 2)
    browser, seen = sign_in(unit), []
    page = browser.get("/console/search?agent=acme/bot")
    assert "<strong>4</strong> records" in page
    for _ in range(5):
        seen.append(rows(page))
        older = re.search(r'href="([^"]+)" rel="next"', page)
        if older is None:
            break
        page = browser.get(older[1].replace("&amp;", "&"))
    assert seen in ([[3, 2], [1, 0]], [[3, 2], [1, 0], []])
    assert browser.get("/console/search?since=yesterday")
    assert browser.status == 400


def test_a_search_that_takes_long_goes_on(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page says how far it came, and its link goes on; a download goes on by itself."""
    monkeypatch.setattr("arx_caps.audit.query.node_search.GATHERED", 1)
    monkeypatch.setattr("arx_caps.audit.query.questions._WINDOW", 0)
    monkeypatch.setattr("arx_caps.audit.query.questions._EACH_S", 0.0)
    browser, path, seen, notes = sign_in(unit), "/console/search?agent=acme/bot&reason=allow", [], []
    for _ in range(9):
        page = browser.get(path)
        seen.append(rows(page))
        notes.append([word for word in ("Searched back to", "No record since", "No record matches") if word in page])
        older = re.search(r'href="([^"]+)" rel="next">Search older records', page)
        if older is None:
            break
        path = older[1].replace("&amp;", "&")
    assert [index for page in seen for index in page] == [3, 1, 0]
    assert ["Searched back to"] in notes
    assert ["No record since"] in notes
    assert "searched back to" in browser.get("/console/decisions?agent=acme/bot&reason=allow")
    lines = browser.get("/console/search/export?format=jsonl&agent=acme/bot&reason=allow").splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 3]


def test_an_export_has_what_the_search_finds(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CSV without formulas, JSON lines and OCSF, over more than one page of the API."""
    monkeypatch.setattr("arx_caps.console.pages.search._PAGE", 2)
    browser = sign_in(unit)
    table = list(csv.DictReader(io.StringIO(browser.get("/console/search/export?format=csv&session=s-1"))))
    assert browser.page is not None
    assert browser.page.headers["content-disposition"] == 'attachment; filename="records.csv"'
    assert [row["index"] for row in table] == ["0", "1", "2", "3"]
    assert table[3]["tool"] == "'=HYPERLINK(1)"
    lines = [json.loads(line) for line in browser.get("/console/search/export?format=jsonl&reason=deny").splitlines()]
    assert [line["index"] for line in lines] == [2, 4]
    events = [json.loads(line) for line in browser.get("/console/search/export?format=ocsf&session=s-2").splitlines()]
    assert [event["class_uid"] for event in events] == [6003]
    browser.get("/console/search/export?format=xlsx")
    assert browser.status == 400
    monkeypatch.setattr("arx_caps.console.pages.search.EXPORTED", 3)
    assert len(browser.get("/console/search/export?format=jsonl").splitlines()) == 3


@pytest.mark.spec("18.8")
def test_what_was_withheld_from_a_reader_is_named(unit: Harness) -> None:
    """The page of the record has how many entries of a memory were withheld, why, and their ids."""
    realm = UnsafeTestRealm("orders")
    memory = Memory(MemoryKeys({"memory.1": bytes(32)}), realm.epochs, realm.decisions)
    bad, reader = (
        realm.verifier.verify(
            realm.caller(Rule(tool="memory.*"), agent=agent, session=session).token("memory.read"),
            AccessRequest("memory.read", {}, now_ms()),
        )
        for agent, session in (("acme/bad", "s-bad"), ("acme/reader", "s-reader"))
    )
    stamps = [memory.stamp(bad, text) for text in ("one", "two")]
    realm.epochs.freeze("agent:acme/bad")
    found = [("one", stamps[0], "one"), ("two", stamps[1], "two"), ("none", None, "none")]
    assert memory.trusted(found, reader) == []
    take(unit, [realm.decisions.decisions[-1]], 6)
    browser = sign_in(unit)
    page = browser.get("/console/decisions/5")
    for text in (
        "withheld, entries of a memory were withheld, as they are not trusted",
        f"2 tainted by agent:acme/bad: {', '.join(parse_stamp(stamp).id for stamp in stamps)}",
        "1 unknown (the entry has no stamp)",
        "acme/reader",
    ):
        assert text in page, text
    assert "2 tainted by agent:acme/bad" in browser.get("/console/decisions?reason=withheld")


def test_a_decision_says_why(unit: Harness) -> None:
    """The condition that failed, the chain, policy and epoch; what a caller wrote is text; the proof verifies."""
    browser = sign_in(unit)
    unit.mint.log.step()
    page = browser.get("/console/decisions/4")
    for text in (
        "argument_not_allowed",
        "rule must be expected (tool), got came",
        "acme/other",
        "ada of https://idp.example",
    ):
        assert text in page, text
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    chain = browser.get("/console/decisions/2")
    assert [name in chain for name in ("acme/bot", "acme/a", "acme/c", "link=s-1-t-1-acme/a")] == [True] * 4
    assert "Every condition of the token held" in browser.get("/console/decisions/0")
    proof = RecordProof.parse(browser.get("/console/decisions/4/proof").encode())
    proof.check(unit.mint.log.publisher.signer.key)
    assert proof.index == 4
    for bad in ("99", "x", "-1", "9" * 20):
        browser.get(f"/console/decisions/{bad}")
        assert browser.status == 404, bad


def test_the_top_shows_the_most(unit: Harness) -> None:
    """With rates, a picture without a style of its own, and links to the search."""
    browser = sign_in(unit)
    unit.mint.log.step()
    page = browser.get(f"/console/top?since={START_MS}&until={START_MS + 1000}")
    assert browser.status == 200
    assert re.search(r'Decisions</h2><p class="figure">5<', page)
    span = f"since={START_MS}&amp;until={START_MS + 1000}"
    assert f'href="/console/search?{span}&amp;session=s-1"' in page
    refused = browser.get(f"/console/top?since={START_MS}&until={START_MS + 1000}&order=refused")
    assert f'href="/console/search?{span}&amp;reason=deny&amp;session=s-1"' in refused
    assert "<rect" in page
    assert "style=" not in page
    assert f"arx audit top --since {START_MS} --order all --until {START_MS + 1000}" in page
    assert "No decision in this time" in browser.get("/console/top?since=1m")


def test_only_readers_see_the_log(unit: Harness) -> None:
    """A role without the permission sees no page of it, no export, no proof and no stream."""
    operator = operator_with(unit, "pager", "kill-only")
    browser = sign_in(unit, operator)
    for path in ("decisions", "decisions/live", "decisions/1", "decisions/1/proof", "search", "search/export", "top"):
        browser.get(f"/console/{path}")
        assert browser.status == 403, path
    assert "/console/decisions" not in browser.get("/console/home")


def test_the_feed_s_page_is_whole_without_a_script(unit: Harness) -> None:
    """The newest rows, filtered by the server, and where a script goes on."""
    browser = sign_in(unit)
    page = browser.get("/console/decisions?reason=deny")
    assert rows(page) == [4, 2]
    assert 'data-feed="/console/decisions/live?reason=deny&amp;after=4"' in page
    browser.get("/console/decisions?since=1h")
    assert browser.status == 400


def shown(harness: Harness) -> list[dict[str, Any]]:
    return records_after(harness.mint.log, -1, 100)[0]


def test_agents_only(unit: Harness) -> None:
    """No call of an operator or a service, and no event, on the page and in its stream, which the filters keep."""
    unit.mint.log.step()
    browser = sign_in(unit)
    everything = rows(browser.get("/console/decisions"))
    page = browser.get("/console/decisions?only=agents&agent=acme/c")
    assert (rows(page), set(everything) > {0, 1, 2}) == ([2, 1, 0], True)
    assert 'name="only" value="agents"' in page
    assert rows(browser.get("/console/decisions?only=agents")) == [4, 3, 2, 1, 0]
    assert re.search(r'data-feed="[^"]*only=agents', page)


def test_the_feed_s_filter_is_the_search_s(unit: Harness) -> None:
    """Without the database; except that a delegate finds only what is its own or came from it."""
    unit.mint.log.step()
    every = shown(unit)

    def found(**asked: Any) -> list[int]:
        return [each["index"] for each in every if each["index"] < 5 and matches(Question(**asked), each)]

    assert found() == [0, 1, 2, 3, 4]
    assert found(session="s-1") == [0, 1, 2, 3]
    assert found(task="t-1") == found(granted="t-1") == [0, 1, 2]
    assert found(agent="acme/a") == [1, 2]
    assert found(agent="acme/**") == [0, 1, 2, 3, 4]
    assert found(link=DECISIONS[1].links[0]) == [1, 2]
    assert found(reason="revoked") == [2]
    assert found(reason="allow", tool="lookup") == [0, 1]
    assert found(subject=subject_target(*ADA)) == [4]
    events = [each for each in every if each["type"] == "event"]
    assert events
    assert all(
        matches(Question(reason="event"), each) and not matches(Question(reason="deny"), each) for each in events
    )


def test_the_feed_s_filter_reads_events_as_the_search_does(unit: Harness) -> None:
    """A person is issuer and subject; an event whose subject is a name alone, such as a login, is of no person."""
    login = {"operator": "corp.ada", "issuer": ADA[0], "subject": ADA[1], "role": "viewer"}
    opened = {"session": "s-7", "agent": "acme/bot", "subject": list(ADA)}
    for kind, by, event in (
        ("operator.logged_in", "operator:corp.ada", login),
        ("session.opened", "agent:acme/bot", opened),
    ):
        named = {name: event[name] for name in ("operator", "session", "agent") if name in event}
        entry = make_event(EventRecord("mint", 1, START_MS, kind, by, named, event), place_of_event(by, event))
        with unit.mint.log.store.writing() as log:
            log.note(entry)
    for question, kinds in (
        (Question(subject=subject_target(*ADA)), ["session.opened"]),
        (Question(agent="acme/bot", reason="event"), ["session.opened"]),
        (Question(agent="operator:corp.ada"), ["operator.logged_in"]),
    ):
        with unit.mint.log.store.reading() as c:
            searched = [show_record(each)["kind"] for each in records(c, question) if each.tool in KINDS]
        assert searched == kinds
        assert [each["kind"] for each in shown(unit) if each.get("kind") in KINDS and matches(question, each)] == kinds


def test_one_reader_serves_all_and_counts_what_it_skips(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record once and in order; a reader that is too far behind skips, and its viewers read how many."""
    reader = RecordReader(unit.mint)
    begun = reader.read()
    assert [(batch.start, batch.end) for batch in begun] == [(0, 5)]
    assert reader.read() == []
    take(unit, [decision(n, facts()) for n in range(6, 16)], 6)
    monkeypatch.setattr(decisions, "_READ_AT_ONCE", 4)
    ends = [batch.end for _ in range(3) for batch in reader.read()]
    assert ends == [9, 13, 15]
    viewer = decisions._Viewer(lambda record: record["index"] != 7, 5)
    for batch in list(reader.recent)[1:]:
        assert viewer.show(batch) is not None
    late = decisions._Viewer(lambda _: True, 2)
    sent = late.show(NewRecords(9, 13, reader.recent[2].rows))
    assert sent is not None
    assert "You missed 7 records" in sent.html
    assert rows(sent.html) == [12, 11, 10, 9]
    assert sent.id == "12"
    monkeypatch.setattr(decisions, "_BEHIND", 5)
    monkeypatch.setattr(decisions, "ROWS", 3)
    take(unit, [decision(n, facts()) for n in range(16, 36)], 16)
    [batch] = reader.read()
    assert (batch.start, batch.end) == (32, 35)


def test_a_stream_goes_on_where_a_browser_was(unit: Harness) -> None:
    """With `Last-Event-ID`, a browser that was away gets what it missed, and then what comes, each once."""
    browser = sign_in(unit)
    got: list[str] = []

    def events() -> Iterator[str]:
        headers = {"Last-Event-ID": "2"}
        with browser.client.stream("GET", "/console/decisions/live?after=0", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            yield from answer.iter_lines()

    seen: list[int] = []
    for line in events():
        got.append(line)
        if line.startswith("data: "):
            seen += rows(line)
            if seen == [4, 3]:
                take(unit, [decision(6, facts())], 6)
            elif 5 in seen:
                browser.stop_streams()
    assert seen == [4, 3, 5]
    assert "id: 5" in got


@pytest.mark.spec("LOG 1.11")
def test_verify_now_finds_an_edited_row(unit: Harness) -> None:
    """The check says how many records it compared, and when; a row that was edited afterwards halts the log."""
    browser = sign_in(unit)
    unit.mint.log.step()

    def verified() -> str:
        browser.get("/console/search")
        assert "Verify now" in browser.post("/console/search/check") or browser.status == 200
        until(lambda: unit.mint.log.check.state.outcome != "running")
        return browser.get("/console/search/check")

    page = verified()
    assert 'class="badge ok">holds<' in page
    size = unit.mint.log.publisher.published()
    assert size is not None
    assert f"{size.size} of {size.size}" in page
    assert "operator:root" in page
    with unit.mint.log.store.writing() as log:
        log.connection.execute(update(RECORD).where(RECORD.c.idx == 2).values(code="ok"))
    page = verified()
    assert 'class="badge bad">tampered<' in page
    assert "record 2" in page
    assert unit.mint.log.publisher.halted


def test_a_bound_call_shows_the_key_of_each_holder(unit: Harness) -> None:
    """The agent's and those of the holders after it, in the list of the chain."""
    take(unit, [BOUND], 6)
    page = sign_in(unit).get("/console/decisions/5")
    assert [key.public in page for key in (FIRST, SECOND, THIRD)] == [True] * 3
    require_well_formed(page)


@pytest.mark.spec("12.11")
@pytest.mark.parametrize("box", ["none", "bubblewrap", None])
def test_a_call_shows_the_box_that_its_client_states(unit: Harness, box: str | None) -> None:
    """Beside what the mint has proven, as the client's word; nothing without a statement."""
    take(unit, [msgspec.structs.replace(BOUND, box=box)], 6)
    browser = sign_in(unit)
    page = browser.get("/console/decisions/5")
    assert browser.status == 200
    assert (f"; box: {box}, as its client says" in page) == (box is not None)
    assert ("box:" in page) == (box is not None)


@pytest.mark.spec("LOG 1.11")
def test_a_check_that_cannot_read_a_file_has_failed(unit: Harness) -> None:
    """It ends, says why, and the next one runs."""
    log = unit.mint.log
    log.step()
    [tile] = (unit.mint.realm.log_dir / "tile" / "0").glob("000*")
    kept = tile.rename(tile.with_name("kept"))
    tile.symlink_to(tile)
    log.check.start("root")
    until(lambda: log.check.state.outcome != "running")
    assert log.check.state.outcome == "failed"
    assert "cannot be read" in log.check.state.problem
    tile.unlink()
    kept.rename(tile)
    log.check.start("root")
    until(lambda: log.check.state.outcome != "running")
    assert log.check.state.outcome == "holds"


def test_a_date_of_a_page_is_a_time_of_the_command_line() -> None:
    """What the command line does not take is spelled as it does; an age stays one."""
    spelled = command_of("audit trail", {"since": "2026-11-29", "until": "2026-11-29T12:30"})
    assert spelled == "arx audit trail --since 2026-11-29T00:00:00Z --until 2026-11-29T12:30:00Z"
    assert command_of("audit trail", {"since": "24h"}) == "arx audit trail --since 24h"
