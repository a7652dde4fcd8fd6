# SPDX-License-Identifier: Apache-2.0
"""``arx verifier``: which verifiers the store knows, and how far each has applied the kill sequence.  SPEC 10."""

from typing import Any

import click

from arx_caps.cli.frame import Verbs, common_options, pass_console
from arx_caps.cli.output import Console, table
from arx_caps.cli.place import Place, store_options
from arx_caps.cli.values import show_span


@click.group("verifier", cls=Verbs)
def verifier_command() -> None:
    """Look at the verifiers."""


@verifier_command.command("list")
@store_options
@common_options
@pass_console
def list_verifiers(console: Console, place: Place) -> None:
    """List the verifiers that reported within the last minutes, from the store itself.

    A relay stands for those behind it: it has applied what all of them have.
    """
    store = place.store()
    header = store.header()
    verifiers: list[dict[str, Any]] = [
        {
            "id": seen.id,
            "applied": seen.applied,
            "age_ms": seen.age_ms,
            "live": seen.age_ms < header.lease_ms,
            "behind": max(0, header.seq - seen.applied),
            "relay_of": seen.behind,
        }
        for seen in store.verifiers()
    ]
    value = {"seq": header.seq, "inc": header.inc, "lease_ms": header.lease_ms, "verifiers": verifiers}
    rows = [
        (_name(v), v["applied"], v["behind"], f"{show_span(v['age_ms'])} ago", "live" if v["live"] else "no lease")
        for v in verifiers
    ]
    console.data("verifiers", value, lambda: table(("VERIFIER", "APPLIED", "BEHIND", "LAST PROBE", "STATE"), rows))
    counts = [1 if v["relay_of"] is None else v["relay_of"] for v in verifiers]
    live = sum(count for v, count in zip(verifiers, counts, strict=True) if v["live"])
    console.say(f"{live} of {sum(counts)} live; the kill sequence is at {header.seq}")


def _name(verifier: dict[str, Any]) -> str:
    of = verifier["relay_of"]
    return str(verifier["id"]) if of is None else f"{verifier['id']}, for {of}"
