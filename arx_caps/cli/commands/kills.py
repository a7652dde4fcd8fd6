# SPDX-License-Identifier: Apache-2.0
"""``arx kills``: the kills, freezes and thaws that were made, and the confirmations of each.  SPEC 10."""

import time
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import KILLS
from arx_caps.cli.terminal import Console, pairs, plain, table
from arx_caps.revocation import parse_target
from arx_caps.settings.durations import show_span, show_time
from arx_verifier.clock import now_ms
from arx_verifier.errors import RequestError

LOOK_S: Final = (0.05, 1.0)  # the first and the longest pause between two looks at a kill
SHOWN: Final = 3  # targets in a line of the list


@click.group("kills", cls=Verbs, default_verb="list")
def kills_command() -> None:
    """List past kills, freezes and thaws, and show which verifiers confirmed each; without a verb, list."""


@kills_command.command("list")
@click.option("--target", metavar="TARGET", help="show only those with this target")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="show the newest N")
@operator_options
def list_kills(console: Console, place: Place, target: str | None, limit: int) -> None:
    """List the kills, freezes and thaws by operators and the mint, the newest first."""
    if target is not None:
        try:
            target = str(parse_target(target))
        except RequestError as error:
            raise click.BadParameter(str(error), param_hint="--target") from error
    kills, more = KILLS.rows(place.mint(), {"target": target}, limit)
    now = now_ms()
    rows = [
        (
            kill["seq"],
            f"{show_span(max(0, now - kill['at_ms']))} ago",
            kill["op"],
            _targets(kill),
            kill["by"],
            _confirmed(kill["confirmations"]),
            kill["reason"],
        )
        for kill in kills
    ]
    heads = ("NUMBER", "TIME", "WHAT", "TARGETS", "BY", "CONFIRMED", "REASON")
    console.data("kills", {"kills": kills, "more": more}, lambda: table(heads, rows) if rows else "")
    if not rows:
        console.say("no kill, freeze or thaw")
    elif more:
        console.hint(f"there are more: --limit {2 * limit}")


@kills_command.command("show")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--wait/--no-wait", default=False, show_default=True, help="wait until the confirmations are final")
@operator_options
def show_kill(console: Console, place: Place, number: int, wait: bool) -> None:
    """Show a kill, freeze or thaw by its number: targets, reason, and which verifiers confirmed it.

    Exit code 0: every verifier has confirmed; 3: not every one has.
    """
    mint = place.mint()
    kill = _settled(console, mint, number) if wait else mint.call("GET", f"{KILLS.path}/{number}")
    seen = kill["confirmations"]
    facts = [
        ("number", kill["seq"]),
        ("what", kill["op"]),
        ("targets", _targets(kill, SHOWN if len(kill["targets"]) > 20 else None)),
        ("reason", kill["reason"]),
        ("by", kill["by"]),
        ("time", show_time(kill["at_ms"])),
        ("report", seen["summary"]),
        ("laggards", ", ".join(seen["unreachable"]) or None),
        ("final", "yes" if seen["settled_at"] is not None else "no"),
    ]
    console.data("kill", kill, lambda: pairs(facts))
    click.get_current_context().exit(exit_codes.OK if seen["status"] == "confirmed" else exit_codes.INCOMPLETE)


def _settled(console: Console, mint: Caller, number: int) -> dict[str, Any]:
    """Return a kill once its confirmations are final; the mint makes them so after its longest lease."""
    pause, said = LOOK_S[0], ""
    while True:
        kill = mint.call("GET", f"{KILLS.path}/{number}")
        seen = kill["confirmations"]
        if seen["settled_at"] is not None:
            return kill
        if seen["summary"] != said:
            said = seen["summary"]
            console.say(plain(said))
        time.sleep(pause)
        pause = min(2 * pause, LOOK_S[1])


def _targets(kill: dict[str, Any], most: int | None = SHOWN) -> str:
    shown = [target["target"] for target in kill["targets"][:most]]
    left = kill["target_count"] - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _confirmed(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return "waiting"
    return f"{seen['confirmed']} of {seen['verifiers']} in {show_span(round(seen['took_ms']))}"
