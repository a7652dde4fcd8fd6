# SPDX-License-Identifier: Apache-2.0
"""Create a realm, and recover an operator of one. SPEC 9.

A realm is its folder, keys, first operator, sample policy and empty database.
"""

import os
from dataclasses import replace
from importlib.resources import files
from typing import Final

from arx_caps.credentials.keyfile import KeyFile, PublicKey, write_secret
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.operators import ADMIN
from arx_caps.mint.keys.log_key import make_log_key
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.new_folder import new_folder
from arx_caps.settings.realm import DEFAULT_LISTEN, Realm
from arx_verifier.errors import SettingsError

FIRST_OPERATOR: Final = "root"


def init_realm(
    folder: str | os.PathLike[str],
    *,
    name: str,
    issuer: str,
    listen: str = DEFAULT_LISTEN,
    passphrase: str | None = None,
    store: str | None = None,
    database: str | None = None,
    log_origin: str | None = None,
    ca: str | None = None,
) -> Realm:
    """Create a realm.

    Args:
        folder: Its folder, which must not exist, or must belong to this user and be empty.
        name: The realm's name.
        issuer: The mint's public base URL, such as ``http://127.0.0.1:8700``.
        listen: Host and port to listen at.
        passphrase: Seals the root key; a key file in the folder when omitted.
        store: URL of an external revocation store, or None.
        database: URL of an external database that holds no other realm, or None.
        log_origin: The audit log's name, for good; issuer's host, realm and ``log`` when omitted.
        ca: File of a further authority for TLS.

    Returns:
        The realm.

    Raises:
        SettingsError: The folder is in use, or a setting is invalid.
        NoteError: The log's name is invalid.
    """
    realm = Realm.plan(folder, name=name, issuer=issuer, listen=listen, store=store, database=database, ca=ca)
    with new_folder(realm.folder) as half_made:
        _fill(replace(realm, folder=half_made), passphrase, log_origin or realm.log_origin)
    return realm


def sample_policy(organization: str) -> str:
    """Return the policy that a new realm begins with.

    Args:
        organization: The first segment of its agents' paths.
    """
    text = files("arx_caps.mint.policy").joinpath("sample_policy.toml").read_text("utf-8")
    return text.replace('"acme/', f'"{organization}/')


def _fill(realm: Realm, passphrase: str | None, log_origin: str) -> None:
    for part in ("keys", "valkey", "ledger", "journals", "services"):
        (realm.folder / part).mkdir(mode=0o700)
    # Each file is private by itself, for any umask: the policy must stay unwritable if the folder is opened later.
    write_secret(realm.folder / "realm.toml", realm.settings().encode())
    write_secret(realm.policy_path, sample_policy(realm.name).encode())
    if realm.database is None:
        write_secret(realm.database_path, b"")  # SQLite gives its other files the mode of this one
    roots = RootKeys.create(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    make_log_key(realm.log_key_path, log_origin, roots)
    operator = KeyFile.generate("operator", FIRST_OPERATOR, realm.issuer)
    operator.save(realm.operator_key_path)
    what = Event.of("operator.enrolled", "init", operator=FIRST_OPERATOR, key=operator.key.public.kid)
    with MintDatabase(realm.database_url, writer="init") as db:
        db.create()
        if db.operators.exist():
            # A second first operator would administer the realm that uses this database.
            raise SettingsError("the database has a realm already: name another database, or an empty one")
        db.keys.know_roots(roots.names)
        db.operators.add(db.unit(), FIRST_OPERATOR, operator.key.public, what, role=ADMIN)


def recover_operator(realm: Realm, name: str, key: PublicKey, *, passphrase: str | None) -> None:
    """Give an operator the role ``admin`` and a new key, on the mint's own host.

    Args:
        realm: The realm.
        name: A new operator's name, or one whose keys are lost.
        key: The new key.
        passphrase: Opens the root keys, if a passphrase seals them.

    Raises:
        SettingsError: The root keys do not open, or the database belongs to another version.
        GrantError: ``conflict``: an operator of that name was removed.
        StoreError: The database did not answer.
    """
    # The root keys must open: a caller who can open them could mint any token, so this gives it no further power.
    RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    what = Event.of("operator.recovered", f"host:uid-{os.getuid()}", operator=name, key=key.kid)
    with MintDatabase(realm.database_url, writer="recover") as db:
        db.create()
        db.operators.recover(name, key, what)
