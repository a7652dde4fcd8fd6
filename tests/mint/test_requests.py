# SPDX-License-Identifier: Apache-2.0
"""What the mint makes of good requests: what is recorded, and exactly what the policy grants."""

from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_verifier.errors import AccessError, TokenError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import AGENT, ISSUER, LOOKUP, Harness, Holder, now_ms
from tests.servers import until

JWK = SigningKey.generate().public.jwk


def test_an_agent_is_enrolled_once_and_with_a_key_of_its_own(unit: Harness) -> None:
    """Neither path nor key can be taken twice, not even by an operator's key."""
    key = unit.enrol(owner="ada", metadata={"model": "m-1"})
    operator = unit.operator()
    again = operator.call("POST", "/v1/agents", {"path": AGENT, "jwk": JWK})
    assert (again.status_code, again.json()["code"]) == (409, "agent_exists")
    for taken in (key.key, unit.operator_key.key):
        same = operator.call("POST", "/v1/agents", {"path": "acme/other", "jwk": taken.public.jwk})
        assert (same.status_code, same.json()["code"]) == (409, "key_enrolled")
    shown = operator.call("GET", f"/v1/agents/{AGENT}").json()
    assert (shown["path"], shown["owner"], shown["metadata"]) == (AGENT, "ada", {"model": "m-1"})
    assert (shown["state"], kids(shown)) == ("active", [key.key.kid])
    assert operator.call("GET", "/v1/agents").json() == {"agents": [shown], "total": 1}


def kids(shown: dict[str, Any]) -> list[str]:
    assert all(key["added_at"] <= now_ms() for key in shown["keys"])
    return [key["kid"] for key in shown["keys"]]


def test_an_agents_keys_are_rotated(unit: Harness) -> None:
    """A new key opens sessions beside the old one, the removed one opens none, and the last one stays."""
    old = unit.enrol()
    fresh = KeyFile.generate("agent", AGENT, ISSUER)
    operator, path = unit.operator(), f"/v1/agents/{AGENT}"
    shown = operator.call("PATCH", path, {"add_jwk": fresh.key.public.jwk}).json()
    assert set(kids(shown)) == {old.key.kid, fresh.key.kid}
    unit.open_session(old)
    unit.open_session(fresh)
    assert kids(operator.call("PATCH", path, {"remove_kid": old.key.kid}).json()) == [fresh.key.kid]
    refused = Holder(unit, unit.session_key, None).call("POST", "/v1/sessions", {"assertion": unit.assertion(old)})
    assert refused.json()["code"] == "bad_assertion"
    for body, status in (
        ({"remove_kid": fresh.key.kid}, 409),
        ({"remove_kid": old.key.kid}, 404),
        ({"add_jwk": fresh.key.public.jwk}, 200),
        ({"add_jwk": unit.operator_key.key.public.jwk, "remove_kid": fresh.key.kid}, 409),
        ({}, 400),
    ):
        assert operator.call("PATCH", path, body).status_code == status
    assert kids(operator.call("GET", path).json()) == [fresh.key.kid]


@pytest.mark.spec("CONTROL 2.1")
def test_a_session_lives_as_long_as_asked_and_no_longer_than_allowed(unit: Harness) -> None:
    """A shorter life is given, a longer or odd one refused with what would have been right."""
    key = unit.enrol()
    _, session = unit.open_session(key, ttl="5m", purpose="to test")
    assert session["expires_at"] - session["opened_at"] == 300_000
    assert session["purpose"] == "to test"
    _, session = unit.open_session(key)
    assert session["expires_at"] - session["opened_at"] == 8 * 3_600_000
    for ttl in ("9h", "0s", "soon", "-1m", ""):
        holder = Holder(unit, unit.session_key, None)
        answer = holder.call("POST", "/v1/sessions", {"assertion": unit.assertion(key), "ttl": ttl})
        assert (answer.status_code, answer.json()["code"]) == (403, "bad_parameters")
        assert answer.json()["failures"][0]["expected"] == "a duration of at most 8h"


def test_whom_the_policy_does_not_name_opens_nothing(unit: Harness) -> None:
    """An enrolled agent outside the policy is refused, with the reason."""
    key = unit.enrol("elsewhere/x")
    answer = Holder(unit, unit.session_key, None).call("POST", "/v1/sessions", {"assertion": unit.assertion(key)})
    assert (answer.status_code, answer.json()["code"]) == (403, "session_not_allowed")


