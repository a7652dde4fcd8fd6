# SPDX-License-Identifier: Apache-2.0
"""Access requests of AuthZEN: a denial names where to ask, an operator approves, and the call is allowed once."""

from typing import Any

import httpx
import pytest

from tests.gateway.test_authzen_process import (
    ONE,
    POLICY,
    SECRET,
    AuthZenWorld,
    Object,
    action,
    question,
    record,
    user,
)
from tests.gateway.test_gateway import started

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("CONTROL 5.12")]
OTHER = SECRET[::-1]
REQUESTS = "/access/v1/requests"
APPROVED = """
[task.carol]
agents = ["acme/carol"]
ttl = "10m"
audience = ["billing"]
bearer = "allow"
allow = [
  { tool = "billing.delete", args = { id = "record-1", soft = true, why = { max_length = 9, optional = true } } },
  { tool = "billing.delete", args = { id = { glob = "record-*" }, soft = true } },
]
approvals = [ { tools = ["billing.delete"] } ]
"""


class RequestWorld(AuthZenWorld):
    """A realm whose decider has two PEPs, and whose operators approve."""

    def write(self, more: str = "") -> None:
        """Write the gateway's file, and the secret of the second PEP."""
        super().write(more)
        file = self.folder / "gateway.toml"
        text = file.read_text()
        for whole, added in (
            ('pep = "file:pep.secret"', 'other = "file:other.secret"'),
            ('soft = "action.properties.soft"', 'why = "context.why"'),
        ):
            assert whole in text
            text = text.replace(whole, f"{whole}, {added}")
        file.write_text(text)
        secret = self.folder / "other.secret"
        secret.write_text(OTHER)
        secret.chmod(0o600)

    def submit(self, denied: Object, about: Object, secret: str = SECRET) -> httpx.Response:
        """Ask for the approval that a denied question lacks."""
        context = denied["context"]
        denial = {"evaluation_id": context["evaluation_id"], "reason": context["reason"]}
        denial |= {"expires_at": context["access_request"]["expires_at"]}
        return self.post(REQUESTS, about | {"denial": denial}, secret)

    def status(self, task: Object, secret: str = SECRET) -> httpx.Response:
        """How a request stands."""
        path = task["status_endpoint"].removeprefix("https://pdp.example")
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.get(f"http://127.0.0.1:{self.pdp}{path}", headers=headers, timeout=30)

    def answer(self, outcome: str) -> None:
        """Answer the one request that waits, as an operator."""
        [waiting] = [each for each in self.arx("approval", "list")["approvals"] if each["state"] == "waiting"]
        self.arx("approval", outcome, waiting["id"], *(["--yes"] if outcome == "approve" else []))


def deletion(number: int, *, soft: bool = True) -> Object:
    return question(user("carol"), action("delete", soft=soft), record(number))


def with_approval(about: Object, approval: object) -> Object:
    return about | {"context": {"approval": approval}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    for made in started(RequestWorld(tmp_path_factory.mktemp("requests")), POLICY + APPROVED):
        made.tokens["carol"] = made.token_of("carol", "carol")
        yield made
        assert made.tokens["carol"] not in made.log()


def test_an_approved_call_is_allowed_once(world: RequestWorld) -> None:
    """This one alone, and with its approval alone; the next one asks anew."""
    about = deletion(1)
    denied = world.ask(about)
    assert (denied["decision"], denied["context"]["reason"]) == (False, "missing_discharge")
    assert denied["context"]["access_request"]["endpoint"] == f"https://pdp.example{REQUESTS}"
    answer = world.submit(denied, about)
    assert (answer.status_code, answer.headers["cache-control"]) == (202, "no-store")
    task = answer.json()["task"]
    assert task["status"] == world.status(task).json()["task"]["status"] == "pending"
    assert world.ask(with_approval(about, {"id": "a-unknown"}))["decision"] is False
    world.answer("approve")
    found = world.status(task).json()
    assert (found["task"]["status"], found["result"]["mode"]) == ("approved", "reevaluate")
    approval = found["result"]["approval"]
    assert world.ask(with_approval(deletion(2), approval))["decision"] is False
    assert world.ask(about | {"context": {"approval": approval, "why": "other"}})["decision"] is False
    credential = {"credential": world.tokens["carol"], "approval": approval}
    assert world.post(ONE, about | {"context": credential}, OTHER).json()["decision"] is False
    allowed = world.ask(with_approval(about, approval))
    assert (allowed["decision"], allowed["context"]["assurance"]) == (True, "handle")
    again = world.ask(with_approval(about, approval))
    assert (again["decision"], again["context"]["reason"]) == (False, "missing_discharge")
    assert world.submit(again, about).json()["task"]["status"] == "pending"
    world.answer("deny")
    assert world.status(task).json() == found


def test_a_denied_call_stays_denied(world: RequestWorld) -> None:
    """No operator is asked twice about it while the task lives."""
    about = deletion(3)
    task = world.submit(world.ask(about), about).json()["task"]
    world.answer("deny")
    shown = world.status(task).json()
    assert (shown["task"]["status"], "result" in shown) == ("denied", False)
    assert world.submit(world.ask(about), about).json()["task"]["status"] == "denied"


def test_a_request_is_about_a_denial_that_this_pep_got(world: RequestWorld) -> None:
    """For exactly its subject, action and resource; others learn nothing of it."""
    about = deletion(4)
    denied = world.ask(about)
    made_up = denied | {"context": denied["context"] | {"evaluation_id": "0-0"}}
    for answer in (
        world.submit(denied, about, OTHER),
        world.submit(denied, deletion(5)),
        world.submit(denied, about | {"items": []}),
        world.submit(made_up, about),
        world.post(REQUESTS, about),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json()["type"] == "urn:openid:authzen:access-request:error:invalid_denial_binding"
    task = world.submit(denied, about).json()["task"]
    refused = world.status(task, OTHER)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (404, "unknown_task")
    assert world.post(REQUESTS, about, "x" * 40).status_code == 401
    world.answer("deny")


def test_a_denial_for_another_reason_offers_none(world: RequestWorld) -> None:
    """No approval would allow it."""
    context = world.ask(deletion(1, soft=False))["context"]
    assert (context["reason"], "access_request" in context) == ("argument_not_allowed", False)


def test_a_request_ends_with_the_credential_that_it_was_made_with(world: RequestWorld) -> None:
    """No approval is given for a killed task."""
    about = deletion(6)
    task = world.submit(world.ask(about), about).json()["task"]
    world.kill("agent", "acme/carol")
    assert world.status(task).json()["task"]["status"] == "failed"


def test_discovery(world: RequestWorld) -> None:
    """The metadata name the endpoint and the capability."""
    about = httpx.get(f"http://127.0.0.1:{world.pdp}/.well-known/authzen-configuration", timeout=30).json()
    assert about["access_request_endpoint"] == f"https://pdp.example{REQUESTS}"
    assert about["capabilities"] == ["urn:openid:authzen:capability:access-request"]
