# SPDX-License-Identifier: Apache-2.0
"""``arx service``: enrol tool services, give them their keys, keep those fresh.  SPEC 9, 15, CONTROL 3."""

import contextlib
import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import click

from arx_caps.cli.display import facts_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.mint_session import now_ms
from arx_caps.cli.options import KidCommand, Verbs, common_options, out_option, pass_console, yes_option
from arx_caps.cli.place import Place, ca_option, operator_options
from arx_caps.cli.secure_files import read_object, write_object
from arx_caps.cli.terminal import Console, pairs, plain, table
from arx_caps.durations import show_time
from arx_verifier.names import is_audience

KILL_S = 60.0  # a freeze is answered for when its leases are over
_path = click.Path(path_type=Path)


@click.group("service", cls=Verbs)
def service_command() -> None:
    """Enrol tool services, and keep their keys fresh."""


@service_command.command("enrol")
@click.argument("audience")
@click.option("--out", type=_path, required=True, help="the service's file, a secret (mode 0600)")
@operator_options
@common_options
@pass_console
def enrol(console: Console, audience: str, out: Path, place: Place) -> None:
    """Enrol the tool service AUDIENCE and write its keys to a file; a repeat writes the keys of that time.

    A service that is to fetch its keys by itself is given an invitation instead: `arx service invite`.
    """
    mint = place.mint()
    file = mint.call("POST", "/v1/services", {"audience": _checked(audience)})
    write_object(out, file)
    kids = sorted(file.get("keys", {}))
    value = {"audience": audience, "file": str(out), "keys": kids, "realm": file.get("realm")}
    console.data("service", value, lambda: pairs([("service", audience), ("file", out), ("keys", ", ".join(kids))]))
    with contextlib.suppress(Stop):  # who may enrol a service need not be one who may look at it
        _doubt(console, mint.call("GET", f"/v1/services/{audience}"))


@service_command.command("invite")
@click.argument("audience")
@out_option
@operator_options
@common_options
@pass_console
def invite(console: Console, audience: str, out: Path | None, place: Place) -> None:
    """Let the tool service AUDIENCE enrol a key of its own: once, within 15 minutes, with `arx service join`.

    \b
        arx service invite orders --out orders.invite
    """
    answer = place.mint().call("POST", "/v1/services/invitations", {"audience": _checked(audience)})
    until = show_time(answer["expires_at"])
    _doubt(console, answer)
    if out is None:
        console.data("invitation", answer, json.dumps(answer))
        return
    write_object(out, answer)
    value = {"audience": audience, "file": str(out), "expires_at": answer["expires_at"]}
    console.data("invitation", value, lambda: pairs([("service", audience), ("file", out), ("good until", until)]))


@service_command.command("join")
@click.argument("invitation", metavar="FILE")
@click.option("--out", type=_path, required=True, help="the service's file to write (mode 0600)")
@click.option("--key-out", type=_path, required=True, help="the service's own key: made and written here (mode 0600)")
@click.option("--journal", type=_path, help="folder of its decision journal; else one beside the service's file")
@click.option("--store", help="the URL of the revocation store or of a relay; else as the mint says")
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
    """Enrol a key made here with the invitation in FILE ("-": stdin), and write what the service starts from.

    \b
        arx service join orders.invite --out orders.json --key-out orders.key
    """
    from arx_caps.agent.mint_client import MintClient
    from arx_caps.service import Invitation, join_service

    content = read_object(invitation)
    members = ("audience", "enrolment", "issuer")
    if not all(isinstance(content.get(name), str) for name in members):
        raise Stop(f"{invitation}: not what `arx service invite` wrote", code="file")
    invited = Invitation(*(str(content[name]) for name in members))
    with contextlib.closing(MintClient(invited.issuer, now=now_ms, ca=ca)) as mint:
        fetched = join_service(invited, mint, out=out, key_out=key_out, journal=journal, store=store, ca=ca)
    value = {"audience": fetched.audience, "file": str(out), "key_file": str(key_out), "keys": sorted(fetched.texts)}
    console.data("service", value, lambda: pairs(facts_of(value)))