REFUSED_TASKS: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown template": ({"template": "nonsense", "params": {}}, 403, "unknown_task"),
    "a parameter missing": ({"template": "lookup", "params": {}}, 403, "bad_parameters"),
    "no parameters": ({"template": "lookup"}, 403, "bad_parameters"),
    "a parameter too many": ({"template": "lookup", "params": {"order_id": "o", "x": 1}}, 403, "bad_parameters"),
    "another type": ({"template": "lookup", "params": {"order_id": 5}}, 403, "bad_parameters"),
    "a nested value": ({"template": "lookup", "params": {"order_id": {"any": True}}}, 403, "bad_parameters"),
    "above the limit": ({"template": "refund", "params": {"order_id": "o", "amount": 101}}, 403, "bad_parameters"),
    "a float": ({"template": "refund", "params": {"order_id": "o", "amount": 5.5}}, 403, "bad_parameters"),
    "too long a life": ({**LOOKUP, "ttl": "11m"}, 403, "bad_parameters"),
    "too many delegations": ({**LOOKUP, "depth": 9}, 403, "bad_parameters"),
    "negative delegations": ({**LOOKUP, "depth": -1}, 403, "bad_parameters"),
    "a tool it does not have": ({**LOOKUP, "tools": ["payments.refund"]}, 403, "bad_parameters"),
    "no tool at all": ({**LOOKUP, "tools": []}, 403, "bad_parameters"),
    "params of another type": ({"template": "lookup", "params": []}, 400, "malformed_request"),
    "an unknown member": ({**LOOKUP, "any": True}, 400, "malformed_request"),
    "depth as text": ({**LOOKUP, "depth": "1"}, 400, "malformed_request"),
    "nothing": ({}, 400, "malformed_request"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("body", "status", "code"), REFUSED_TASKS.values(), ids=REFUSED_TASKS.keys())
def test_a_task_that_the_policy_does_not_grant(unit: Harness, body: dict[str, Any], status: int, code: str) -> None:
    """A refusal names every thing that does not fit, and leaves no task behind."""
    holder, _ = unit.session()
    answer = holder.call("POST", "/v1/tasks", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if code == "bad_parameters":
        assert {"place", "rule", "expected", "came"} == set(answer.json()["failures"][0])
    assert holder.call("GET", "/v1/tasks").json() == {"tasks": []}
    assert "task.started" not in [event["kind"] for event in unit.events()]


def open_service(harness: Harness, audience: str) -> tuple[Verifier, dict[str, Any]]:
    file = harness.service_file(audience)
    keys = {kid: bytes_of(key) for kid, key in file["keys"].items()}
    ring = KeyRing(keys, realm=file["realm"], max_ttl_ms=file["max_ttl_ms"])
    decisions = InMemoryDecisions()
    return Verifier(audience=audience, keys=ring, epochs=harness.mint.epochs, decisions=decisions), file


def call_tool(verifier: Verifier, bundle: Bundle, tool: str, **args: Any) -> Any:
    token = Task(bundle).call_token(verifier.audience, tool, args)
    return verifier.verify(token, AccessRequest(tool, args, now_ms()))


def test_a_bundle_does_what_its_task_is_for_and_nothing_else(unit: Harness) -> None:
    """Real verifiers, opened with the keys that the mint gives them, accept the task's calls and refuse others."""
    holder, session = unit.session()
    body = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}
    answer = holder.call("POST", "/v1/tasks", body).json()
    bundle, task = Bundle.parse(answer["bundle"]), answer["task"]
    orders, file = open_service(unit, "orders")
    payments, _ = open_service(unit, "payments")
    assert file["store"] == unit.mint.store_url
    assert (bundle.task, bundle.agent, bundle.issuer) == (task["id"], AGENT, ISSUER)
    assert dict(bundle.origins) == {"orders": ("http://127.0.0.1:9001",), "payments": ("http://127.0.0.1:9002",)}
    grant = call_tool(orders, bundle, "orders.get", order_id="o-1")
    assert (grant.agent, grant.session, grant.task) == (AGENT, session["id"], task["id"])
    assert grant.facts.policy == unit.mint.policy.digest == task["policy"]
    call_tool(payments, bundle, "payments.refund", order_id="o-1", amount=50)
    with pytest.raises(AccessError):
        call_tool(payments, bundle, "payments.refund", order_id="o-1", amount=51)
    with pytest.raises(AccessError):
        call_tool(orders, bundle, "orders.get", order_id="o-2")
    token = Task(bundle).call_token("orders", "orders.get", {"order_id": "o-1"})
    with pytest.raises(TokenError):
        payments.verify(token, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms()))


def test_asking_for_less_gives_less(unit: Harness) -> None:
    """Fewer tools, delegations and minutes are taken from the template, and end up in the token."""
    holder, _ = unit.session()
    asked = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}, "tools": ["orders.get"]}
    answer = holder.call("POST", "/v1/tasks", {**asked, "depth": 0, "ttl": "60s"}).json()
    bundle = Bundle.parse(answer["bundle"])
    assert bundle.audiences == ("orders",)
    identifier = bundle.outline.identifier
    assert (identifier.depth, identifier.exp - identifier.iat) == (0, 60_000)
    assert answer["task"]["expires_at"] == identifier.exp


