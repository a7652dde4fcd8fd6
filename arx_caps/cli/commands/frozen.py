# SPDX-License-Identifier: Apache-2.0
"""``arx frozen``: what is refused now, by whom, since when and why.  SPEC 10."""

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.options import Verbs, common_options, pass_console
from arx_caps.cli.terminal import Console, table
from arx_caps.revocation import KINDS
from arx_caps.settings.durations import show_span
from arx_verifier.clock import now_ms


@click.group("frozen", cls=Verbs)
def frozen_command() -> None:
    """List what is refused now."""


@frozen_command.command("list")
@click.option("--kind", type=click.Choice(tuple(KINDS)), help="show only targets of this kind")
@operator_options
@common_options
@pass_console
def list_frozen(console: Console, place: Place, kind: str | None) -> None:
    """List the targets that are frozen, also those that a kill has left frozen; the newest first.

    ``arx thaw TARGET`` ends a freeze.  A freeze of what has ended for good, such as a retired key, does not end.
    """
    freezes, _ = place.mint().rows("/v1/freezes", "freezes", {"kind": kind})
    now = now_ms()
    rows = [
        (
            freeze["target"],
            f"{show_span(max(0, now - freeze['frozen_at']))} ago",
            freeze["by"],
            "lasts" if freeze["lasting"] else "thaw" if freeze["op"] == "freeze" else "thaw (killed)",
            freeze["reason"],
        )
        for freeze in freezes
    ]
    heads = ("TARGET", "SINCE", "BY", "ENDS BY", "REASON")
    console.data("freezes", {"freezes": freezes}, lambda: table(heads, rows) if rows else "")
    console.say(f"{len(rows)} frozen" if rows else "nothing is frozen")
