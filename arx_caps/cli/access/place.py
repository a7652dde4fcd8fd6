# SPDX-License-Identifier: Apache-2.0
"""The options that locate the realm's folder, the mint, the operator's key and the store.

Each is an option, else an ``ARX_…`` variable, else a default.  The default folder is ``./.arx``; its ``operator.key``
names the issuer, and its ``realm.toml`` names the store.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from click.core import ParameterSource

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options
from arx_caps.settings.realm import DEFAULT_FOLDER, Realm
from arx_verifier._platform import HAS_MODES, is_open_to_others
from arx_verifier.errors import SettingsError
from arx_verifier.tls import VARIABLE

if TYPE_CHECKING:
    from arx_caps.cli.access.mint_session import Caller
    from arx_caps.revocation.store import RevocationStore

Command = Callable[..., Any]

ROOT_UID: Final = 0
STORE_HINT: Final = (
    "name the store with --store URL (ARX_STORE_URL; its password in ARX_STORE_PASSWORD) and the realm with --realm "
    "NAME, or the realm's folder with --realm-dir or ARX_HOME"
)
_path = click.Path(path_type=Path)


def _own(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Refuse a default folder that belongs to another user, or that other users can open."""
    # The folder names the store and the mint.  One that an attacker left in a source tree or in /tmp would receive the
    # store's password, and could report kills that never happened.  A folder that the user named is trusted.
    given = param.name is None or ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT
    if given or not os.path.lexists(value):
        return value
    wrong = _foreign(value)
    if wrong:
        hint = f"if it is yours, run `chmod go= {value}`; else name a folder with --realm-dir or ARX_HOME"
        raise Stop(f"{value.absolute()} {wrong}: it is not used as the default realm", hint=hint, code="foreign_realm")
    return value


def _foreign(folder: Path) -> str | None:
    """Return why a folder is not private to this user, or None."""
    if not HAS_MODES:
        return None
    try:
        link, found = folder.lstat(), folder.stat()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    # A symbolic link and its target: either owner could replace the folder.
    strangers = {link.st_uid, found.st_uid} - {os.geteuid(), ROOT_UID}
    if strangers:
        return f"belongs to another user (uid {min(strangers)})"
    return "is open to other users" if is_open_to_others(found.st_mode) else None


realm_dir_option = click.option(
    "--realm-dir",
    type=_path,
    envvar="ARX_HOME",
    default=Path(DEFAULT_FOLDER),
    show_default=True,
    callback=_own,
    help="folder of the realm",
)
issuer_option = click.option("--issuer", envvar="ARX_ISSUER", help="URL of the mint [from the key file]")
_operator_key_option = click.option(
    "--operator-key",
    type=_path,
    envvar="ARX_OPERATOR_KEY",
    help="key file of an operator [operator.key in the realm's folder]",
)


def _without_password(password: str, whole: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return a callback that refuses a password on the command line, which every user of the machine can read."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        typed = param.name is not None and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        if value is None or not typed:
            return value
        # A URL from a variable may have a password: other users cannot read the environment.
        place = password_in(value)
        if place is not None:
            instead = whole if place == "query" else password
            raise click.BadParameter(f"other users can read a password here: set {instead} instead", ctx, param)
        return value

    return check


def password_in(url: str) -> Literal["login", "query"] | None:
    """Return where a URL has a password; None without one."""
    place, _, query = url.partition("://")[2].partition("?")
    if ":" in place.partition("/")[0].rpartition("@")[0]:
        return "login"
    return "query" if any(field.partition("=")[0].endswith("password") for field in query.split("&")) else None


store_url_option = click.option(
    "--store",
    envvar="ARX_STORE_URL",
    callback=_without_password("ARX_STORE_PASSWORD", "ARX_STORE_URL"),
    help="URL of the revocation store, its password in ARX_STORE_PASSWORD [from realm.toml]",
)
database_option = click.option(
    "--database",
    envvar="ARX_DATABASE",
    callback=_without_password("ARX_DATABASE_PASSWORD", "ARX_DATABASE"),
    help="URL of the mint's PostgreSQL, its password in ARX_DATABASE_PASSWORD [from realm.toml]",
)
ca_option = click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    envvar=VARIABLE,
    help="PEM file of an additional certification authority for TLS",
)
_realm_option = click.option("--realm", envvar="ARX_REALM", help="name of the realm, with --store [from realm.toml]")
# What a `Place` has beside the realm's folder.
_MINT: Final = ("issuer", "operator_key")
_STORE: Final = ("store", "realm")


