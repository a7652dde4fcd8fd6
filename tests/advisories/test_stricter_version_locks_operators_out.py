# SPDX-License-Identifier: Apache-2.0
"""An update whose policy rules are stricter could lock every operator out of the mint.

The policy in force had been read by the older version, was kept in the database and was the newer one of two, so that
no edit of the file changed it; and only a mint that runs takes another policy.  No operator could read the audit log,
end a session through the mint or enrol an agent until the file was touched.
"""

import os

import pytest
from sqlalchemy import update

from arx_caps.mint.db.tables import POLICIES
from arx_caps.mint.policy import activation
from arx_caps.mint.runtime import MintRuntime
from arx_verifier.errors import SettingsError
from tests.mint.harness import LOOKUP, Harness, Holder

MARK = "\u202e"


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A realm whose mint has put its policy in force, as a mint does that starts."""
    unit.mint.policies.settle()
    return unit


def update_version(harness: Harness, refused: str, *, file: str | None = None) -> MintRuntime:
    """Have the policy in force be one that an older version took, and start as the newer one.

    Args:
        harness: The realm.
        refused: The text.
        file: What the policy file says; when left out it is the same.
    """
    with harness.mint.db.write() as c:
        c.execute(update(POLICIES).values(text=refused))
    path = harness.realm.policy_path
    path.write_text(refused if file is None else file)
    if file is not None:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return start(harness)


def start(harness: Harness) -> MintRuntime:
    harness.mint.policies.loaded = activation.read_policy(harness.realm.policy_path)
    harness.mint.policies.settle()
    return harness.mint


def good(harness: Harness) -> str:
    return harness.realm.policy_path.read_text("utf-8")


def refused_by_rule(text: str) -> str:
    return text.replace("[task.lookup]", "[task.lookup]\nnet = []")


@pytest.mark.parametrize("of_file", [True, False])
def test_an_operator_is_not_locked_out(unit: Harness, caplog: pytest.LogCaptureFixture, *, of_file: bool) -> None:
    """Nothing is granted, with a code and a line that say why; all else works, and a policy is put in force."""
    text, key = good(unit), unit.enrol()
    agent, session = unit.open_session(key)
    task = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    digest = unit.mint.policies.loaded.digest
    mint = update_version(unit, refused_by_rule(text), file=None if of_file else text + "# of before\n[task.a]\n")
    assert isinstance(mint.policies.loaded, activation.NoPolicy)
    assert "task.lookup.net: expected a list with at least one network" in caplog.text
    assert any("policy" in why for why in mint.ready())
    new = Holder(unit, unit.session_key, None)
    for holder, path, body in (
        (new, "/v1/sessions", {"assertion": unit.assertion(key)}),
        (agent, "/v1/tasks", LOOKUP),
        (agent, f"/v1/sessions/{session['id']}/renew", None),
        (agent, f"/v1/tasks/{task['id']}/extend", {"ttl": "1m"}),
        (agent, f"/v1/tasks/{task['id']}/attenuate", {"caveats": {"orders": []}}),
    ):
        answer = holder.call("POST", path, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_policy"), path
        assert "Retry-After" in answer.headers
        assert "network" not in answer.text, "agents learn nothing of the policy"
    operator = unit.operator()
    for path in ("/v1/whoami", "/v1/sessions", "/v1/agents", "/v1/services", "/v1/policies"):
        assert operator.call("GET", path).status_code == 200, path
    assert operator.call("GET", "/v1/policies/in-force").json()["policy"] == refused_by_rule(text)
    answer = operator.call("POST", "/v1/policies", {"policy": text.replace('"8h"', '"4h"')})
    assert (answer.status_code, answer.json()["before"]) == (200, digest)
    assert agent.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    assert mint.ready() == unit.mint.ready()
    assert not any("policy" in why for why in mint.ready())


def test_what_was_refused_for_a_comment_is_mended(unit: Harness) -> None:
    """Without it the policy has the very same digest, and is in force all the same: here, elsewhere, at a start."""
    text, digest = good(unit), unit.mint.policies.loaded.digest
    mint = update_version(unit, f"{text}# {MARK}\n", file=f"# {MARK}\n")
    assert isinstance(mint.policies.loaded, activation.NoPolicy)
    mint.policies.follow()
    assert isinstance(mint.policies.loaded, activation.NoPolicy)
    assert unit.operator().call("POST", "/v1/policies", {"policy": text}).json() == {
        "digest": digest,
        "before": digest,
    }
    assert mint.policy.digest == digest
    mint.policies.loaded = activation.NoPolicy("x", digest, 1)  # another mint of the realm
    mint.policies.follow()
    assert mint.policy.digest == digest
    unit.realm.policy_path.write_text(f"# {MARK}\n")
    os.utime(unit.realm.policy_path, (1_000_000_000, 1_000_000_000))
    assert start(unit).policy.digest == digest


def test_the_file_mends_it_as_well(unit: Harness) -> None:
    """An operator who edits it and starts the mint, or has it read again, means what is in it."""
    text = good(unit)
    mint = update_version(unit, refused_by_rule(text))
    unit.realm.policy_path.write_text(text)
    assert unit.operator().call("POST", "/v1/policies/reload").status_code == 200
    assert mint.policy.digest
    update_version(unit, refused_by_rule(text))
    unit.realm.policy_path.write_text(text.replace('"8h"', '"3h"'))
    assert start(unit).policy.digest


def test_a_mistake_that_was_never_in_force_is_no_start(unit: Harness) -> None:
    """The operator who edits the file reads the error at once, and no older policy is taken in its place."""
    unit.realm.policy_path.write_text(refused_by_rule(good(unit)))
    with pytest.raises(SettingsError, match="at least one network"):
        start(unit)
    unit.realm.policy_path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        start(unit)


def test_a_newer_policy_of_another_mint_ends_nothing(unit: Harness) -> None:
    """What another mint put in force and this version refuses changes nothing for a mint that has one."""
    before = unit.mint.policy.digest
    with unit.mint.db.write() as c:
        row = dict(c.execute(POLICIES.select()).mappings().one())
        c.execute(POLICIES.insert().values(row | {"digest": "x", "text": "[task.a]", "in_force_at": 2**50}))
    with pytest.raises(SettingsError, match=r"task\.a"):
        unit.mint.policies.follow()
    assert unit.mint.policy.digest == before
