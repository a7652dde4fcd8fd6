# SPDX-License-Identifier: Apache-2.0
"""``arx frozen``: what is refused now, by whom, since when and why.  SPEC 10."""

import click

from arx_caps.cli.display import age_of
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import FREEZES, Listed, list_of
from arx_caps.revocation.targets import KINDS


@click.group("frozen", cls=Verbs, default_verb="list")
def frozen_command() -> None:
    """List what is refused now; the verb `list` can be left out."""


@frozen_command.command("list")
@click.option("--kind", type=click.Choice(tuple(KINDS)), help="show only targets of this kind")
@list_of(
    FREEZES,
    "TARGET, SINCE, BY, ENDS BY, REASON",
    {
        "SINCE": age_of("frozen_at"),
        "ENDS BY": lambda row: "lasts" if row["lasting"] else "thaw" if row["op"] == "freeze" else "thaw (killed)",
    },
    nothing="nothing is frozen",
)
def list_frozen(listed: Listed) -> None:
    """List the targets that are frozen, also those that a kill has left frozen; the newest first.

    ``arx thaw TARGET`` ends a freeze.  A freeze of what has ended for good, such as a retired key, does not end.
    """
    if listed.rows:
        listed.console.say(f"{len(listed.rows)} frozen")
