# SPDX-License-Identifier: Apache-2.0
"""Run a command beside the front: its signals and its exit status."""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from arx_caps.http.process import hide_memory
from arx_caps.run.authority import RunAuthority
from arx_caps.run.front import Front

NOT_STARTED: Final = 125  # of this program, as of env(1) and timeout(1)
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as shells exit
_OF_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
_PASSED: Final = (*_OF_TERMINAL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Environment = Callable[[Front], Mapping[str, str]]


def hide_process() -> None:
    """Keep other processes of this user from reading the memory of this one, and let none dump its memory."""
    hide_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class RunningCommand:
    """A command under a task.

    Args:
        words: The program and its arguments.
        report: Writes a line for people.
    """

    def __init__(self, words: Sequence[str], report: Callable[[str], None]) -> None:
        self._words, self._report = words, report
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, authority: RunAuthority, folder: Path, environment: Environment, *, has_port: bool) -> int:
        """Run it to its end; return its exit status, as a shell does.

        Args:
            authority: The task and its hosts.
            folder: A folder that only this user can enter.
            environment: Returns its variables.
            has_port: As of ``Front``.
        """
        async with Front(authority, folder, has_port=has_port) as front:
            loop = asyncio.get_running_loop()
            for each in _PASSED:
                loop.add_signal_handler(each, self._pass_on, each)
            try:
                self._process = await asyncio.create_subprocess_exec(*self._words, env=environment(front))
            except OSError as error:
                self._report(f"{self._words[0]}: {error.strerror}")
                return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            status = await self._process.wait()
            return status if status >= 0 else 128 - status

    def end(self) -> None:
        """Ask it to end."""
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        # A terminal sends these to the whole group, the command included.
        if self._process is not None and not (number in _OF_TERMINAL and os.isatty(0)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
