# SPDX-License-Identifier: Apache-2.0
"""Questions to the mint's log over HTTP: filtered there, counted, page by page, for those who may read it."""

import itertools
import threading
from base64 import b64decode
from typing import Any

import pytest

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.proof import RecordProof
from arx_verifier.journal.decision import Decision
from arx_verifier.token.targets import subject_target
from tests.audit.batches import BOOT, START_MS, batch_of, decision, facts
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, now_ms
from tests.mint.test_operators import enrol, sign_in
from tests.mint.test_pagination import walk

DECISIONS = [
    decision(1, facts("s-1", "t-1")),
    decision(2, facts("s-1", "t-1", "acme/a")),
    decision(3, facts("s-1", "t-1", "acme/a", "acme/c"), "revoked"),
    decision(4, facts("s-1", "t-2")),
    decision(5, facts("s-2", "t-3", agent="acme/other")),
]


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch, unit: Harness) -> Harness:
    """A realm whose log holds five decisions; the mint's own events come when a test signs them."""
    monkeypatch.setattr("arx_caps.mint.audit.log.SIGN_S", 600.0)
    unit.mint.log.start()
    take(unit, DECISIONS)
    return unit


def take(harness: Harness, decisions: list[Decision], first: int = 1) -> None:
    harness.mint.log.store.take(batch_of(decisions, first), None)


