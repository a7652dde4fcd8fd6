# SPDX-License-Identifier: Apache-2.0
"""A refusal instructed an agent to go on with a new token after an operator had ended its work.

``"retry": "with a new token"`` is an instruction to a model.  And an agent that was thawed stayed refused in tasks
of before, which neither the command nor the refusal said.
"""

import json

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.problems import find_code
from arx_verifier.enforcement.base.problems import answer
from arx_verifier.errors import RevokedError, refusal
from tests.agent.holding import ask, task
from tests.cli.helpers import arx
from tests.servers import FAST_LEASE_MS, begun_store
from tests.support import verifier

WORKER = "acme/worker"


@pytest.mark.parametrize("code", ["revoked", "frozen"])
def test_a_kill_is_no_reason_to_try_again(code: str) -> None:
    """The answer says that an operator ended it, in body and challenge; the mint's page says to stop and report it."""
    reply = answer(code, realm="acme")
    problem = json.loads(reply.body)
    assert (reply.status, problem["retry"]) == (401, "no")
    assert "an operator" in problem["detail"]
    assert b"an operator" in dict(reply.headers)[b"www-authenticate"]
    assert isinstance(refusal(code), RevokedError)
    known = find_code(code)
    assert known is not None
    assert known.do.startswith("stop, and report it")


def test_a_task_of_before_delegates_to_no_killed_agent() -> None:
    """Thawed, the agent takes new tasks alone, as the refusal says: no kill knows when a delegation was made."""
    judge, held = verifier(), task()
    judge.epochs.kill(f"agent:{WORKER}")  # type: ignore[attr-defined]
    judge.epochs.freeze(f"agent:{WORKER}")  # type: ignore[attr-defined]
    judge.epochs.thaw(f"agent:{WORKER}")  # type: ignore[attr-defined]
    later = Task(Bundle.parse(held.encode()), now=held._now).delegate(WORKER)
    assert ask(later, "orders", "orders.list", {}, judge) == "revoked"
    assert ask(held, "orders", "orders.list", {}, judge) == "ok"
    assert "a thawed agent needs a new task" in str(refusal("revoked"))


@pytest.mark.servers
def test_the_command_reports_it(valkey: EmbeddedValkey, realm_name: str) -> None:
    """Where an agent or the realm is thawed, and not where a session is: nothing is delegated to it."""
    words = ("--direct", "--store", valkey.url, "--realm", realm_name, "--reason", "mended", "--yes")
    with begun_store(valkey.url, realm_name, lease_ms=FAST_LEASE_MS):
        assert "start new tasks" in arx("thaw", "agent", "acme/a", *words).err
        assert "open new sessions, and start new tasks" in arx("thaw", "realm", *words).err
        assert "start new tasks" not in arx("thaw", "session", "s-" + "a" * 16, *words).err
    assert "start new tasks" in arx("thaw", "--help").out.replace("\n ", "")
