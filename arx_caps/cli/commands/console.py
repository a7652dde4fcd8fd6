# SPDX-License-Identifier: Apache-2.0
"""``arx console``: sign in to the operators' pages.  ``arx status``: what its first page shows.  CONTROL 6."""

from urllib.parse import quote

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import hint_unshipped, status_facts, time_of
from arx_caps.cli.options import Verbs
from arx_caps.cli.resources import SIGN_INS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.settings.durations import show_time


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
    console.data("status", status, lambda: pairs(status_facts(status)))
    hint_unshipped(console, status["services_never_shipped"])