def ask(holder: Holder, **query: Any) -> dict[str, Any]:
    answer = holder.call("GET", "/v1/audit/records", **{name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def indices(answer: dict[str, Any]) -> list[int]:
    return [record["index"] for record in answer["records"]]


@pytest.mark.spec("LOG 3.3")
def test_a_lower_bound_has_at_least_the_page(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the search for a total stops before the records that match, those of the page count."""
    monkeypatch.setattr("arx_caps.audit.query.node_search.GATHERED", 1)
    monkeypatch.setattr("arx_caps.audit.query.questions._TESTED", 0)
    answer = ask(unit.operator(), agent="acme/bot", reason="allow")
    assert indices(answer) == [3, 1, 0]
    assert (answer["total"]["records"], answer["total"]["exact"]) == (3, False)


@pytest.mark.spec("LOG 3.3")
def test_a_search_says_where_it_stopped(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is not full has the time that it came to, and the next one goes on; a waiting reader too."""
    monkeypatch.setattr("arx_caps.audit.query.node_search.GATHERED", 1)
    monkeypatch.setattr("arx_caps.audit.query.questions._WINDOW", 1)
    monkeypatch.setattr("arx_caps.audit.query.questions._EACH_S", 0.0)
    operator, asked = unit.operator(), {"agent": "acme/bot", "reason": "allow"}
    first = ask(operator, **asked)
    assert (indices(first), first["searched"], first["next"]) == ([3], START_MS + 4, 3)
    second = ask(operator, **asked, before=first["next"])
    assert (indices(second), second["searched"], second["next"]) == ([1], START_MS + 2, 1)
    last = ask(operator, **asked, before=second["next"])
    assert (indices(last), last["searched"], last["next"]) == ([0], None, None)
    ahead = ask(operator, **asked, after=1, wait=20_000, limit=1)
    assert (indices(ahead), ahead["searched"], ahead["next"]) == ([3], None, 3)


@pytest.mark.spec("LOG 3.3")
def test_each_filter_is_the_log_s(unit: Harness) -> None:
    """Whatever is asked is answered with a full page or the last, the total, and from when until when."""
    operator = unit.operator()
    whole = ask(operator)
    assert (indices(whole), whole["size"], whole["next"]) == ([4, 3, 2, 1, 0], 5, None)
    assert whole["total"] == {"records": 5, "exact": True, "since": START_MS + 1, "until": START_MS + 5}
    assert whole["origin"] == unit.mint.log.publisher.origin
    link = DECISIONS[2].links[0]
    for query, wanted in (
        ({"session": "s-1"}, [3, 2, 1, 0]),
        ({"task": "t-1"}, [2, 1, 0]),
        ({"link": link}, [2, 1, 0]),
        ({"agent": "acme/other"}, [4]),
        ({"agent": "acme/c"}, [2, 1, 0]),
        ({"reason": "revoked"}, [2]),
        ({"reason": "allow", "tool": "lookup", "session": "s-1"}, [3, 1, 0]),
        ({"since": START_MS + 2, "until": START_MS + 4}, [2, 1]),
        ({"session": "unknown"}, []),
    ):
        answer = ask(operator, **query)
        assert indices(answer) == wanted, query
        assert answer["total"]["records"] == len(wanted)
    [record] = ask(operator, reason="revoked")["records"]
    assert (record["type"], record["named"], record["code"], record["service"]) == (
        "decision",
        ["acme/a", "acme/c"],
        "revoked",
        "orders",
    )


@pytest.mark.spec("LOG 3.3")
def test_pages_go_on_where_the_last_one_ended(unit: Harness) -> None:
    """Down by ``before``, up by ``after``; what comes in between moves nothing."""
    operator = unit.operator()
    first = ask(operator, limit=2)
    take(unit, [decision(6, facts("s-1", "t-1"))], 6)
    second = ask(operator, limit=2, before=first["next"])
    last = ask(operator, limit=2, before=second["next"])
    assert (indices(first), indices(second), indices(last)) == ([4, 3], [2, 1], [0])
    assert (last["next"], second["total"]) == (None, None)
    rising = ask(operator, after=-1, limit=4)
    assert (indices(rising), rising["next"]) == ([0, 1, 2, 3], 3)
    assert ask(operator, after=5)["next"] == 5


@pytest.mark.spec("LOG 3.4")
def test_a_tree_has_the_counts_of_each_place(unit: Harness) -> None:
    """Nodes come each before what is below it; a link's are those above and below."""
    operator = unit.operator()
    answer = operator.call("GET", "/v1/audit/nodes", session="s-1").json()
    shown = [(node["kind"], node["name"], node["allow"], node["deny"], node["parent"]) for node in answer["nodes"]]
    assert answer["complete"] is True
    assert shown == [
        ("session", "acme/bot", 0, 0, None),
        ("task", "acme/bot", 1, 0, 0),
        ("link", "acme/a", 1, 0, 1),
        ("link", "acme/c", 0, 1, 2),
        ("task", "acme/bot", 1, 0, 0),
    ]
    near = operator.call("GET", "/v1/audit/nodes", link=DECISIONS[2].links[1]).json()["nodes"]
    assert [node["kind"] for node in near] == ["session", "task", "link", "link"]


@pytest.mark.spec("LOG 3.3")
def test_a_waiting_reader_gets_what_comes(unit: Harness) -> None:
    """An answer that is waited for comes with the record, and without the looks of those who read."""
    operator = unit.operator()
    sender = threading.Timer(0.3, take, (unit, [decision(6, facts("s-9", "t-9"))], 6))
    sender.start()
    answer = ask(operator, after=4, wait=15_000)
    sender.join()
    assert indices(answer) == [5]
    assert ask(operator, after=answer["next"], wait=50)["records"] == []


@pytest.mark.spec("LOG 3.4")
def test_a_run_that_never_ended_stays_open(unit: Harness) -> None:
    """Each run is listed with its mark and losses; only one that said its last word is closed."""
    unit.mint.log.store.take(batch_of([], 6, boot="gone", lost_from=3), None)
    unit.mint.log.store.take(batch_of([decision(1, facts())], 1, boot="over", closed=True), None)
    unit.mint.log.store.take(batch_of([], 6, boot="gone", lost_from=1), None)
    found = unit.operator().call("GET", "/v1/audit/runs").json()["runs"]
    shown = {run["boot"]: (run["service"], run["high_water"], run["lost"], run["closed_at"] is None) for run in found}
    assert shown[BOOT] == ("orders", 5, 0, True)
    assert shown["gone"] == ("orders", 5, 5, True)
    assert shown["over"] == ("orders", 1, 0, False)


@pytest.mark.spec("LOG 3.4")
def test_runs_come_in_pages_and_by_service(unit: Harness) -> None:
    """The newest first, each once, while others send; one service's alone where the request names it."""
    boots = [f"b{number:02}" for number in range(7)]
    for boot in boots:
        unit.mint.log.store.take(batch_of([decision(1, facts())], 1, boot=boot), None)
    operator, numbers = unit.operator(), itertools.count(2)

    def take_more() -> None:
        number = next(numbers)
        unit.mint.log.store.take(batch_of([decision(number, facts())], number, boot=boots[0]), None)
        unit.mint.log.store.take(batch_of([decision(1, facts())], 1, boot=f"later-{number}"), None)

    for limit in ("1", "3", "7", "8", "1000"):
        found = walk(operator, "/v1/audit/runs", "runs", limit=limit, service="orders")
        assert [run["boot"] for run in found] == [*boots[::-1], BOOT]
    found = walk(operator, "/v1/audit/runs", "runs", take_more, limit="3", service="orders")
    assert [run["boot"] for run in found] == [*boots[::-1], BOOT]
    everybody = walk(operator, "/v1/audit/runs", "runs")
    assert len(everybody) == len({(run["verifier"], run["boot"], run["service"]) for run in everybody})
    assert [run["boot"] for run in everybody if run["service"] == "orders"][-8:] == [*boots[::-1], BOOT]
    assert operator.call("GET", "/v1/audit/runs", service="unheard").json() == {"runs": []}
    for query in ({"limit": "0"}, {"limit": "1001"}, {"after": "x"}, {"service": ""}, {"service": "\0"}):
        answer = operator.call("GET", "/v1/audit/runs", **query)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), query


def test_bad_questions_and_strangers_are_refused(unit: Harness) -> None:
    """A mistyped filter is an error, not an empty answer; an agent reads no log, nor does a role without the right."""
    operator = unit.operator()
    for query in (
        {"agent": "no path!"},
        {"tool": "a b"},
        {"reason": "no_such_code"},
        {"before": "1", "after": "1"},
        {"wait": "100"},
        {"limit": "0"},
        {"limit": "1001"},
        {"since": "yesterday"},
        {"colour": "red"},
    ):
        answer = operator.call("GET", "/v1/audit/records", **query)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), query
    assert operator.call("GET", "/v1/audit/nodes").status_code == 400
    agent, _ = unit.session()
    for path in ("/v1/audit/records", "/v1/audit/nodes"):
        assert agent.call("GET", path, session="s-1").status_code == 403
        assert unit.client.get(path).status_code == 401


@pytest.mark.spec("LOG 3.3")
def test_a_page_with_proofs_is_checked_by_a_holder_of_the_key(unit: Harness) -> None:
    """Each record comes with its bytes and its path under one checkpoint, also when the log has grown meanwhile."""
    operator = unit.operator()
    unit.mint.log.step()
    first = ask(operator, after=-1, limit=2, prove=0)
    signed = open_checkpoint(first["checkpoint"].encode(), unit.mint.log.publisher.signer.key)
    size = signed.checkpoint.size
    take(unit, [decision(6, facts("s-1", "t-1"))], 6)
    unit.mint.log.step()
    last = ask(operator, after=1, prove=size)
    assert indices(first) + indices(last) == list(range(size))
    for record in first["records"] + last["records"]:
        kept, body = (b64decode(record[name]) for name in ("kept", "body"))
        path = tuple(map(b64decode, record["path"]))
        RecordProof(kept, body, record["index"], path, signed.note).check_under(signed)
    assert operator.call("GET", "/v1/audit/records", prove=str(10**6)).status_code == 400


@pytest.mark.spec("LOG 3.5")
def test_a_person_is_erased_and_old_records_go_by_right_of_their_own(unit: Harness) -> None:
    """The texts about a person are gone from every answer and proofs hold; who may read may not erase."""
    ada = ("https://idp.example", "ada")
    take(unit, [decision(n, facts("s-7", "t-7", subject=ada)) for n in range(6, 600)], 6)
    unit.mint.log.step()
    operator, target = unit.operator(), subject_target(*ada)
    size = ask(operator)["size"]
    assert ask(operator, subject=target)["total"]["records"] == 594
    answer = operator.call("POST", "/v1/audit/erase", {"subject": target, "reason": "asked to"})
    assert (answer.status_code, answer.json()) == (200, {"erased": 594, "sessions": 0, "events": 0})
    assert ask(operator, subject=target)["records"] == []
    [record] = ask(operator, session="s-7", limit=1)["records"]
    assert (record["erased"], record["subject"], record["peer"], record["session"]) == (True, None, None, "s-7")
    answer = operator.call("POST", "/v1/audit/prune", {"before": now_ms() + 1000, "reason": "old"})
    assert answer.json() == {"first": size // 256 * 256, "pruned": size // 256 * 256}
    left = ask(operator)
    assert left["total"]["records"] == left["size"] - answer.json()["first"]
    assert ask(operator, session="s-1", task="t-1")["total"]["records"] == 0
    assert {each["kind"] for each in ask(operator, reason="event")["records"]} >= {"log.erased", "log.pruned"}
    for bad in ({"reason": "x"}, {"subject": target, "before": 1, "reason": "x"}, {"subject": "ada", "reason": "x"}):
        assert operator.call("POST", "/v1/audit/erase", bad).status_code == 400
    reads = sign_in(unit, enrol(unit, "auditor", role="read-only"))
    assert ask(reads)["size"] >= size
    for path, body in (("erase", {"subject": target, "reason": "x"}), ("prune", {"before": 1, "reason": "x"})):
        assert reads.call("POST", f"/v1/audit/{path}", body).status_code == 403


@pytest.mark.spec("LOG 3.1")
def test_the_link_of_a_minted_token_means_its_task(unit: Harness) -> None:
    """Link 0 of a token made no delegation; asked by it, one gets what was done with the task that it was given for."""
    holder, session = unit.session()
    started = holder.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    chain = [facts(session["id"], started["id"], *names, agent=AGENT) for names in ((), ("acme/a",))]
    unit.mint.log.store.take(batch_of([decision(n, each) for n, each in enumerate(chain)], boot="another"), "s")
    unit.mint.log.step()
    operator = unit.operator()
    by = [
        operator.call("GET", "/v1/audit/records", **asked).json()
        for asked in (
            {"link": started["link"]},
            {"task": started["id"]},
            {"link": started["link"], "session": "s-1"},
        )
    ]
    assert by[0]["records"] == by[1]["records"]
    assert {"task.started", None} <= {each.get("kind") for each in by[0]["records"]}
    assert by[2]["records"] == []
    near = operator.call("GET", "/v1/audit/nodes", link=started["link"]).json()["nodes"]
    assert [node["kind"] for node in near] == ["session", "task", "link"]


@pytest.mark.spec("LOG 3.6")
def test_totals_over_time_are_those_of_the_log(unit: Harness) -> None:
    """By agent, session, tool and reason, at the checkpoint that signs them; a reader needs the permission."""
    operator = unit.operator()
    unit.mint.log.step()
    span = {"since": str(START_MS), "until": str(START_MS + 1000)}

    def top(by: str, **query: str) -> dict[str, Any]:
        answer = operator.call("GET", "/v1/audit/top", by=by, **span, **query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    assert [(row["name"], row["allow"], row["deny"]) for row in top("agent")["rows"]] == [
        ("acme/bot", 3, 1),
        ("acme/other", 1, 0),
    ]
    sessions = top("session", order="refused")
    assert [(row["name"], row["agent"]) for row in sessions["rows"]] == [("s-1", "acme/bot")]
    assert (sessions["rest"]["allow"], sessions["since"]) == (1, START_MS // 60_000 * 60_000)
    assert top("tool")["rows"][0] | {"allow": 0} == {"name": "lookup", "allow": 0, "deny": 1, "end": 0} | {
        "counted": 0,
        "other": 0,
    }
    assert [row["name"] for row in top("reason")["rows"]] == ["revoked"]
    found = operator.call("GET", "/v1/audit/totals", **span, session="s-1").json()
    assert (found["total"]["allow"], found["total"]["deny"], found["step"]) == (3, 1, 60_000)
    assert [point["allow"] for point in found["points"]] == [3]
    assert found["size"] == unit.mint.log.store.size()
    assert operator.call("GET", "/v1/audit/totals").json()["total"]["allow"] == 0  # in the last hour
    for query in ({"by": "colour"}, {"since": "5", "until": "4"}, {"limit": "101"}, {"order": "most"}):
        assert operator.call("GET", "/v1/audit/top", **query).status_code == 400, query
    assert operator.call("GET", "/v1/audit/totals", agent="acme/bot", tool="lookup").status_code == 400
    agent, _ = unit.session()
    for path in ("/v1/audit/top", "/v1/audit/totals"):
        assert agent.call("GET", path).status_code == 403
        assert unit.client.get(path).status_code == 401
