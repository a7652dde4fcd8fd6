# SPDX-License-Identifier: Apache-2.0
"""``arx verifier``: the verifiers that the store knows, and the kill sequence that each has applied.  SPEC 10."""

from typing import Any, Final

import click

from arx_caps.cli.access.place import Place, all_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import SERVICES
from arx_caps.cli.terminal import Console, table
from arx_caps.revocation.wire import GONE_MS, Header, VerifierSeen, count_states, state_of
from arx_caps.settings.durations import show_span, show_time
from arx_verifier.errors import ArxError
from arx_verifier.journal.writer import audience_of

MINT_S: Final = 3.0  # the mint only adds the names of services


@click.group("verifier", cls=Verbs)
def verifier_command() -> None:
    """List the verifiers of the realm."""


@verifier_command.command("list")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="show also verifiers that have been silent for more than a minute, up to 10 minutes",
)
@all_options
def list_verifiers(console: Console, place: Place, every: bool) -> None:
    """List the verifiers that the store knows, and the enrolled services that have none.

    A verifier is live while it has a lease, late for 10 leases without a probe, then gone.  A late or gone verifier
    refuses every call; after a minute it is not listed.  A relay is listed with the number of its verifiers, and has
    applied what all of them have applied.

    A verifier that watches lets calls go on that it would refuse, and never confirms a kill; it is listed with the end
    of its watch, also behind a relay.

    One that applies limits of its service is listed with their digest, but not behind a relay.

    A service is "never seen" if the store knows no verifier of it: none has run within 10 minutes, or it is behind a
    relay.  The mint lists the services, so this part needs the mint and an operator's key.
    """
    store = place.store()
    header = store.header()
    seen = store.verifiers()
    verifiers = [_row(one, header) for one in seen if every or one.age_ms < max(GONE_MS, header.lease_ms)]
    services, why = _services(place)
    met = {audience_of(one.id) for one in seen}
    unseen = None if services is None else [name for name in services if name not in met]
    value = {
        "seq": header.seq,
        "incarnation": header.incarnation,
        "lease_ms": header.lease_ms,
        "verifiers": verifiers,
        "left_out": len(seen) - len(verifiers),
        "services_never_seen": unseen,
    }
    rows = [(_name(v), v["applied"], v["behind"], f"{show_span(v['age_ms'])} ago", _state(v)) for v in verifiers]
    rows += [(name, "", "", "", "never seen") for name in unseen or ()]
    console.data("verifiers", value, lambda: table(("VERIFIER", "APPLIED", "BEHIND", "LAST PROBE", "STATE"), rows))
    counts = count_states((v["state"], v["relay_of"]) for v in verifiers)
    console.say(f"{counts['live']} of {sum(counts.values())} live; the kill sequence is at {header.seq}")
    if watching := sum(v["watches_until"] is not None for v in verifiers):
        console.say(f"{watching} watching: there a call goes on that would be refused, also without a token")
    if why is not None:
        console.say(f"services without a verifier are unknown: {why}")


def _row(seen: VerifierSeen, header: Header) -> dict[str, Any]:
    state = state_of(seen.age_ms, header.lease_ms)
    return {
        "id": seen.id,
        "applied": seen.applied,
        "age_ms": seen.age_ms,
        "live": state == "live",
        "state": state,
        "behind": max(0, header.seq - seen.applied),
        "relay_of": seen.behind,
        "watches_until": seen.watches_until,
        "limits": seen.limits,
    }


def _services(place: Place) -> tuple[list[str] | None, str | None]:
    """Return the enrolled services.

    Returns:
        Their names, or None; and the reason why they are unknown, or None.
    """
    try:
        mint, realm = place.mint(MINT_S), place.realm_name()
        answers_for = mint.call("GET", "/readyz").get("realm")
        found, _ = SERVICES.rows(mint)
    except (Stop, ArxError) as error:
        return None, str(error)
    if answers_for != realm:  # --store and the key file can be of two realms
        return None, f"{mint.issuer} is the mint of the realm {answers_for}, not of {realm}"
    return sorted([str(service["audience"]) for service in found]), None


def _state(verifier: dict[str, Any]) -> str:
    until, limits = verifier["watches_until"], verifier["limits"]
    watching = "" if until is None else f", watching until {show_time(until)}"
    return f"{verifier['state']}{watching}" + ("" if limits is None else f", limits {limits}")


def _name(verifier: dict[str, Any]) -> str:
    of = verifier["relay_of"]
    return str(verifier["id"]) if of is None else f"{verifier['id']}, for {of}"
