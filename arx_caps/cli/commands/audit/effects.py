# SPDX-License-Identifier: Apache-2.0
"""``arx audit effects``: what became of allowed calls whose effects are recorded.  SPEC 12.8, LOG 3.7."""

import contextlib
from collections.abc import Iterable
from typing import Any, Final

import click

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import Cell, table_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.log_query import Asking, question_options
from arx_caps.cli.options import limit_option
from arx_caps.cli.resources import RUNS
from arx_caps.cli.terminal import Console
from arx_caps.text.effects import KnownEffect, known_effects, runs_over
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError

_COLUMNS: Final = "TIME: at, EFFECT: result, SERVICE, TOOL, AGENT, STATUS, ID: external_id, DECISION"
_CELLS: Final[dict[str, Cell]] = {
    "TIME": time_of("at"),
    "STATUS": lambda row: row.get("status") or "",
    "ID": lambda row: row.get("external_id") or "",
}
_ALLOWED: Final = ("allow", "would_refuse")
_DAY_MS: Final = 24 * 60 * 60 * 1000


@click.command("effects")
@question_options
@click.option("--unknown", is_flag=True, help="show only calls whose effect is unknown")
@limit_option("show the newest N effects", 200, 100_000)
@operator_options
def effects_command(console: Console, place: Place, asking: Asking, limit: int, *, unknown: bool) -> None:
    """Show what became of allowed calls: done, failed, unknown, or pending while they run.

    Only tools that a service names in `effects` have one.  Without --since, calls of the last 24 hours are shown.
    An effect is unknown if the process died before it was recorded, or no whole answer was seen.

    \b
        arx audit effects --unknown --since 7d
    """
    if "reason" in asking.query:
        raise Stop("invalid --reason: expected none with effects", hint="use --unknown", code="usage")
    mint = place.mint()
    _, found = calls_and_effects(mint, {"since": now_ms() - _DAY_MS, **asking.query}, *_ALLOWED)
    found = [effect for effect in found if not unknown or effect.result == "unknown"][-limit:]
    shown = [effect.to_dict() for effect in found]
    console.data("audit-effects", {"effects": shown}, lambda: table_of(shown, _COLUMNS, _CELLS))


def calls_and_effects(
    mint: Caller, query: dict[str, Any], *kinds: str
) -> tuple[list[dict[str, Any]], list[KnownEffect]]:
    """Return the records of refusals and of calls whose effects are recorded, and these effects.

    Args:
        mint: The mint.
        query: The filters.
        kinds: The outcomes of the decisions.
    """
    calls = _records(mint, query, *kinds)
    allowed = [shown for shown in calls if "effect" in shown]
    # Before the effects: a run that ends meanwhile has recorded them.
    over = _over(mint, {shown["service"] for shown in allowed})
    # An effect is later than its decision: it may be outside of the time that was asked for.
    effects = _records(mint, {name: value for name, value in query.items() if name != "until"}, "effect")
    return calls, known_effects(allowed, effects, over)


def _records(mint: Caller, query: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """Return the records of these kinds that are refusals or about effects, by rising index."""
    found = [
        shown
        for reason in kinds
        for page in Asking({**query, "reason": reason}).rising(mint)
        for shown in page["records"]
        if "effect" in shown or shown.get("outcome") == "deny"
    ]
    return sorted(found, key=lambda shown: int(shown["index"]))


def _over(mint: Caller, services: Iterable[str]) -> set[str]:
    """Return the boots of these services' runs that record nothing more."""
    alive: set[str] | None = None
    with contextlib.suppress(ArxError):  # of an operator who may not ask: a silent run stays pending
        status = mint.call("GET", "/v1/status")
        if status["store"]["error"] is None:
            alive = {one["id"] for one in status["verifiers"] if one["state"] != "gone"}
    runs = (list(RUNS.rows(mint, {"service": service}, 10_000)[0]) for service in services)
    return set().union(*(runs_over(of, alive, now_ms()) for of in runs))
