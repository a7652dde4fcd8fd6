# SPDX-License-Identifier: Apache-2.0
"""The certification scenario of AuthZEN (Basic, Batch, Discovery) as it is written, without credentials.

A running gateway with ``asserted = true`` asks the mint about each question.
"""

from typing import Any

import httpx
import pytest

from tests.gateway.test_authzen_process import (
    BASIC,
    BATCH,
    POLICY,
    READ,
    READ_IT,
    SEVERAL,
    AuthZenWorld,
    Object,
    check_errors_and_headers,
    question,
    record,
    user,
)
from tests.gateway.test_gateway import started

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("CONTROL 5.14")]
WITHOUT_PROOF = POLICY.replace('ttl = "10m"', 'ttl = "10m"\nrequire = []')
ANY = """
[task.any]
agents = ["acme/bob"]
ttl = "10m"
require = []
audience = ["billing"]
allow = [ { tool = "billing.any", any = true } ]
"""


class AssertedWorld(AuthZenWorld):
    """A realm whose decider answers without credentials."""

    def write(self, more: str = "") -> None:
        """Write the gateway's file, with the decider."""
        super().write(more)
        file = self.folder / "gateway.toml"
        file.write_text(file.read_text().replace('kind = "authzen"', 'kind = "authzen"\nasserted = true'))

    def with_credential(self, body: Object) -> Object:
        """A question of the scenario, as it is."""
        return body

    def enrol(self, name: str) -> None:
        """Enrol an agent, which gets no client."""
        self.arx("agent", "enrol", f"acme/{name}", "--key-out", str(self.folder / f"{name}.key"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    for made in started(AssertedWorld(tmp_path_factory.mktemp("asserted")), WITHOUT_PROOF + ANY):
        for name in ("alice", "bob", "eve"):
            made.enrol(name)
        yield made


def test_basic(world: AssertedWorld) -> None:
    """The decisions of the fixture, again and again (2.2, 2.6); a decision and its context have their types (2.3)."""
    for asked, decision in [*BASIC, *[(READ_IT, True)] * 3]:
        answer = world.ask(asked)
        assert answer["decision"] is decision, (asked, answer)
        assert answer["context"]["evaluation_id"]
        assert answer["context"]["assurance"] == "asserted"


def test_basic_errors_and_headers(world: AssertedWorld) -> None:
    """What is wrong (2.4), and the id of a request (2.5)."""
    check_errors_and_headers(world)


def test_batch(world: AssertedWorld) -> None:
    """As many answers as questions, in their order (3.2, 3.3); one that fails is a denial, no list is one (3.4)."""
    for asked, decisions in BATCH:
        answer = world.ask(asked, SEVERAL)
        found = [each["decision"] for each in answer["evaluations"]]
        assert ("decision" in answer, [type(each) for each in found]) == (False, [bool] * len(decisions))
        assert all(wanted in (None, each) for wanted, each in zip(decisions, found, strict=True)), (asked, answer)
    for asked in (READ_IT, READ_IT | {"evaluations": []}):
        assert world.ask(asked, SEVERAL)["decision"] is True


def test_discovery(world: AssertedWorld) -> None:
    """The identifier is the base, and each endpoint has https (6.5)."""
    answer = httpx.get(f"http://127.0.0.1:{world.pdp}/.well-known/authzen-configuration", timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    about = answer.json()
    assert about["policy_decision_point"] == "https://pdp.example"
    endpoints = [each for name, each in about.items() if name.endswith("_endpoint")]
    assert len(endpoints) == 2
    assert all(each.startswith("https://pdp.example/access/v1/") for each in endpoints)


def test_a_credential_that_is_sent_is_never_left_out(world: AssertedWorld) -> None:
    """A wrong one is refused, where none would be allowed; so are a person, and an agent that is not enrolled."""
    for credential in ("arx1_wrong", "", None, 7):
        answer = world.ask(READ_IT | {"context": {"credential": credential}})
        assert (answer["decision"], "assurance" in answer["context"]) == (False, False), credential
    for subject, reason in (({"type": "group", "id": "alice"}, "missing_token"), (user("dan"), "frozen")):
        assert world.ask(question(subject, READ, record(1)))["context"]["reason"] == reason


def test_a_message_of_mcp_is_judged_without_what_it_does_not_show(world: AssertedWorld) -> None:
    """By the default mapping of COAZ, a call has no arguments; a list is about a live credential."""
    bob = {"type": "identity", "id": "agent:acme/bob"}

    def reason(name: str, properties: Object, method: str = "tools/call", kind: str = "tool") -> str:
        asked = question(bob, {"name": method, "properties": properties}, {"type": kind, "id": name})
        answer = world.ask(asked)
        return "" if answer["decision"] else str(answer["context"]["reason"])

    assert reason("any", {}) == reason("any", {"arguments": {"a": 1}}) == ""
    assert reason("read", {}) == "request_unseen"
    assert reason("read", {"arguments": {"id": "record-1"}}) == ""
    assert reason("server", {}, "tools/list", "mcp_server") == "missing_token"


def test_a_kill_denies_the_next_question_and_each_has_a_record(world: AssertedWorld) -> None:
    """Within the lease, although a new task of the agent would have begun after it."""
    asked = question(user("eve"), READ, record(1))
    assert world.ask(asked)["decision"] is True
    world.kill("agent", "acme/eve")
    assert world.ask(asked)["context"]["reason"] == "revoked"
    shown = world.arx("decisions", "--journal", str(world.folder / "pdp.json"))["decisions"]
    mine = [(each["outcome"], each["assurance"]) for each in shown if each["agent"] == "acme/eve"]
    assert sorted(mine) == [("allow", "asserted"), ("deny", "asserted")]
