# SPDX-License-Identifier: Apache-2.0
"""``arx top``: sessions, rates, refusals and kills, live on a terminal."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import targets_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.parse import Duration
from arx_caps.cli.resources import KILLS
from arx_caps.cli.terminal import Console, pairs, table
from arx_caps.revocation.wire import count_states
from arx_caps.settings.durations import parse_duration, show_span, show_time
from arx_caps.text.record_text import shorten_middle
from arx_verifier.clock import now_ms

MINUTE_MS: Final = 60_000
ROWS: Final = 5  # of each table, at most
MIN_EVERY_S: Final = 0.5
NAME: Final = 40
_REFUSED: Final = ("deny", "end", "counted")
_CLEAR: Final = "\x1b[H\x1b[J"
_SCREEN, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, and back to what was there


@click.command("top")
@click.option("--since", type=Duration(), default="1h", show_default=True, help="count decisions of this time")
@click.option("--every", type=Duration(), default="2s", show_default=True, help="time between two looks, on a terminal")
@click.option("--once", is_flag=True, help="look once, also on a terminal")
@operator_options
def top_command(console: Console, place: Place, since: str, every: str, once: bool) -> None:
    """Show sessions, verifiers, decisions, refusals and kills, live; Ctrl-C ends it.

    A pipe, `--json`, `--quiet` and `--once` get one look.
    """
    mint, span_ms = place.mint(), parse_duration(since)
    if once or console.json or console.quiet or not sys.stdout.isatty():
        found = _look(mint, span_ms)
        console.data("top", found, lambda: _shown(found))
        return
    pause_s = max(MIN_EVERY_S, parse_duration(every) / 1000)
    sys.stdout.write(_SCREEN)
    try:
        while True:
            _draw(_screen(mint, span_ms))
            time.sleep(pause_s)
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_BACK)
        sys.stdout.flush()


def _draw(text: str) -> None:
    sys.stdout.write(f"{_CLEAR}{text}")
    sys.stdout.flush()


def _screen(mint: Caller, span_ms: int) -> str:
    try:
        found = _look(mint, span_ms)
    except Stop as error:  # it may be back at the next look
        return f"{time.strftime('%H:%M:%S')}  {error}"
    columns, lines = shutil.get_terminal_size()
    for rows in range(ROWS, 0, -1):
        text = _shown(found, rows)
        # Of a screen that is too long, the terminal would drop the first line: whether the mint grants.
        if sum(max(1, -(-len(click.unstyle(line)) // columns)) for line in text.splitlines()) <= lines:
            break
    return text


def _look(mint: Caller, span_ms: int) -> dict[str, Any]:
    """Return what the mint says now."""
    now = now_ms()
    since = {"since": now - span_ms}
    return {
        "at": now,
        "span_ms": span_ms,
        "status": mint.call("GET", "/v1/status"),
        # Whole minutes are kept: the one that runs, and the one before it, so that what happens now is seen at once.
        "recent": mint.call("GET", "/v1/audit/totals", query={"since": now - MINUTE_MS}),
        "total": mint.call("GET", "/v1/audit/totals", query=since)["total"],
        "agents": mint.call("GET", "/v1/audit/top", query={"by": "agent", "limit": ROWS, **since})["rows"],
        "reasons": _refusals(mint, since),
        "kills": mint.call("GET", KILLS.path, query={"limit": ROWS})["kills"],
    }


def _refusals(mint: Caller, since: Mapping[str, Any]) -> list[dict[str, Any]]:
    query = {"by": "reason", "order": "refused", "limit": ROWS, **since}
    rows: list[dict[str, Any]] = mint.call("GET", "/v1/audit/top", query=query)["rows"]
    return [row for row in rows if _refused(row)]


def _shown(found: Mapping[str, Any], rows: int = ROWS) -> str:
    status, total = found["status"], found["total"]
    span, recent_ms = show_span(found["span_ms"]), max(found["at"] - found["recent"]["since"], 1)
    head = [
        (status["realm"], "grants" if status["ready"] else f"refuses: {'; '.join(status['because'])}"),
        (
            "sessions",
            f"{status['sessions']} open, {status['tasks']} tasks, {status['approvals_waiting']} approvals wait",
        ),
        ("verifiers", _fleet(status["verifiers"])),
        (f"last {show_span(recent_ms)}", _rates(found["recent"]["total"], recent_ms)),
        (f"last {span}", f"{total['allow']:,} allowed, {_refused(total):,} refused"),
        ("audit log", status["log"]["halted"] or status["log"]["failing"] or f"{status['log']['size']:,} records"),
    ]
    parts = [pairs(head), _agents(found["agents"][:rows]), _reasons(found["reasons"][:rows])]
    return "\n\n".join([*parts, _kills(found["kills"][:rows])])


def _fleet(verifiers: Sequence[Mapping[str, Any]]) -> str:
    counts = count_states((one["state"], one["relay_of"]) for one in verifiers)
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "live")


def _rates(counts: Mapping[str, Any], over_ms: int) -> str:
    allowed, refused = (1000 * count / over_ms for count in (counts["allow"], _refused(counts)))
    return f"{allowed:.1f} allowed and {refused:.1f} refused a second"


def _agents(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [(shorten_middle(row["name"], NAME), f"{row['allow']:,}", f"{_refused(row):,}") for row in rows]
    return table(("AGENT", "ALLOWED", "REFUSED"), shown)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(("REFUSED BECAUSE", "TIMES"), [(row["name"], f"{_refused(row):,}") for row in rows])


def _kills(kills: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (show_time(kill["at_ms"]), kill["op"], shorten_middle(targets_of(kill, 1), NAME), kill["by"], _confirmed(kill))
        for kill in kills
    ]
    return table(("LAST KILLS", "DID", "TARGETS", "BY", "CONFIRMED"), rows)


def _confirmed(kill: Mapping[str, Any]) -> str:
    report = kill["confirmations"]
    return "-" if report is None else f"{report['confirmed']} of {report['verifiers']}"


def _refused(counts: Mapping[str, Any]) -> int:
    return sum(int(counts[name]) for name in _REFUSED)
