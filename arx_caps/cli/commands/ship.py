# SPDX-License-Identifier: Apache-2.0
"""``arx ship``: send a service's records to the mint, and refresh its keys.  LOG 2, CONTROL 3.2.

While the mint is unreachable, records stay in their journal, and the status line has the reason.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options, metrics_option
from arx_caps.cli.parse import Duration
from arx_caps.cli.terminal import Console, colours, json_line, log_warnings, plain
from arx_caps.settings.durations import parse_duration, show_span
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError

if TYPE_CHECKING:
    from arx_caps.audit.shipping.shipper import Shipper, ShippingStatus
    from arx_caps.service import KeyRefresher

EVERY_S: Final = 10.0  # between two equal status lines
WAIT_S: Final = 1.5  # until a person reads why it takes long
_LINE_S: Final = 0.5  # between two updates of a terminal's line


@click.command("ship")
@click.argument("file", metavar="SERVICE_FILE", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="send the present records, then exit")
@click.option("--keep", type=Duration(), help="keep sent journal files for this duration, such as 24h [0]")
@metrics_option
@command_options
def ship_command(console: Console, file: Path, once: bool, keep: str | None, metrics: str | None) -> None:
    """Send the records of the service in SERVICE_FILE to the mint, and refresh its keys, until SIGINT or SIGTERM.

    The process of a verifier does both by itself: this is for one that cannot, such as one without arx-caps, and for a
    journal that is left.  While it runs, the service's process does not ship.
    An alarm is shown at 50, 80 and 95 % of the journal's budget: a full journal refuses calls.

    Exit code 0: the mint has every record; 3: records are left or were lost; 5: the mint did not answer.
    """
    from arx_caps.http.process import READY, STOPPING, notify_manager
    from arx_caps.service import KeyRefresher, open_shipper

    if once and metrics is not None:
        raise Stop("invalid --metrics: expected none with --once, which exits before a scrape", code="usage")
    log_warnings()
    shipper = open_shipper(file, keep_ms=parse_duration(keep) if keep else 0)
    refresher = KeyRefresher(file)
    # A mint that accepts the connection and does not answer is waited for until the client's timeout.
    waiting = threading.Timer(WAIT_S, console.say, ("waiting for an answer of the mint",))
    waiting.daemon = True
    refused: ArxError | None = None
    try:
        if not once:
            stop, line = threading.Event(), _Line(console)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            refresher.start()
            with _metrics_served(metrics, file, shipper, refresher):
                notify_manager(READY)  # a mint that does not answer is waited for
                shipper.run(stop, line.show)  # the last pass follows below, with a result
            notify_manager(STOPPING)
            line.end()
        waiting.start()
        refused = _refresh(refresher) if once else None
        done = shipper.once() if once else shipper.once(take_s=0.0)
        status = shipper.status
    except OSError as error:
        raise Stop(f"cannot read the journal: {error.strerror or error}", code="journal") from error
    finally:
        waiting.cancel()
        shipper.close()
        refresher.close()
    if done and refused is not None and not status.lost:
        raise refused
    # Lost records are reported even if everything else was sent: the log lacks them for good.
    result = {"done": done and not status.lost, **_facts(status), "keys": list(refresher.status.kids)}
    console.data("shipped", result, lambda: _shown(status))
    if not done:
        raise _failure(status)
    click.get_current_context().exit(exit_codes.INCOMPLETE if status.lost else exit_codes.OK)


@contextlib.contextmanager
def _metrics_served(address: str | None, file: Path, shipper: "Shipper", refresher: "KeyRefresher") -> Iterator[None]:
    """Serve metrics and health of shipping at an address; the process is ready while records and keys get through."""
    if address is None:
        yield
        return
    from arx_caps.http.metric_families import SHIP
    from arx_caps.http.metrics import ProcessMetrics, metrics_served
    from arx_verifier.metrics.export import Samples
    from arx_verifier.service import read_service_file

    service, began = read_service_file(file).audience, now_ms()

    def samples() -> Samples:
        status, refreshed_at = shipper.status, refresher.status.refreshed_at
        yield "arx_ship_records", status.shipped, service
        yield "arx_ship_lost_records", status.lost, service
        yield "arx_ship_journal_fill", status.fill, service
        yield "arx_ship_journal_bytes", status.used, service
        yield "arx_ship_behind_seconds", status.failing_ms / 1000, service
        yield "arx_ship_forked", status.fork is not None, service
        yield "arx_ship_standby", status.standby, service
        # Before the first answer of the mint, since this process began.
        yield "arx_ship_keys_age_seconds", (now_ms() - (refreshed_at or began)) / 1000, service

    def why_not() -> list[str]:
        status = shipper.status
        return [why for why in (status.error, status.fork, refresher.status.error) if why is not None]

    own = ProcessMetrics("ship", SHIP)
    own.read_rest(samples)
    with metrics_served("ship", address, own.registry, why_not):
        yield


def _refresh(refresher: "KeyRefresher") -> ArxError | None:
    """Refresh the keys; return why they could not be, as the records are sent all the same."""
    try:
        refresher.refresh()
    except ArxError as error:
        return error
    return None


def _failure(status: "ShippingStatus") -> Stop:
    unreachable = status.code == "store_unavailable"
    hint = "run this command again: the records stay in the journal"
    if status.code == "shipped_elsewhere":
        hint = "end the other `arx ship`, or let it send them"
    elif not unreachable:
        hint = (
            "if the service's key was removed, enrol it again with the same --journal folder, which keeps the records"
        )
    exit_code = exit_codes.UNREACHABLE if unreachable else exit_codes.INCOMPLETE
    return Stop(str(status.error), exit_code, hint=hint, code="ship")


class _Line:
    """The status line: overwritten on a terminal; else written at changes and every ``EVERY_S``."""

    def __init__(self, console: Console) -> None:
        self._console, self._terminal = console, sys.stderr.isatty() and not console.json
        self._said: tuple[Any, ...] = ()
        self._next = 0.0

    def show(self, status: Any) -> None:
        """Show a status; called after each pass over the journal."""
        now, matters = time.monotonic(), (status.alarm, status.error, status.lost, status.fork, status.standby)
        if now < self._next and matters == self._said:
            return
        self._said, self._next = matters, now + (_LINE_S if self._terminal else EVERY_S)
        if self._console.json:
            self._console.raw(json_line("shipping", _facts(status)))
        elif self._terminal and not self._console.quiet:
            click.echo(f"\r{_shown(status)}\x1b[K", err=True, nl=False, color=colours(sys.stderr))
        else:
            self._console.say(_shown(status))

    def end(self) -> None:
        """Clear the line."""
        if self._terminal and self._said:
            click.echo("\r\x1b[K", err=True, nl=False)


def _facts(status: Any) -> dict[str, Any]:
    return {name: value for name, value in status._asdict().items() if name != "code"}


def _shown(status: Any) -> str:
    parts = [f"{status.shipped:,} records shipped", f"journal {status.fill:.0%} full"]
    if status.alarm:
        parts.append(click.style(f"ALARM: above {status.alarm} %", fg="red", bold=True))
    if status.lost:
        parts.append(click.style(f"{status.lost:,} lost", fg="red"))
    if status.fork is not None:
        parts.append(click.style(f"ALARM: {plain(status.fork)}", fg="red", bold=True))
    if status.standby:
        parts.append("another process ships this journal; waiting for its end")
    if status.error is not None:
        parts.append(f"not sent for {show_span(status.failing_ms)}: {plain(status.error)}")
    return ", ".join(parts)
