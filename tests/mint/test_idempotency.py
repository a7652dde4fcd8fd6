# SPDX-License-Identifier: Apache-2.0
"""A call with a key is done once: repeated, raced, or cut off between the change and the answer."""

import threading
from functools import partial
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.api import idempotency
from arx_caps.mint.api.routes.work import sessions
from arx_caps.mint.db.tables import ENROLMENTS, REPEATS
from arx_verifier.errors import RequestError
from tests.mint.harness import LOOKUP, Harness, Holder, now_ms
from tests.servers import run_together

pytestmark = pytest.mark.spec("CONTROL 4.4")

JWK = SigningKey.generate().public.jwk
KEY = {"Idempotency-Key": "k-1"}


def call(holder: Holder, path: str, body: Any, key: dict[str, str] = KEY) -> Any:
    headers = holder.headers("POST", path) | key
    return holder.harness.client.post(path, json=body, headers=headers)


def kinds(harness: Harness, kind: str) -> int:
    return [event["kind"] for event in harness.events()].count(kind)


def test_a_task_that_is_asked_for_twice_starts_once(unit: Harness) -> None:
    """The repeat answers the same task and the very same tokens, and no table holds any of them."""
    holder, _ = unit.session()
    first, second = (call(holder, "/v1/tasks", LOOKUP) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert kinds(unit, "task.started") == 1
    with unit.mint.db.read() as c:
        kept = str(c.execute(REPEATS.select()).all())
    signature = Bundle.parse(first.json()["bundle"]).tokens["orders"].encode()[-43:]
    assert signature not in kept


def test_a_session_is_opened_once_by_its_key(unit: Harness) -> None:
    """A repeat with a fresh assertion and proof gets the same session and token; another session's key gets neither."""
    agent = unit.enrol()
    holder = Holder(unit, SigningKey.generate(), None)

    def opened(by: Holder) -> Any:
        return call(by, "/v1/sessions", {"assertion": unit.assertion(agent, by.key), "purpose": "x"}).json()

    first, second, other = opened(holder), opened(holder), opened(Holder(unit, SigningKey.generate(), None))
    assert (first["session"]["id"], first["token"]) == (second["session"]["id"], second["token"])
    assert other["session"]["id"] != first["session"]["id"]
    assert kinds(unit, "session.opened") == 2
    again = Holder(unit, holder.key, second["token"])
    assert again.call("POST", "/v1/tasks", LOOKUP).status_code == 201


def test_a_repeat_needs_a_proof_of_its_own(unit: Harness) -> None:
    """An attacker who saw a call and repeats it is refused, and learns nothing."""
    agent = unit.enrol()
    holder = Holder(unit, SigningKey.generate(), None)
    body = {"assertion": unit.assertion(agent, holder.key)}
    headers = holder.headers("POST", "/v1/sessions") | KEY
    assert unit.client.post("/v1/sessions", json=body, headers=headers).status_code == 201
    answer = unit.client.post("/v1/sessions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "replayed")


def test_agents_and_operators_are_enrolled_once(unit: Harness) -> None:
    """What would be a conflict without the key is the same answer with it."""
    operator = unit.operator()
    for path, body in (
        ("/v1/agents", {"path": "acme/x", "jwk": JWK}),
        ("/v1/operators", {"name": "ada", "role": "read-only", "jwk": SigningKey.generate().public.jwk}),
    ):
        key = {"Idempotency-Key": path}
        first, second = (call(operator, path, body, key) for _ in range(2))
        assert (first.status_code, second.status_code, first.json()) == (201, 201, second.json())
        assert operator.call("POST", path, body).status_code == 409


def test_a_key_stands_for_one_call(unit: Harness) -> None:
    """Another body or another path with the same key is refused; another caller's key is another one."""
    holder, _ = unit.session()
    other, _ = unit.open_session(unit.enrol("acme/support/other"))
    task = call(holder, "/v1/tasks", LOOKUP).json()["task"]["id"]
    changed = call(holder, "/v1/tasks", {**LOOKUP, "ttl": "1m"})
    assert (changed.status_code, changed.json()["code"]) == (422, "idempotency_mismatch")
    assert call(other, "/v1/tasks", LOOKUP).json()["task"]["id"] != task
    operator = unit.operator()
    assert call(operator, "/v1/agents", {"path": "acme/x", "jwk": JWK}).status_code == 201
    jwk = SigningKey.generate().public.jwk
    assert call(operator, "/v1/operators", {"name": "ada", "role": "read-only", "jwk": jwk}).status_code == 422


def test_what_was_refused_is_not_remembered(unit: Harness) -> None:
    """A refusal made nothing: the same key may be used for the call once it is right."""
    holder, _ = unit.session()
    assert call(holder, "/v1/tasks", {"template": "nonsense"}).status_code == 403
    assert call(holder, "/v1/tasks", LOOKUP).status_code == 201


def test_an_answer_that_was_lost_is_given_by_the_repeat(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a mint dies between the change and the answer, the repeat finds the thing and makes no other."""
    holder, _ = unit.session()

    def dies(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "show_task", dies)
        assert call(holder, "/v1/tasks", LOOKUP).status_code == 500
    answer = call(holder, "/v1/tasks", LOOKUP).json()
    assert kinds(unit, "task.started") == 1
    assert Bundle.parse(answer["bundle"]).task == answer["task"]["id"] == unit.mint.db.tasks.list()[0].id


def test_of_many_at_once_one_is_done(unit: Harness) -> None:
    """Eight equal calls at once start one task and get one answer."""
    holder, _ = unit.session()
    barrier, answers = threading.Barrier(8), []
    headers = [holder.headers("POST", "/v1/tasks") | KEY for _ in range(8)]

    def ask(mine: dict[str, str]) -> None:
        barrier.wait()
        answers.append(unit.client.post("/v1/tasks", json=LOOKUP, headers=mine))

    run_together(*(partial(ask, mine) for mine in headers))
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.json()["bundle"] for answer in answers}) == kinds(unit, "task.started") == 1


def test_a_key_is_forgotten_after_a_day(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its time is over a key is as good as new, and its row goes."""
    operator = unit.operator()
    assert call(operator, "/v1/agents", {"path": "acme/x", "jwk": JWK}).status_code == 201
    with unit.mint.db.write() as c:
        c.execute(REPEATS.update().values(until=now_ms() - 1))
    body = {"path": "acme/y", "jwk": SigningKey.generate().public.jwk}
    assert call(operator, "/v1/agents", body).status_code == 201
    with unit.mint.db.read() as c:
        assert len(c.execute(REPEATS.select()).all()) == 1


def test_what_is_ended_stays_ended(unit: Harness) -> None:
    """Tokens that a repeat gives share the first ones' link and birth: a kill of those is a kill of these."""
    epochs: Any = unit.mint.epochs
    holder, _ = unit.session()
    first = Bundle.parse(call(holder, "/v1/tasks", LOOKUP).json()["bundle"]).outline.identifier
    epochs.kill("agent:elsewhere")
    second = Bundle.parse(call(holder, "/v1/tasks", LOOKUP).json()["bundle"]).outline.identifier
    assert (second.id, second.born, second.exp) == (first.id, first.born, first.exp)


def test_a_task_that_is_extended_twice_has_one_more_grant(unit: Harness) -> None:
    """The repeat answers the same bundle, until what it adds is killed."""
    holder, _ = unit.session()
    task = call(holder, "/v1/tasks", LOOKUP).json()["task"]["id"]
    key = {"Idempotency-Key": "k-2"}
    first, second = (call(holder, f"/v1/tasks/{task}/extend", {"ttl": "5m"}, key) for _ in range(2))
    assert (first.status_code, first.json()["bundle"]) == (201, second.json()["bundle"])
    assert len(unit.mint.db.grants.live(task)) == 2
    epochs: Any = unit.mint.epochs
    epochs.kill(f"link:{first.json()['task']['link']}")
    again = call(holder, f"/v1/tasks/{task}/extend", {"ttl": "5m"}, key)
    assert (again.status_code, again.json()["code"]) == (401, "revoked")


def test_a_service_is_invited_and_joins_once(unit: Harness) -> None:
    """The repeat answers the same enrolment token while it is good; who joined with it may ask again, no other."""
    operator, body = unit.operator(), {"audience": "orders"}
    first, second = (call(operator, "/v1/services/invitations", body).json() for _ in range(2))
    assert first == second
    with unit.mint.db.read() as c:
        assert len(c.execute(ENROLMENTS.select()).all()) == 1
        assert first["enrolment"] not in str(c.execute(REPEATS.select()).all())
    joined = {"enrolment": first["enrolment"]}
    service, other = (Holder(unit, SigningKey.generate(), None) for _ in range(2))
    answers = [call(by, "/v1/services/keys", joined) for by in (service, service, other)]
    assert [answer.status_code for answer in answers] == [201, 201, 401]
    assert answers[0].json() == answers[1].json()
    assert kinds(unit, "service.joined") == 1
    over = call(operator, "/v1/services/invitations", body)
    assert (over.status_code, over.json()["code"]) == (409, "conflict")
    fresh = call(operator, "/v1/services/invitations", body, {"Idempotency-Key": "k-2"}).json()
    assert fresh["enrolment"] != first["enrolment"]
    removed = {"remove_kid": service.key.kid}
    assert operator.call("PATCH", "/v1/services/orders", removed).status_code == 200
    assert call(service, "/v1/services/keys", joined).json()["code"] == "bad_enrolment"


def test_a_key_that_is_rotated_twice_is_one(unit: Harness) -> None:
    """A root key that mints at once is made once, and so is an audience's next key."""
    operator = unit.operator()
    first, second = (call(operator, "/v1/root-keys/rotate", {"now": True}).json() for _ in range(2))
    assert (first["name"], second["name"]) == ("k2", "k2")
    assert len(operator.call("GET", "/v1/root-keys").json()["keys"]) == 2
    assert operator.call("PUT", "/v1/services/orders").status_code == 200
    key = {"Idempotency-Key": "k-2"}
    for _ in range(2):
        assert call(operator, "/v1/services/orders/replace-key", {}, key).status_code == 200
    assert kinds(unit, "service.key_replaced") == 1


@pytest.mark.parametrize("text", ["", " ", "a b", "x" * 65, "é", '"', '""', "a, b", "a\tb"])
def test_what_is_no_key_is_refused(text: str) -> None:
    """A key is short and visible; nothing else is taken for one."""
    with pytest.raises(RequestError):
        idempotency.read_key(text)
    assert idempotency.read_key('"k-1"') == idempotency.read_key("k-1") == "k-1"
