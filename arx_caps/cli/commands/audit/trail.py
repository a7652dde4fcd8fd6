# SPDX-License-Identifier: Apache-2.0
"""``arx audit trail`` and ``arx audit tail``: ask the mint's log who did what, through whom, and why so.  LOG 3.

A single id is shown as a tree, with the counts of allowed and denied calls at each node; all else is a table.  A hint
says whether the output is complete.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.commands.audit.question import NODES, Asking, question_options
from arx_caps.cli.display import HEADS, row_of, show_span
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.mint_session import Caller, now_ms
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import Place, operator_options
from arx_caps.cli.terminal import Console, align, json_line, table, tree, widths_of
from arx_caps.durations import show_time

RUNS = "/v1/audit/runs"
WAIT_MS = 20_000
DRAWN = 500  # of more records a tree shows the newest, and as many refusals; its counts are of all


@click.command("trail")
@question_options
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="only the newest so many"
)
@click.option("--flat", is_flag=True, help="a table, also where one id is asked for")
@click.option("--jsonl", is_flag=True, help="write one JSON object a line")
@operator_options
@common_options
@pass_console
def trail_command(console: Console, place: Place, asking: Asking, limit: int, flat: bool, jsonl: bool) -> None:
    """Ask the log: who did what, through whom, under which policy, and why it was allowed or not.

    All filters hold together.  A session, task or link finds what is above and below it; alone, it is shown as a tree.

    \b
        arx audit trail --agent acme/support/worker --reason deny --since 1h
    """
    mint = place.mint()
    if asking.one_id is not None and not (flat or jsonl) and _tree(console, mint, asking):
        return
    found, total = asking.newest(mint, limit)
    if jsonl:
        for record in found:
            console.raw(json_line("record", record))
    else:
        console.data("records", {"records": found, "total": total}, lambda: table(HEADS, list(map(row_of, found))))
    console.say(_said(len(found), total))


@click.command("tail")
@question_options
@click.option("--limit", type=click.IntRange(0, 1000), default=10, show_default=True, help="the newest so many, first")
@click.option("--follow", "-f", is_flag=True, help="then go on with what comes from now on")
@click.option("--jsonl", is_flag=True, help="write one JSON object a line")
@operator_options
@common_options
@pass_console
def tail_command(console: Console, place: Place, asking: Asking, limit: int, follow: bool, jsonl: bool) -> None:
    """Show the log's newest records, and with -f those that come.

    Where nobody asks for a tool, that somebody read the log is not shown.
    """
    mint, lines = place.mint(), jsonl or console.json
    answer = asking.page(mint, limit=max(1, limit))
    found = answer["records"][:limit][::-1]
    if console.json and not (follow or jsonl):
        console.data("records", {"records": found, "total": answer["total"]}, "")
        return
    widths = widths_of([HEADS, *map(row_of, found)])
    _write(console, found, widths, lines)
    after = answer["size"] - 1
    with contextlib.suppress(KeyboardInterrupt):  # how following ends
        while follow:
            answer = asking.page(mint, after=after, wait=WAIT_MS, limit=1000)
            after = answer["next"] if answer["next"] is not None else after
            _write(console, answer["records"], widths, lines)


@click.command("runs")
@click.option("--service", help="only those of this service")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="the newest so many")
@operator_options
@common_options
@pass_console
def runs_command(console: Console, place: Place, service: str | None, limit: int) -> None:
    """List whose records the log has, how far, how many were lost, and which runs never ended in order.

    A run that is open and silent was killed, has a mint or a network that it cannot reach, or keeps its records back.
    """
    mint = place.mint()
    runs, more = mint.rows(RUNS, "runs", {"service": service}, limit=limit)
    now = now_ms()
    heads = ("SERVICE", "VERIFIER", "RUN", "RECORDS", "LOST", "STATE")
    rows = [
        (
            run["service"] or "mint",
            run["verifier"],
            run["boot"],
            run["high_water"],
            run["lost"],
            "ended in order" if run["closed_at"] else f"open, last heard {show_span(max(0, now - run['seen_at']))} ago",
        )
        for run in runs
    ]
    console.data("audit-runs", {"runs": runs, "more": more}, lambda: table(heads, rows))
    if more:
        console.hint(f"these are the newest {limit}; --limit shows more")
    for audience in _silent(mint, {run["service"] for run in runs}, service, more=more):
        console.hint(
            f"nothing of {audience} has come: what it decides is on its own machine alone (`arx decisions`) until it"
            " ships it (`arx service join`, `arx ship`)"
        )


def _silent(mint: Caller, heard: set[str], asked: str | None, *, more: bool) -> list[str]:
    """Return the enrolled services without records in the log; none if the caller may not list services.

    Args:
        mint: The mint.
        heard: Those that are known to have sent something.
        asked: The only one that was asked for, or None.
        more: Whether others may have sent something as well: each is then asked for.
    """
    try:
        services, _ = mint.rows("/v1/services", "services")
    except Stop:
        return []
    names = [str(each["audience"]) for each in services if asked in (None, each["audience"])]
    silent = [name for name in names if name not in heard]
    return [name for name in silent if not (more and mint.rows(RUNS, "runs", {"service": name}, limit=1)[0])]


def _tree(console: Console, mint: Caller, asking: Asking) -> bool:
    """Show the tree of one id; return false if it is too large for a tree."""
    from arx_caps.trail import trails_of_log

    answer = mint.call("GET", NODES, query=asking.whose)
    assert asking.one_id is not None
    name, ref = asking.one_id
    if not answer["complete"]:
        console.say("this is more than a tree can show; here is the end of it")
        return False
    if not answer["nodes"]:
        hint = "records are there a moment after they were shipped; `arx audit runs` says whose, and how far"
        raise Stop(f"no record names {name} {ref[:60]}", exit_codes.DENIED, hint=hint, code=f"unknown_{name}")
    found, total = asking.newest(mint, DRAWN)
    drawn = {record["index"]: record for record in found}
    if total["records"] > len(found):  # what was refused must not drown in what was allowed since
        drawn |= {record["index"]: record for record in asking.denied(mint, DRAWN)}
    shown_trails = trails_of_log(answer["nodes"], [drawn[index] for index in sorted(drawn)])
    value = {"trails": [each.to_dict() for each in shown_trails], "total": total}
    console.data("trail", value, lambda: "\n".join(map(tree, shown_trails)))
    if total["records"] > len(found):
        console.say(_said(len(found), total))
    return True


def _write(console: Console, found: Sequence[dict[str, Any]], widths: Sequence[int], lines: bool) -> None:
    for record in found:
        if lines:
            console.raw(json_line("record", record))
        else:
            console.raw(align(row_of(record), widths))
    sys.stdout.flush()


def _said(shown: int, total: dict[str, Any]) -> str:
    """Return how much of the result is shown."""
    if not total["records"]:
        return "no record is like that"
    count = f"{total['records']:,}" if total["exact"] else f"more than {total['records']:,}"
    times = "" if total["since"] is None else f", from {show_time(total['since'])} to {show_time(total['until'])}"
    all_of_it = total["exact"] and shown >= total["records"]
    return f"{count} records{times}" + ("" if all_of_it else f"; the newest {shown:,} are shown")
