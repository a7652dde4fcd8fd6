# SPDX-License-Identifier: Apache-2.0
"""What goes where: data to stdout, everything else to stderr; one JSON object where ``--json`` was given.

Tables and colours are for people alone.  Text that others wrote (a tool's name, a purpose, a reason) is shown with its
control characters escaped: a token's holder must not be able to write to an operator's terminal.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from arx_caps.cli import exits

SCHEMA_VERSION: Final = 1


class Console:
    """One command's way out.

    Attributes:
        json: Write one JSON object instead of text.
        quiet: Write nothing but data and errors.
        no_input: Never ask.
        debug: Show where an internal error happened.
    """

    def __init__(self) -> None:
        self.json = self.quiet = self.no_input = self.debug = False

    def data(self, noun: str, value: dict[str, Any], text: str | Callable[[], str]) -> None:
        """Write the command's result.

        Args:
            noun: Names the schema, ``arx/<noun>/1``.
            value: The result for scripts.
            text: The result for people, or how to make it.
        """
        if self.json:
            self.raw(json_line(noun, value))
        else:
            shown = text if isinstance(text, str) else text()
            if shown:
                self.raw(shown)

    def raw(self, text: str) -> None:
        """Write a line of data."""
        click.echo(text, color=None if colours() else False)

    def say(self, text: str) -> None:
        """Tell a person something that is no data."""
        if not self.quiet:
            click.echo(text, err=True)

    def hint(self, text: str) -> None:
        """Tell a person what to do next."""
        self.say(f"hint: {text}")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something that cannot be undone.

        Args:
            question: What will happen, as a question.
            yes: Whether ``--yes`` was given.

        Raises:
            Stop: The answer was no, or there is nobody to ask.
        """
        if yes:
            return
        if self.no_input or not sys.stdin.isatty():
            raise exits.Stop("this needs a yes, and there is nobody to ask", hint="give --yes", code="not_confirmed")
        if not click.confirm(question, err=True):
            raise exits.Stop("nothing was done", exits.DENIED, code="not_confirmed")


def json_line(noun: str, value: dict[str, Any]) -> str:
    """Write one JSON object on one line, its schema first."""
    return json.dumps({"schema": f"arx/{noun}/{SCHEMA_VERSION}"} | value, ensure_ascii=True)


def colours() -> bool:
    """Whether colours may be written (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()


def plain(text: Any) -> str:
    """Show text that somebody else wrote: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out rows for people; the last column is not padded."""
    shown = [list(heads), *([plain("-" if cell is None else cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    return "\n".join([click.style(lines[0], bold=True), *lines[1:]])


def pairs(facts: Sequence[tuple[str, Any]], indent: str = "") -> str:
    """Lay out named facts for people, those that are None left out."""
    known = [(name, plain(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in known)
