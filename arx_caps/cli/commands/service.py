# SPDX-License-Identifier: Apache-2.0
"""``arx service``: enrol tool services, and issue, refresh, replace and remove their keys.  SPEC 9, 15, CONTROL 3."""

import contextlib
import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import click

from arx_caps.cli.display import facts_of, hint_audience
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.mint_session import now_ms
from arx_caps.cli.options import KidCommand, Verbs, common_options, out_option, pass_console, yes_option
from arx_caps.cli.place import Place, ca_option, operator_options
from arx_caps.cli.secure_files import read_object, write_object
from arx_caps.cli.terminal import Console, pairs, plain, table
from arx_caps.durations import show_time
from arx_verifier.names import is_audience

KILL_S = 60.0  # a freeze is confirmed when the leases have ended
_path = click.Path(path_type=Path)


@click.group("service", cls=Verbs)
def service_command() -> None:
    """Enrol tool services, and refresh, replace and remove their keys."""


@service_command.command("enrol")
@click.argument("audience")
@click.option("--out", type=_path, required=True, help="service file to write, a secret (mode 0600)")
@operator_options
@common_options
@pass_console
def enrol(console: Console, audience: str, out: Path, place: Place) -> None:
    """Enrol the tool service AUDIENCE and write a service file; a repeat writes its current keys.

    For a service that fetches its keys itself, use `arx service invite`.
    """
    _checked(audience)
    mint = place.mint()
    file = mint.call("POST", "/v1/services", {"audience": audience})
    write_object(out, file)  # the keys go to the file alone, never to stdout
    kids = sorted(file.get("keys", {}))
    value = {"audience": audience, "file": str(out), "keys": kids, "realm": file.get("realm")}
    console.data("service", value, lambda: pairs([("service", audience), ("file", out), ("keys", ", ".join(kids))]))
    with contextlib.suppress(Stop):  # a role may allow to enrol a service and not to show it
        hint_audience(console, mint.call("GET", f"/v1/services/{audience}"))


@service_command.command("invite")
@click.argument("audience")
@out_option
@operator_options
@common_options
@pass_console
def invite(console: Console, audience: str, out: Path | None, place: Place) -> None:
    """Invite the tool service AUDIENCE to enrol its own key with `arx service join`, once, within 15 minutes.

    \b
        arx service invite orders --out orders.invite
    """
    _checked(audience)
    # An invitation is a secret as well: its holder can enrol a key for the service.
    answer = place.mint().call("POST", "/v1/services/invitations", {"audience": audience})
    until = show_time(answer["expires_at"])
    hint_audience(console, answer)
    if out is None:
        console.data("invitation", answer, json.dumps(answer))
        return
    write_object(out, answer)
    value = {"audience": audience, "file": str(out), "expires_at": answer["expires_at"]}
    console.data("invitation", value, lambda: pairs([("service", audience), ("file", out), ("valid until", until)]))


@service_command.command("join")
@click.argument("invitation", metavar="FILE")
@click.option("--out", type=_path, required=True, help="service file to write (mode 0600)")
@click.option("--key-out", type=_path, required=True, help="new file for the service's own key (mode 0600)")
@click.option(
    "--journal", type=_path, help="folder of the decision journal [the invitation's, or beside the service file]"
)
@click.option("--store", help="URL of the revocation store or of a relay [the invitation's, or the mint's]")
@ca_option
@common_options
@pass_console
def join(
    console: Console,
    invitation: str,
    out: Path,
    key_out: Path,
    journal: Path | None,
    store: str | None,
    ca: str | None,
) -> None:
    """Make a key, enrol it with the invitation in FILE (`-` for stdin), and write a service file.

    \b
        arx service join orders.invite --out orders.json --key-out orders.key
    """
    from arx_caps.agent.mint_client import MintClient
    from arx_caps.service import Invitation, join_service

    content = read_object(invitation)
    members = ("audience", "enrolment", "issuer")
    if not all(isinstance(content.get(name), str) for name in members):
        raise Stop(f"{invitation}: expected an invitation, as `arx service invite` writes it", code="file")
    invited = Invitation(*(str(content[name]) for name in members))
    # What `arx apply` wrote of its file; an option of this machine wins.
    store = store or content.get("store")
    journal = journal or (Path(content["journal"]) if "journal" in content else None)
    with contextlib.closing(MintClient(invited.issuer, now=now_ms, ca=ca)) as mint:
        fetched = join_service(invited, mint, out=out, key_out=key_out, journal=journal, store=store, ca=ca)
    value = {"audience": fetched.audience, "file": str(out), "key_file": str(key_out), "keys": sorted(fetched.texts)}
    console.data("service", value, lambda: pairs(facts_of(value)))


