# SPDX-License-Identifier: Apache-2.0
"""The result of one check of ``arx doctor``, and what several checks read; the other modules here are the checks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.revocation.password import find_password
from arx_verifier.revocation.store_url import Address
from arx_verifier.service import ServiceConfig, read_service_file

if TYPE_CHECKING:
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.policy.model import Policy

_Answer = TypeVar("_Answer")


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: The checked part.
        ok: Whether it is in order; None if that is unknown.
        found: Its state.
        mend: How to repair it, in the imperative; for what is in order, how to have more of it, or empty.
    """

    name: str
    ok: bool | None
    found: str
    mend: str = ""


def find_address(name: str, url: str, realm: Realm) -> Address | Check:
    """Return the address of a server with its password, or the check that found one of them unusable.

    Args:
        name: ``store`` or ``ledger``, as the setting of the URL and the check are named.
        url: The server's URL.
        realm: The realm.
    """
    mend = "correct the file of the password, or the variable that names it"
    try:
        password = find_password(f"ARX_{name.upper()}_PASSWORD")
        mend = f"correct `{name}` in realm.toml"
        return Address(url, password, realm.name, ca=realm.ca, name=name)
    except SettingsError as error:
        return Check(name, False, str(error), mend)


def ask_database(realm: Realm, question: Callable[["MintDatabase"], _Answer]) -> _Answer | None:
    """Return the answer of the mint's database; None if it is missing or fails, which another check reports.

    Args:
        realm: The realm.
        question: Reads from the database.
    """
    from arx_caps.mint.db.mint_database import MintDatabase

    if not has_database(realm):
        return None
    try:
        with MintDatabase(realm.database_url) as db:
            return question(db)
    except ArxError:
        return None


def has_database(realm: Realm) -> bool:
    """Return whether the mint's database may exist: opening a missing file would make an empty one."""
    return realm.database is not None or realm.database_path.exists()


def service_files(realm: Realm) -> Iterator[tuple[Path, ServiceConfig]]:
    """Yield the service files of the realm's folder that can be read; its service reports what is wrong with one."""
    for path in sorted(realm.services_dir.glob("*.json")) if realm.services_dir.is_dir() else ():
        try:
            file = read_service_file(path)
        except ArxError:
            continue
        yield path, file


def load_policy(realm: Realm) -> "Policy | None":
    """Return the policy of the realm's folder; None if it cannot be read, which another check reports."""
    from arx_caps.mint.policy.model import Policy

    try:
        return Policy.load(realm.policy_path)
    except ArxError:
        return None
