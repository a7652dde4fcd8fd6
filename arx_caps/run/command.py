# SPDX-License-Identifier: Apache-2.0
"""Run a command beside the front: its signals and its exit status."""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arx_caps.http.process import hide_memory
from arx_caps.run.authority import RunAuthority
from arx_caps.run.box import kept_terminal, signal_box
from arx_caps.run.front import Front
from arx_caps.run.loopback import NOT_EXECUTABLE, NOT_FOUND, SIGNALS, why_not_started

_OF_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGCONT, signal.SIGWINCH)
_AGAIN_S: Final = 0.01  # until a box has its first process


@dataclass(frozen=True)
class Launch:
    """What to start.

    Attributes:
        words: A program and its arguments.
        environment: All of its variables.
        is_boxed: Whether it starts a box.
    """

    words: Sequence[str]
    environment: Mapping[str, str]
    is_boxed: bool


Prepare = Callable[[Front], Launch]


def hide_process() -> None:
    """Keep other processes of this user from reading the memory of this one, and let none dump its memory."""
    hide_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class RunningCommand:
    """A command under a task.

    Args:
        name: The program, for errors.
        report: Writes a line for people.
    """

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        self._name, self._report = name, report
        self._is_boxed = False
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, authority: RunAuthority, folder: Path, prepare: Prepare, *, has_port: bool) -> int:
        """Run it to its end; return its exit status, as a shell does.

        Args:
            authority: The task and its hosts.
            folder: A folder that only this user can enter.
            prepare: Returns what to start beside a front.
            has_port: As of ``Front``.
        """
        async with Front(authority, folder, has_port=has_port) as front:
            loop = asyncio.get_running_loop()
            for each in SIGNALS:
                loop.add_signal_handler(each, self._pass_on, each)
            try:
                launch = prepare(front)
                with kept_terminal():
                    return await self._wait(launch)
            except OSError as error:
                self._report(f"{self._name}: {why_not_started(error)}")
                return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE

    async def _wait(self, launch: Launch) -> int:
        self._is_boxed = launch.is_boxed
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if launch.is_boxed else ())
        try:
            self._process = await asyncio.create_subprocess_exec(
                *launch.words, env=launch.environment, start_new_session=launch.is_boxed
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = await self._process.wait()
        return status if status >= 0 else 128 - status

    def end(self) -> None:
        """Ask it to end."""
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        if self._is_boxed:
            if not signal_box(self._process.pid, number):
                asyncio.get_running_loop().call_later(_AGAIN_S, self._pass_on, number)
        # A terminal sends these to the whole group, the command included.
        elif not (number in _OF_TERMINAL and os.isatty(0)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
