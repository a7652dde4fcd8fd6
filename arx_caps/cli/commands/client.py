# SPDX-License-Identifier: Apache-2.0
"""``arx client``: register OAuth clients for agents, list, show and remove them.  CONTROL 5.2."""

from pathlib import Path
from typing import Any

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.access.secure_files import read_object, write_object
from arx_caps.cli.display import facts_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, yes_option
from arx_caps.cli.parse import Duration
from arx_caps.cli.resources import CLIENTS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs


@click.group("client", cls=Verbs)
def client_command() -> None:
    """Register, list and remove OAuth clients, which get access tokens in the place of agents."""


@client_command.command("add")
@click.argument("agent")
@click.option("--scope", "scopes", multiple=True, help="template that it may start tasks of; may be repeated")
@click.option("--redirect", "redirects", multiple=True, help="URI to which people come back; may be repeated")
@click.option("--public", is_flag=True, help="a program without a secret, on a person's own machine")
@click.option("--introspects", multiple=True, help="service whose access tokens it may introspect; may be repeated")
@click.option("--jwks", metavar="FILE", help="file with its public keys, a JWK set: Ed25519 or P-256 [a secret]")
@click.option("--expires", type=Duration(), help="end it, its sessions and access tokens after this, as 30m [never]")
@click.option("--out", type=click.Path(path_type=Path), help="new file for client id and secret (mode 0600)")
@operator_options
def add(console: Console, /, place: Place, jwks: str | None, out: Path | None, *, public: bool, **terms: Any) -> None:
    """Register an OAuth client for AGENT, with a secret, with its public keys, or public.

    \b
        arx client add acme/support/triage --scope refund --out triage.client.json
        arx client add acme/support/triage --scope refund --public --redirect http://127.0.0.1/callback
    """
    if (jwks is not None) + (out is not None) + public != 1:
        raise click.UsageError("expected one of --out FILE, for a new secret, --jwks FILE and --public")
    if out is not None and out.exists():
        raise Stop(f"{out} exists; it is not overwritten", code="file")
    body: dict[str, Any] = {**terms, "public": public}
    if jwks is not None:
        content = read_object(jwks)
        body["jwks"] = content.get("keys", [content])
    mint = place.mint()
    answer = mint.call("POST", CLIENTS.path, body)
    client = answer["client"]
    if out is not None:
        # The secret goes to the file alone, never to stdout.
        write_object(out, {"client_id": client["id"], "client_secret": answer["secret"], "issuer": mint.issuer})
    value = {"client": client, "file": None if out is None else str(out)}
    console.data("client", value, lambda: pairs([*facts_of(client), ("file", out)]))


@client_command.command("list")
@list_of(
    CLIENTS,
    "CLIENT: id, AGENT, SCOPES, PROVES WITH, REGISTERED: created_at, BY, USED, EXPIRES, CALLS ITSELF",
    {
        "SCOPES": lambda client: ", ".join(client["scopes"]),
        "PROVES WITH": lambda client: "nothing" if client["public"] else "key" if client["keys"] else "secret",
        "USED": time_of("used_at", ""),
        "EXPIRES": time_of("expires_at", ""),
        "CALLS ITSELF": lambda client: client["url"] or client["name"] or "",
    },
)
def list_clients(_: Listed) -> None:
    """List the OAuth clients."""


@client_command.command("show")
@click.argument("client")
@operator_options
def show(console: Console, client: str, place: Place) -> None:
    """Show the OAuth client CLIENT."""
    CLIENTS.show(console, place.mint().call("GET", CLIENTS.path_of(client)))


@client_command.command("remove")
@click.argument("client")
@yes_option
@operator_options
def remove(console: Console, client: str, place: Place, yes: bool) -> None:
    """Remove the OAuth client CLIENT for good, and end its sessions: its access tokens are refused."""
    console.confirm(f"remove the client {CLIENTS.check(client)}?", yes=yes)
    CLIENTS.show(console, place.mint().call("DELETE", CLIENTS.path_of(client)))
