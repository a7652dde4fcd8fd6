# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: the command, and the checks of a realm's folder and its mint.

The checks read and change nothing.  Each is of a condition that ARx relies on and cannot enforce, such as the
permissions of keys or the durability of the store.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import httpx
import msgspec

from arx_caps.agent.mint_client import OF_PROXIES, PROXY_HINT
from arx_caps.audit.merkle import read_signer
from arx_caps.cli import exit_codes
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.cli.commands.doctor.ledger import check_ledger
from arx_caps.cli.commands.doctor.login import check_login
from arx_caps.cli.commands.doctor.notifications import check_notifications
from arx_caps.cli.commands.doctor.oauth import check_oauth
from arx_caps.cli.commands.doctor.store import check_store
from arx_caps.cli.commands.doctor.witness import check_witnesses
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import Place, all_options
from arx_caps.cli.terminal import Console, plain
from arx_caps.http_client import no_answer, open_client
from arx_caps.realm import Realm
from arx_verifier._native import COMPILED, about_build
from arx_verifier.errors import ArxError, SettingsError

TIMEOUT_S: Final = 3.0
EXITS: Final = {True: exit_codes.OK, False: exit_codes.DENIED, None: exit_codes.INCOMPLETE}
MARKS: Final = {
    True: click.style("ok  ", fg="green"),
    False: click.style("BAD ", fg="red", bold=True),
    None: click.style("unknown", fg="yellow"),
}


class _Readiness(msgspec.Struct, frozen=True):
    """A mint's answer at ``/readyz``; declared here, because the mint need not be installed."""

    ready: bool
    because: list[str]
    log: str
    realm: str
    issuer: str
    log_key: str


@click.command("doctor")
@click.option("--oauth", metavar="URL", help="check what an OAuth client finds at URL of a gateway, and nothing else")
@all_options
@common_options
@pass_console
def doctor_command(console: Console, place: Place, oauth: str | None) -> None:
    """Check the realm's folder, store, ledger, clocks, mint and witnesses, and print how to repair what is wrong.

    With --oauth no realm is needed, and no credential is sent: run it where the client runs.

    Exit code 0: all in order; 1: a check failed; 3: a check could not be made.
    """
    # All checks are made, also after a failed one: one repair at a time would take an operator one run per mistake.
    checks = list(_checks(place) if oauth is None else check_oauth(oauth))
    results = {check.ok for check in checks}
    well = False if False in results else None if None in results else True
    value = {"ok": well, "checks": [check._asdict() for check in checks]}
    console.data("doctor", value, lambda: "\n".join(map(_line, checks)))
    click.get_current_context().exit(EXITS[well])


def _line(check: Check) -> str:
    mark = MARKS[check.ok]
    mend = f"\n     hint: {plain(check.mend)}" if check.mend else ""
    return f"{mark} {check.name}: {plain(check.found)}{mend}"


def _checks(place: Place) -> Iterator[Check]:
    how = "hashes and base64 run as compiled C" if COMPILED else f"hashes and base64 run as {about_build()}"
    yield Check("verifier", True, how)
    try:
        realm = Realm.open(place.realm_dir)
    except ArxError as error:
        mend = (
            "run it in the folder that has `.arx`, name the realm's folder with --realm-dir or ARX_HOME, or make a "
            "realm with `arx init`"
        )
        if (place.realm_dir / "realm.toml").exists():
            mend = "correct realm.toml; `arx init` in another folder writes an example"
        yield Check("realm", False, str(error), mend)
        return
    yield Check("realm", True, f"{realm.name} in {realm.folder}")
    yield _permissions(realm)
    yield _policy(realm)
    yield from check_store(place.given_store, realm)
    yield from check_ledger(realm, own=realm.runs_ledger and place.given_store is None)
    yield from _mint(place.issuer or realm.issuer, realm)
    yield from check_login(realm)
    yield from check_notifications(realm)
    yield from check_witnesses(realm)


