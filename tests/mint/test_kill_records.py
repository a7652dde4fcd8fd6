# SPDX-License-Identifier: Apache-2.0
"""What is frozen now, which kills were made, and the one record of each kill's confirmations."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records
from arx_caps.mint.db.events import Event
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from tests.mint.harness import AGENT, Harness, Holder

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.7")]
DEADLINE_S = 60.0
SESSION = "session:s-abcdefghijklmnop"


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def freezes(operator: Holder, **query: str) -> dict[str, dict[str, Any]]:
    answer = operator.call("GET", "/v1/freezes", **query).json()
    return {freeze["target"]: freeze for freeze in answer["freezes"]}


def kill(operator: Holder, path: str, *targets: str, **more: Any) -> dict[str, Any]:
    answer = operator.call("POST", path, {"targets": targets, "reason": "because", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(operator: Holder, seq: int) -> dict[str, Any]:
    """Return a kill once its confirmations are final."""

    def final() -> dict[str, Any] | None:
        record = operator.call("GET", f"/v1/kills/{seq}").json()
        return record if record["confirmations"]["settled_at"] is not None else None

    found: dict[str, Any] = until(final)
    return found


def confirmed_events(live: Harness, seq: int) -> list[dict[str, Any]]:
    return [event for event in live.events() if event["kind"] == "targets.confirmed" and event["seq"] == seq]


def test_what_is_frozen_and_why(live: Harness) -> None:
    """A freeze, what a kill leaves and a direct freeze are listed with actor, time and reason, until a thaw."""
    operator = live.operator()
    assert operator.call("GET", "/v1/freezes").json() == {"freezes": [], "total": 0}
    first = kill(operator, "/v1/freezes", f"agent:{AGENT}", SESSION)
    second = kill(operator, "/v1/kills", "agent:acme/other")
    live.mint.store.freeze(["realm"], "by hand", "operator:ada (direct, user ada)")
    until(lambda: "realm" in freezes(operator))
    found = freezes(operator)
    assert set(found) == {f"agent:{AGENT}", SESSION, "agent:acme/other", "realm"}
    assert found[f"agent:{AGENT}"] == {
        "target": f"agent:{AGENT}",
        "op": "freeze",
        "frozen_at": first["at_ms"],
        "by": "operator:root",
        "reason": "because",
        "seq": first["seq"] - 1,
        "lasting": False,
    }
    assert (found["agent:acme/other"]["op"], found["agent:acme/other"]["seq"]) == ("kill+freeze", second["seq"])
    assert (found["realm"]["by"], found["realm"]["reason"]) == ("operator:ada (direct, user ada)", "by hand")
    assert list(freezes(operator, kind="session")) == [SESSION]
    assert operator.call("GET", "/v1/freezes", kind="sessions").json()["code"] == "malformed_request"
    # The newest first, in pages.
    page = operator.call("GET", "/v1/freezes", limit="1").json()
    assert ([row["target"] for row in page["freezes"]], page["total"]) == (["realm"], 4)
    rest = operator.call("GET", "/v1/freezes", after=page["next"]).json()
    assert len(rest["freezes"]) == 3
    assert "next" not in rest
    kill(operator, "/v1/freezes/thaw", "realm", "agent:acme/other", SESSION)
    assert set(freezes(operator)) == {f"agent:{AGENT}"}
    # A kill of a frozen target leaves a freeze with the reason of the first.
    kill(operator, "/v1/kills", f"agent:{AGENT}", reason="worse")
    assert freezes(operator)[f"agent:{AGENT}"] == {**found[f"agent:{AGENT}"], "op": "kill+freeze"}


def test_a_lost_freeze_keeps_its_reason(live: Harness) -> None:
    """What the store lost is frozen again, and the list still names the operator and the reason."""
    operator = live.operator()
    kill(operator, "/v1/freezes", SESSION)
    before = freezes(operator)
    live.mint.store.exchange.client.delete(live.mint.store.keys.freezes)
    live.mint.store.rotate()
    until(lambda: SESSION in live.mint.store.freezes())
    assert freezes(operator) == before


def test_a_freeze_that_no_thaw_ends(live: Harness) -> None:
    """The key of a service that was replaced stays frozen: the list says that a thaw does not hold."""
    operator = live.operator()
    live.service_file("orders")
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 200
    assert freezes(operator)["key:k1.1"]["lasting"] is True


def test_a_kill_has_one_record_of_its_confirmations(live: Harness) -> None:
    """Waited for or not, a kill's confirmations are one event with the numbers of its page, also in the audit log."""
    operator = live.operator()
    for wait in (True, False):
        report = kill(operator, "/v1/kills", f"agent:{AGENT}", SESSION, wait=wait)
        record = settled(operator, report["seq"])
        assert (record["op"], record["by"], record["reason"], record["at_ms"]) == (
            "each",
            "operator:root",
            "because",
            report["at_ms"],
        )
        assert record["targets"] == [
            {"target": f"agent:{AGENT}", "op": "kill+freeze"},
            {"target": SESSION, "op": "kill"},
        ]
        seen = record["confirmations"]
        (event,) = confirmed_events(live, report["seq"])
        assert {name: event[name] for name in ("status", "verifiers", "confirmed", "unreachable", "took_ms")} == {
            name: seen[name] for name in ("status", "verifiers", "confirmed", "unreachable", "took_ms")
        }
        assert (event["by"], seen["durable"]) == ("operator:root", True)
        # Each number of the step leads to it.
        assert operator.call("GET", f"/v1/kills/{report['seq'] - 1}").json() == record
    listed = operator.call("GET", "/v1/kills", target=SESSION).json()
    assert ([row["seq"] for row in listed["kills"]], listed["total"]) == ([report["seq"], report["seq"] - 3], 2)
    live.mint.log.step()
    with live.mint.log.store.reading() as c:
        assert len(records(c, Question(tool="targets.confirmed"))) == 2
    for wrong in ("0", "999", "x", "9" * 30, "-1"):
        assert operator.call("GET", f"/v1/kills/{wrong}").json()["code"] == "not_found"


