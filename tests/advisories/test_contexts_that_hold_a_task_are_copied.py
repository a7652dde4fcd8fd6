# SPDX-License-Identifier: Apache-2.0
"""An agent framework that copied its context deeply ended the run, because a task in it raised ``TypeError``."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from arx_caps.agent import Agent, Approval
from arx_caps.agent.sessions.session import Session
from arx_caps.credentials.keyfile import KeyFile
from tests.agent.holding import ISSUER, approvable, ask, discharged, task
from tests.support import AT

SESSION = {"session": {"id": "s-a", "agent": "acme/a", "expires_at": AT}, "token": "a token", "expires_at": AT}


def agent() -> Agent:
    return Agent(KeyFile.generate("agent", "acme/a", ISSUER))


def session() -> Session:
    key = KeyFile.generate("agent", "acme/a", ISSUER).key
    return Session(agent()._mint, key, SESSION, now=lambda: AT)


HELD: dict[str, Callable[[], Any]] = {
    "task": task,
    "bundle": lambda: task().bundle,
    "auth": lambda: approvable().auth(),
    "approval": lambda: Approval.from_text(discharged({"order_id": "o-1", "amount": 5})),
    "session": session,
    "agent": agent,
}


@pytest.mark.parametrize("what", HELD)
def test_a_copy_is_the_same_thing(what: str) -> None:
    """Neither a lock, a connection nor a key is there twice; and nothing of it is pickled, as before."""
    held = HELD[what]()
    context = {"deps": [held], "model": "any"}
    for copied in (copy.deepcopy(context), copy.copy(context)):
        assert copied["deps"][0] is held
    assert copy.copy(held) is held
    with pytest.raises(TypeError):
        pickle.dumps(held)


def test_a_copied_task_works() -> None:
    """It signs calls and is delegated, and what was made of the one is equal to the other's."""
    copied = copy.deepcopy(task())
    assert ask(copied.delegate("acme/x"), "orders", "orders.get", {"order_id": "o-1"}) == "ok"
    assert copied == task(tokens=dict(copied.bundle.tokens))
