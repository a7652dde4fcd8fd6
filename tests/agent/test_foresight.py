# SPDX-License-Identifier: Apache-2.0
"""What a holder can know offline: whether a call would be allowed, whose a token is, and what its links are called."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps import Task
from arx_caps.agent import holder_of, links_of
from arx_verifier import AccessRequest, AttenuationError, Caveat, SettingsError
from arx_verifier.errors import MalformedTokenError
from tests.agent.holding import REFUND, approvable, ask, task, task_with, token
from tests.support import AT, PEER, verifier

ARGS = st.dictionaries(
    st.sampled_from(["order_id", "amount", "other"]), st.sampled_from(["o-1", "o-2", 1, 20, 21, 100, 101, True, None])
)
TOOLS = st.sampled_from(["orders.get", "orders.list", "payments.refund", "payments.list"])


@given(TOOLS, ARGS, st.booleans())
def test_what_is_foretold_is_what_a_verifier_says(tool: str, args: dict[str, Any], attenuated: bool) -> None:
    """Code for code, at each service, for a task and for one that was delegated narrower."""
    held = task()
    if attenuated:
        held = held.delegate("acme/worker", args={"amount": {"range": [0, 20]}})
    for audience in held.audiences:
        answer = held.allows(tool, args, audience=audience)
        assert answer.code == ask(held, audience, tool, args)
        assert bool(answer) == (answer.code == "ok")


def test_the_service_that_knows_the_tool_has_the_reason() -> None:
    """Without an audience one yes is enough, and a refusal is that of the service whose tool it is."""
    held = task()
    assert held.allows("payments.refund", REFUND)
    assert held.allows("orders.list")
    answer = held.allows("payments.refund", REFUND | {"amount": 101})
    assert (bool(answer), answer.code) == (False, "argument_not_allowed")
    assert "amount" in str(answer.failures[0])
    assert held.allows("nothing.such").code == "tool_not_allowed"
    with pytest.raises(AttenuationError, match="no token for"):
        held.allows("orders.get", audience="elsewhere")


def test_time_and_approvals_are_foretold_and_addresses_are_not() -> None:
    """A holder's clock says when a token is over; from where a service sees it, the holder does not know."""
    assert task(at=AT + 24 * 3_600_000).allows("orders.list").code == "expired"
    assert approvable().allows("payments.refund", REFUND).code == "missing_discharge"
    attenuate = task_with()
    attenuate = Task(attenuate.bundle.with_tokens({"orders": token("orders").attenuate(Caveat(net=("10.0.0.0/8",)))}))
    assert Task(attenuate.bundle, now=lambda: AT).allows("orders.list")


def test_holder_and_links_are_what_a_verifier_records() -> None:
    """The mint's own link comes first."""
    first = task_with()
    second = first.delegate("acme/worker").delegate("acme/helper")
    macaroon = second.bundle.tokens["orders"]
    assert (holder_of(first.bundle.tokens["orders"]), holder_of(macaroon)) == (first.agent, "acme/helper")
    links = links_of(macaroon)
    assert (len(links), links[0], links[-1]) == (3, macaroon.unverified_identifier.id, second.link)
    proof = second.call_token("orders", "orders.list", {})
    decision = verifier(audience="orders").decide(proof, AccessRequest("orders.list", {}, AT, PEER))
    assert decision.facts is not None
    assert (decision.code, decision.facts.links) == ("ok", links[1:])


def test_a_task_is_taken_over_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its text, or by a file with it; the error of a process without either names what to set."""
    text = task().encode()
    (tmp_path / "task").write_text(text + "\n")
    code = "from arx_caps import Task; print(Task.from_env().id)"
    for name, value in (("ARX_TASK", text), ("ARX_TASK_FILE", str(tmp_path / "task"))):
        ran = subprocess.run([sys.executable, "-c", code], env={name: value}, capture_output=True, text=True)
        assert ran.stdout == f"{task().id}\n", ran.stderr
    for name in ("ARX_TASK", "ARX_TASK_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="set ARX_TASK to what `encode` gave, or ARX_TASK_FILE"):
        Task.from_env()
    monkeypatch.setenv("WORK_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match=r"WORK_FILE: .*missing.* cannot be read: No such file or directory"):
        Task.from_env("WORK")
    monkeypatch.setenv("WORK", "arxb1_nonsense")
    with pytest.raises(MalformedTokenError):
        Task.from_env("WORK")
