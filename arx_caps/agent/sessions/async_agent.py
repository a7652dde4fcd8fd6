# SPDX-License-Identifier: Apache-2.0
"""An agent on an event loop: each call to the mint runs in a thread, and all offline work stays as it is.

The classes here hold those of the synchronous library and decide nothing.  A cancelled call goes on in its thread, and
a session or task that it makes is ended there, since no caller will know it.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from arx_caps.agent.sessions.agent import Agent, SessionOpener
from arx_caps.agent.sessions.session import Session
from arx_caps.agent.sessions.started_task import OVER, StartedTask
from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.task import Task
from arx_verifier.errors import ArxError
from arx_verifier.token.holder import HolderKey

Result = TypeVar("Result")
Held = TypeVar("Held", bound=Session | StartedTask | Approval)
Ended = TypeVar("Ended", bound=Session | StartedTask)

_log = logging.getLogger(__name__)


class _Work(Generic[Result]):
    """A call in a thread, whose result is reverted if its caller was cancelled."""

    def __init__(self, call: Callable[[], Result], revert: Callable[[Result], object] | None) -> None:
        self._call, self._revert = call, revert
        self._lock, self._dropped = threading.Lock(), False
        self._results: list[Result] = []

    def run(self) -> Result:
        result = self._call()
        with self._lock:
            self._results.append(result)
            dropped = self._dropped
        if dropped:
            self.revert()
        return result

    def drop(self) -> bool:
        """Note that no caller waits for the result, and return whether it came before, so that it is to be reverted."""
        with self._lock:
            self._dropped = True
            return bool(self._results)

    def revert(self) -> None:
        if self._revert is None:
            return
        for result in self._results:
            try:
                self._revert(result)
            except ArxError as error:
                if error.code not in OVER:
                    _log.warning("%r of a cancelled call could not be ended: %s", result, error)


class _Threads:
    """The calls of one agent that run in threads of the event loop's executor."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()

    async def call(self, call: Callable[[], Result], *, revert: Callable[[Result], object] | None = None) -> Result:
        work = _Work(call, revert)
        try:
            # Shielded: a call that has not begun is cancelled nowhere else, and one that has begun cannot be.
            return await asyncio.shield(self._start(work.run))
        except asyncio.CancelledError:
            if work.drop():
                self._start(work.revert)
            raise

    def _start(self, run: Callable[[], Result]) -> "asyncio.Future[Result]":
        future = asyncio.get_running_loop().run_in_executor(None, run)
        self._running.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: "asyncio.Future[Any]") -> None:
        self._running.discard(future)
        if not future.cancelled():
            future.exception()  # read, or asyncio would report the failure of a call that was cancelled

    async def wait(self) -> None:
        """Wait until no call runs."""
        while self._running:
            await asyncio.wait(tuple(self._running))


class AsyncAgent(Shared):
    """An agent or workload on an event loop.  An ``async with`` block closes the connections to the mint.

    Attributes:
        agent: The agent or workload.

    Args:
        agent: ``Agent`` or ``Workload``.
    """

    __slots__ = ("_threads", "agent")

    def __init__(self, agent: SessionOpener) -> None:
        self.agent, self._threads = agent, _Threads()

    @classmethod
    def from_key_file(cls, path: str | os.PathLike[str], issuer: str | None = None) -> Self:
        """Read an agent's key file; see ``Agent.from_key_file``."""
        return cls(Agent.from_key_file(path, issuer))

    async def open_session(self, **asked: Any) -> "AsyncSession":
        """Open a session, which an ``async with`` block ends; see ``Agent.open_session``.

        Args:
            asked: As for ``Agent.open_session``.

        Raises:
            ArxError: As ``Agent.open_session``.
        """
        opened = await self._threads.call(partial(self.agent.open_session, **asked), revert=Session.end)
        return AsyncSession(opened, self._threads)

    async def resume_session(self, path: str | os.PathLike[str], *, keep: bool = True) -> "AsyncSession":
        """Take up a session after a restart; see ``Agent.resume_session``.

        Args:
            path: The file.
            keep: As in ``open_session``.

        Raises:
            ArxError: As ``Agent.resume_session``.
        """
        # Not ended when cancelled: its file is there for the next attempt.
        resume = partial(self.agent.resume_session, path, keep=keep)
        return AsyncSession(await self._threads.call(resume, revert=Session.let_go), self._threads)

    async def close(self) -> None:
        """Wait for the calls that run, also those that were cancelled, and close the connections to the mint."""
        await self._threads.wait()
        await self._threads.call(self.agent.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncAgent of {self.agent!r}>"


class _OnLoop(Shared, Generic[Held]):
    """An object of the synchronous library on an event loop, with the threads of its calls."""

    __slots__ = ("_held", "_threads")

    def __init__(self, held: Held, threads: _Threads) -> None:
        self._held, self._threads = held, threads

    @property
    def id(self) -> str:
        """Its id, which a kill can name."""
        return self._held.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._held!r}>"


