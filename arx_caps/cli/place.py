# SPDX-License-Identifier: Apache-2.0
"""Where a command works: the realm's folder, the mint, the operator's key, the store.

Each is an option, else an ``ARX_…`` variable, else the default: ``./.arx``, and in it ``operator.key``, which also says
the issuer, and ``realm.toml``, which also says the store.  That default is only used where it is this user's alone.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import click
from click.core import ParameterSource

from arx_caps.cli.exit_codes import Stop
from arx_caps.realm import DEFAULT_FOLDER, Realm
from arx_verifier.errors import SettingsError
from arx_verifier.tls import VARIABLE

if TYPE_CHECKING:
    from arx_caps.cli.mint_session import Caller
    from arx_caps.revocation import RevocationStore

F = TypeVar("F", bound=Callable[..., Any])

ROOT_UID: Final = 0
_path = click.Path(path_type=Path)


def _own(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Refuse a default folder that is not this user's alone.

    It says where the store and the mint are: found in another user's folder, or in an unpacked source tree, it would
    be sent the store's password, and could report kills that never were.
    """
    given = param.name is None or ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT
    if given or not os.path.lexists(value):
        return value
    wrong = _foreign(value)
    if wrong:
        hint = f"`arx init` makes it private; if it is yours, `chmod go= {value}`, else name it: --realm-dir, ARX_HOME"
        raise Stop(f"{value.absolute()} {wrong}, so it is not used unasked", hint=hint, code="foreign_realm")
    return value


def _foreign(folder: Path) -> str | None:
    """Return in which way a folder is not this user's alone, or None."""
    try:
        link, found = folder.lstat(), folder.stat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    strangers = {link.st_uid, found.st_uid} - {os.geteuid(), ROOT_UID}
    if strangers:
        return f"belongs to another user (uid {min(strangers)})"
    return "is open to other users" if found.st_mode & 0o077 else None


realm_dir_option = click.option(
    "--realm-dir",
    type=_path,
    envvar="ARX_HOME",
    default=Path(DEFAULT_FOLDER),
    show_default=True,
    callback=_own,
    help="the realm's folder",
)
issuer_option = click.option("--issuer", envvar="ARX_ISSUER", help="the mint's address; else as the key file says")
_operator_key_option = click.option(
    "--operator-key", type=_path, envvar="ARX_OPERATOR_KEY", help="an operator's key file; else the realm folder's"
)


def _without_password(password: str, whole: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Refuse a password on the command line, where every user of the machine could read it."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        typed = param.name is not None and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        if value is None or not typed:
            return value
        _, _, rest = value.partition("://")
        place, _, query = rest.partition("?")
        if ":" in place.partition("/")[0].rpartition("@")[0]:
            mend = f"set {password}"
            raise click.BadParameter(f"a password does not belong on the command line; {mend}", ctx, param)
        if any(field.partition("=")[0].endswith("password") for field in query.split("&")):
            mend = f"set {whole}"
            raise click.BadParameter(f"a password does not belong on the command line; {mend}", ctx, param)
        return value

    return check


store_url_option = click.option(
    "--store",
    envvar="ARX_STORE_URL",
    callback=_without_password("ARX_STORE_PASSWORD", "ARX_STORE_URL"),
    help="the revocation store's URL; else the realm folder's (password: ARX_STORE_PASSWORD)",
)
database_option = click.option(
    "--database",
    envvar="ARX_DATABASE",
    callback=_without_password("ARX_DATABASE_PASSWORD", "ARX_DATABASE"),
    help="a PostgreSQL for the mint's state; else as the realm's folder says (password: ARX_DATABASE_PASSWORD)",
)
ca_option = click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False), envvar=VARIABLE, help="a further authority for TLS (PEM)"
)
_realm_option = click.option(
    "--realm", envvar="ARX_REALM", help="the realm's name, with --store; else the realm folder's"
)


