# SPDX-License-Identifier: Apache-2.0
"""The output of commands: data to stdout, everything else to stderr; one JSON object with ``--json``.

On a terminal, ``rich`` lays out tables and trees to its width, in colours.  A pipe and ``--quiet`` get plain text.
"""

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

import click

from arx_caps.cli import exit_codes

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from arx_caps.text.trail import Trail

SCHEMA_VERSION: Final = 1
RATE_S: Final = 1.0  # from when on a rate is shown
EVERY_S: Final = 5.0  # between two lines of progress with ``--json``
SHORT: Final = 11  # characters of an id that is never shortened
WORDS: Final = 8  # characters of words in a line, at least
PADDED: Final = 24  # width of the widest column that is padded in a stream of records
_TIME: Final = re.compile(r"(?P<date>\d{4}-\d\d-\d\d) (?P<clock>\d\d:\d\d:\d\dZ)")
_BRANCH: Final = re.compile("[ │]*[├└]─ ")


class Console:
    """The output of one command.

    Attributes:
        json: Write one JSON object instead of text.
        quiet: Write only data and errors.
        no_input: Never prompt.
        debug: Print the traceback of an error.
        wide: Do not fit tables to the terminal.
    """

    def __init__(self) -> None:
        self.json = self.quiet = self.no_input = self.debug = self.wide = False

    def data(self, noun: str, value: dict[str, Any], text: str | Callable[[], str]) -> None:
        """Write the command's result.

        Args:
            noun: The name in the schema, ``arx/<noun>/1``.
            value: The result for scripts.
            text: The result for people, or a function that returns it.
        """
        if self.json:
            self.raw(json_line(noun, value))
        else:
            shown = text if isinstance(text, str) else text()
            if shown:
                self.raw(shown)

    def raw(self, text: str) -> None:
        """Write data to stdout, and flush it: a supervisor reads from a pipe that a command is ready."""
        click.echo(text, color=colours(sys.stdout))

    def say(self, text: str) -> None:
        """Write a message to stderr, except with ``--quiet``."""
        if not self.quiet:
            click.echo(text, err=True, color=colours(sys.stderr))

    def hint(self, text: str) -> None:
        """Write a hint to stderr: what to do next, in the imperative."""
        self.say(f"hint: {text}")

    @property
    def asks(self) -> bool:
        """Whether a person can answer a question."""
        return not self.no_input and sys.stdin.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask for confirmation before an action that cannot be undone.

        Args:
            question: The action, as a question.
            yes: Whether ``--yes`` was given.

        Raises:
            Stop: The answer is no, or stdin is no terminal.
        """
        if yes:
            return
        # A script has no person to answer, and a default answer would be wrong for one of the two.
        if not self.asks:
            raise exit_codes.Stop(
                "confirmation needed, and stdin is no terminal", hint="add --yes to confirm", code="not_confirmed"
            )
        if not click.confirm(question, err=True):
            raise exit_codes.Stop("nothing was done", exit_codes.DENIED, code="not_confirmed")


def log_warnings() -> None:
    """Write the log's warnings and errors to stderr, for a command that runs until it is stopped."""
    import logging  # on use: `arx --help` loads nothing of it

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def json_line(noun: str, value: dict[str, Any]) -> str:
    """Return one JSON object on one line, its schema first."""
    # ASCII: a terminal or a pipe of any encoding can carry it, and no control character reaches a terminal.
    return json.dumps({"schema": f"arx/{noun}/{SCHEMA_VERSION}"} | value, ensure_ascii=True)