class Place:
    """The realm, mint, key and store of an operator's command.

    Attributes:
        realm_dir: The realm's folder; a remote operator has none.
        issuer: The mint's URL, or None: the key file names it.
        operator_key: The key file.
        given_store: The store's URL from the command line, or None: the realm's folder names it.
    """

    def __init__(
        self,
        realm_dir: Path,
        issuer: str | None = None,
        operator_key: Path | None = None,
        store: str | None = None,
        realm: str | None = None,
    ) -> None:
        self.realm_dir, self.issuer = realm_dir, issuer
        self.operator_key, self._named = operator_key or realm_dir / "operator.key", operator_key is not None
        self.given_store, self._realm = store, realm

    def mint(self, timeout_s: float = 30.0) -> "Caller":
        """Sign in to the mint.

        Args:
            timeout_s: The longest time for an answer, seconds.

        Raises:
            Stop: The key file is missing, or the mint does not answer or does not know the key.
            SettingsError: The key file cannot be used.
        """
        from arx_caps.cli.access.mint_session import Caller

        if not self.operator_key.exists() and not self._named:
            login = self._login_key()
            if login is not None:
                return _by_login(login, timeout_s, self.ca())
        if not self.operator_key.exists():
            hint = "give --operator-key FILE, or the realm's folder with --realm-dir or ARX_HOME; or run `arx login`"
            if (self.realm_dir / "realm.toml").exists():
                hint += f"; if every key is lost, run `arx operator recover --key-out {self.operator_key}`"
            raise Stop(f"{self.operator_key}: no such key file of an operator", hint=hint, code="no_key")
        return Caller.operator(self.operator_key, self.issuer, timeout_s, self.ca())

    def mint_url(self) -> str:
        """Return the URL of the mint: the one given, else that of the realm's folder, else that of the only login.

        Raises:
            Stop: None is known.
        """
        issuer = self._known_issuer()
        if issuer is not None:
            return issuer.rstrip("/")
        login = self._login_key()
        if login is None:
            raise Stop("expected the mint's URL", hint="give --issuer URL, or set ARX_ISSUER", code="issuer")
        from arx_caps.credentials.keyfile import KeyFile

        return KeyFile.load(login).issuer

    def _known_issuer(self) -> str | None:
        """Return the issuer that was given, else that of the realm's folder, or None."""
        if self.issuer is not None:
            return self.issuer
        with contextlib.suppress(SettingsError):
            return Realm.open(self.realm_dir).issuer
        return None

    def _login_key(self) -> Path | None:
        """Return the key of a login at the mint, or None."""
        issuer = self._known_issuer()
        if issuer is not None:
            path = login_key_path(issuer)
            return path if path.exists() else None
        keys = sorted(login_key_path("").parent.glob("*.key"))
        if len(keys) > 1:
            raise Stop("there are logins at several mints", hint="name one with --issuer URL", code="issuer")
        return keys[0] if keys else None

    def ca(self) -> str | None:
        """Return the file of the additional authority in the realm's settings, or None."""
        try:
            return Realm.open(self.realm_dir).ca
        except SettingsError:
            return None  # a remote operator has no realm's folder

    def realm_name(self) -> str:
        """Return the realm's name, from the command line or the folder.

        Raises:
            SettingsError: The folder has no realm.
        """
        return self._realm or Realm.open(self.realm_dir).name

    def store(
        self, *, outcome_s: float | None = None, on_doubt: Callable[[str], None] = lambda _: None
    ) -> "RevocationStore":
        """Return the realm's revocation store, without asking the mint.

        Args:
            outcome_s: How long to ask for the outcome of a kill, seconds.
            on_doubt: Called with a sentence while an outcome is unknown.

        Raises:
            SettingsError: The realm's settings or the URL are invalid.
        """
        from arx_caps.revocation.store import RevocationStore
        from arx_verifier.revocation.password import find_password

        # Kills must work while the mint is down, so the store is opened without it.
        password = find_password("ARX_STORE_PASSWORD")
        where = self.followed()
        return RevocationStore(*where, password=password, outcome_s=outcome_s, on_doubt=on_doubt, ca=self.ca())

    def followed(self) -> tuple[str, str]:
        """Return the URL of the store, or of a relay to it, and the realm's name.

        Raises:
            SettingsError: The realm's settings are invalid, or neither they nor the options name store and realm.
        """
        url, name = self.given_store, self._realm
        if url is None or name is None:
            try:
                realm = Realm.open(self.realm_dir)
            except SettingsError as error:
                # A remote operator has no realm's folder, and must not be advised to make a realm.
                if not (self.realm_dir / "realm.toml").exists():
                    error.hint = STORE_HINT
                raise
            url, name = url or store_url(realm), name or realm.name
        return url, name


