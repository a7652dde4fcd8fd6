# SPDX-License-Identifier: Apache-2.0
"""The task that runs a tool, for tools that are written once and serve many tasks.  SPEC 8.

Each thread and each asyncio task has its own, so runs beside each other never mix their tokens.
"""

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from arx_caps.agent.approval import Approval
from arx_caps.agent.copies import Shared
from arx_caps.agent.task import Task
from arx_verifier.errors import AttenuationError

try:
    from httpx2 import Auth as _OtherAuth
except ImportError:

    class _OtherAuth:  # type: ignore[no-redef]  # one of the two is there
        """Stands for the base class of httpx2, which is not installed."""


if TYPE_CHECKING:
    from arx_caps.agent.auth import ArxAuth
    from arx_caps.agent.started_task import StartedTask


class _Running(NamedTuple):
    task: Task
    approvals: tuple[Approval, ...]
    asker: "StartedTask | None"


_RUNNING: Final[ContextVar[_Running | None]] = ContextVar("arx_task", default=None)


def current_task() -> Task | None:
    """Return the task that the running tool was called with, or None outside of one."""
    running = _RUNNING.get()
    return None if running is None else running.task


def current_asker() -> "StartedTask | None":
    """Return the started task that asks operators for approvals of what the running tool calls, or None."""
    running = _RUNNING.get()
    return None if running is None else running.asker


def running_call() -> tuple[Task, tuple[Approval, ...]]:
    """Return the task and the approvals of the running call.

    Raises:
        AttenuationError: No task runs here.
    """
    running = _RUNNING.get()
    # Another task's token must not be used instead: the call would have powers that its caller did not choose.
    if running is None:
        raise AttenuationError("no task runs here: call this from a tool that was called with a task")
    return running.task, running.approvals


def current_approvals(task: Task) -> tuple[Approval, ...]:
    """Return what operators have approved of the call that runs here.

    Args:
        task: The task of the call; for a call of another task there are none.
    """
    running = _RUNNING.get()
    return running[1] if running is not None and running[0] is task else ()


@contextmanager
def running(task: Task, approvals: Sequence[Approval] = (), *, asker: "StartedTask | None" = None) -> Iterator[Task]:
    """Make a task the current one, in this thread or asyncio task.

    Args:
        task: The task.
        approvals: What operators have approved of the call that runs in this context.
        asker: The started task that asks operators for approvals, where ``task`` is a sub-agent's part of it.
    """
    before = _RUNNING.set(_Running(task, tuple(approvals), asker))
    try:
        yield task
    finally:
        _RUNNING.reset(before)


class CurrentTaskAuth(Shared, httpx.Auth, _OtherAuth):
    """Sign each request with the current task: authentication for a client of httpx or httpx2 that many tasks share.

    ``httpx.Client(base_url=…, auth=CurrentTaskAuth("orders"))`` is made once; a request outside of a task is not sent.

    Args:
        audience: Use this audience's token only; needed where two audiences live at one origin.
    """

    def __init__(self, audience: str | None = None) -> None:
        self._audience = audience

    def _auth(self) -> "ArxAuth":
        task, approvals = running_call()
        return task.auth(self._audience, approvals=approvals)

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign a request whose body was read; the client calls one of the two below."""
        return self._auth().auth_flow(request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Read the body and sign; for synchronous clients."""
        return self._auth().sync_auth_flow(request)

    def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Read the body and sign; for asynchronous clients."""
        return self._auth().async_auth_flow(request)

    def __repr__(self) -> str:
        return "<CurrentTaskAuth>" if self._audience is None else f"<CurrentTaskAuth for {self._audience}>"