def test_a_laggard_is_named(live: Harness) -> None:
    """A verifier that stops before the kill is in the record by name, and the record is partial."""
    operator = live.operator()
    # The registry must be older than a lease: until then it proves nothing.
    until(lambda: kill(operator, "/v1/freezes/thaw", SESSION)["status"] == "confirmed")
    store = live.mint.store
    behind = (store.header().incarnation, 0, "", 1)
    # It probes, gets its lease, and is never heard of again.
    keys = (store.keys.header, store.keys.kills, store.keys.freezes, store.keys.log, store.keys.probes, store.keys.acks)
    store.exchange.call("arx1_probe", keys, "orders-1", *behind)
    report = kill(operator, "/v1/kills", SESSION, wait=False)
    assert "orders-1" in report["unreachable"]
    seen = settled(operator, report["seq"])["confirmations"]
    assert (seen["status"], seen["verifiers"], seen["confirmed"]) == ("partial", 2, 1)
    # Known to the mint that made the kill alone: no other process has recorded it.
    assert (seen["unreachable"], seen["fenced_in_ms"], seen["durable"]) == (["orders-1"], 0, True)
    (event,) = confirmed_events(live, report["seq"])
    assert (event["confirmed"], event["verifiers"], event["unreachable"]) == (1, 2, ["orders-1"])
    # The wait is for the lease, and no longer than the keeper would take.
    assert 1000 <= event["took_ms"] < 1000 * DEADLINE_S


def test_kills_without_this_mint(live: Harness) -> None:
    """A direct kill, and one whose mint ended before the confirmations came, are settled by the keeper."""
    operator = live.operator()
    with RevocationStore(live.mint.store_url, live.mint.store.realm) as store:
        seqs = {
            by: store.kill([SESSION], "by hand", by).header.seq
            for by in ("operator:ada (direct, user ada)", "operator:bob", f"agent:{AGENT}")
        }
    for by in ("operator:ada (direct, user ada)", "operator:bob"):
        record = settled(operator, seqs[by])
        assert (record["by"], record["op"], record["confirmations"]["durable"]) == (by, "kill", None)
        assert record["confirmations"]["confirmed"] == record["confirmations"]["verifiers"] == 1
        assert len(confirmed_events(live, seqs[by])) == 1
    # What agents end by themselves is not listed.
    assert [row["by"] for row in operator.call("GET", "/v1/kills").json()["kills"]] == [
        "operator:bob",
        "operator:ada (direct, user ada)",
    ]


def test_two_mints_record_a_kill_once(live: Harness) -> None:
    """Both follow the store, and one of them writes the confirmations."""
    operator = live.operator()
    second = MintRuntime.open(Realm.open(live.realm.folder), store_url=live.mint.store_url)
    second.start()
    try:
        seqs = [kill(operator, "/v1/kills", SESSION, wait=False)["seq"] for _ in range(5)]
        second.confirmations.settle_rest()
        for seq in seqs:
            settled(operator, seq)
            second.confirmations.settle_rest()
            again = Event.of("targets.confirmed", "mint", seq=seq)
            assert not second.db.kills.settle(seq, second.store.header().incarnation, {}, again)
            assert len(confirmed_events(live, seq)) == 1
    finally:
        second.close()


def test_a_kill_can_freeze_as_well(live: Harness) -> None:
    """With ``freeze``, a killed session stays refused until a thaw."""
    operator = live.operator()
    report = kill(operator, "/v1/kills", SESSION, freeze=True)
    assert freezes(operator)[SESSION]["op"] == "kill+freeze"
    assert settled(operator, report["seq"])["op"] == "kill+freeze"


def test_a_person_is_erased_from_the_kills(live: Harness) -> None:
    """The target of a person and the reason are not kept by this list longer than by the events."""
    operator, person = live.operator(), "subject:" + "0" * 32
    kill(operator, "/v1/freezes", person, reason="about Ann")
    kill(operator, "/v1/freezes", SESSION)
    kill(operator, "/v1/freezes", "agent:acme/a", reason="about Bob")
    assert operator.call("POST", "/v1/audit/erase", {"subject": person, "reason": "asked"}).status_code == 200
    kept = [row["targets"][0]["target"] for row in operator.call("GET", "/v1/kills").json()["kills"]]
    assert kept == ["agent:acme/a", SESSION]
    # It stays frozen.
    frozen = {row["target"]: row["reason"] for row in operator.call("GET", "/v1/freezes").json()["freezes"]}
    assert (frozen[person], frozen["agent:acme/a"]) == ("", "about Bob")
