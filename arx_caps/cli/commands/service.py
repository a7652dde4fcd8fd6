# SPDX-License-Identifier: Apache-2.0
"""``arx service``: enrol tool services, and replace and remove their keys.  SPEC 9, 15, CONTROL 3."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arx_caps.cli.access.place import Place, ca_option, operator_options
from arx_caps.cli.access.secure_files import read_object, write_object
from arx_caps.cli.display import Row, facts_of, hint_audience, hint_silent
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import KidCommand, Verbs, out_option, yes_option
from arx_caps.cli.resources import INVITATIONS, SERVICES, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError

if TYPE_CHECKING:
    from arx_caps.service import Invitation

KILL_S = 60.0  # a freeze is confirmed when the leases have ended
_path = click.Path(path_type=Path)


@click.group("service", cls=Verbs)
def service_command() -> None:
    """Enrol tool services, and replace and remove their keys."""


@service_command.command("enrol")
@click.argument("audience", required=False)
@click.option("--out", type=_path, required=True, help="service file to write, a secret (mode 0600)")
@click.option(
    "--invitation", metavar="FILE", help="enrol with an invitation of `arx service invite`; `-` reads it from stdin"
)
@click.option("--key-out", type=_path, help="file of the service's own key (mode 0600) [beside --out, as .key]")
@click.option(
    "--journal",
    type=_path,
    help="folder of the decision journal [the invitation's, else in the realm's folder, else beside --out]",
)
@click.option("--store", help="URL of the revocation store or of a relay [the invitation's, or the mint's]")
@ca_option
@operator_options
def enrol(
    console: Console,
    audience: str | None,
    out: Path,
    invitation: str | None,
    key_out: Path | None,
    journal: Path | None,
    store: str | None,
    ca: str | None,
    place: Place,
) -> None:
    """Enrol the tool service AUDIENCE with a key of its own, and write its service file.

    Where the operator's key is, give AUDIENCE.  On another machine give the invitation that an operator has made.
    The service's verifier then refreshes its keys and ships its records to the audit log by itself.

    \b
        arx service enrol orders --out orders.json
        arx service enrol --invitation orders.invite --out orders.json
    """
    from arx_caps.agent.sessions.mint_client import MintClient
    from arx_caps.service import join_service

    key = key_out or out.with_suffix(".key")
    _require_files(audience, invitation, out, key)
    answer, folder = read_object(invitation) if invitation is not None else {}, None
    if audience is not None:
        answer = place.mint().call("POST", INVITATIONS, {"audience": audience})
        folder, ca = _journal_of(place, answer), ca or place.ca()
    invited = _invitation(invitation, answer)
    # What `arx apply` wrote of its file; an option of this machine wins.
    store, folder = store or answer.get("store"), Path(answer["journal"]) if "journal" in answer else folder
    with contextlib.closing(MintClient(invited.issuer, now=now_ms, ca=ca)) as mint:
        fetched = join_service(invited, mint, out=out, key_out=key, journal=journal or folder, store=store, ca=ca)
    value = {"audience": fetched.audience, "file": str(out), "key_file": str(key), "keys": sorted(fetched.texts)}
    console.data("service", value, lambda: pairs(facts_of(value)))
    if audience is not None:
        hint_audience(console, answer)


def _require_files(audience: str | None, invitation: str | None, out: Path, key: Path) -> None:
    """Require what can be known before an invitation is made, which works once."""
    if (audience is None) == (invitation is None):
        raise click.UsageError("expected AUDIENCE or --invitation FILE, and not both")
    if audience is not None:
        SERVICES.check(audience)
    if key == out:
        raise click.UsageError(f"expected two files, got {out} for the service and its key: give another --key-out")
    if out.exists():
        hint = f"`arx ship {out} --once` refreshes its keys; for another key of the service name other files"
        raise Stop(f"{out} exists; it is not overwritten", hint=hint, code="file")


def _journal_of(place: Place, invited: Mapping[str, Any]) -> Path | None:
    """Return the folder of a service's journal in its realm's folder, where `arx decisions` looks; None elsewhere."""
    with contextlib.suppress(SettingsError):
        realm = Realm.open(place.realm_dir)
        if realm.issuer == invited["issuer"]:
            return realm.journals_dir / str(invited["audience"])
    return None


def _invitation(file: str | None, answer: Mapping[str, Any]) -> "Invitation":
    from arx_caps.service import Invitation

    members = ("audience", "enrolment", "issuer")
    if not all(isinstance(answer.get(name), str) for name in members):
        raise Stop(f"{file}: expected an invitation, as `arx service invite` writes it", code="file")
    return Invitation(*(str(answer[name]) for name in members))


@service_command.command("invite")
@click.argument("audience")
@out_option
@operator_options
def invite(console: Console, audience: str, out: Path | None, place: Place) -> None:
    """Invite the tool service AUDIENCE to enrol on another machine, once, within 15 minutes.

    \b
        arx service invite orders --out orders.invite
    """
    SERVICES.check(audience)
    # An invitation is a secret as well: its holder can enrol a key for the service.
    answer = place.mint().call("POST", INVITATIONS, {"audience": audience})
    until = show_time(answer["expires_at"])
    hint_audience(console, answer)
    if out is None:
        console.data("invitation", answer, json.dumps(answer))
        return
    write_object(out, answer)
    value = {"audience": audience, "file": str(out), "expires_at": answer["expires_at"]}
    console.data("invitation", value, lambda: pairs([("service", audience), ("file", out), ("valid until", until)]))


def _versions(service: Row) -> str:
    return ", ".join(sorted({key["version"] for key in service["keys"] if "version" in key})) or "unknown"


def _shipped(service: Row) -> str:
    if "shipped_at" not in service:
        return "unknown"
    return "never" if service["shipped_at"] is None else show_time(service["shipped_at"])


@service_command.command("list")
@list_of(
    SERVICES,
    "SERVICE: audience, OWN KEYS, VERSION, SHIPPED, ENROLLED: enrolled_at, BY: enrolled_by",
    {"OWN KEYS": lambda row: len(row["keys"]), "VERSION": _versions, "SHIPPED": _shipped},
)
def list_services(listed: Listed) -> None:
    """List the enrolled services: their versions, and when each last shipped records."""
    hint_silent(listed.console, listed.mint)


@service_command.command("show")
@click.argument("audience")
@operator_options
def show(console: Console, audience: str, place: Place) -> None:
    """Show a service and the thumbprints of its own keys."""
    _show(console, place.mint().call("GET", SERVICES.path_of(audience)))


@service_command.command("remove-key", cls=KidCommand)
@click.argument("audience")
@click.argument("kid")
@yes_option
@operator_options
def remove_key(console: Console, audience: str, kid: str, place: Place, yes: bool) -> None:
    """Remove the service's own key KID: its holder can fetch no more keys.  Invite it again for a new key."""
    console.confirm(f"remove the key {kid[:64]} of {SERVICES.check(audience)}?", yes=yes)
    _show(console, place.mint().call("PATCH", SERVICES.path_of(audience), {"remove_kid": kid}))


