# SPDX-License-Identifier: Apache-2.0
"""``arx console``: sign in to the operators' pages.  ``arx status``: what its first page shows.  CONTROL 6."""

from typing import Any
from urllib.parse import quote

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import hint_unshipped, time_of
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import SIGN_INS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.revocation.wire import GONE_MS, count_states
from arx_caps.settings.durations import show_span, show_time


@click.group("console", cls=Verbs)
def console_command() -> None:
    """Open the operators' pages in a browser."""


@console_command.command("open")
@operator_options
def open_console(console: Console, place: Place) -> None:
    """Print a link that signs you in to the console, once, within two minutes.

    It needs the operator's key alone, so it works while the login of your organization does not.
    """
    answer = place.mint().call("POST", "/v1/console/links")
    # No browser is started: its command line, which every user of the machine can read, would have the link.
    rows = [("link", answer["url"]), ("works until", show_time(answer["expires_at"]))]
    console.data("console", answer, lambda: pairs(rows))
    console.say("open it in a browser of yours; who opens it first is signed in as you")


@console_command.command("list")
@list_of(SIGN_INS, "ID, OPERATOR, BY, SIGNED IN: signed_in_at, USED: used_at, UNTIL", {"UNTIL": time_of("until")})
def list_sign_ins(_: Listed) -> None:
    """List the sign-ins to the console that go on."""


@console_command.command("end")
@click.argument("sign_in", metavar="ID")
@operator_options
def end_sign_in(console: Console, sign_in: str, place: Place) -> None:
    """End the sign-in ID: its browser has to sign in again.

    To keep an operator out, freeze it: `arx freeze operator:NAME`.
    """
    answer = place.mint().call("DELETE", f"{SIGN_INS.path}/{quote(sign_in, safe='')}")
    console.data("sign_in", answer, lambda: pairs([("ended", answer["id"]), ("operator", answer["operator"])]))


@click.command("status")
@operator_options
def status_command(console: Console, place: Place) -> None:
    """Show whether the mint grants, its verifiers, and the state of the audit log."""
    status = place.mint().call("GET", "/v1/status")
    console.data("status", status, lambda: pairs(_rows(status)))
    hint_unshipped(console, status["services_never_shipped"])


def _rows(status: dict[str, Any]) -> list[tuple[str, Any]]:
    store, log = status["store"], status["log"]
    present = {v["service"] for v in status["verifiers"] if v["state"] != "gone"}
    # Of a service that runs, what was silent for longer has been replaced.
    fleet = [
        v for v in status["verifiers"] if v["state"] != "gone" or v["age_ms"] < GONE_MS or v["service"] not in present
    ]
    counts = count_states((v["state"], v["relay_of"]) for v in fleet)
    verifiers = ", ".join(f"{count} {state}" for state, count in counts.items())
    never = status["services_never_seen"]
    return [
        ("realm", status["realm"]),
        ("version", status["version"]),
        ("grants", "yes" if status["ready"] else f"no: {'; '.join(status['because'])}"),
        ("policy", status["policy"]),
        ("store", store["error"] or f"at {store['seq']}, lease {show_span(store['lease_ms'])}"),
        ("verifiers", verifiers + (f"; never seen: {', '.join(never)}" if never else "")),
        ("slowest", f"{max((v['behind'] for v in fleet if v['state'] == 'live'), default=0)} behind"),
        ("decisions", _rate(status["rates"])),
        ("sessions", status["sessions"]),
        ("tasks", status["tasks"]),
        ("approvals", f"{status['approvals_waiting']} waiting"),
        ("audit log", log["halted"] or log["failing"] or f"{log['size']} records, {log['signed']} signed"),
        ("signed", show_time(log["signed_at"]) if log["signed_at"] is not None else "never"),
    ]


def _rate(rates: dict[str, int] | None) -> str:
    if rates is None:
        return "unknown"
    decisions = rates["allowed"] + rates["refused"]
    a_second = 1000 * decisions / rates["over_ms"]
    return (
        f"{a_second:.1f} a second, {rates['refused']} of {decisions} refused in the last {show_span(rates['over_ms'])}"
    )
