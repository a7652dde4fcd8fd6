# SPDX-License-Identifier: Apache-2.0
"""``arx ship``: send a service's records to the mint, beside the service.  LOG 2.

An unreachable mint does not end the command: records wait in their journal, and the state line says so.
"""

import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.display import show_span
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.parse import Duration
from arx_caps.cli.terminal import Console, colours, json_line, plain
from arx_caps.durations import parse_duration

EVERY_S: Final = 10.0  # between two lines that say the same
WAIT_S: Final = 1.5  # before a person sees why it takes so long
_LINE_S: Final = 0.5  # between two looks of a terminal's line


@click.command("ship")
@click.argument("file", metavar="SERVICE_FILE", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="send what there is and end: 0 when the mint has it all, else 3 or 5")
@click.option(
    "--keep", type=Duration(), help="leave files for so long after they were sent (24h); else they go at once"
)
@common_options
@pass_console
def ship_command(console: Console, file: Path, once: bool, keep: str | None) -> None:
    """Send the records of the service in SERVICE_FILE to the mint, until a signal says to stop.

    One is enough for all processes of a service; the file must name the service's own key, as `arx service join` writes
    it.  At 50, 80 and 95 % of the journal's budget there is an alarm: a journal that is full refuses calls.  Ends with
    0 when the mint has everything, 3 when records are left or were lost, 5 when the mint did not answer.
    """
    from arx_caps.service import open_shipper

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    shipper = open_shipper(file, keep_ms=parse_duration(keep) if keep else 0)
    # A mint that takes the connection and does not answer is waited for as long as the client has patience.
    waiting = threading.Timer(WAIT_S, console.say, ("waiting for the mint: it has not answered yet",))
    waiting.daemon = True
    try:
        if not once:
            stop, line = threading.Event(), _Line(console)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            shipper.run(stop, line.tell)
            line.end()
        waiting.start()
        done = shipper.once()
        status = shipper.status
    except OSError as error:
        raise Stop(f"the journal cannot be read: {error.strerror or error}", code="journal") from error
    finally:
        waiting.cancel()
        shipper.close()
    result = {"done": done and not status.lost, **_told(status)}
    console.data("shipped", result, lambda: _shown(status))
    if not done:
        unreachable = status.code == "store_unavailable"
        hint = "the records stay in the journal; run it again, or leave it running"
        if not unreachable:
            hint = "the records stay in the journal; was the key taken away? join again, with the same --journal folder"
        raise Stop(
            str(status.error), exit_codes.UNREACHABLE if unreachable else exit_codes.INCOMPLETE, hint=hint, code="ship"
        )
    click.get_current_context().exit(exit_codes.INCOMPLETE if status.lost else exit_codes.OK)


class _Line:
    """Says how it stands: on a terminal in a line that is written over, else at changes, and now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._terminal = console, sys.stderr.isatty() and not console.json
        self._said: tuple[Any, ...] = ()
        self._next = 0.0

    def tell(self, status: Any) -> None:
        """Take in how it stands; called after every look at the journal."""
        now, matters = time.monotonic(), (status.alarm, status.error, status.lost, status.fork)
        if now < self._next and matters == self._said:
            return
        self._said, self._next = matters, now + (_LINE_S if self._terminal else EVERY_S)
        if self._console.json:
            self._console.raw(json_line("shipping", _told(status)))
            sys.stdout.flush()
        elif self._terminal and not self._console.quiet:
            click.echo(f"\r{_shown(status)}\x1b[K", err=True, nl=False, color=colours(sys.stderr))
        else:
            self._console.say(_shown(status))

    def end(self) -> None:
        """Leave no half line."""
        if self._terminal and self._said:
            click.echo("\r\x1b[K", err=True, nl=False)


def _told(status: Any) -> dict[str, Any]:
    return {name: value for name, value in status._asdict().items() if name != "code"}


def _shown(status: Any) -> str:
    parts = [f"{status.shipped:,} records shipped", f"journal {status.fill:.0%} full"]
    if status.alarm:
        parts.append(click.style(f"ALARM: above {status.alarm} %", fg="red", bold=True))
    if status.lost:
        parts.append(click.style(f"{status.lost:,} lost", fg="red"))
    if status.fork is not None:
        parts.append(click.style(f"ALARM: {plain(status.fork)}", fg="red", bold=True))
    if status.error is not None:
        parts.append(f"not sent for {show_span(status.failing_ms)}: {plain(status.error)}")
    return ", ".join(parts)