def _permissions(realm: Realm) -> Check:
    open_to_others = [path for path in _secrets(realm) if path.exists() and path.stat().st_mode & 0o077]
    if not open_to_others:
        return Check("permissions", True, "only this user can read the realm's secrets")
    named = " ".join(map(str, open_to_others))
    return Check(
        "permissions",
        False,
        f"other users can read {named}",
        f"run `chmod go= {named}`; if one of them may have read a key, rotate it",
    )


def _secrets(realm: Realm) -> list[Path]:
    # Service files have keys that make valid tokens for the service.
    services = list(realm.services_dir.glob("*.json")) if realm.services_dir.is_dir() else []
    return [
        realm.folder,
        realm.root_path,
        realm.root_key_path,
        realm.log_key_path,
        realm.operator_key_path,
        realm.valkey_dir,
        realm.ledger_dir,
        *services,
    ]


def _policy(realm: Realm) -> Check:
    from arx_caps.mint.policy.model import Policy

    try:
        policy = Policy.load(realm.policy_path)
    except ArxError as error:
        return Check("policy", False, str(error), f"edit it, then run `arx policy check {realm.policy_path}`")
    return Check("policy", True, f"{len(policy.templates)} task templates, digest {policy.digest}")


def _mint(issuer: str, realm: Realm) -> Iterator[Check]:
    try:
        with open_client(issuer, timeout=TIMEOUT_S, ca=realm.ca) as client:
            answer = client.get(issuer + "/readyz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{issuer} did not answer ({no_answer(error, issuer)})"
        yield Check("mint", False, found, "run `arx up` or `arx mint serve`, or set `ca` in realm.toml")
        return
    except SettingsError as error:
        yield Check("mint", False, str(error), "correct `ca` in realm.toml, or ARX_CA")
        return
    try:
        readiness = msgspec.json.decode(answer.content, type=_Readiness)
    except msgspec.DecodeError:
        if answer.status_code in OF_PROXIES:
            found = f"{issuer} answers {answer.status_code}, as a proxy whose mint did not answer"
            yield Check("mint", False, found, PROXY_HINT)
            return
        found = f"{issuer} answers {answer.status_code}: expected a mint of this version"
        yield Check(
            "mint",
            False,
            found,
            "stop the other server at this address, or correct `issuer` and `listen` in realm.toml",
        )
        return
    # Two realms can share an address by mistake: every command would then fail with "unknown key".
    if wrong := _another(readiness, realm):
        mend = "correct `issuer` and `listen` in realm.toml, or the proxy at that address"
        yield Check("mint", False, f"{issuer} answers as {wrong}", mend)
        return
    if readiness.ready:
        yield Check("mint", True, f"{issuer} is ready")
    else:
        found = f"{issuer} is not ready: {'; '.join(readiness.because)[:300]}"
        yield Check("mint", False, found, "see its log: it is ready when it can record decisions and follows the store")
    if readiness.log == "ok":
        yield Check("audit log", True, "signed")
    # `halted` needs an operator; `starting` and others end by themselves.
    if readiness.log == "halted":
        found = "halted: its database differs from what was signed, so it accepts no records of services"
        mend = "stop every mint, then run `arx audit reindex` (docs/audit.md); the mint's log has the details"
        yield Check("audit log", False, found, mend)


def _another(readiness: _Readiness, realm: Realm) -> str | None:
    """Return a name for the mint that answered if it is of another realm, issuer or log key; else None."""
    if readiness.realm != realm.name:
        return f"the mint of the realm {readiness.realm}"
    if readiness.issuer != realm.issuer:
        return f"a mint whose issuer is {readiness.issuer}, not {realm.issuer}"
    try:
        own = str(read_signer(realm.log_key_path, "log").key)
    except ArxError:
        return None  # another check reports an unreadable key
    return None if readiness.log_key == own else f"the mint of another realm {realm.name}: its log has another key"
