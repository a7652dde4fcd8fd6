# SPDX-License-Identifier: Apache-2.0
"""Operators: what a role allows applies at once and to every token, and no lock-out is final."""

import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.db.repositories.identity.operators import ADMIN
from arx_caps.mint.identity.authenticate import NEEDS_NO_RULE
from arx_caps.mint.policy.roles import ROLES
from arx_caps.mint.server.init_realm import recover_operator
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AuditError, GrantError, SettingsError
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.names import matches_tool
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.mint.harness import AGENT, ISSUER, Harness, Holder
from tests.servers import run_together

pytestmark = pytest.mark.spec("CONTROL 1.6")

KILL = {"targets": ["session:s-" + "a" * 16], "reason": "test", "wait": False}


def sign_in(harness: Harness, key: KeyFile) -> Holder:
    holder = Holder(harness, key.key, None)
    answer = holder.call("POST", "/v1/operators/token", {"assertion": harness.assertion(key)})
    assert answer.status_code == 201, answer.text
    return Holder(harness, key.key, answer.json()["token"])


def enrol(harness: Harness, name: str, **what: Any) -> KeyFile:
    key = KeyFile.generate("operator", name, ISSUER)
    answer = harness.operator().call("POST", "/v1/operators", {"name": name, "jwk": key.key.public.jwk, **what})
    assert answer.status_code == 201, answer.text
    return key


def sample(path: str) -> str:
    for name, value in (("{path:path}", AGENT), ("{session}", "s-" + "a" * 16), ("{task}", "t-" + "a" * 16)):
        path = path.replace(name, value)
    return re.sub(r"\{[^}]*\}", "x", path)


def decided(harness: Harness, name: str) -> list[Decision]:
    sink = harness.mint.decisions
    assert isinstance(sink, InMemoryDecisions)
    return [decision for decision in sink.decisions if decision.agent == f"operator:{name}"]


def test_a_kill_only_key_kills_and_nothing_else(unit: Harness) -> None:
    """Walk every route with it: only kills, their previews and records, and ``whoami`` get past the role."""
    holder = sign_in(unit, enrol(unit, "night", role="kill-only"))
    for endpoint in ENDPOINTS:
        if endpoint.action in (None, *NEEDS_NO_RULE, *ROLES["kill-only"]):
            continue
        answer = holder.call(endpoint.method, sample(endpoint.path), {})
        assert answer.status_code == 403, (endpoint.path, answer.text)
    assert holder.call("GET", "/v1/whoami").json()["may"] == [*ROLES["kill-only"]]
    # The store of `unit` does not answer: the call got as far as that.
    assert holder.call("POST", "/v1/kills", KILL).status_code == 503


def test_read_only_reads_everything_and_changes_nothing(unit: Harness) -> None:
    """Each action that reads is in the role, and none that does anything."""
    holder = sign_in(unit, enrol(unit, "auditor", role="read-only"))
    actions = {(endpoint.method, endpoint.path, endpoint.action) for endpoint in ENDPOINTS if endpoint.action}
    for method, path, action in actions:
        if action in NEEDS_NO_RULE:
            continue
        allowed = any(matches_tool(rule, action) for rule in ROLES["read-only"])
        assert allowed == (action.endswith(".read") or action in ("arx.console.open", "arx.kills.preview")), action
        if not allowed:
            assert holder.call(method, sample(path), {}).status_code == 403
    assert holder.call("GET", "/v1/operators").status_code == 200


def test_only_the_first_role_makes_operators() -> None:
    """No other role can give itself more."""
    for role, patterns in ROLES.items():
        covers = any(matches_tool(pattern, "arx.operators.write") for pattern in patterns)
        assert covers == (role == ADMIN)


def test_a_role_that_shrinks_shrinks_tokens_that_are_out(unit: Harness) -> None:
    """The row is looked at again at each call, and a later token has the new rules."""
    key = enrol(unit, "ann", role="agents")
    holder = sign_in(unit, key)
    assert holder.call("GET", "/v1/agents").status_code == 200
    changed = unit.operator().call("PATCH", "/v1/operators/ann", {"role": "kill-only"})
    assert changed.json()["role"] == "kill-only"
    answer = holder.call("GET", "/v1/agents")
    assert (answer.status_code, answer.json()["code"]) == (403, "tool_not_allowed")
    assert answer.json()["failures"][0]["place"] == "role kill-only"
    rules = tuple(Rule(tool=action) for action in ROLES["kill-only"])
    assert Macaroon.parse(sign_in(unit, key).token or "").packets == (Caveat(allow=rules).encode(),)