class Place:
    """Where an operator's command works.

    Attributes:
        realm_dir: The realm's folder, which a remote operator need not have.
        issuer: The mint's address, or None: as the key says.
        operator_key: The key file.
        given_store: The store's URL as it was given, or None: as the realm's folder says.
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
        self.operator_key = operator_key or realm_dir / "operator.key"
        self.given_store, self._realm = store, realm

    def mint(self, timeout_s: float = 30.0) -> "Caller":
        """Sign in to the mint.

        Raises:
            Stop: There is no key, or the mint does not answer or does not know it.
            SettingsError: The key file cannot be used.
        """
        from arx_caps.cli.mint_session import Caller

        if not self.operator_key.exists():
            hint = "name one with --operator-key, or the realm's folder with --realm-dir or ARX_HOME"
            if (self.realm_dir / "realm.toml").exists():
                hint += f"; if all are lost: `arx operator recover --key-out {self.operator_key}`"
            raise Stop(f"{self.operator_key}: there is no operator's key", hint=hint, code="no_key")
        return Caller.operator(self.operator_key, self.issuer, timeout_s, self.ca())

    def ca(self) -> str | None:
        """Return the file of a further authority that the realm's folder names, where there is one."""
        try:
            return Realm.open(self.realm_dir).ca
        except SettingsError:
            return None  # a remote operator has no realm's folder

    def realm_name(self) -> str:
        """Return the realm's name, as given, else as its folder says.

        Raises:
            SettingsError: There is no realm in the folder.
        """
        return self._realm or Realm.open(self.realm_dir).name

    def store(
        self, *, outcome_s: float | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> "RevocationStore":
        """Open the realm's revocation store, without asking the mint.

        Args:
            outcome_s: How long to ask for the outcome of a kill.
            tell: Called with a sentence while it is not known.

        Raises:
            Stop: It is not known where it is.
            SettingsError: The realm's settings or the URL cannot be used.
        """
        from arx_caps.revocation import RevocationStore

        password = os.environ.get("ARX_STORE_PASSWORD")
        where = self.followed()
        return RevocationStore(*where, password=password, outcome_s=outcome_s, tell=tell, ca=self.ca())

    def followed(self) -> tuple[str, str]:
        """Return the URL of the store, or of a relay to it, and the realm's name.

        Raises:
            SettingsError: The realm's settings cannot be used.
        """
        url, name = self.given_store, self._realm
        if url is None or name is None:
            realm = Realm.open(self.realm_dir)
            url, name = url or store_url(realm), name or realm.name
        return url, name


def store_url(realm: Realm) -> str:
    """Return the URL of a realm's store: its own setting, else the socket of the server that ``arx up`` runs."""
    from arx_caps.embedded import socket_path

    return realm.store or f"unix://{quote(str(socket_path(realm.valkey_dir)))}"


def operator_options(function: F) -> F:
    """Add the options that lead to the mint, passed on as ``place``."""
    return realm_dir_option(issuer_option(_operator_key_option(_placed(function))))


def store_options(function: F) -> F:
    """Add the options that lead to the store, passed on as ``place``."""
    return realm_dir_option(store_url_option(_realm_option(_placed(function))))


def all_options(function: F) -> F:
    """Add the options that lead to the mint and to the store, passed on as ``place``."""
    return operator_options_of(store_url_option(_realm_option(_placed(function))))


def operator_options_of(function: F) -> F:
    """Add the options that lead to the mint to a function that takes them one by one."""
    return realm_dir_option(issuer_option(_operator_key_option(function)))


def _placed(function: F) -> F:
    """Collect the options into one ``Place``."""

    @functools.wraps(function)
    def with_place(*args: Any, **options: Any) -> Any:
        names = ("realm_dir", "issuer", "operator_key", "store", "realm")
        place = Place(**{name: options.pop(name) for name in names if name in options})
        return function(*args, place=place, **options)

    return with_place  # type: ignore[return-value]  # click calls it by options, whatever its type