@service_command.command("refresh")
@click.argument("file", type=_path)
@click.option("--once", is_flag=True, help="fetch once; exit with 5 if the mint does not answer")
@common_options
@pass_console
def refresh(console: Console, file: Path, once: bool) -> None:
    """Refresh the keys in the service FILE until SIGINT or SIGTERM; a running service reads the file again."""
    from arx_caps.service import KeyRefresher

    refresher = KeyRefresher(file)
    try:
        if once:
            changed = refresher.refresh()
            value = {"file": str(file), "keys": list(refresher.status.kids), "changed": changed}
            console.data("service", value, lambda: pairs(facts_of(value)))
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if not console.quiet:
            logging.getLogger("arx_caps.service").setLevel(logging.INFO)  # log each new key
        console.say(f"refreshing {plain(file)} until SIGINT or SIGTERM")
        refresher.run(stop)
    finally:
        refresher.close()


@service_command.command("list")
@operator_options
@common_options
@pass_console
def list_services(console: Console, place: Place) -> None:
    """List the enrolled services: their versions, and when each last shipped records."""
    found, _ = place.mint().rows("/v1/services", "services")
    rows = [
        (s["audience"], len(s["keys"]), _versions(s), _shipped(s), show_time(s["enrolled_at"]), s["enrolled_by"])
        for s in found
    ]
    heads = ("SERVICE", "OWN KEYS", "VERSION", "SHIPPED", "ENROLLED", "BY")
    console.data("services", {"services": found}, lambda: table(heads, rows))


@service_command.command("show")
@click.argument("audience")
@operator_options
@common_options
@pass_console
def show(console: Console, audience: str, place: Place) -> None:
    """Show a service and the thumbprints of its own keys."""
    _show(console, place.mint().call("GET", f"/v1/services/{_checked(audience)}"))


@service_command.command("remove-key", cls=KidCommand)
@click.argument("audience")
@click.argument("kid")
@yes_option
@operator_options
@common_options
@pass_console
def remove_key(console: Console, audience: str, kid: str, place: Place, yes: bool) -> None:
    """Remove the service's own key KID: its holder can fetch no more keys.  Invite it again for a new key."""
    console.confirm(f"remove the key {kid[:64]} of {_checked(audience)}?", yes=yes)
    _show(console, place.mint().call("PATCH", f"/v1/services/{audience}", {"remove_kid": kid}))


@service_command.command("replace-key")
@click.argument("audience")
@click.option("--stolen", is_flag=True, help="revoke the old keys now; tokens signed with them stop working")
@yes_option
@operator_options
@common_options
@pass_console
def replace_key(console: Console, audience: str, place: Place, stolen: bool, yes: bool) -> None:
    """Replace the key of the tool service AUDIENCE; existing tokens stay valid, except with --stolen."""
    if stolen:
        console.confirm(f"revoke every token for {_checked(audience)}?", yes=yes)
    path = f"/v1/services/{_checked(audience)}/replace-key"
    _tell_end(console, place.mint(KILL_S).call("POST", path, {"stolen": stolen}))
    if not stolen:
        console.hint(
            "the service fetches the new key at its next refresh; without its own key, run `arx service enrol`"
        )
    else:
        console.hint(
            f"if the service's own key was stolen as well, run `arx service remove-key {audience} KID` (`arx service "
            f"show {audience}` lists them), then this command again"
        )
        console.hint("run `arx service refresh FILE --once` where the service runs; until then it refuses every call")


@service_command.command("remove")
@click.argument("audience")
@yes_option
@operator_options
@common_options
@pass_console
def remove(console: Console, audience: str, place: Place, yes: bool) -> None:
    """Remove the tool service AUDIENCE: its own keys and all tokens for it are refused."""
    console.confirm(f"remove the service {_checked(audience)}?", yes=yes)
    _tell_end(console, place.mint(KILL_S).call("DELETE", f"/v1/services/{audience}"))


def _tell_end(console: Console, answer: dict[str, Any]) -> None:
    rows = [("service", answer["audience"]), ("freeze", (answer["kill"] or {}).get("summary"))]
    console.data("service", answer, lambda: pairs(rows))


def _versions(service: dict[str, Any]) -> str:
    return ", ".join(sorted({key["version"] for key in service["keys"] if "version" in key})) or "unknown"


def _shipped(service: dict[str, Any]) -> str:
    if "shipped_at" not in service:
        return "unknown"
    return "never" if service["shipped_at"] is None else show_time(service["shipped_at"])


def _show(console: Console, service: dict[str, Any]) -> None:
    console.data("service", {"service": service}, lambda: pairs(facts_of({**service, "shipped_at": _shipped(service)})))


def _checked(audience: str) -> str:
    if not is_audience(audience):
        raise click.BadParameter(
            f"expected the name of a service such as orders, got {audience[:60]!r}", param_hint="AUDIENCE"
        )
    return audience