def test_rules_of_ones_own_hold_arguments(unit: Harness) -> None:
    """An operator may be held to some agents; rules that would make operators, or are none, are refused."""
    rules = [{"tool": "arx.agents.read", "args": {"path": {"one_of": [AGENT]}}}]
    holder = sign_in(unit, enrol(unit, "team", rules=rules))
    assert holder.call("GET", "/v1/whoami").json()["rules"] == rules
    assert "rules" not in unit.operator().call("GET", "/v1/whoami").json()
    unit.enrol()
    unit.enrol("acme/billing")
    assert holder.call("GET", f"/v1/agents/{AGENT}").status_code == 200
    assert holder.call("GET", "/v1/agents/acme/billing").json()["code"] == "argument_not_allowed"
    assert holder.call("GET", "/v1/agents").status_code == 403
    jwk = KeyFile.generate("operator", "x", ISSUER).key.public.jwk
    for wrong in (
        {"rules": [{"tool": "arx.*"}]},
        {"rules": [{"tool": "arx.operators.*"}]},
        {"rules": [{"tool": "*"}]},
        {"rules": [{"tool": "orders.get"}]},
        {"rules": [{"tool": "arx.kill", "arg": {}}]},
        {"rules": []},
        {"role": "owner"},
        {"role": "admin", "rules": [{"tool": "arx.kill"}]},
        {},
    ):
        answer = unit.operator().call("POST", "/v1/operators", {"name": "x", "jwk": jwk, **wrong})
        assert answer.status_code == 400, (wrong, answer.text)
    assert unit.operator().call("GET", "/v1/operators/x").status_code == 404


def test_an_attenuated_token_stays_attenuated(unit: Harness) -> None:
    """What an operator gave away offline is gone, whatever the role allows."""
    holder = unit.operator()
    attenuated = Macaroon.parse(holder.token or "").attenuate(Caveat(allow=(Rule(tool="arx.kill"),))).encode()
    answer = Holder(unit, holder.key, attenuated).call("GET", "/v1/operators")
    assert (answer.status_code, answer.json()["code"]) == (403, "tool_not_allowed")