def login_key_path(issuer: str) -> Path:
    """Return the file of the key that `arx login` enrols at a mint."""
    name = re.sub(r"[^A-Za-z0-9.-]", "_", issuer.rstrip("/"))
    return Path(click.get_app_dir("arx")) / "login" / f"{name}.key"


def _by_login(key: Path, timeout_s: float, ca: str | None) -> "Caller":
    from arx_caps.cli.access.mint_session import Caller

    try:
        return Caller.operator(key, None, timeout_s, ca)
    except Stop as error:
        if error.code == "bad_assertion":
            error.hint = "the login has ended: run `arx login`"
        raise


def store_url(realm: Realm) -> str:
    """Return the URL of a realm's store: its setting, or the socket of the server that ``arx up`` runs."""
    from arx_caps.embedded import socket_url

    return realm.store or socket_url(realm.valkey_dir)


def ledger_url(realm: Realm) -> str | None:
    """Return the URL of a realm's ledger: its setting, or the socket of the server that ``arx up`` runs, or None."""
    from arx_caps.embedded import socket_url

    return socket_url(realm.ledger_dir) if realm.runs_ledger else realm.ledger


def operator_options(function: Command) -> Command:
    """Add the options of every command and those that locate the mint; the function gets ``console`` and ``place``."""
    return mint_options(command_options(function))


def store_options(function: Command) -> Command:
    """Add the options of every command and those that locate the store; the function gets ``console`` and ``place``."""
    return realm_dir_option(store_url_option(_realm_option(_placed(command_options(function), *_STORE))))


def all_options(function: Command) -> Command:
    """Add the options of every command and those that locate mint and store; as ``store_options`` does."""
    return _mint_options(store_url_option(_realm_option(_placed(command_options(function), *_MINT, *_STORE))))


def mint_options(function: Command) -> Command:
    """Add the options that locate the mint; the function gets them as ``place``."""
    return _mint_options(_placed(function, *_MINT))


def _mint_options(function: Command) -> Command:
    return realm_dir_option(issuer_option(_operator_key_option(function)))


def _placed(function: Command, *names: str) -> Command:
    """Replace the realm's folder and these options of a function by one ``Place``."""

    @functools.wraps(function)
    def with_place(*args: Any, **options: Any) -> Any:
        place = Place(options.pop("realm_dir"), **{name: options.pop(name) for name in names})
        return function(*args, place=place, **options)

    return with_place
