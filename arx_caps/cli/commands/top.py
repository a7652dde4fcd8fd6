# SPDX-License-Identifier: Apache-2.0
"""``arx top``: sessions, rates, refusals and kills, live on a terminal."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import KILL_CELLS, REFUSED, show_top, status_facts, table_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.parse import Duration
from arx_caps.cli.resources import KILLS
from arx_caps.cli.terminal import Console, pairs
from arx_caps.settings.durations import parse_duration, show_span
from arx_verifier.clock import now_ms

ROWS: Final = 5  # of each table, at most
MIN_EVERY_S: Final = 0.5
_FACTS: Final = ("realm", "grants", "verifiers", "decisions", "work", "audit log")  # of ``arx status``
_KILLS: Final = "TIME, WHAT: op, TARGETS, BY, CONFIRMED"
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
            sys.stdout.write(f"{_CLEAR}{_screen(mint, span_ms)}")
            sys.stdout.flush()
            time.sleep(pause_s)
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(_BACK)
        sys.stdout.flush()


def _screen(mint: Caller, span_ms: int) -> str:
    try:
        found = _look(mint, span_ms)
    except Stop as error:  # it may be back at the next look
        return f"{time.strftime('%H:%M:%S')}  {error}"
    columns, lines = shutil.get_terminal_size()
    for rows in range(ROWS, 0, -1):
        text = _shown(found, rows)
        # Of a screen that is too long, the terminal would drop the first lines: whether the mint grants.
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
        "total": mint.call("GET", "/v1/audit/totals", query=since)["total"],
        "tops": [
            mint.call("GET", "/v1/audit/top", query={"by": by, "order": order, "limit": ROWS, **since})
            for by, order in (("agent", "all"), ("reason", "refused"))
        ],
        "kills": mint.call("GET", KILLS.path, query={"limit": ROWS})["kills"],
    }


def _shown(found: Mapping[str, Any], rows: int = ROWS) -> str:
    total, facts = found["total"], dict(status_facts(found["status"]))
    refused = sum(total[name] for name in REFUSED)
    head = [(name, facts[name]) for name in _FACTS]
    head.append((f"last {show_span(found['span_ms'])}", f"{total['allow']:,} allowed, {refused:,} refused"))
    tops = [show_top({**top, "rows": top["rows"][:rows], "rest": {}}) for top in found["tops"]]
    return "\n\n".join([pairs(head), *tops, table_of(found["kills"][:rows], _KILLS, KILL_CELLS)])
