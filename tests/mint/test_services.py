# SPDX-License-Identifier: Apache-2.0
"""Tool services: a one-time token enrols a key, and that key gets the keys of its own audience alone."""

import threading
from typing import Any

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity import holder_keys, services
from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.token.wire import bytes_of
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import Harness, Holder, now_ms
from tests.servers import run_together


def invited(harness: Harness, audience: str = "orders") -> str:
    answer = harness.operator().call("POST", "/v1/services/invitations", {"audience": audience})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["enrolment"])


def join(harness: Harness, enrolment: str, key: SigningKey | None = None) -> tuple[Holder, dict[str, Any]]:
    holder = Holder(harness, key or SigningKey.generate(), None)
    answer = holder.call("POST", "/v1/services/keys", {"enrolment": enrolment})
    return holder, answer.json() | {"status": answer.status_code}


@pytest.mark.spec("CONTROL 3.2")
def test_a_service_gets_the_keys_of_its_audience(unit: Harness) -> None:
    """With its own key and no token: all of its audience, the very ones that the mint makes tokens with."""
    holder, joined = join(unit, invited(unit))
    assert (joined["status"], joined["audience"], joined["kid"]) == (201, "orders", holder.key.kid)
    answer = holder.call("GET", "/v1/keys").json()
    assert (answer["realm"], answer["audience"]) == (unit.realm.name, "orders")
    kid, key = unit.mint.key_schedule.audience_key("orders")
    assert [(each["kid"], bytes_of(each["key"])) for each in answer["keys"]] == [(kid, key)]
    other, _ = join(unit, invited(unit, "payments"))
    assert other.call("GET", "/v1/keys").json()["keys"][0]["key"] != answer["keys"][0]["key"]
    kinds = [(event["kind"], event["by"]) for event in unit.events() if event["kind"].startswith("service.")]
    assert kinds[:2] == [("service.invited", "operator:root"), ("service.joined", "service:orders")]
    assert unit.mint.db.holder_keys.key_of("service:orders", holder.key.kid) is not None


@pytest.mark.spec("CONTROL 3.5")
def test_what_a_service_asks_is_recorded(unit: Harness) -> None:
    """Joining, keys and a proof that is used twice, with the key that asked; what no own key proves is counted."""
    holder, _ = join(unit, invited(unit))
    headers = holder.headers("GET", "/v1/keys")
    statuses = [unit.client.get("/v1/keys", headers=headers).status_code for _ in range(2)]
    assert statuses == [200, 401]
    stranger, _ = join(unit, "arxe1_" + "A" * 43)
    assert stranger.call("GET", "/v1/keys").status_code == 401
    sink = unit.mint.decisions
    assert isinstance(sink, InMemoryDecisions)
    sink.close()
    own = [each for each in sink.decisions if each.agent == "service:orders"]
    assert [(each.tool, each.code) for each in own] == [
        ("arx.services.join", "ok"),
        ("arx.keys.fetch", "ok"),
        ("arx.keys.fetch", "replayed"),
    ]
    assert {(each.kid, each.assurance, each.audience) for each in own} == {(holder.key.kid, "key", "arx.mint")}
    counted = [each.code for decision in sink.decisions for each in decision.counts]
    assert sorted(counted) == ["bad_enrolment", "bad_proof"]


def test_an_audience_that_the_policy_does_not_name_is_reported(unit: Harness) -> None:
    """It may be enrolled before its policy comes; the invitation and the list show a mistyped name."""
    operator = unit.operator()
    for audience, known in (("orders", True), ("odrers", False)):
        answer = operator.call("POST", "/v1/services/invitations", {"audience": audience}).json()
        assert (answer["audience"], answer["in_policy"]) == (audience, known)
        assert operator.call("PUT", f"/v1/services/{audience}").status_code == 200
    shown = {each["audience"]: each["in_policy"] for each in operator.call("GET", "/v1/services").json()["services"]}
    assert shown == {"orders": True, "odrers": False}


