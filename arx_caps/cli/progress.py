# SPDX-License-Identifier: Apache-2.0
"""Show how far long work is: a bar, a count and the time on stderr, only where stderr is a terminal."""

import sys
from typing import TYPE_CHECKING, Self

from arx_caps.cli.terminal import Console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Shows progress; a context manager that leaves no half line behind.

    Args:
        console: Whether anything may be shown.
        about: What is waited for, as long as no count is known.
    """

    def __init__(self, console: Console, about: str = "") -> None:
        self._bar: Bar | None = None
        if sys.stderr.isatty() and not (console.quiet or console.json):
            from rich import console as terminal
            from rich import progress

            columns = (progress.BarColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
            stderr = terminal.Console(stderr=True)
            # Without redirection: what is written to stdout meanwhile must not go to stderr.
            self._bar = progress.Progress(
                *columns, console=stderr, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._task = self._bar.add_task(about, total=None)

    def tell(self, done: int, whole: int) -> None:
        """Show how many records are done, and of how many, 0 where that is not known."""
        if self._bar is not None:
            count = f"{done:,} of {whole:,} records" if whole else f"{done:,} records"
            self._bar.update(self._task, completed=done, total=whole or None, description=count)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