class _BlockOnLoop(_OnLoop[Ended]):
    """One that ends with its ``async with`` block."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._threads.call(partial(self._held.__exit__, kind, error, trace))


class AsyncSession(_BlockOnLoop[Session]):
    """A session on an event loop; made by ``AsyncAgent.open_session``."""

    __slots__ = ()

    @property
    def session(self) -> Session:
        """The session, with its id, agent, ends, purpose and subject."""
        return self._held

    async def start_task(
        self, template: str, params: Mapping[str, Any] | None = None, /, **asked: Any
    ) -> "AsyncStartedTask":
        """Ask for the power that one piece of work needs; see ``Session.start_task``.

        Args:
            template: The policy's name for it.
            params: The template's parameters.
            asked: As for ``Session.start_task``, with the template's parameters.

        Raises:
            ArxError: As ``Session.start_task``.
        """
        start = partial(self.session.start_task, template, params, **asked)
        return AsyncStartedTask(await self._threads.call(start, revert=StartedTask.finish), self._threads)

    async def resume_task(
        self, path: str | os.PathLike[str], *, holder_key: HolderKey | None = None
    ) -> "AsyncStartedTask":
        """Take up a task of this session after a restart; see ``Session.resume_task``."""
        resume = partial(self.session.resume_task, path, holder_key=holder_key)
        return AsyncStartedTask(await self._threads.call(resume), self._threads)

    async def approval(self, approval: str) -> "AsyncApproval":
        """Return an approval that this session asked for; see ``Session.approval``."""
        return AsyncApproval(await self._threads.call(partial(self.session.approval, approval)), self._threads)

    async def renew(self) -> None:
        """Let it end later; see ``Session.renew``."""
        await self._threads.call(self.session.renew)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the session in a file; see ``Session.save``."""
        await self._threads.call(partial(self.session.save, path))

    async def end(self) -> dict[str, Any]:
        """End the session, and with it every token of every task of it; see ``Session.end``."""
        return await self._threads.call(self.session.end)


class AsyncStartedTask(_BlockOnLoop[StartedTask]):
    """A started task on an event loop; an ``async with`` block finishes it.  Made by ``AsyncSession.start_task``."""

    __slots__ = ()

    @property
    def task(self) -> StartedTask:
        """The task, for all that needs no mint, and for adapters of frameworks."""
        return self._held

    def auth(self, audience: str | None = None, **more: Any) -> Any:
        """Return authentication for an HTTP client of httpx or httpx2; see ``Task.auth``.  Offline."""
        return self.task.auth(audience, **more)

    def delegate(self, to: str, **limits: Any) -> Task:
        """Make a task for another agent; see ``Task.delegate``.  Offline."""
        return self.task.delegate(to, **limits)

    def attenuate(self, **limits: Any) -> "AsyncStartedTask":
        """Return a narrower copy for the same holder; see ``Task.attenuate``.  Offline."""
        return AsyncStartedTask(self.task.attenuate(**limits), self._threads)

    async def attenuate_for_all(self, **limits: Any) -> "AsyncStartedTask":
        """Attenuate the task at the mint for all holders; see ``StartedTask.attenuate_for_all``."""
        left = await self._threads.call(partial(self.task.attenuate_for_all, **limits))
        return AsyncStartedTask(left, self._threads)

    async def extend(
        self, template: str | None = None, params: Mapping[str, Any] | None = None, /, **asked: Any
    ) -> "AsyncStartedTask":
        """Ask the mint for more within the same task; see ``StartedTask.extend``."""
        added = await self._threads.call(partial(self.task.extend, template, params, **asked))
        return AsyncStartedTask(added, self._threads)

    async def ask_approval(self, tool: str, args: Mapping[str, Any], **more: Any) -> "AsyncApproval":
        """Ask operators to approve one call; see ``StartedTask.ask_approval``."""
        asked = await self._threads.call(partial(self.task.ask_approval, tool, args, **more))
        return AsyncApproval(asked, self._threads)

    async def finish(self) -> Mapping[str, Any]:
        """Finish the task at the mint, which ends all its tokens; see ``StartedTask.finish``."""
        return await self._threads.call(self.task.finish)


class AsyncApproval(_OnLoop[Approval]):
    """An approval on an event loop; made by ``AsyncStartedTask.ask_approval``."""

    __slots__ = ()

    @property
    def approval(self) -> Approval:
        """The approval, to be sent with a call."""
        return self._held

    async def look(self) -> str:
        """Ask the mint how it stands; see ``Approval.look``."""
        return await self._threads.call(self.approval.look)

    async def wait(self, timeout_s: float | None = None) -> Approval:
        """Wait until operators have answered; see ``Approval.wait``.  No thread waits meanwhile.

        Args:
            timeout_s: How long at most, in seconds; until the task ends when left out.

        Returns:
            The approval, to be sent with the call.

        Raises:
            GrantError: It was denied, withdrawn, or is over; or the task or its session is.
            TokenError: The session was ended, frozen or killed.
            TimeoutError: No operator has answered yet; a later ``wait`` may go on.
        """
        pauses = self.approval.pauses(timeout_s)
        while True:
            pause_s = await self._threads.call(partial(next, pauses, None))
            if pause_s is None:
                return self.approval
            await asyncio.sleep(pause_s)