@pytest.mark.spec("CONTROL 3.7")
def test_a_service_is_enrolled_without_a_key(unit: Harness) -> None:
    """No secret is answered, a repeat changes and records nothing, and a rotation waits for no file."""
    operator = unit.operator()
    answers = [operator.call("PUT", "/v1/services/orders") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json() == operator.call("GET", "/v1/services/orders").json()
    assert (answers[0].json()["keys"], answers[0].json()["enrolled_by"]) == ([], "operator:root")
    assert [event["kind"] for event in unit.events() if event["kind"].startswith("service.")] == ["service.enrolled"]
    assert unit.mint.db.keys.rows().fetches == ()
    for name in ("Orders", "arx.mint", "a" * 65):
        assert operator.call("PUT", f"/v1/services/{name}").json()["code"] == "malformed_request"
    agent, _ = unit.session()
    assert agent.call("PUT", "/v1/services/payments").json()["code"] == "tool_not_allowed"


def own_key(harness: Harness) -> dict[str, Any]:
    [service] = harness.operator().call("GET", "/v1/services").json()["services"]
    assert harness.operator().call("GET", "/v1/services/orders").json() == service
    [key] = service["keys"]
    return dict(key)


@pytest.mark.spec("CONTROL 3.6")
def test_a_key_has_the_version_that_used_it(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored once a minute for each version, not for another program, and ends with the key."""
    holder, _ = join(unit, invited(unit))
    assert own_key(unit).keys() == {"kid", "added_at"}

    def fetch(program: str) -> dict[str, Any]:
        headers = holder.headers("GET", "/v1/keys") | {"User-Agent": program}
        assert unit.client.get("/v1/keys", headers=headers).status_code == 200
        return own_key(unit)

    first = fetch("arx-caps/0.1.9")
    assert (first["version"], first["used_at"] >= first["added_at"]) == ("0.1.9", True)
    assert fetch("arx-caps/0.1.9") == first
    assert fetch("arx-caps/0.2.0.dev1+a")["version"] == "0.2.0.dev1+a"
    later = now_ms() + 61_000
    for program in ("curl/8", "arx-caps/" + "9" * 33, "arx-caps/<b>", "arx-caps/1.0 x", ""):
        later += 61_000
        monkeypatch.setattr(holder_keys, "now_ms", lambda at=later: at)
        shown = fetch(program)
        assert ("version" in shown, shown["used_at"]) == (False, later), program
    later += 61_000
    assert fetch("arx-caps/0.2.0")["version"] == "0.2.0"
    removed = unit.operator().call("PATCH", "/v1/services/orders", {"remove_kid": holder.key.kid})
    assert (removed.status_code, unit.mint.db.holder_keys.versions([holder.key.kid])) == (200, {})
    again, _ = join(unit, invited(unit))
    assert unit.client.get(
        "/v1/keys", headers=again.headers("GET", "/v1/keys") | {"User-Agent": "arx-caps/1"}
    ).is_success
    assert unit.mint.db.holder_keys.versions([again.key.kid]) == {again.key.kid: "1"}
    unit.mint.db.services.remove("orders", Event.of("service.removed", "operator:root", audience="orders"))
    assert unit.mint.db.holder_keys.versions([again.key.kid]) == {}


@pytest.mark.spec("CONTROL 3.6")
def test_a_service_has_the_time_when_it_shipped(unit: Harness) -> None:
    """It is absent while the log does not answer, and null before the first record."""
    operator = unit.operator()
    for audience in ("orders", "payments"):
        assert operator.call("PUT", f"/v1/services/{audience}").status_code == 200

    def shown() -> dict[str, Any]:
        services = operator.call("GET", "/v1/services").json()["services"]
        return {one["audience"]: one.get("shipped_at", "absent") for one in services}

    assert shown() == {"orders": "absent", "payments": "absent"}
    unit.mint.log.start()
    assert shown() == {"orders": None, "payments": None}
    before = now_ms()
    unit.mint.log.store.take(batch_of([decision(1, facts())]), None)
    assert shown()["payments"] is None
    assert before <= shown()["orders"] <= now_ms()


@pytest.mark.spec("CONTROL 3.5")
def test_no_record_no_keys(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose call cannot be recorded joins nothing and gets nothing."""
    holder, _ = join(unit, invited(unit))
    enrolment = invited(unit)

    def full(decision: Decision) -> int:
        if decision.allowed:
            raise AuditError("the journal is full")
        return 1

    monkeypatch.setattr(unit.mint.decisions, "append", full)
    assert holder.call("GET", "/v1/keys").json()["code"] == "audit_unavailable"
    assert join(unit, enrolment)[1]["code"] == "audit_unavailable"
    assert len(unit.mint.db.holder_keys.list("service:orders")) == 1


@pytest.mark.spec("CONTROL 3.1")
def test_an_enrolment_token_is_accepted_once(unit: Harness) -> None:
    """The second who brings it gets nothing, nor do two at the same moment."""
    enrolment = invited(unit)
    codes: list[int] = []
    ready = threading.Barrier(4)

    def race() -> None:
        ready.wait()
        codes.append(join(unit, enrolment)[1]["status"])

    run_together(*[race] * 4)
    assert sorted(codes) == [201, 401, 401, 401]
    _, again = join(unit, enrolment)
    assert again["code"] == "bad_enrolment"
    assert len(unit.mint.db.holder_keys.list("service:orders")) == 1


@pytest.mark.spec("CONTROL 3.1")
def test_an_enrolment_token_ends(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mint refuses a token a quarter of an hour later, and one that it never made."""
    enrolment = invited(unit)
    monkeypatch.setattr(services, "now_ms", lambda: now_ms() + 15 * 60 * 1000)
    for text in (enrolment, "arxe1_" + "A" * 43, "", "arx1_x"):
        assert join(unit, text)[1]["code"] == "bad_enrolment"
    assert unit.mint.db.services.list() == []


@pytest.mark.spec("CONTROL 3.1")
def test_a_key_belongs_to_one_holder(unit: Harness) -> None:
    """A key of an agent, an operator or another service is no key of this one, and the token is not used up by it."""
    enrolment = invited(unit)
    used, _ = join(unit, invited(unit, "payments"))
    for key in (unit.operator_key.key, unit.enrol().key, used.key):
        assert join(unit, enrolment, key)[1]["code"] == "key_enrolled"
    assert join(unit, enrolment)[1]["status"] == 201


@pytest.mark.spec("CONTROL 3.2")
def test_a_caller_that_is_no_service_gets_no_key(unit: Harness) -> None:
    """Not an operator with every right, not an agent, not a stranger; and one proof is accepted once."""
    agent, _ = unit.session()
    holder, _ = join(unit, invited(unit))
    for other in (unit.operator(), agent):
        answer = other.call("GET", "/v1/keys")
        assert (answer.status_code, answer.json()["code"]) in [(403, "wrong_caller"), (403, "tool_not_allowed")]
        assert Holder(unit, other.key, None).call("GET", "/v1/keys").json()["code"] == "bad_proof"
    assert Holder(unit, SigningKey.generate(), None).call("GET", "/v1/keys").json()["code"] == "bad_proof"
    headers = holder.headers("GET", "/v1/keys")
    answers = [unit.client.get("/v1/keys", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert answers[1].json()["code"] == "replayed"
    # A service's key is for nothing else.
    assert holder.call("GET", "/v1/services").json()["code"] == "missing_token"


@pytest.mark.spec("CONTROL 3.3")
def test_own_keys_rotate(unit: Harness) -> None:
    """A second key is enrolled with a second token, the first is taken away and signs nothing from then on."""
    (old, _), (new, _) = join(unit, invited(unit)), join(unit, invited(unit))
    operator = unit.operator()
    shown = operator.call("GET", "/v1/services/orders").json()
    assert {key["kid"] for key in shown["keys"]} == {old.key.kid, new.key.kid}
    assert operator.call("PATCH", "/v1/services/orders", {"remove_kid": old.key.kid}).status_code == 200
    assert old.call("GET", "/v1/keys").json()["code"] == "bad_proof"
    assert new.call("GET", "/v1/keys").status_code == 200
    assert operator.call("PATCH", "/v1/services/orders", {"remove_kid": old.key.kid}).status_code == 404
    assert operator.call("GET", "/v1/services/unknown").status_code == 404
    assert [row["audience"] for row in operator.call("GET", "/v1/services").json()["services"]] == ["orders"]