def test_the_last_one_who_may_everything_stays(unit: Harness) -> None:
    """Neither removal nor demotion takes the last administrator, nor do two at once."""
    operator = unit.operator()
    for method, body in (("DELETE", None), ("PATCH", {"role": "read-only"})):
        answer = operator.call(method, "/v1/operators/root", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    second = enrol(unit, "second", role="admin")
    holders = [operator, sign_in(unit, second)]
    names, codes, ready = ["second", "root"], [], threading.Barrier(2)

    def demote(holder: Holder, name: str) -> None:
        ready.wait()
        codes.append(holder.call("PATCH", f"/v1/operators/{name}", {"role": "read-only"}).status_code)

    run_together(*(partial(demote, *pair) for pair in zip(holders, names, strict=True)))
    # The later one was demoted before its call, or found itself to be the last.
    assert codes.count(200) == 1
    admins = [row for row in unit.mint.db.operators.list() if row.role == ADMIN]
    assert len(admins) == 1


def test_a_removed_operator_signs_nothing(unit: Harness) -> None:
    """Its tokens and keys stop working at once, and its name is not given again."""
    key = enrol(unit, "gone", role="admin")
    holder = sign_in(unit, key)
    # The store of `unit` does not answer, and the removal holds here all the same.
    assert unit.operator().call("DELETE", "/v1/operators/gone").status_code == 503
    assert holder.call("GET", "/v1/agents").json()["code"] == "bad_proof"
    again = Holder(unit, key.key, None).call("POST", "/v1/operators/token", {"assertion": unit.assertion(key)})
    assert again.status_code == 401
    jwk = KeyFile.generate("operator", "gone", ISSUER).key.public.jwk
    answer = unit.operator().call("POST", "/v1/operators", {"name": "gone", "jwk": jwk, "role": "admin"})
    assert (answer.status_code, answer.json()["code"]) == (409, "operator_exists")
    assert unit.operator().call("PATCH", "/v1/operators/gone", {"role": "admin"}).status_code == 409


def test_keys_rotate_without_a_gap(unit: Harness) -> None:
    """Add the new one, use it, take the old one away; the last one stays."""
    old, new = enrol(unit, "rota", role="read-only"), KeyFile.generate("operator", "rota", ISSUER)
    operator, path = unit.operator(), "/v1/operators/rota"
    assert operator.call("PATCH", path, {"add_jwk": new.key.public.jwk}).status_code == 200
    before, after = sign_in(unit, old), sign_in(unit, new)
    assert operator.call("PATCH", path, {"remove_kid": old.key.public.kid}).status_code == 200
    assert before.call("GET", "/v1/operators").status_code == 401
    assert after.call("GET", "/v1/operators").status_code == 200
    assert operator.call("PATCH", path, {"remove_kid": new.key.public.kid}).json()["code"] == "conflict"
    for both in ({"role": "admin", "remove_kid": new.key.public.kid}, {}):
        assert operator.call("PATCH", path, both).status_code == 400


def test_every_call_is_a_decision(unit: Harness) -> None:
    """Who, what, with which outcome and why: also what is only read, and what is refused to a proven operator."""
    holder = sign_in(unit, enrol(unit, "watch", role="kill-only"))
    holder.call("GET", "/v1/agents")
    holder.call("GET", "/v1/whoami")
    holder.call("POST", "/v1/kills", KILL)
    outcomes = [(made.tool, made.code, made.assurance) for made in decided(unit, "watch")]
    assert outcomes == [
        ("arx.agents.read", "tool_not_allowed", "key"),
        ("arx.whoami", "ok", "key"),
        ("arx.kill", "ok", "key"),
    ]
    refused, _, killed = decided(unit, "watch")
    assert refused.failures[0].came == "arx.agents.read"
    assert killed.args_digest != refused.args_digest
    assert killed.facts.token == refused.facts.token != ""


def test_unproven_refusals_are_counted(unit: Harness) -> None:
    """A stranger with an operator's token leaves no record of his own under that operator's name."""
    operator = unit.operator()
    before = len(decided(unit, "root"))
    thief = Holder(unit, KeyFile.generate("operator", "root", ISSUER).key, operator.token)
    assert thief.call("GET", "/v1/agents").status_code == 401
    assert len(decided(unit, "root")) == before
    unit.mint.decisions.close()
    sink = unit.mint.decisions
    assert isinstance(sink, InMemoryDecisions)
    assert [counted.code for made in sink.decisions for counted in made.counts] == ["bad_proof"]


def test_no_record_no_call(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mint refuses an operator's call that cannot be recorded, and names the way that needs no mint."""
    operator, sink = unit.operator(), unit.mint.decisions
    keep = sink.append

    def full(decision: Decision) -> int:
        if decision.allowed:
            raise AuditError("the disk is full")
        return keep(decision)

    monkeypatch.setattr(sink, "append", full)
    answer = operator.call("GET", "/v1/agents")
    assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert "arx kill --direct" in answer.json()["detail"]
    assert [made.code for made in decided(unit, "root")] == ["audit_unavailable"]


def test_recovery_needs_what_opens_the_root_keys(unit: Harness, tmp_path: Path) -> None:
    """With every key lost, the owner of the folder and its key file gets in again, on record; no other user does."""
    enrol(unit, "gone", role="admin")
    unit.operator().call("DELETE", "/v1/operators/gone")
    key = KeyFile.generate("operator", "root", ISSUER)
    hidden = unit.realm.root_key_path.rename(tmp_path / "elsewhere")
    with pytest.raises(SettingsError):
        recover_operator(unit.realm, "root", key.key.public, passphrase=None)
    hidden.rename(unit.realm.root_key_path)
    with pytest.raises(GrantError, match="removed"):
        recover_operator(unit.realm, "gone", key.key.public, passphrase=None)
    recover_operator(unit.realm, "root", key.key.public, passphrase=None)
    assert sign_in(unit, key).call("GET", "/v1/operators").status_code == 200
    values = [event for event in unit.mint.db.outbox.after(0) if event.kind == "operator.recovered"]
    assert [event.facts for event in values] == [{"operator": "root", "key": key.key.public.kid}]
    assert values[0].by == f"host:uid-{os.getuid()}"