@service_command.command("refresh")
@click.argument("file", type=_path)
@click.option("--once", is_flag=True, help="ask once, and exit with 5 when the mint does not answer")
@common_options
@pass_console
def refresh(console: Console, file: Path, once: bool) -> None:
    """Keep the keys in the service's FILE fresh until a signal says to stop; a running service reads it by itself."""
    from arx_caps.service import KeyRefresher

    refresher = KeyRefresher(file)
    try:
        if once:
            changed = refresher.refresh()
            value = {"file": str(file), "keys": list(refresher.status.kids), "changed": changed}
            shown = {**value, "changed": "yes" if changed else "no"}
            console.data("service", value, lambda: pairs(facts_of(shown)))
            return
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if not console.quiet:
            logging.getLogger("arx_caps.service").setLevel(logging.INFO)  # which keys came
        console.say(f"{plain(file)} is kept fresh, until a signal says to stop")
        refresher.run(stop)
    finally:
        refresher.close()


@service_command.command("list")
@operator_options
@common_options
@pass_console
def list_services(console: Console, place: Place) -> None:
    """List the enrolled services."""
    found, _ = place.mint().rows("/v1/services", "services")
    rows = [(s["audience"], len(s["keys"]), show_time(s["enrolled_at"]), s["enrolled_by"]) for s in found]
    heads = ("SERVICE", "OWN KEYS", "ENROLLED", "BY")
    console.data("services", {"services": found}, lambda: table(heads, rows))


@service_command.command("show")
@click.argument("audience")
@operator_options
@common_options
@pass_console
def show(console: Console, audience: str, place: Place) -> None:
    """Show one service: its own keys by thumbprint, who enrolled it."""
    _tell(console, place.mint().call("GET", f"/v1/services/{_checked(audience)}"))


@service_command.command("remove-key", cls=KidCommand)
@click.argument("audience")
@click.argument("kid")
@yes_option
@operator_options
@common_options
@pass_console
def remove_key(console: Console, audience: str, kid: str, place: Place, yes: bool) -> None:
    """Take the own key KID away from AUDIENCE: who holds it gets no more keys.  For another one, invite it again."""
    console.confirm(f"take the key {kid[:64]} away from {_checked(audience)}?", yes=yes)
    _tell(console, place.mint().call("PATCH", f"/v1/services/{audience}", {"remove_kid": kid}))


@service_command.command("replace-key")
@click.argument("audience")
@click.option(
    "--stolen", is_flag=True, help="the older keys are worth nothing at once, nor is any token made with them"
)
@yes_option
@operator_options
@common_options
@pass_console
def replace_key(console: Console, audience: str, place: Place, stolen: bool, yes: bool) -> None:
    """Give the tool service AUDIENCE its next key, and no other service; tokens of before stay good unless --stolen."""
    if stolen:
        console.confirm(f"end every token for {_checked(audience)}?", yes=yes)
    path = f"/v1/services/{_checked(audience)}/replace-key"
    _tell_end(console, place.mint(KILL_S).call("POST", path, {"stolen": stolen}))
    if stolen:
        console.hint(
            f"the service's own keys (`arx service show {audience}`) fetch the new one: if one of them was stolen too, "
            f"`arx service remove-key {audience} KID`, then this again"
        )
        console.hint("its calls are refused until it has asked: `arx service refresh FILE --once` where it runs")


@service_command.command("remove")
@click.argument("audience")
@yes_option
@operator_options
@common_options
@pass_console
def remove(console: Console, audience: str, place: Place, yes: bool) -> None:
    """Remove the tool service AUDIENCE: its own keys sign nothing any more, tokens for it are worth nothing."""
    console.confirm(f"remove the service {_checked(audience)}?", yes=yes)
    _tell_end(console, place.mint(KILL_S).call("DELETE", f"/v1/services/{audience}"))


def _tell_end(console: Console, answer: dict[str, Any]) -> None:
    rows = [("service", answer["audience"]), ("freeze", (answer["kill"] or {}).get("summary"))]
    console.data("service", answer, lambda: pairs(rows))


def _tell(console: Console, service: dict[str, Any]) -> None:
    console.data("service", {"service": service}, lambda: pairs(facts_of(service)))


def _doubt(console: Console, answer: dict[str, Any]) -> None:
    """Hint that no task has a token for the service yet: a slip, or a service enrolled before its policy."""
    if not answer.get("in_policy", True):
        console.hint(f"the policy in force has no [audience.{answer['audience']}]: no task has a token for it")


def _checked(audience: str) -> str:
    if not is_audience(audience):
        raise click.BadParameter(f"{audience[:60]!r} is not a service's name such as orders", param_hint="AUDIENCE")
    return audience
