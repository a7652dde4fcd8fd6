# SPDX-License-Identifier: Apache-2.0
"""``arx memory``: taint what a target wrote into memories, trust it again, list taints, read a stamp.  SPEC 18."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import table_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options, yes_option
from arx_caps.cli.parse import Moment
from arx_caps.cli.resources import FREEZES
from arx_caps.cli.target_commands import ask_reason, read_targets
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.settings.durations import show_time
from arx_verifier.clock import now_ms
from arx_verifier.errors import MalformedTokenError
from arx_verifier.memory.stamp import parse_stamp
from arx_verifier.memory.taints import LATEST_MS, TaintWindow, read_window

TIMEOUT_S: Final = 60.0  # a taint is confirmed when the leases have ended


@click.group("memory", cls=Verbs)
def memory_command() -> None:
    """Taint what targets wrote into memories, and trust it again."""


def _of_targets(command: Callable[..., None]) -> Callable[..., None]:
    """Add to a command the targets, the reason, and the options of an operator's change."""
    reason = click.option("--reason", help="reason, recorded in the audit log [prompted for]")
    targets = click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
    return targets(reason(yes_option(operator_options(command))))


@memory_command.command("taint")
@click.option("--since", type=Moment(), default=0, help="taint what was written from this time on [all of it]")
@click.option("--until", type=Moment(), help="and before this time [now]")
@_of_targets
def taint(
    console: Console, targets: Sequence[str], since: int, until: int | None, reason: str | None, place: Place, yes: bool
) -> None:
    """Taint what TARGET wrote into memories: memory services withhold it within a lease.

    A kill or a freeze taints by itself.  This is for what is found out later, of a target that works again.

    \b
        arx memory taint agent:acme/research --since 2026-01-31T12:00:00Z --reason "read a poisoned page"
    """
    since = max(since, 0)
    if min(_end_of_now() if until is None else until, LATEST_MS) <= since:
        raise click.UsageError("--until must be after --since")
    several, reason = read_targets(targets), reason or ask_reason(console)
    console.confirm(f"taint what {', '.join(targets)} wrote?", yes=yes)
    # What was written while the operator was asked is tainted, too.
    end = min(_end_of_now() if until is None else until, LATEST_MS)
    windows = [str(TaintWindow(target, since, end)) for target in several]
    report = place.mint(TIMEOUT_S).call("POST", FREEZES.path, {"targets": windows, "reason": reason})
    _finish(console, "taint", report)


def _end_of_now() -> int:
    # A taint is of what was written before its end: an entry of this very millisecond has to be.
    return now_ms() + 1


@memory_command.command("clear")
@click.option("--before", type=Moment(), help="trust what was written before this time [now]")
@_of_targets
def clear(
    console: Console, targets: Sequence[str], before: int | None, reason: str | None, place: Place, yes: bool
) -> None:
    """Trust again what TARGET wrote into memories before a time; what is frozen stays frozen.

    `arx thaw --memory-before TIME` does it together with a thaw.

    \b
        arx memory clear agent:acme/retired --reason "retired, and never compromised"
    """
    body = {"targets": read_targets(targets), "reason": reason or ask_reason(console), "before": before}
    until = "until now" if before is None else f"before {show_time(before)}"
    console.confirm(f"trust what {', '.join(targets)} wrote {until}?", yes=yes)
    _finish(console, "clear", place.mint(TIMEOUT_S).call("POST", "/v1/memory/clear", body))


@memory_command.command("list")
@operator_options
def list_taints(console: Console, place: Place) -> None:
    """List the taints of memories, the newest first.

    What a frozen target wrote is tainted as well: `arx frozen list`.
    """
    freezes, _ = FREEZES.rows(place.mint(), {"kind": "memory"})
    found = [(freeze, window) for freeze in freezes if (window := read_window(freeze["target"])) is not None]
    value = [
        {**window._asdict(), "by": freeze["by"], "reason": freeze["reason"], "at": freeze["frozen_at"]}
        for freeze, window in found
    ]
    cells = {"WRITTEN SINCE": time_of("since", "always"), "UNTIL": time_of("until", "no end")}
    columns = "TARGET, WRITTEN SINCE, UNTIL, BY, REASON"
    console.data("taints", {"taints": value}, lambda: table_of(value, columns, cells) if value else "")
    console.say(f"{len(value)} tainted" if value else "nothing is tainted but what frozen targets wrote")


@memory_command.command("show")
@click.argument("stamp")
@command_options
def show(console: Console, stamp: str) -> None:
    """Print the content of STAMP, without a check: only a memory service has the key."""
    try:
        read = parse_stamp(stamp)
    except MalformedTokenError as error:
        raise Stop(str(error), code=error.code) from error
    by = read.by
    value = {
        "id": read.id,
        "kind": read.kind,
        "written_at": read.first,
        "agent": by.agent,
        "holders": list(by.named),
        "session": by.session,
        "task": by.task,
        "decision": read.decision,
        "key": read.kid,
        "targets": list(read.targets),
        "sources": read.source_ids,
    }
    lines: list[tuple[str, Any]] = [
        *((name, value[name]) for name in ("id", "kind", "agent")),
        ("delegated to", ", ".join(by.named) or None),
        *((name, value[name]) for name in ("session", "task", "decision")),
        ("written", show_time(read.first)),
        ("sources", ", ".join(read.source_ids) or None),
    ]
    console.data("stamp", value, lambda: pairs(lines))
    console.hint("this is what the stamp says, without a check: a memory service has the key")


def _finish(console: Console, what: str, report: dict[str, Any]) -> None:
    console.data(what, report, plain(report.get("summary", "")))
    done = report.get("status") == "confirmed"
    click.get_current_context().exit(exit_codes.OK if done else exit_codes.INCOMPLETE)
