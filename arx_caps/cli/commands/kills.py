# SPDX-License-Identifier: Apache-2.0
"""``arx kills``: the kills, freezes and thaws that were made, and the confirmations of each.  SPEC 10."""

import time
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import KILL_CELLS, TARGETS, targets_of
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import KILLS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.revocation.targets import parse_target
from arx_caps.settings.durations import show_time
from arx_verifier.errors import RequestError

LOOK_S: Final = (0.05, 1.0)  # the first and the longest pause between two looks at a kill


def _target(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else str(parse_target(text))
    except RequestError as error:
        raise click.BadParameter(str(error), param_hint="--target") from error


@click.group("kills", cls=Verbs, default_verb="list")
def kills_command() -> None:
    """List past kills, freezes and thaws, and show which verifiers confirmed each; without a verb, list."""


@kills_command.command("list")
@click.option("--target", metavar="TARGET", callback=_target, help="show only those with this target")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="show the newest N")
@list_of(
    KILLS,
    "NUMBER: seq, TIME, WHAT: op, TARGETS, BY, CONFIRMED, REASON",
    KILL_CELLS,
    nothing="no kill, freeze or thaw",
)
def list_kills(listed: Listed) -> None:
    """List the kills, freezes and thaws by operators and the mint, the newest first."""
    if listed.more:
        listed.console.hint(f"there are more: --limit {2 * listed.limit}")


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
        ("targets", targets_of(kill, TARGETS if len(kill["targets"]) > 20 else None)),
        ("reason", kill["reason"]),
        ("by", kill["by"]),
        ("time", show_time(kill["at_ms"])),
        ("report", seen["summary"]),
        ("laggards", ", ".join(seen["unreachable"]) or None),
        ("watching", "; ".join(seen.get("watching", ())) or None),
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
