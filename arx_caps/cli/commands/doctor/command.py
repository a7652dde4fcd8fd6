# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: look at a realm's folder, its store and its mint, and say how to mend what is wrong.

It only looks.  Each check answers for one thing that ARx rests on and cannot itself enforce: who can read the keys,
that the store writes to disk before it answers and evicts nothing, that the clocks agree.  ``store`` has the checks of
the store and of the clocks, ``history`` compares its history, ``witness`` asks the witnesses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import httpx
import msgspec

from arx_caps.audit.merkle import read_signer
from arx_caps.cli import exit_codes
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.cli.commands.doctor.store import check_store
from arx_caps.cli.commands.doctor.witness import check_witnesses
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import Place, all_options
from arx_caps.cli.terminal import Console, plain
from arx_caps.http_client import no_answer, open_client
from arx_caps.realm import Realm
from arx_verifier._native import about_build
from arx_verifier.errors import ArxError, SettingsError

TIMEOUT_S: Final = 3.0
EXITS: Final = {True: exit_codes.OK, False: exit_codes.DENIED, None: exit_codes.INCOMPLETE}
MARKS: Final = {
    True: click.style("ok  ", fg="green"),
    False: click.style("BAD ", fg="red", bold=True),
    None: click.style("unknown", fg="yellow"),
}


class _Readiness(msgspec.Struct, frozen=True):
    """What a mint answers at ``/readyz``; reading it needs no part of a mint."""

    ready: bool
    because: list[str]
    log: str
    realm: str
    issuer: str
    log_key: str


@click.command("doctor")
@all_options
@common_options
@pass_console
def doctor_command(console: Console, place: Place) -> None:
    """Look for what is wrong and say how to mend it.

    Exits with 1 when something is wrong, with 3 when nothing is, but something could not be looked at.
    """
    checks = list(_checks(place))
    results = {check.ok for check in checks}
    well = False if False in results else None if None in results else True
    value = {"ok": well, "checks": [check._asdict() for check in checks]}
    console.data("doctor", value, lambda: "\n".join(map(_line, checks)))
    click.get_current_context().exit(EXITS[well])


def _line(check: Check) -> str:
    mark = MARKS[check.ok]
    mend = f"\n     mend: {plain(check.mend)}" if check.mend else ""
    return f"{mark} {check.name}: {plain(check.found)}{mend}"


def _checks(place: Place) -> Iterator[Check]:
    yield Check("verifier", True, about_build())
    try:
        realm = Realm.open(place.realm_dir)
    except ArxError as error:
        mend = "run `arx init`, or name the folder with --realm-dir or ARX_HOME"
        if (place.realm_dir / "realm.toml").exists():
            mend = "correct that file; `arx init` in another folder shows how one looks"
        yield Check("realm", False, str(error), mend)
        return
    yield Check("realm", True, f"{realm.name} in {realm.folder}")
    yield _permissions(realm)
    yield _policy(realm)
    yield from check_store(place.given_store, realm)
    yield from _mint(place.issuer or realm.issuer, realm)
    yield from check_witnesses(realm)


def _permissions(realm: Realm) -> Check:
    open_to_others = [path for path in _secrets(realm) if path.exists() and path.stat().st_mode & 0o077]
    if not open_to_others:
        return Check("permissions", True, "only this user can read the realm's secrets")
    named = " ".join(map(str, open_to_others))
    return Check("permissions", False, f"others can reach {named}", f"chmod go= {named}; think who has read them")


def _secrets(realm: Realm) -> list[Path]:
    services = list(realm.services_dir.glob("*.json")) if realm.services_dir.is_dir() else []
    return [
        realm.folder,
        realm.root_path,
        realm.root_key_path,
        realm.log_key_path,
        realm.operator_key_path,
        realm.valkey_dir,
        *services,
    ]


def _policy(realm: Realm) -> Check:
    from arx_caps.mint.policy.model import Policy

    try:
        policy = Policy.load(realm.policy_path)
    except ArxError as error:
        return Check("policy", False, str(error), f"edit it, then `arx policy check {realm.policy_path}`")
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
        found = f"{issuer} answers {answer.status_code}, and not as a mint of this version does"
        yield Check("mint", False, found, "something else listens there: end it, or correct `issuer` and `listen`")
        return
    if wrong := _another(readiness, realm):
        mend = "correct `issuer` and `listen` in realm.toml, or what leads to that address"
        yield Check("mint", False, f"{issuer} answers as {wrong}", mend)
        return
    if readiness.ready:
        yield Check("mint", True, f"{issuer} is ready")
    else:
        found = f"{issuer} is not ready: {'; '.join(readiness.because)[:300]}"
        yield Check("mint", False, found, "see its log; it is ready once it can record and follows the store")
    if readiness.log == "ok":
        yield Check("audit log", True, "it is signed")
    if readiness.log == "halted":
        found = "its database contradicts what was signed: it is not signed any more, and takes no service's records"
        mend = "the mint's log says how; stop every mint, then `arx audit reindex` (docs/audit.md)"
        yield Check("audit log", False, found, mend)


def _another(readiness: _Readiness, realm: Realm) -> str | None:
    """Name the mint that answered, where it is not this realm's: another name, issuer or log key; else None."""
    if readiness.realm != realm.name:
        return f"the mint of the realm {readiness.realm}"
    if readiness.issuer != realm.issuer:
        return f"a mint whose issuer is {readiness.issuer}, not {realm.issuer}"
    try:
        own = str(read_signer(realm.log_key_path, "log").key)
    except ArxError:
        return None  # the permissions check names what cannot be read
    return None if readiness.log_key == own else f"the mint of another realm {realm.name}: its log has another key"
