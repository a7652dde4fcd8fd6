# SPDX-License-Identifier: Apache-2.0
"""``arx audit top``: the names with the most decisions over a time.  LOG 3.6."""

from typing import Any, Final

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import show_top
from arx_caps.cli.options import limit_option
from arx_caps.cli.parse import Since
from arx_caps.cli.terminal import Console
from arx_caps.settings.durations import show_span, show_time
from arx_verifier.clock import now_ms

TOP: Final = "/v1/audit/top"
_KINDS: Final = ("agent", "session", "tool", "reason")


class Kinds(click.ParamType[tuple[str, ...]]):
    """One or more kinds of names, separated by commas."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the kinds, each once."""
        kinds = tuple(dict.fromkeys(str(value).split(",")))
        if not set(kinds) <= set(_KINDS):
            self.fail(f"expected some of {', '.join(_KINDS)}, got {value}", param, ctx)
        return kinds


@click.command("top")
@click.option(
    "--by", "kinds", type=Kinds(), default=",".join(_KINDS), show_default=True, help="what to list, one table each"
)
@click.option("--since", type=Since(), default="1h", show_default=True, help="count from this time on, or an age")
@click.option("--until", type=Since(), help="count until before this time")
@click.option(
    "--order",
    type=click.Choice(("all", "refused")),
    default="all",
    show_default=True,
    help="list those with the most decisions, or with the most refusals",
)
@limit_option("list the first N of each kind", 10, 100)
@operator_options
def top_command(
    console: Console, place: Place, kinds: tuple[str, ...], since: int, until: int | None, order: str, limit: int
) -> None:
    """Show the agents, sessions, tools and reasons with the most decisions over a time.

    It reads totals that the log keeps, so it is as fast on a large log as on a small one.

    \b
        arx audit top --by agent,reason --order refused --since 24h
    """
    mint = place.mint()
    query = {"since": since, "until": until, "order": order, "limit": limit}
    tops = [mint.call("GET", TOP, query={"by": kind, **query}) for kind in kinds]
    console.data("audit-top", {"tops": tops}, lambda: "\n\n".join(map(show_top, tops)))
    counted = tops[0]
    end = now_ms() if counted["until"] is None else counted["until"]
    console.say(f"from {show_time(counted['since'])}, {show_span(max(0, end - counted['since']))}")