def test_a_grant_that_fits_into_no_token_is_refused(unit: Harness) -> None:
    """Parameters that would make a token too large are the caller's mistake, not a broken token."""
    names = [f"p{n:02}" for n in range(20)]
    path = unit.realm.policy_path
    params = ", ".join(f"{name} = {{ max_length = 1024 }}" for name in names)
    args = ", ".join(f'{name} = "${name}"' for name in names)
    task = f'[task.wide]\nagents = ["**"]\nparams = {{ {params} }}\nttl = "1m"\naudience = ["orders"]\n'
    path.write_text(path.read_text() + task + f'allow = [{{ tool = "orders.get", args = {{ {args} }} }}]\n')
    unit.mint.reload_policy()
    holder, _ = unit.session()
    for length in (400, 1024):
        asked = {"template": "wide", "params": dict.fromkeys(names, "x" * length)}
        answer = holder.call("POST", "/v1/tasks", asked)
        assert (answer.status_code, answer.json()["code"]) == (403, "bad_parameters")
    assert (
        holder.call("POST", "/v1/tasks", {"template": "wide", "params": dict.fromkeys(names, "x")}).status_code == 201
    )


@pytest.mark.spec("CONTROL 2.1")
def test_a_task_ends_with_its_session_at_the_latest(unit: Harness) -> None:
    """A task's token does not outlive its session."""
    holder, session = unit.open_session(unit.enrol(), ttl="90s")
    answer = holder.call("POST", "/v1/tasks", LOOKUP).json()
    assert answer["task"]["expires_at"] == session["expires_at"]
    assert Bundle.parse(answer["bundle"]).outline.exp == session["expires_at"]


@pytest.mark.spec("4.1")
def test_tokens_say_where_the_epoch_stood_before_they_were_granted(unit: Harness) -> None:
    """``born`` is the sequence that was applied when the request came, in session and task."""
    epochs: Any = unit.mint.epochs
    epochs.kill("agent:elsewhere")
    holder, _ = unit.session()
    assert holder.token is not None
    identifier = Macaroon.parse(holder.token).unverified_identifier
    assert isinstance(identifier, Identifier)
    assert identifier.born == (epochs.incarnation, 1)
    epochs.kill("agent:elsewhere")
    answer = holder.call("POST", "/v1/tasks", LOOKUP).json()
    assert Bundle.parse(answer["bundle"]).outline.identifier.born == (epochs.incarnation, 2)
    mark = unit.mint.db.epoch.high_water("acme")
    assert mark is not None
    assert (mark.incarnation, mark.seq) == (epochs.incarnation, 2)


@pytest.mark.sqlite
def test_a_call_waits_for_its_turn_no_longer_than_for_the_lock(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads start tasks on SQLite. A call that has waited for them too long is refused, and changes nothing."""
    holder, _ = unit.session()
    monkeypatch.setattr("arx_caps.mint.api.endpoint.BUSY_S", -1)
    answer = holder.call("POST", "/v1/tasks", LOOKUP)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["code"] == "store_unavailable"
    assert holder.call("GET", "/v1/tasks").json()["tasks"] == []


@pytest.mark.spec("LOG 1.7")
def test_every_change_is_recorded_before_it_is_answered(unit: Harness) -> None:
    """With a record that cannot be written, nothing changes and the answer is 503."""
    key = unit.enrol()
    holder, _ = unit.open_session(key)
    operator = unit.operator()
    db = unit.mint.db
    with db.write() as c:
        c.exec_driver_sql("ALTER TABLE outbox RENAME TO elsewhere")
    body = {"path": "acme/second", "jwk": JWK}
    for answer in (operator.call("POST", "/v1/agents", body), holder.call("POST", "/v1/tasks", LOOKUP)):
        assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert operator.call("GET", "/v1/tasks").json() == {"tasks": []}
    assert operator.call("GET", "/v1/agents/acme/second").status_code == 404
    assert unit.client.get("/readyz").status_code == 503
    with db.write() as c:
        c.exec_driver_sql("ALTER TABLE elsewhere RENAME TO outbox")
    assert operator.call("POST", "/v1/agents", body).status_code == 201
    until(lambda: unit.client.get("/readyz").status_code == 200)
    assert unit.events()[-1]["kind"] == "agent.enrolled"


def test_a_reload_changes_the_policy_whole_or_not_at_all(unit: Harness) -> None:
    """A policy with a mistake leaves the old one in force; a good one is used from the next grant on."""
    holder, _ = unit.session()
    before = unit.mint.policy.digest
    path = unit.realm.policy_path
    good = path.read_text()
    path.write_text(good + "\n[task.broken]\n")
    with pytest.raises(Exception, match=r"task\.broken"):
        unit.mint.reload_policy()
    assert unit.mint.policy.digest == before
    path.write_text(good.replace('ttl = "10m"', 'ttl = "9m"'))
    assert unit.mint.reload_policy() != before
    answer = holder.call("POST", "/v1/tasks", LOOKUP).json()
    assert answer["task"]["policy"] == unit.mint.policy.digest