@service_command.command("replace-key")
@click.argument("audience")
@click.option("--stolen", is_flag=True, help="revoke the old keys now; tokens signed with them stop working")
@yes_option
@operator_options
def replace_key(console: Console, audience: str, place: Place, stolen: bool, yes: bool) -> None:
    """Replace the key of the tool service AUDIENCE; existing tokens stay valid, except with --stolen."""
    if stolen:
        console.confirm(f"revoke every token for {SERVICES.check(audience)}?", yes=yes)
    path = f"{SERVICES.path_of(audience)}/replace-key"
    _report_end(console, place.mint(KILL_S).call("POST", path, {"stolen": stolen}))
    if not stolen:
        console.hint("the service fetches the new key at its next refresh")
    else:
        console.hint(
            f"if the service's own key was stolen as well, run `arx service remove-key {audience} KID` (`arx service "
            f"show {audience}` lists them), then this command again"
        )
        console.hint(
            "run `arx ship FILE --once` where the service runs; until it has the new key it refuses every call"
        )


@service_command.command("remove")
@click.argument("audience")
@yes_option
@operator_options
def remove(console: Console, audience: str, place: Place, yes: bool) -> None:
    """Remove the tool service AUDIENCE: its own keys and all tokens for it are refused."""
    console.confirm(f"remove the service {SERVICES.check(audience)}?", yes=yes)
    _report_end(console, place.mint(KILL_S).call("DELETE", SERVICES.path_of(audience)))


def _report_end(console: Console, answer: dict[str, Any]) -> None:
    rows = [("service", answer["audience"]), ("freeze", (answer["kill"] or {}).get("summary"))]
    console.data("service", answer, lambda: pairs(rows))


def _show(console: Console, service: dict[str, Any]) -> None:
    console.data("service", {"service": service}, lambda: pairs(facts_of({**service, "shipped_at": _shipped(service)})))
