# SPDX-License-Identifier: Apache-2.0
"""Tell a person how far long work is: one line on stderr that is written over, and only where stderr is a terminal."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final, Self

import click

from arx_caps.cli.output import Console

_FIRST_S: Final = 1.0  # what is over sooner needs no word
_EVERY_S: Final = 0.2


class Progress:
    """How far it is; a context manager that leaves no half line behind."""

    def __init__(self, console: Console) -> None:
        self._shown = sys.stderr.isatty() and not console.quiet
        self._next = time.monotonic() + _FIRST_S
        self._written = False

    def tell(self, done: int, whole: int) -> None:
        """Say how many records are done, and of how many, 0 where that is not known."""
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next, self._written = now + _EVERY_S, True
            share = f" of {whole:,} ({100 * done // whole} %)" if whole else ""
            click.echo(f"\r{done:,}{share} records\x1b[K", err=True, nl=False)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the seconds of what cannot say how far it is, such as work of the mint's."""
        over, began = threading.Event(), time.monotonic()

        def count() -> None:
            while not over.wait(_FIRST_S):
                self._written = True
                click.echo(f"\rthe mint is at it, {time.monotonic() - began:.0f} s\x1b[K", err=True, nl=False)

        counting = threading.Thread(target=count, daemon=True)
        if self._shown:
            counting.start()
        try:
            yield
        finally:
            over.set()
            if self._shown:
                counting.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._written:
            click.echo("\r\x1b[K", err=True, nl=False)
