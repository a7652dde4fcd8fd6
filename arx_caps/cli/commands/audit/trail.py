# SPDX-License-Identifier: Apache-2.0
"""``arx audit trail``, ``arx audit tail`` and ``arx audit runs``: query the mint's log.  LOG 3.

A single id is shown as a tree with counts of allowed and denied calls at each node; other queries give a table.
"""

import contextlib
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import HEADS, age_of, hint_silent, row_of, write_records
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.log_query import NODES, Asking, question_options
from arx_caps.cli.options import limit_option
from arx_caps.cli.resources import RUNS, SERVICES, Listed, hint_more, list_of
from arx_caps.cli.terminal import Console, record_table, tree, widths_of
from arx_caps.settings.durations import show_time

WAIT_MS = 20_000
_heard = age_of("seen_at")
DRAWN = 500  # a tree shows at most so many of the newest records and of the newest refusals; it counts all


@click.command("trail")
@question_options
@limit_option("show the newest N records", 200, 100_000)
@click.option("--flat", is_flag=True, help="show a table also for a single id")
@click.option("--jsonl", is_flag=True, help="write one JSON object per line")
@operator_options
def trail_command(console: Console, place: Place, asking: Asking, limit: int, flat: bool, jsonl: bool) -> None:
    """Show the log's records that match all filters: agent, delegation chain, call, decision and reason.

    A single session, task or link is shown as a tree.

    \b
        arx audit trail --agent acme/support/worker --reason deny --since 1h
    """
    mint = place.mint()
    if asking.one_id is not None and not (flat or jsonl) and _tree(console, mint, asking):
        hint_silent(console, mint)
        return
    found, first = asking.newest(mint, limit)
    total = first["total"]
    if jsonl:
        write_records(console, "record", found, (), jsonl=True)
    else:
        console.data(
            "records", {"records": found, "total": total}, lambda: record_table(HEADS, list(map(row_of, found)))
        )
    console.say(_said(len(found), total))
    hint_silent(console, mint)


@click.command("tail")
@question_options
@click.option(
    "--limit", type=click.IntRange(0, 1000), default=10, show_default=True, help="show the newest N records first"
)
@click.option("--follow", "-f", is_flag=True, help="then show each new record")
@click.option("--jsonl", is_flag=True, help="write one JSON object per line")
@operator_options
def tail_command(console: Console, place: Place, asking: Asking, limit: int, follow: bool, jsonl: bool) -> None:
    """Show the log's newest records, and with -f each new record.

    Without --tool, records of reads of the log are left out.
    """
    # --json with --follow writes one object per line: a stream has no end to close an object at.
    mint, lines = place.mint(), jsonl or console.json
    found, answer = asking.newest(mint, max(1, limit))
    found = found[-limit:] if limit else []
    if console.json and not (follow or jsonl):
        console.data("records", {"records": found, "total": answer["total"]}, "")
        return
    widths = widths_of([HEADS, *map(row_of, found)])
    write_records(console, "record", found, widths, jsonl=lines)
    after = answer["size"] - 1
    with contextlib.suppress(KeyboardInterrupt):  # how following ends
        while follow:
            answer = asking.page(mint, after=after, wait=WAIT_MS, limit=1000)
            after = answer["next"] if answer["next"] is not None else after
            write_records(console, "record", answer["records"], widths, jsonl=lines)


@click.command("runs")
@click.option("--service", help="show only this service")
@limit_option("show the newest N runs", 1000)
@list_of(
    RUNS,
    "SERVICE, VERIFIER, RUN: boot, RECORDS: high_water, LOST, STATE",
    {
        "SERVICE": lambda run: run["service"] or "mint",
        "STATE": lambda run: "closed" if run["closed_at"] else f"open, last heard {_heard(run)}",
    },
)
def runs_command(listed: Listed) -> None:
    """List the runs of verifiers in the log: records, lost records, and whether the run was closed.

    The process of a run that is open and silent was killed, cannot reach the mint, or does not ship its records.
    """
    hint_more(listed.console, listed.more, listed.limit)
    for audience in _silent(listed):
        listed.console.hint(
            f"the log has no record of {audience}: see the log of its process, or run `arx ship FILE` beside it; until "
            "then see `arx decisions` on its machine"
        )


def _silent(listed: Listed) -> list[str]:
    """Return the enrolled services without records in the log; none if the caller may not list services."""
    mint, asked, heard = listed.mint, listed.query["service"], {run["service"] for run in listed.rows}
    try:
        services, _ = SERVICES.rows(mint)
    except Stop:
        return []
    names = [str(each["audience"]) for each in services if asked in (None, each["audience"])]
    silent = [name for name in names if name not in heard]
    # Among the runs that were left out, others may have records.
    return [name for name in silent if not (listed.more and RUNS.rows(mint, {"service": name}, 1)[0])]


def _tree(console: Console, mint: Caller, asking: Asking) -> bool:
    """Show the tree of one id; return false if it is too large for a tree."""
    from arx_caps.text.trail import trails_of_log

    answer = mint.call("GET", NODES, query=asking.whose)
    assert asking.one_id is not None
    name, ref = asking.one_id
    if not answer["complete"]:
        console.say("too many records for a tree; the newest follow as a table")
        return False
    if not answer["nodes"]:
        hint = "records appear a moment after they were shipped; `arx audit runs` lists whose records the log has"
        raise Stop(f"no record names {name} {ref[:60]}", exit_codes.DENIED, hint=hint, code=f"unknown_{name}")
    found, first = asking.newest(mint, DRAWN)
    total = first["total"]
    drawn = {record["index"]: record for record in found}
    if total["records"] > len(found):  # the newest refusals are added: later allows could hide them
        drawn |= {record["index"]: record for record in asking.denied(mint, DRAWN)}
    shown_trails = trails_of_log(answer["nodes"], [drawn[index] for index in sorted(drawn)])
    value = {"trails": [each.to_dict() for each in shown_trails], "total": total}
    console.data("trail", value, lambda: "\n".join(map(tree, shown_trails)))
    if total["records"] > len(found):
        console.say(_said(len(found), total))
    return True


def _said(shown: int, total: dict[str, Any]) -> str:
    """Return the total, and how much of it is shown."""
    if not total["records"]:
        return "no record matches"
    count = f"{total['records']:,}" if total["exact"] else f"at least {total['records']:,}"
    times = "" if total["since"] is None else f", from {show_time(total['since'])} to {show_time(total['until'])}"
    all_of_it = total["exact"] and shown >= total["records"]
    return f"{count} records{times}" + ("" if all_of_it else f"; the newest {shown:,} are shown")
