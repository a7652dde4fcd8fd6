# SPDX-License-Identifier: Apache-2.0
"""Threads in which handlers run: one hand-off there and one back for a call."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

MOST: Final = 40  # calls at work at once; others wait for one of them

_Result = TypeVar("_Result")


class Workers:
    """At most so many threads, started as they are needed.  They do not keep the process alive.

    Args:
        most: The number of threads.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._threads, self._at_work = most, 0, 0
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    async def run(self, function: Callable[..., _Result], *args: Any) -> _Result:
        """Run a function in one of the threads; return what it returns, or raise what it raises.

        Args:
            function: What to run.  It goes on where the task that waits is cancelled.
            args: Its arguments.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Result] = loop.create_future()

        def work() -> None:
            try:
                found = function(*args)
            except BaseException as error:
                _tell(loop, answer, answer.set_exception, error)
            else:
                _tell(loop, answer, answer.set_result, found)

        with self._lock:
            self._at_work += 1
            if self._at_work > self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._run, name=f"arx-mint-call-{self._threads}", daemon=True).start()
        self._waiting.put(work)
        return await answer

    def _run(self) -> None:
        while True:
            self._waiting.get()()
            with self._lock:
                self._at_work -= 1


def _tell(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], tell: Callable[[Any], None], said: Any) -> None:
    def told() -> None:
        if not answer.done():  # cancelled
            tell(said)

    try:
        loop.call_soon_threadsafe(told)
    except RuntimeError:  # the loop has ended, and whoever waited with it
        if not loop.is_closed():
            raise
