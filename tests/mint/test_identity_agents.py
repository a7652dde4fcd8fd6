# SPDX-License-Identifier: Apache-2.0
"""Agents: their description travels with them, and an agent that needs no key has none."""

from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon, about
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import AGENT, ISSUER, LOOKUP, Harness, Holder, now_ms
from tests.mint.issuer import jwks
from tests.mint.workloads import DEPLOY, POLICY, ask, ci

PATH = f"/v1/agents/{AGENT}"


def token_of(holder: Holder) -> str:
    return Bundle.parse(holder.call("POST", "/v1/tasks", LOOKUP).json()["bundle"]).tokens["orders"].encode()


def description_in(text: str) -> dict[str, str | None]:
    found = Macaroon.parse(text).unverified_identifier
    assert isinstance(found, Identifier)
    return {"model": found.model, **dict(about(found))}


@pytest.mark.spec("4.1")
def test_the_description_of_an_agent_travels(unit: Harness) -> None:
    """Owner, model, version and purpose are in its tokens and in every decision about them."""
    metadata = {"model": "m-1", "version": "2.1", "purpose": "triage", "team": "blue"}
    holder, _ = unit.open_session(unit.enrol(owner="ada", metadata=metadata))
    text = token_of(holder)
    assert description_in(text) == {"model": "m-1", "version": "2.1", "owner": "ada", "purpose": "triage"}
    assert holder.token is not None
    assert description_in(holder.token) == description_in(text)
    kid, key = unit.mint.key_schedule.audience_key("orders")
    epochs, decisions = unit.mint.epochs, InMemoryDecisions()
    verifier = Verifier(audience="orders", keys=KeyRing({kid: key}, realm="acme"), epochs=epochs, decisions=decisions)
    verifier.decide(text, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms(), None))
    [decision] = decisions.decisions
    assert decision.facts.model == "m-1"
    assert dict(decision.facts.meta) == {"version": "2.1", "owner": "ada", "purpose": "triage"}


def test_a_new_description_counts_for_what_is_begun_later(unit: Harness) -> None:
    """Each member by itself, null and an empty text take one away; the tokens that are there keep theirs."""
    key = unit.enrol(owner="ada", metadata={"model": "m-1", "version": "1"})
    holder, _ = unit.open_session(key)
    before = token_of(holder)
    operator = unit.operator()
    change = {"owner": "bob", "metadata": {"version": "2", "model": None, "purpose": "refunds"}}
    shown = operator.call("PATCH", PATH, change).json()
    assert (shown["owner"], shown["metadata"]) == ("bob", {"version": "2", "purpose": "refunds"})
    assert description_in(before) == {"model": "m-1", "version": "1", "owner": "ada"}
    assert description_in(token_of(holder)) == {"model": None, "version": "2", "owner": "bob", "purpose": "refunds"}
    shown = operator.call("PATCH", PATH, {"owner": None, "metadata": {"version": "", "purpose": None}}).json()
    assert (shown["owner"], shown["metadata"]) == (None, {})
    assert description_in(token_of(holder)) == {"model": None}
    described = [event for event in unit.events() if event["kind"] == "agent.described"]
    assert [(event["by"], event["agent"]) for event in described] == [("operator:root", AGENT)] * 2
    assert described[0]["owner"] == "bob"


@pytest.mark.parametrize(
    "body",
    [
        {"owner": 7},
        {"owner": "x" * 201},
        {"metadata": {"a": 7}},
        {"metadata": {"": "x"}},
        {"metadata": None},
        {"metadata": {f"m{n}": "x" for n in range(17)}},
        {"state": "active"},
    ],
)
def test_what_cannot_be_said_changes_nothing(unit: Harness, body: Any) -> None:
    """Another type, too much, or a member that is not known here."""
    unit.enrol(owner="ada", metadata={"model": "m"})
    assert unit.operator().call("PATCH", PATH, body).status_code == 400
    shown = unit.operator().call("GET", PATH).json()
    assert (shown["owner"], shown["metadata"]) == ("ada", {"model": "m"})


@pytest.mark.spec("4.1")
def test_long_words_are_cut_in_the_token_alone(unit: Harness) -> None:
    """A token stays small; the mint remembers the whole."""
    long = "x" * 200
    holder, _ = unit.open_session(unit.enrol(owner=long, metadata={"purpose": long, "version": long}))
    assert description_in(token_of(holder)) == {
        "model": None,
        **dict.fromkeys(("version", "owner", "purpose"), "x" * 64),
    }
    assert unit.operator().call("GET", PATH).json()["owner"] == long


@pytest.mark.spec("CONTROL 1.4")
def test_an_agent_may_be_known_by_its_workload_alone(unit: Harness) -> None:
    """Enrolled without a key it opens sessions by its token; an agent without such a way keeps its last key."""
    (unit.realm.folder / "keys.json").write_bytes(jwks("ec"))
    unit.realm.policy_path.write_text(POLICY)
    unit.mint.reload_policy()
    operator = unit.operator()
    assert operator.call("POST", "/v1/agents", {"path": "acme/ci/other"}).json()["code"] == "malformed_request"
    assert operator.call("POST", "/v1/agents", {"path": DEPLOY}).json()["keys"] == []
    assert ask(unit, {"workload_token": ci()})[1]["session"]["agent"] == DEPLOY
    stranger = KeyFile.generate("agent", DEPLOY, ISSUER)
    holder = Holder(unit, unit.session_key, None)
    refused = holder.call("POST", "/v1/sessions", {"assertion": unit.assertion(stranger)})
    assert refused.json()["code"] == "bad_assertion"
    key = SigningKey.generate().public
    path = f"/v1/agents/{DEPLOY}"
    assert operator.call("PATCH", path, {"add_jwk": key.jwk}).status_code == 200
    assert operator.call("PATCH", path, {"remove_kid": key.kid}).json()["keys"] == []
    other = unit.enrol("acme/ci/other")
    kept = operator.call("PATCH", "/v1/agents/acme/ci/other", {"remove_kid": other.key.kid})
    assert kept.json()["code"] == "conflict"


def test_a_deactivated_agent_opens_nothing_by_any_way(unit: Harness) -> None:
    """Neither by a key that it has nor by one that it gets."""
    key = unit.enrol()
    unit.operator().call("DELETE", PATH)  # the store does not answer here; the database knows by then
    with pytest.raises(AssertionError, match="frozen"):
        unit.open_session(key)
    fresh = KeyFile.generate("agent", AGENT, ISSUER)
    assert unit.operator().call("PATCH", PATH, {"add_jwk": fresh.key.public.jwk}).status_code == 200
    with pytest.raises(AssertionError, match="frozen"):
        unit.open_session(fresh)
