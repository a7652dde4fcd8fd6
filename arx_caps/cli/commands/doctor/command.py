# SPDX-License-Identifier: Apache-2.0
"""``arx doctor``: the command, and the checks of a realm's folder.

The checks read and change nothing.  Each is of a condition that ARx relies on and cannot enforce, such as the
permissions of keys or the durability of the store.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, all_options, password_in
from arx_caps.cli.commands.doctor.certificates import check_certificates
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.cli.commands.doctor.cluster import check_cluster
from arx_caps.cli.commands.doctor.database import check_backups, check_database
from arx_caps.cli.commands.doctor.ledger import check_ledger
from arx_caps.cli.commands.doctor.login import check_connections, check_login
from arx_caps.cli.commands.doctor.mints import check_mints, check_witnesses
from arx_caps.cli.commands.doctor.notifications import check_notifications
from arx_caps.cli.commands.doctor.oauth import check_oauth
from arx_caps.cli.commands.doctor.store import check_store
from arx_caps.cli.terminal import Console, plain
from arx_caps.credentials.secret_source import COMMAND
from arx_caps.database.engines import PASSWORD_VARIABLE
from arx_caps.settings.realm import PASSPHRASE_VARIABLE, ROOT_KEY_VARIABLE, Realm
from arx_verifier._native import COMPILED, about_build
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.revocation.password import FILE_SUFFIX, read_secret_file

EXITS: Final = {True: exit_codes.OK, False: exit_codes.DENIED, None: exit_codes.INCOMPLETE}
SECRETS: Final = (  # variables that hold a secret of one line; with `_FILE` added they name its file
    "ARX_STORE_PASSWORD",
    "ARX_LEDGER_PASSWORD",
    "ARX_NONCES_PASSWORD",
    "ARX_RELAY_PASSWORD",
    PASSWORD_VARIABLE,
    PASSPHRASE_VARIABLE,
    ROOT_KEY_VARIABLE,
)
FURTHER: Final = ("ARX_HOLDER_KEY", "ARX_TASK")  # with `_FILE` added, of an agent
URLS: Final = ("ARX_STORE_URL", "ARX_DATABASE")  # variables whose URL may have a password
MARKS: Final = {
    True: click.style("ok  ", fg="green"),
    False: click.style("BAD ", fg="red", bold=True),
    None: click.style("unknown", fg="yellow"),
}


@click.command("doctor")
@click.option("--oauth", metavar="URL", help="check what an OAuth client finds at URL of a gateway, and nothing else")
@all_options
def doctor_command(console: Console, place: Place, oauth: str | None) -> None:
    """Check the realm's folder, store, services, ledger, database, mints, certificates, clocks and witnesses.

    It prints how to repair what is wrong, and asks each mint and the proxy before them.

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
        yield from (Check("realm", False, str(mistake), mend) for mistake in (error, *getattr(error, "further", ())))
        return
    yield Check("realm", True, f"{realm.name} in {realm.folder}")
    yield _permissions(realm)
    yield _environment()
    yield _policy(realm)
    yield from check_store(place.given_store, realm)
    yield from check_ledger(realm, own=realm.runs_ledger and place.given_store is None)
    yield from check_cluster(realm)
    yield from check_database(realm)
    yield from check_backups(realm)
    issuer = place.issuer or realm.issuer
    yield from check_mints(issuer, realm)
    yield from check_certificates(issuer, place.given_store, realm)
    yield from check_login(realm)
    yield from check_notifications(realm)
    yield from check_connections(realm)
    yield from check_witnesses(realm)


def _permissions(realm: Realm) -> Check:
    open_to_others = [path for path in _secrets(realm) if path.exists() and path.stat().st_mode & 0o077]
    if not open_to_others:
        return Check("permissions", True, "only this user can read the realm's secrets")
    named = " ".join(map(str, open_to_others))
    mend = f"run `chmod go= {named}`; if one of them may have read a key, rotate it"
    return Check("permissions", False, f"other users can read {named}", mend)


def _environment() -> Check:
    for name in SECRETS:
        source = os.environ.get(name + FILE_SUFFIX, "")
        if not source or source.startswith(COMMAND):  # a command may ask a person, or write to a log
            continue
        try:
            read_secret_file(Path(source))
        except SettingsError as error:
            mend = "correct the file, or the variable"
            return Check("environment", False, f"{name}{FILE_SUFFIX}: {error}", mend)
    held = [name for name in (*SECRETS, *FURTHER) if os.environ.get(name)]
    held += [name for name in URLS if password_in(os.environ.get(name, ""))]
    if not held:
        return Check("environment", True, "no secret is in a variable")
    mend = (
        "write each into a file that only this user can read, and name it in the variable with `_FILE` added "
        "(docs/settings.md, secrets in files)"
    )
    found = f"{' '.join(held)}: each child process and crash report gets it, and a rotated one needs a restart"
    return Check("environment", True, found, mend)  # it works, and could be safer


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
