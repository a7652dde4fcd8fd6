# SPDX-License-Identifier: Apache-2.0
"""``arx connection``: list and end accounts that people have connected, and rotate their keys.  CONTROL 9."""

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import facts_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, yes_option
from arx_caps.cli.resources import CONNECTIONS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs


@click.group("connection", cls=Verbs)
def connection_command() -> None:
    """List and end the accounts that people have connected, and rotate the keys that seal them."""


@connection_command.command("list")
@click.option("--subject", metavar="TARGET", help="those of this person alone, as subject:…")
@click.option("--name", help="those of this connection of realm.toml alone")
@list_of(
    CONNECTIONS,
    "CONNECTION: id, NAME, PERSON, ACCOUNT, SCOPES, STATE, CONNECTED: created_at, USED, ENDED",
    {
        "SCOPES": lambda row: ", ".join(row["scopes"]),
        "STATE": lambda row: row["state"] + (" (unclear)" if row["is_unclear"] else ""),
        "USED": time_of("used_at", ""),
        "ENDED": time_of("ended_at", ""),
    },
    nothing="no account is connected",
)
def list_connections(_: Listed) -> None:
    """List people's accounts at upstreams, the oldest first."""


@connection_command.command("end")
@click.argument("connection")
@click.option("--reason", required=True, help="reason, recorded in the audit log")
@yes_option
@operator_options
def end(console: Console, connection: str, place: Place, reason: str, yes: bool) -> None:
    """End the connection CONNECTION: its tokens are deleted, and revoked at the issuer.

    Gateways use none of its tokens after the lease. The person can connect the account again.
    """
    path = CONNECTIONS.path_of(connection)
    console.confirm(f"end the connection {connection}?", yes=yes)
    answer = place.mint().call("POST", f"{path}/end", {"reason": reason})
    upstream = "confirmed" if answer["revoked_upstream"] else "not confirmed: end it at the upstream as well"
    facts = [*facts_of(answer["connection"]), ("kill", answer["summary"]), ("revoked at the issuer", upstream)]
    console.data("connection", answer, lambda: pairs(facts))
    if answer["status"] != "confirmed":
        raise Stop("not every verifier has confirmed it yet", code="unconfirmed", exit_code=exit_codes.INCOMPLETE)


@connection_command.command("rotate")
@operator_options
def rotate(console: Console, place: Place) -> None:
    """Replace the keys of people, and seal the tokens of their accounts with the new ones.

    No call is refused meanwhile, and no person connects again. After an interruption run it again.
    """
    mint, rotated = place.mint(), 0
    after: str | None = ""
    while after is not None:
        answer = mint.call("POST", f"{CONNECTIONS.path}/rotate", {"after": after})
        rotated, after = rotated + answer["rotated"], answer.get("next")
    console.data("rotation", {"rotated": rotated}, f"{rotated} keys of people were replaced")
