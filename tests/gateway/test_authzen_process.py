# SPDX-License-Identifier: Apache-2.0
"""A decider of AuthZEN in ``arx up --gateway``: the certification scenario of the API, kills, metrics and reload.

The scenario (levels Basic, Batch and Discovery) has its own subjects, resources and policy.  Its questions are sent as
they are, with an access token of the subject as ``context.credential``.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dpop import Prover
from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld
from tests.servers import free_ports, until

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("8.6", "CONTROL 5.5")]
SECRET = "a-secret-of-the-pep-that-is-long-enough"
ONE, SEVERAL = "/access/v1/evaluation", "/access/v1/evaluations"
TABLE = """
[decider.pdp]
kind = "authzen"
listen = "127.0.0.1:{port}"
url = "https://pdp.example"
audience = "billing"
service = "pdp.json"
resource = "http://127.0.0.1:{billing}/pdp"
peps = {{ pep = "file:pep.secret" }}
subjects = {{ user = "acme/" }}
[decider.pdp.actions]
"read record" = {{ tool = "billing.read", args = {{ id = "resource.id" }} }}
"delete record" = {{ tool = "billing.delete", args = {{ id = "resource.id", soft = "action.properties.soft" }} }}
[decider.pdp.actions."write record"]
tool = "billing.write"
args = {{ id = "resource.id", status = "resource.properties.status", role = "subject.properties.role" }}
"""
POLICY = """
[task.alice]
agents = ["acme/alice"]
ttl = "10m"
audience = ["billing"]
allow = [
  { tool = "billing.read", args = { id = "record-1" } },
  { tool = "billing.write", args = { id = "record-1", status = { equal = "active", optional = true } } },
  { tool = "billing.delete", args = { id = "record-1", soft = true } },
]
[task.bob]
agents = ["acme/bob", "acme/dan", "acme/eve"]
ttl = "10m"
audience = ["billing"]
allow = [
  { tool = "billing.read", args = { id = "record-1" } },
  { tool = "billing.write", args = { id = "record-2", status = "archived", role = "admin" } },
]
"""

Object = dict[str, Any]


def user(name: str, **properties: object) -> Object:
    return {"type": "user", "id": name} | ({"properties": properties} if properties else {})


def record(number: int, **properties: object) -> Object:
    return {"type": "record", "id": f"record-{number}"} | ({"properties": properties} if properties else {})


def action(name: str, **properties: object) -> Object:
    return {"name": name} | ({"properties": properties} if properties else {})


def question(subject: Object, act: Object, resource: Object, **more: object) -> Object:
    return {"subject": subject, "action": act, "resource": resource, **more}


ALICE, BOB, ADMIN = user("alice"), user("bob"), user("bob", role="admin")
READ, WRITE = action("read"), action("write")
READ_IT = question(ALICE, READ, record(1))
ARCHIVED = record(2, status="archived")
MORE = question(
    user("alice", department="Sales", role="manager"),
    action("read", method="GET"),
    record(1, status="active", owner="bob"),
)
# The eight decisions of the fixture, and what else is accepted without an effect.
BASIC = [
    (READ_IT, True),
    (question(ALICE, WRITE, record(1)), True),
    (question(BOB, READ, record(1)), True),
    (question(BOB, WRITE, record(1)), False),
    (question(ALICE, WRITE, ARCHIVED), False),
    (question(ADMIN, WRITE, ARCHIVED), True),
    (question(ALICE, action("delete", soft=True), record(1)), True),
    (question(ALICE, action("delete", soft=False), record(1)), False),
    (question(ALICE, READ, record(1), context={"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}), True),
    (MORE, True),
    (question(ALICE, READ, record(1), foo="bar", futureField={"nested": True}), True),
]
WRONG: list[Object] = [
    *({name: READ_IT[name] for name in READ_IT if name != left} for left in READ_IT),
    *(READ_IT | {name: each} for name, each in [("subject", {"id": "alice"}), ("subject", {"type": "user"})]),
    *(READ_IT | {name: each} for name, each in [("resource", {"id": "record-1"}), ("resource", {"type": "record"})]),
    *(READ_IT | {name: each} for name, each in [("action", {}), ("action", {"name": 123}), ("subject", "alice")]),
]
BATCH: list[tuple[Object, list[bool | None]]] = [
    (
        {"subject": ALICE, "action": READ, "evaluations": [{"resource": record(1)}, {"resource": record(2)}]},
        [True, None],
    ),
    ({"subject": BOB, "resource": record(1), "evaluations": [{"action": READ}, {"action": WRITE}]}, [True, False]),
    (
        {
            "subject": ALICE,
            "action": WRITE,
            "evaluations": [{"resource": record(1, status="active")}, {"resource": ARCHIVED}],
        },
        [True, False],
    ),
    ({"action": WRITE, "resource": ARCHIVED, "evaluations": [{"subject": ALICE}, {"subject": ADMIN}]}, [False, True]),
    ({"evaluations": [READ_IT, question(BOB, WRITE, record(1))]}, [True, False]),
    (
        {
            "subject": ALICE,
            "action": READ,
            "context": {"time": "2025-06-27T18:03-07:00"},
            "evaluations": [
                {"resource": record(1)},
                {"resource": record(2), "context": {"time": "2025-06-27T19:00-07:00", "source": "batch-override"}},
            ],
        },
        [True, None],
    ),
    (
        question(ALICE, WRITE, record(1, status="active"), evaluations=[{}, {"resource": ARCHIVED}]),
        [True, False],
    ),
    (
        {
            "subject": ALICE,
            "action": READ,
            "options": {"evaluations_semantic": "execute_all"},
            "evaluations": [{"resource": record(1)}, {}],
        },
        [True, False],
    ),
]


class AuthZenWorld(OAuthWorld):
    """A realm whose gateway has a decider of AuthZEN, with the agents of the scenario."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self.pdp] = free_ports(1)
        self.tokens: dict[str, str] = {}
        self.keep(SECRET)

    def keep(self, secret: str) -> None:
        """Write the secret of the PEP."""
        file = self.folder / "pep.secret"
        file.write_text(secret)
        file.chmod(0o600)

    def write(self, more: str = "") -> None:
        """Write the gateway's file, with the decider."""
        super().write(more)
        file = self.folder / "gateway.toml"
        file.write_text(file.read_text() + TABLE.format(port=self.pdp, billing=self.billing))

    def token_of(self, name: str, scope: str, prover: Prover | None = None) -> str:
        """An access token of the agent with a name of the scenario; bound to a key, if there is one."""
        out = self.folder / f"{name}.client.json"
        self.arx("agent", "enrol", f"acme/{name}", "--key-out", str(self.folder / f"{name}.key"))
        self.arx("client", "add", f"acme/{name}", "--scope", scope, "--out", str(out))
        content = json.loads(out.read_text())
        url = f"http://127.0.0.1:{self.mint}/oauth/token"
        headers = {} if prover is None else {"dpop": prover.proof("POST", url)}
        resource = f"http://127.0.0.1:{self.billing}/pdp"
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource}
        client = content["client_id"], content["client_secret"]
        answer = httpx.post(url, data=form, auth=client, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def post(self, path: str, body: object, secret: str = SECRET, **headers: str) -> httpx.Response:
        """Ask as a PEP does."""
        sent = {"Authorization": f"Bearer {secret}", **headers}
        return httpx.post(f"http://127.0.0.1:{self.pdp}{path}", json=body, headers=sent, timeout=30)

    def ask(self, body: Object, path: str = ONE) -> Object:
        """The answer to a question, with the credentials of its subjects."""
        answer = self.post(path, self.with_credential(body))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
        found: Object = answer.json()
        return found

    def with_credential(self, body: Object) -> Object:
        """A question with the access token of each subject, in the context of that subject."""
        body = {**body}
        if isinstance(subject := body.get("subject"), dict):
            body["context"] = body.get("context", {}) | {"credential": self.tokens[subject["id"]]}
        if "evaluations" in body:
            body["evaluations"] = [self.with_credential(each) for each in body["evaluations"]]
        return body


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    for made in started(AuthZenWorld(tmp_path_factory.mktemp("authzen")), POLICY, proofs=True):
        made.tokens = {name: made.token_of(name, name) for name in ("alice", "bob")}
        yield made


def test_basic_decisions(world: AuthZenWorld) -> None:
    """The decisions of the fixture, again and again, each with a record."""
    for asked, decision in [*BASIC, *[(READ_IT, True)] * 3]:
        answer = world.ask(asked)
        assert answer["decision"] is decision, (asked, answer)
        assert answer["context"]["evaluation_id"]
        assert "credential" not in str(answer)
    assert world.ask(READ_IT)["context"]["assurance"] == "handle"


def check_errors_and_headers(world: AuthZenWorld) -> None:
    """What lacks a member or has one of another type, is no JSON, or none at all; the id of a request; no PEP."""
    for asked in WRONG:
        assert world.post(ONE, asked).status_code == 400, asked
    headers = {"Authorization": f"Bearer {SECRET}"}
    url = f"http://127.0.0.1:{world.pdp}{ONE}"
    for kind, content in (("text/plain", json.dumps(READ_IT)), ("application/json", "{"), ("application/json", "")):
        assert httpx.post(url, content=content, headers=headers | {"Content-Type": kind}, timeout=30).status_code == 400
    answer = world.post(ONE, world.with_credential(READ_IT), **{"X-Request-ID": "bfe9eb29"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "bfe9eb29")
    assert httpx.post(url, json=READ_IT, timeout=30).status_code == 401


def test_basic_errors_and_headers(world: AuthZenWorld) -> None:
    """Also a question without a credential, which is a denial."""
    check_errors_and_headers(world)
    assert world.post(ONE, READ_IT).json()["context"]["reason"] == "missing_token"


def test_batch_decisions(world: AuthZenWorld) -> None:
    """As many as were asked for, in their order; without evaluations it is a question of one."""
    for asked, decisions in BATCH:
        found = [each["decision"] for each in world.ask(asked, SEVERAL)["evaluations"]]
        assert [type(each) for each in found] == [bool] * len(decisions)
        assert all(wanted in (None, each) for wanted, each in zip(decisions, found, strict=True)), (asked, found)
    for asked in (READ_IT, READ_IT | {"evaluations": []}):
        assert world.ask(asked, SEVERAL)["decision"] is True


def test_discovery(world: AuthZenWorld) -> None:
    """The URL of the table is the identifier, and all of it is below it."""
    answer = httpx.get(f"http://127.0.0.1:{world.pdp}/.well-known/authzen-configuration", timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "policy_decision_point": "https://pdp.example",
        "access_evaluation_endpoint": f"https://pdp.example{ONE}",
        "access_evaluations_endpoint": f"https://pdp.example{SEVERAL}",
    }


def test_a_credential_of_another_subject_or_resource_is_denied(world: AuthZenWorld) -> None:
    """Also one of the same audience."""
    other = {"credential": world.tokens["bob"]}
    assert world.post(ONE, READ_IT | {"context": other}).json()["context"]["reason"] == "malformed_request"
    elsewhere = {"credential": world.token(world.client_of("refund"), "billing")}
    assert world.post(ONE, READ_IT | {"context": elsewhere}).json()["context"]["reason"] == "wrong_audience"


def test_an_access_token_that_is_bound_to_a_key_is_denied(world: AuthZenWorld) -> None:
    """The question does not show the proof of its client."""
    world.tokens["dan"] = world.token_of("dan", "bob", Prover())
    denied = world.ask(question(user("dan"), READ, record(1)))
    assert (denied["decision"], denied["context"]["reason"]) == (False, "proof_missing")


def test_a_kill_denies_the_next_question(world: AuthZenWorld) -> None:
    """Records have the assurance of an access token."""
    world.tokens["eve"] = world.token_of("eve", "bob")
    asked = question(user("eve"), READ, record(1))
    assert world.ask(asked)["decision"] is True
    world.kill("agent", "acme/eve")
    assert world.ask(asked)["context"]["reason"] == "revoked"
    shown = world.arx("decisions", "--journal", str(world.folder / "pdp.json"))["decisions"]
    mine = [(each["outcome"], each["assurance"]) for each in shown if each["agent"] == "acme/eve"]
    assert sorted(mine) == [("allow", "handle"), ("deny", "handle")]


def test_it_is_checked_measured_and_read_again(world: AuthZenWorld) -> None:
    """A new secret of the PEP is in force after SIGHUP."""
    [row] = world.arx("gateway", "--check", "gateway.toml")["deciders"]
    assert (row["name"], row["kind"], row["target"]) == ("pdp", "authzen", f"127.0.0.1:{world.pdp}")
    assert row["routes"]["read record"] == "billing.read"
    asked, other = world.with_credential(READ_IT), SECRET[::-1]
    assert world.post(ONE, asked, other).status_code == 401
    metrics = httpx.get(f"http://127.0.0.1:{world.billing}/metrics", timeout=30).text
    assert 'arx_gateway_ready{upstream="pdp"} 1.0' in metrics
    assert 'arx_gateway_answers_total{status="401",upstream="pdp"}' in metrics
    world.keep(other)
    os.kill(world.pid, signal.SIGHUP)
    until(lambda: world.post(ONE, asked, other).status_code == 200)
    assert world.post(ONE, asked).status_code == 401
    assert SECRET not in world.log()
    assert world.tokens["alice"] not in world.log()
