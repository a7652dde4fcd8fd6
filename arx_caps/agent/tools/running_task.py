# SPDX-License-Identifier: Apache-2.0
"""The task that runs a tool, for tools that are written once and serve many tasks.  SPEC 8.

Each thread and each asyncio task has its own, so runs beside each other never mix their tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.task import Task
from arx_verifier.errors import AttenuationError


class _Running(NamedTuple):
    task: Task
    approvals: tuple[Approval, ...]


_RUNNING: Final[ContextVar[_Running | None]] = ContextVar("arx_task", default=None)


def current_task() -> Task | None:
    """Return the task that the running tool was called with, or None outside of one."""
    running = _RUNNING.get()
    return None if running is None else running.task


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
    return running.approvals if running is not None and running.task is task else ()


@contextmanager
def running(task: Task, approvals: Sequence[Approval] = ()) -> Iterator[Task]:
    """Make a task the current one, in this thread or asyncio task.

    Args:
        task: The task.
        approvals: What operators have approved of the call that runs in this context.
    """
    before = _RUNNING.set(_Running(task, tuple(approvals)))
    try:
        yield task
    finally:
        _RUNNING.reset(before)
