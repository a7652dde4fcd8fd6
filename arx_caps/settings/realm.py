# SPDX-License-Identifier: Apache-2.0
"""A realm's folder: the paths in it, and its settings in ``realm.toml``.

All files of a mint are below one folder that only its user can enter.  ``mint.server.init_realm`` makes it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

from msgspec import Meta

from arx_caps.settings.connections import ConnectionName, ConnectionTerms, connection_mistakes
from arx_caps.settings.durations import format_duration
from arx_caps.settings.limits import DEFAULT_LIMITS, Limits
from arx_caps.settings.self_registration import SelfRegistration
from arx_caps.settings.toml_file import (
    SECRET,
    UNWRITTEN,
    Given,
    TomlEntry,
    duration,
    part,
    raise_mistakes,
    read_toml,
    text_that,
)
from arx_verifier import names
from arx_verifier.addresses import split_url
from arx_verifier.errors import SettingsError
from arx_verifier.tls import ca_file
from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS

R = TypeVar("R", bound="Realm")

DATABASE_VARIABLE: Final = "ARX_DATABASE"
PASSPHRASE_VARIABLE: Final = "ARX_ROOT_PASSPHRASE"  # noqa: S105 - its name, not its value
ROOT_KEY_VARIABLE: Final = "ARX_ROOT_KEY"
DEFAULT_FOLDER: Final = ".arx"
DEFAULT_LISTEN: Final = "127.0.0.1:8700"
MIN_TTL_MS: Final = 1000
# Longer than a cluster's default node time-out and the default of min-replicas-max-lag.
DEFAULT_WINDOW_MS: Final = 24_000
# A rotation takes twice this time; a service's request costs the mint a millisecond.
DEFAULT_REFRESH_MS: Final = 60_000
REFRESH_MS: Final = (1_000, 24 * 3_600_000)
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
CONSOLE_MS: Final = (60_000, 24 * 3_600_000)

_STORE: Final = re.compile(r"unix://|rediss?(\+sentinel|\+cluster)?://")
_DATABASE: Final = re.compile(r"(postgresql(\+psycopg)?|sqlite)://")
_WITNESS: Final = re.compile(r"https?://[^ ]+ +[^ ]+")
_NETLOC: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[1-9][0-9]{0,4})?")
_SOURCE: Final = re.compile(r"(env|file):")
_LISTEN: Final = re.compile(r"(\[[0-9a-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


def is_safe_url(url: str) -> bool:
    """Return whether a URL is ``https:``, or ``http:`` at this machine."""
    parts = split_url(url)
    if parts is None or not parts.hostname:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _is_base_url(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or len(text) > 200:
        return False
    parts = split_url(text)
    if parts is None or not parts.hostname or parts.port == 0 or "@" in text:
        return False
    return parts.scheme in ("http", "https") and text == f"{parts.scheme}://{parts.netloc}"


def _is_host_and_port(text: str) -> bool:
    match = _LISTEN.fullmatch(text)
    return match is not None and int(match[2]) <= 65535


_HostAndPort: TypeAlias = Annotated[str, text_that(_is_host_and_port, "host:port such as 127.0.0.1:8700")]
# An operator could have written the secret itself as any of its members.
_Text: TypeAlias = Annotated[str, SECRET, text_that(lambda text: text and text.isprintable(), "text on one line")]
_LoginSecret: TypeAlias = Annotated[
    str, SECRET, text_that(_SOURCE.match, "env:NAME or file:PATH: no secret is in this file")
]
_LoginScope: TypeAlias = Annotated[str, SECRET, text_that(lambda text: "openid" in text.split(" "), "openid in it")]
_ConsoleTime: TypeAlias = Annotated[int, duration(least=CONSOLE_MS[0], most=CONSOLE_MS[1])]
# The errors omit these URLs, which could hold a password.
_SERVERS: Final = "a URL with unix:, redis: or rediss:, the latter two also with +sentinel: or +cluster:"
_Store: TypeAlias = Annotated[str, SECRET, text_that(_STORE.match, _SERVERS)]
_Database: TypeAlias = Annotated[
    str,
    SECRET,
    text_that(_DATABASE.match, "postgresql://USER@HOST/NAME; put its password in ARX_DATABASE_PASSWORD"),
]
_Witness: TypeAlias = Annotated[
    str, text_that(_WITNESS.fullmatch, '"URL KEY", with KEY as `arx witness init` printed it')
]
_WebhookHost: TypeAlias = Annotated[str, text_that(_NETLOC.fullmatch, "a host such as alerts.acme.internal:8443")]


class Login(NamedTuple):
    """Where people log in: an OpenID Connect issuer, and this mint as its client.

    Attributes:
        issuer: The issuer's URL, which the policy trusts as well.
        client_id: The mint's id there.
        client_secret: Where its secret is, ``env:NAME`` or ``file:PATH``; None for a public client.
        scope: The scope to ask for.
        device_client_id: The id there of ``arx login``, a public client; None for none.
    """

    # Over plain HTTP an attacker on the network could answer in the place of the issuer.
    issuer: Annotated[str, SECRET, text_that(is_safe_url, "an https: URL, or http: at 127.0.0.1")]
    client_id: _Text
    client_secret: _LoginSecret | None = None
    scope: _LoginScope = "openid"
    device_client_id: _Text | None = None


class ConsoleTerms(NamedTuple):
    """How long an operator is signed in, ms.

    Attributes:
        idle_ms: A session of the console that is not used ends after this time.
        life_ms: Each session of the console, and each login of a command line, ends after this time.
        fresh_ms: How long after a sign-in the console lets acts through that grant rights or end a whole realm.
    """

    idle_ms: _ConsoleTime = 15 * 60_000
    life_ms: _ConsoleTime = 8 * 3_600_000
    fresh_ms: _ConsoleTime = 10 * 60_000


DEFAULT_CONSOLE: Final = ConsoleTerms()


class _Inside:
    """A path inside of a realm's folder.

    Args:
        parts: Its names, from the folder on.
    """

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, realm: "Realm", _: type) -> Path:
        return realm.folder.joinpath(*self._parts)


@dataclass(frozen=True, slots=True)
class Realm:
    """An existing realm's folder and settings.

    Attributes:
        folder: The folder, absolute.
        name: The realm's name, which every token carries.
        issuer: The mint's public base URL, without a final slash.
        listen: Host and port that the mint listens at.
        store: URL of the revocation store; None when ``arx up`` runs one in the folder, and a ledger if none is named.
        max_ttl_ms: The longest life of a token, ms; kills are remembered for that time.
        replicas: How many of the store's replicas must have a kill on disk.
        on_failover: ``rotate`` ends every token when the store fails over; ``trust`` only where no kill can be lost.
        failover_window_ms: How long a deposed primary of the store may go on answering, ms.
        database: URL of a database that several mints share; None for one in the folder.  May hold a password.
        key_refresh_ms: How long services use their keys before they ask for them again, ms.
        witnesses: The witnesses that cosign the audit log's checkpoints, each as ``URL KEY``.
        witnesses_required: Whether the mint publishes a checkpoint only after all witnesses have cosigned it.
        limits: How often a caller may call the mint.
        metrics: Host and port of the mint's metrics; None for none.
        ca: File of a further authority for TLS, absolute; None for the system's alone.  ``ARX_CA`` wins.
        login: Where people log in; None if they do not.
        console: How long an operator is signed in.
        clients: What OAuth clients may be that no operator has registered; None if there are none.
        webhook_hosts: Hosts of the own network that may get notifications, with their port unless it is the scheme's.
        ledger: URL of the Redis that keeps the budgets of all services; None for that of ``arx up``, or for none.  May
            hold a login.
        connection: The upstreams at which people have accounts of their own, by name.
    """

    folder: Annotated[Path, UNWRITTEN]
    name: Annotated[str, text_that(names.is_realm, "a realm's name: [a-z0-9][a-z0-9._-]*, at most 32 characters")]
    issuer: Annotated[
        str,
        text_that(_is_base_url, "the mint's public base URL, https://host or http://host:port, without a final slash"),
    ]
    listen: _HostAndPort
    store: _Store | None = None
    max_ttl_ms: Annotated[int, duration(least=MIN_TTL_MS)] = DEFAULT_MAX_TTL_MS
    replicas: Annotated[int, Meta(ge=0, le=16)] = 0
    on_failover: Literal["rotate", "trust"] = "rotate"
    failover_window_ms: Annotated[int, duration(most=60_000)] = DEFAULT_WINDOW_MS
    database: _Database | None = field(default=None, repr=False)
    key_refresh_ms: Annotated[int, duration(least=REFRESH_MS[0], most=REFRESH_MS[1])] = DEFAULT_REFRESH_MS
    witnesses: tuple[_Witness, ...] = ()
    witnesses_required: bool = False
    limits: Annotated[Limits, part("")] = DEFAULT_LIMITS
    metrics: _HostAndPort | None = None
    ca: Annotated[str, text_that(bool, "the path of a certification authority's PEM file")] | None = None
    login: Annotated[Login | None, part("login_")] = None
    console: Annotated[ConsoleTerms, part("console_")] = DEFAULT_CONSOLE
    clients: Annotated[SelfRegistration | None, part("clients_")] = None
    webhook_hosts: tuple[_WebhookHost, ...] = ()
    ledger: _Store | None = field(default=None, repr=False)
    connection: dict[ConnectionName, ConnectionTerms] = field(default_factory=dict)

    policy_path = _Inside("policy.toml")
    root_path = _Inside("keys", "root.json")  # the sealed root keys
    root_key_path = _Inside("keys", "root.key")  # unseals them, unless a passphrase does; may be mounted from elsewhere
    log_key_path = _Inside("keys", "log.json")  # signs the audit log; may be mounted from elsewhere
    operator_key_path = _Inside("operator.key")  # of the first operator, to be moved to a safe place
    database_path = _Inside("mint.db")  # the mint's state in SQLite, unless ``database`` names another database
    audit_path = _Inside("audit.db")  # the audit log in SQLite, unless it is in the realm's PostgreSQL
    log_dir = _Inside("log")  # the audit log's files, for others to copy; the mint can make them anew from its database
    valkey_dir = _Inside("valkey")  # data and socket of the embedded revocation store
    ledger_dir = _Inside("ledger")  # data and socket of the embedded ledger
    journals_dir = _Inside("journals")  # decision journals of verifiers on this machine, the mint's included
    services_dir = _Inside("services")  # service files

    @classmethod
    def plan(
        cls,
        folder: str | os.PathLike[str],
        *,
        name: str,
        issuer: str,
        listen: str = DEFAULT_LISTEN,
        store: str | None = None,
        database: str | None = None,
        ca: str | None = None,
    ) -> Self:
        """Check the settings of a new realm; ``mint.server.init_realm`` makes it.

        Args:
            folder: The folder to make.
            name: The realm's name.
            issuer: The mint's public base URL, such as ``http://127.0.0.1:8700``.
            listen: Host and port to listen at.
            store: URL of an existing revocation store.
            database: URL of an existing database.
            ca: File of a further authority for TLS.

        Returns:
            The realm; nothing is written.

        Raises:
            SettingsError: A setting is not usable.
        """
        given = {"name": name, "issuer": issuer, "listen": listen, "store": store, "database": database}
        entry = TomlEntry(Given({key: value for key, value in given.items() if value is not None}))
        authority = None if ca is None else str(Path(ca).absolute())
        return replace(_read(cls, entry, Path(folder).absolute()), ca=authority)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], database: str | None = None) -> Self:
        """Read an existing realm's settings.

        Args:
            folder: The realm's folder.
            database: URL of the mint's database, in SQLAlchemy's form, instead of that of the settings.

        Raises:
            SettingsError: There is no realm, or a setting is not usable.
        """
        path = Path(folder).absolute()
        try:
            text = read_toml(path / "realm.toml")
        except SettingsError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            hint = "make one with `arx init`, or name its folder (--realm-dir, ARX_HOME)"
            raise SettingsError(f"there is no realm in {path}", hint=hint) from error
        realm = _read(cls, TomlEntry(text), path)
        given = os.environ.get(DATABASE_VARIABLE)
        if given:
            given = TomlEntry(Given({}), (DATABASE_VARIABLE,)).read(_Database, given)
        ca = None if realm.ca is None else str(path / realm.ca)
        return replace(realm, database=database or given or realm.database, ca=ca)

    def settings(self) -> str:
        """Return the text of ``realm.toml``, without the database's password."""
        lines = {"name": self.name, "issuer": self.issuer, "listen": self.listen, "store": self.store}
        lines["database"] = without_password(self.database) if self.database is not None else None
        lines["ca"] = self.ca
        lines["max_ttl"] = format_duration(self.max_ttl_ms)
        # A JSON string without characters beyond ASCII is a TOML string.
        written = [f"{key} = {json.dumps(value)}" for key, value in lines.items() if value is not None]
        return "# The realm's settings.  The mint reads them when it starts.\n" + "\n".join(written) + "\n"

    @property
    def log_origin(self) -> str:
        """The audit log's default name; the log's key file records another one if the operator chose it."""
        return f"{urlsplit(self.issuer).netloc}/{self.name}/log"

    @property
    def database_url(self) -> str:
        """URL of the mint's state; may hold a password.  Includes ``ca`` if it verifies the server's certificate."""
        url = self.database or f"sqlite:///{self.database_path}"
        ca = ca_file(self.ca)
        if ca is None or "sslmode=verify-" not in url or "sslrootcert=" in url:
            return url
        return f"{url}&sslrootcert={quote(ca)}"

    @property
    def runs_ledger(self) -> bool:
        """Whether ``arx up`` runs the ledger, as it runs the store."""
        return self.store is None and self.ledger is None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Host and port that the mint listens at."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def local_url(self) -> str:
        """The URL of the mint for a program on its host."""
        host, port = self.host_and_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of an unnamed realm: ``$ARX_HOME``, else ``./.arx``.

    Args:
        environment: Environment variables by name.
    """
    return Path(environment.get("ARX_HOME") or DEFAULT_FOLDER)


def without_password(url: str) -> str:
    """Return a database's URL without its password, for people and files.

    Args:
        url: The URL, in any form that SQLAlchemy takes.
    """
    scheme, slashes, rest = url.partition("://")
    login, at, place = rest.rpartition("@")  # before the split at "?": a password may hold one
    host, _, query = place.partition("?")
    kept = "&".join(field for field in query.split("&") if "password" not in field.partition("=")[0])
    return f"{scheme}{slashes}{login.partition(':')[0]}{at}{host}{'?' if kept else ''}{kept}"


def _read(kind: type[R], entry: TomlEntry, folder: Path) -> R:
    """Return a realm of the settings of an entry.

    Raises:
        TomlError: A setting is unknown or not usable.
    """
    written = entry.text.document
    realm: R = entry.read(kind, written, folder=folder)
    mistakes = []
    # A longer idle time would never end a session.
    for name in ("console_idle", "console_fresh"):
        ms = getattr(realm.console, f"{name.removeprefix('console_')}_ms")
        if ms > realm.console.life_ms:
            place = entry.at(name if name in written else "console_life")
            life, most = format_duration(realm.console.life_ms), format_duration(ms)
            mistakes.append(place.error(f"expected {name} to be at most console_life, {life}, got {most}"))
    # Their access tokens are given by a person's consent alone.
    if realm.clients is not None and realm.login is None:
        mistakes.append(entry.at("clients_agent").error("expected login_issuer beside it, where people log in"))
    if realm.connection and realm.login is None:
        mistakes.append(entry.at("connection").error("expected login_issuer above it, where people log in"))
    mistakes += [entry.at("connection", name).error(text) for name, text in connection_mistakes(realm.connection)]
    raise_mistakes(mistakes)
    return realm