def colours(stream: TextIO) -> bool:
    """Return whether a stream may get colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def on_terminal() -> bool:
    """Return whether stdout is a terminal and ``--quiet`` was not given."""
    context = click.get_current_context(silent=True)
    console = None if context is None else context.find_object(Console)
    return sys.stdout.isatty() and not (console and console.quiet)


def fit(content: Any) -> str:
    """Return a rich renderable as lines that fit the terminal; longer text continues on the next line.

    Args:
        content: The renderable; its texts are ``Text`` alone, so that no data is read as markup or an emoji.
    """
    from rich.console import Console as Terminal

    terminal = Terminal(
        color_system="auto" if colours(sys.stdout) else None, markup=False, highlight=False, emoji=False
    )
    with terminal.capture() as captured:
        terminal.print(content)
    return captured.get().rstrip("\n")


def plain(text: Any) -> str:
    """Return *text* with unprintable characters escaped."""
    # Agents and holders choose names, purposes and reasons: they must not be able to write to an operator's terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def widths_of(rows: Iterable[Sequence[str]]) -> list[int]:
    """Return the width of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def align(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a table; the last cell is not padded."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def record_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a stream of records; on a terminal, a longer one continues below, indented.

    Args:
        cells: The cells, a time first.
        widths: The widths of the columns, of records that are known; a column of long texts is not padded.
    """
    if not on_terminal() or _is_wide():
        return align(cells, widths)
    time_of_it, *others = cells
    shown = [_short_time(time_of_it, time.strftime("%Y-%m-%d", time.gmtime()))]
    shown += [cell.ljust(width if width <= PADDED else 0) for cell, width in zip(others, widths[1:], strict=True)]
    while shown[-1].rstrip() in ("", "-"):
        shown.pop()
    text = "\n".join(textwrap.wrap("  ".join(shown), columns(), subsequent_indent="    ", break_on_hyphens=False))
    return click.style(shown[0], bold=True) + text.removeprefix(shown[0])


def record_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return records as a table; on a terminal that is too narrow, each as ``record_line`` does."""
    shown = [list(map(plain, row)) for row in rows]
    widths = widths_of([heads, *shown])
    if on_terminal() and not _is_wide() and _width_of(widths) > columns():
        return "\n".join(record_line(row, widths) for row in shown)
    return table(heads, rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a table; on a terminal that is too narrow, long ids are shortened and texts continue below."""
    shown = [[plain("-" if cell is None else cell) for cell in row] for row in rows]
    if on_terminal() and not _is_wide():
        from rich.table import Table
        from rich.text import Text

        fitted = shorten_cells(heads, shown, columns())
        kept = heads[: len(fitted[0])] if fitted else heads
        laid_out = Table(box=None, pad_edge=False, header_style="bold")
        for place, head in enumerate(kept):
            # Only words go on below: an id that does so cannot be read, nor copied.
            is_words = any(" " in row[place] for row in fitted)
            laid_out.add_column(head, no_wrap=not is_words, min_width=WORDS if is_words else None)
        for row in fitted:
            laid_out.add_row(*[Text(cell, overflow="fold") for cell in row])
        left_out = ", ".join(heads[len(kept) :])
        note = f"\nleft out at this width: {left_out}; --wide shows all" if left_out else ""
        return fit(laid_out) + note
    widths = widths_of([heads, *shown])
    return "\n".join(align(row, widths) for row in [heads, *shown])


def columns() -> int:
    """Return the width of the terminal."""
    return shutil.get_terminal_size().columns


def shorten_cells(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return the cells of a table as a terminal has room for them.

    In a table that is too wide, times are shorter, ids are shortened in the middle, those of the first column last, and
    words may go on below.  The last columns of one that is still too wide are left out.

    Args:
        heads: The heads of the columns.
        rows: The cells.
        width: The width of the terminal.
    """
    from arx_caps.text.record_text import shorten_middle  # on use: `arx --help` loads nothing of it

    cells = [list(row) for row in rows]
    if not cells or _width_of(widths_of([heads, *cells])) <= width:
        return cells
    today = time.strftime("%Y-%m-%d", time.gmtime())
    cells = [[_short_time(cell, today) for cell in row] for row in cells]
    least = _widths(heads, cells, [SHORT] * len(heads), WORDS)
    while _width_of(least) > width and len(least) > 1:
        least.pop()
    cells = [row[: len(least)] for row in cells]
    most = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # The first column is what a reader copies into the next command: before it is shortened, words take more lines.
    for places, words in ((range(1, len(most)), 2 * WORDS), (range(1), WORDS)):
        while _width_of(_widths(heads, cells, most, words)) > width:
            longest = max(places, key=most.__getitem__, default=0)
            if most[longest] <= SHORT:
                break
            most[longest] -= 1
    return [
        [shorten_middle(cell, most[place]) if _is_id(cell) else cell for place, cell in enumerate(row)] for row in cells
    ]


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]], most: Sequence[int], words: int) -> list[int]:
    """Return the widths of columns whose ids have at most ``most`` characters, and words ``words`` in a line."""
    return [
        max(
            len(head), *(min(len(row[place]), words if " " in row[place] else max(most[place], SHORT)) for row in cells)
        )
        for place, head in enumerate(heads[: len(cells[0])])
    ]


def _width_of(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * len(widths) - 2


def _short_time(cell: str, today: str) -> str:
    """Return a time without its date if that is today, else without year and seconds; any other cell as it is."""
    found = _TIME.fullmatch(cell)
    if found is None:
        return cell
    return found["clock"] if found["date"] == today else f"{found['date'][5:]} {found['clock'][:5]}Z"


def _is_id(cell: str) -> bool:
    return " " not in cell and len(cell) > SHORT


def _is_wide() -> bool:
    context = click.get_current_context(silent=True)
    console = None if context is None else context.find_object(Console)
    return console is not None and console.wide


def tree(content: "Trail") -> str:
    """Return a trail as a tree; on a terminal a long line continues beside its branch."""
    from arx_caps.text.trail_tree import render, styled

    if not on_terminal():
        return render(content).rstrip("\n")
    from rich.console import Group
    from rich.table import Table

    lines = []
    for text in styled(content).split():
        # A line ends with a target for `arx kill`, or with the reason of a refusal: neither may be cut.
        text.overflow = "fold"
        branch = _BRANCH.match(text.plain)
        line = Table.grid()
        line.add_row(*(text.divide([branch.end()]) if branch else [text]))
        lines.append(line)
    return fit(Group(*lines))


def pairs(facts: Sequence[tuple[str, Any]], indent: str = "") -> str:
    """Return names and values as aligned lines, without values that are None."""
    known = [(name, plain(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in known)


class Progress:
    """A progress bar on stderr; a context manager that clears it at the end.

    With ``--json`` it is an object on stderr every few seconds, on a line of its own.

    Args:
        console: Shows nothing with ``--quiet``.
        about: The text until the first count.
        noun: What is counted.
    """

    def __init__(self, console: Console, about: str = "", noun: str = "records") -> None:
        self._noun = noun
        self._bar: Bar | None = None
        self._began = self._shown_at = time.monotonic()
        self._lines = console.json and not console.quiet
        if sys.stderr.isatty() and not (console.quiet or console.json):
            from rich import console as terminal
            from rich import progress

            # Imported on use: rich takes longer to import than most commands to run.
            bar = (progress.BarColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
            stderr = terminal.Console(stderr=True)
            # rich would redirect what is written to stdout meanwhile to stderr.
            self._bar = progress.Progress(
                *bar, console=stderr, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._task = self._bar.add_task(about, total=None)

    def show(self, done: int, whole: int) -> None:
        """Show a count.

        Args:
            done: How many are done.
            whole: How many there are; 0 if unknown.
        """
        now = time.monotonic()
        if self._lines and now - self._shown_at >= EVERY_S:
            self._shown_at = now
            rate = done / (now - self._began)
            value = {"done": done, "of": whole or None, "per_second": round(rate)}
            value["left_ms"] = round((whole - done) / rate * 1000) if whole and done else None
            click.echo(json_line("progress", value), err=True)
        if self._bar is not None:
            text = describe_progress(done, whole, time.monotonic() - self._began, self._noun)
            self._bar.update(self._task, completed=done, total=whole or None, description=text)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def describe_progress(done: int, whole: int, took_s: float, noun: str = "records") -> str:
    """Return a count with its rate, and the time that is left.

    Args:
        done: How many are done.
        whole: How many there are; 0 if unknown.
        took_s: The time since the beginning, s.
        noun: What is counted.
    """
    text = f"{done:,} of {whole:,} {noun}" if whole else f"{done:,} {noun}"
    if not done or took_s < RATE_S:  # the first blocks say little about the others
        return text
    from arx_caps.settings.durations import show_span  # on use: `arx --help` loads nothing of it

    rate = done / took_s
    text += f", {rate:,.0f} a second"
    return text + (f", {show_span(round((whole - done) / rate) * 1000)} left" if whole > done else "")
