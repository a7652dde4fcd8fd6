# SPDX-License-Identifier: Apache-2.0
"""A realm's folder: the paths in it, and its settings in ``realm.toml``.

All files of a mint are below one folder that only its user can enter.  ``mint.server.init_realm`` makes it.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote, urlsplit

from arx_caps.settings.durations import format_duration, parse_duration
from arx_caps.settings.limits import DEFAULT_LIMITS, Limits, read_limits
from arx_caps.settings.self_registration import MEMBERS as CLIENT_MEMBERS
from arx_caps.settings.self_registration import SelfRegistration, read_self_registration
from arx_verifier import names
from arx_verifier.addresses import split_url
from arx_verifier.errors import SettingsError
from arx_verifier.revocation import keeps_nonces
from arx_verifier.tls import ca_file
from arx_verifier.token import DEFAULT_MAX_TTL_MS

DATABASE_VARIABLE: Final = "ARX_DATABASE"
PASSPHRASE_VARIABLE: Final = "ARX_ROOT_PASSPHRASE"  # noqa: S105 - its name, not its value
DEFAULT_FOLDER: Final = ".arx"
DEFAULT_LISTEN: Final = "127.0.0.1:8700"
MIN_TTL_MS: Final = 1000
# Longer than a cluster's default node time-out and the default of min-replicas-max-lag.
DEFAULT_WINDOW_MS: Final = 24_000
# A rotation takes twice this time; a service's request costs the mint a millisecond.
DEFAULT_REFRESH_MS: Final = 60_000
REFRESH_MS: Final = (1_000, 24 * 3_600_000)
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
ON_FAILOVER: Final = ("rotate", "trust")
CONSOLE_MEMBERS: Final = ("console_idle", "console_life", "console_fresh")
CONSOLE_MS: Final = (60_000, 24 * 3_600_000)
SETTINGS: Final = frozenset(
    (
        "name",
        "issuer",
        "listen",
        "store",
        "ledger",
        "database",
        "max_ttl",
        "replicas",
        "on_failover",
        "failover_window",
        "key_refresh",
        "witnesses",
        "witnesses_required",
        "agent_rate",
        "agent_burst",
        "address_rate",
        "address_burst",
        "refusal_rate",
        "proxies",
        "metrics",
        "ca",
        "webhook_hosts",
        "login_issuer",
        "login_client_id",
        "login_client_secret",
        "login_scope",
        "login_device_client_id",
        *CONSOLE_MEMBERS,
        *CLIENT_MEMBERS,
    )
)

_STORE: Final = re.compile(r"unix://|rediss?(\+sentinel|\+cluster)?://")
_DATABASE: Final = re.compile(r"(postgresql(\+psycopg)?|sqlite)://")
_WITNESS: Final = re.compile(r"https?://[^ ]+ +[^ ]+")
_NETLOC: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[1-9][0-9]{0,4})?")
_LISTEN: Final = re.compile(r"(\[[0-9a-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


class Login(NamedTuple):
    """Where people log in: an OpenID Connect issuer, and this mint as its client.

    Attributes:
        issuer: The issuer's URL, which the policy trusts as well.
        client_id: The mint's id there.
        client_secret: Where its secret is, ``env:NAME`` or ``file:PATH``; None for a public client.
        scope: The scope to ask for.
        device_client_id: The id there of ``arx login``, a public client; None for none.
    """

    issuer: str
    client_id: str
    client_secret: str | None
    scope: str
    device_client_id: str | None = None


class ConsoleTerms(NamedTuple):
    """How long an operator is signed in, ms.

    Attributes:
        idle_ms: A session of the console that is not used ends after this time.
        life_ms: Each session of the console, and each login of a command line, ends after this time.
        fresh_ms: How long after a sign-in the console lets acts through that grant rights or end a whole realm.
    """

    idle_ms: int = 15 * 60_000
    life_ms: int = 8 * 3_600_000
    fresh_ms: int = 10 * 60_000


DEFAULT_CONSOLE: Final = ConsoleTerms()


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
    """

    folder: Path
    name: str
    issuer: str
    listen: str
    store: str | None
    max_ttl_ms: int
    replicas: int = 0
    on_failover: str = "rotate"
    failover_window_ms: int = DEFAULT_WINDOW_MS
    database: str | None = field(default=None, repr=False)
    key_refresh_ms: int = DEFAULT_REFRESH_MS
    witnesses: tuple[str, ...] = ()
    witnesses_required: bool = False
    limits: Limits = DEFAULT_LIMITS
    metrics: str | None = None
    ca: str | None = None
    login: Login | None = None
    console: ConsoleTerms = DEFAULT_CONSOLE
    clients: SelfRegistration | None = None
    webhook_hosts: tuple[str, ...] = ()
    ledger: str | None = field(default=None, repr=False)

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
        checked = _checked(name, issuer, listen, store, DEFAULT_MAX_TTL_MS)
        authority = None if ca is None else str(Path(ca).absolute())
        return cls(Path(folder).absolute(), *checked, database=_database(database), ca=authority)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Read an existing realm's settings.

        Args:
            folder: The realm's folder.

        Raises:
            SettingsError: There is no realm, or a setting is not usable.
        """
        path = Path(folder).absolute()
        file = path / "realm.toml"
        try:
            settings = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError as error:
            hint = "make one with `arx init`, or name its folder (--realm-dir, ARX_HOME)"
            raise SettingsError(f"there is no realm in {path}", hint=hint) from error
        except (OSError, ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
            raise SettingsError(f"{file} cannot be read: {error}") from error
        unknown = sorted(set(settings) - SETTINGS)
        if unknown:
            meant = get_close_matches(unknown[0], SETTINGS, 1)
            hint = f"did you mean {meant[0]}?" if meant else "docs/settings.md has each setting"
            raise SettingsError(f"{file}: unknown setting {unknown[0]}", hint=hint)
        try:
            max_ttl_ms = parse_duration(settings.get("max_ttl", format_duration(DEFAULT_MAX_TTL_MS)))
            window_ms = parse_duration(settings.get("failover_window", format_duration(DEFAULT_WINDOW_MS)))
            refresh_ms = parse_duration(settings.get("key_refresh", format_duration(DEFAULT_REFRESH_MS)))
        except ValueError as error:
            raise SettingsError(f"{file}: max_ttl, failover_window or key_refresh: {error}") from error
        if not REFRESH_MS[0] <= refresh_ms <= REFRESH_MS[1]:
            raise SettingsError(f"{file}: invalid key_refresh: expected 1s to 24h, got {format_duration(refresh_ms)}")
        name, issuer, listen, store = (settings.get(key) for key in ("name", "issuer", "listen", "store"))
        topology = _topology(settings.get("replicas", 0), settings.get("on_failover", "rotate"), window_ms)
        database = _database(os.environ.get(DATABASE_VARIABLE) or settings.get("database"))
        limits, metrics = read_limits(settings), settings.get("metrics")
        if metrics is not None:
            _host_and_port("metrics", metrics)
        return cls(
            path,
            *_checked(name, issuer, listen, store, max_ttl_ms),
            *topology,
            database=database,
            key_refresh_ms=refresh_ms,
            witnesses=_witnesses(settings.get("witnesses", [])),
            witnesses_required=_witnesses_required(settings.get("witnesses_required", False)),
            limits=limits,
            metrics=metrics,
            ca=_ca(path, settings.get("ca")),
            login=_login(settings),
            console=_console(settings),
            clients=read_self_registration(settings),
            webhook_hosts=_webhook_hosts(settings.get("webhook_hosts", [])),
            ledger=_ledger(settings.get("ledger")),
        )

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
    def policy_path(self) -> Path:
        """The policy file."""
        return self.folder / "policy.toml"

    @property
    def root_path(self) -> Path:
        """The sealed root keys."""
        return self.folder / "keys" / "root.json"

    @property
    def root_key_path(self) -> Path:
        """The key that unseals the root keys, unless a passphrase does; may be mounted from elsewhere."""
        return self.folder / "keys" / "root.key"

    @property
    def log_key_path(self) -> Path:
        """The key that signs the audit log; may be mounted from elsewhere."""
        return self.folder / "keys" / "log.json"

    @property
    def log_origin(self) -> str:
        """The audit log's default name; the log's key file records another one if the operator chose it."""
        return f"{urlsplit(self.issuer).netloc}/{self.name}/log"

    @property
    def operator_key_path(self) -> Path:
        """The first operator's key file, to be moved to a safe place."""
        return self.folder / "operator.key"

    @property
    def database_url(self) -> str:
        """URL of the mint's state; may hold a password.  Includes ``ca`` if it verifies the server's certificate."""
        url = self.database or f"sqlite:///{self.database_path}"
        ca = ca_file(self.ca)
        if ca is None or "sslmode=verify-" not in url or "sslrootcert=" in url:
            return url
        return f"{url}&sslrootcert={quote(ca)}"

    @property
    def database_path(self) -> Path:
        """SQLite file of the mint's state, unless ``database`` names another."""
        return self.folder / "mint.db"

    @property
    def audit_path(self) -> Path:
        """SQLite file of the audit log, unless the log is in the realm's PostgreSQL."""
        return self.folder / "audit.db"

    @property
    def log_dir(self) -> Path:
        """The audit log's files, for others to copy and verify; the mint can make them again from its database."""
        return self.folder / "log"

    @property
    def valkey_dir(self) -> Path:
        """Data and socket of the embedded revocation store."""
        return self.folder / "valkey"

    @property
    def runs_ledger(self) -> bool:
        """Whether ``arx up`` runs the ledger, as it runs the store."""
        return self.store is None and self.ledger is None

    @property
    def ledger_dir(self) -> Path:
        """Data and socket of the embedded ledger."""
        return self.folder / "ledger"

    @property
    def journals_dir(self) -> Path:
        """Decision journals of verifiers on this machine, the mint's included."""
        return self.folder / "journals"

    @property
    def services_dir(self) -> Path:
        """Service files."""
        return self.folder / "services"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Host and port that the mint listens at."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


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


def _database(url: Any) -> str | None:
    """Check the form of a database's URL; ``open_engine`` checks the rest."""
    if url is None or (isinstance(url, str) and _DATABASE.match(url)):
        return url
    # The error omits the URL, which could hold a password.
    raise SettingsError(
        "invalid database: expected postgresql://USER@HOST/NAME; put its password in ARX_DATABASE_PASSWORD"
    )


def _ca(folder: Path, ca: Any) -> str | None:
    """Return the file of a further authority, relative to ``folder``; TLS code opens it later."""
    if ca is None or (isinstance(ca, str) and ca):
        return None if ca is None else str(folder / ca)
    raise SettingsError(f"invalid ca: expected the path of a certification authority's PEM file, got {ca!r}")


def _login(settings: Mapping[str, Any]) -> Login | None:
    written = {name: settings[name] for name in settings if name.startswith("login_")}
    if not written:
        return None
    # The error omits the values: an operator could have written the secret itself.
    if not all(isinstance(value, str) and value.isprintable() and value for value in written.values()):
        raise SettingsError("invalid login_…: expected text")
    issuer, client = written.get("login_issuer"), written.get("login_client_id")
    if issuer is None or client is None:
        raise SettingsError("invalid login_…: expected login_issuer and login_client_id, got one of them alone")
    # Over plain HTTP an attacker on the network could answer in the place of the issuer.
    if not is_safe_url(issuer):
        raise SettingsError("invalid login_issuer: expected an https: URL, or http: at 127.0.0.1")
    secret = written.get("login_client_secret")
    if secret is not None and not secret.startswith(("env:", "file:")):
        raise SettingsError("invalid login_client_secret: expected env:NAME or file:PATH: no secret is in this file")
    scope = written.get("login_scope", "openid")
    if "openid" not in scope.split(" "):
        raise SettingsError("invalid login_scope: expected openid in it")
    return Login(issuer, client, secret, scope, written.get("login_device_client_id"))


def _console(settings: Mapping[str, Any]) -> ConsoleTerms:
    written = {}
    for name in filter(settings.__contains__, CONSOLE_MEMBERS):
        try:
            written[name.removeprefix("console_") + "_ms"] = parse_duration(settings[name])
        except ValueError as error:
            raise SettingsError(f"invalid {name}: {error}") from error
    terms = ConsoleTerms(**written)
    # A longer idle time would never end a session.
    if not all(CONSOLE_MS[0] <= ms <= CONSOLE_MS[1] for ms in terms) or max(terms) != terms.life_ms:
        raise SettingsError("invalid console_…: expected 1m to 24h, and no time longer than console_life")
    return terms


def is_safe_url(url: str) -> bool:
    """Return whether a URL is ``https:``, or ``http:`` at this machine."""
    parts = split_url(url)
    if parts is None or not parts.hostname:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _checked(name: Any, issuer: Any, listen: Any, store: Any, max_ttl_ms: int) -> tuple[str, str, str, str | None, int]:
    if not names.is_realm(name):
        raise SettingsError(f"invalid realm name: expected [a-z0-9][a-z0-9._-]{{0,31}}, got {name!r}")
    if not isinstance(issuer, str) or not _is_base_url(issuer):
        raise SettingsError(
            "invalid issuer: expected the mint's public base URL, https://host or http://host:port, no final slash"
        )
    _host_and_port("listen", listen)
    if store is not None and (not isinstance(store, str) or not _STORE.match(store)):
        # The error omits the URL, which could hold a password.
        raise SettingsError(
            "invalid store: expected a URL with unix:, redis: or rediss:, the latter two also with +sentinel: or "
            "+cluster:"
        )
    if max_ttl_ms < MIN_TTL_MS:
        raise SettingsError(f"invalid max_ttl: expected at least 1s, got {format_duration(max_ttl_ms)}")
    return name, issuer, listen, store, max_ttl_ms


def _host_and_port(setting: str, text: Any) -> None:
    match = _LISTEN.fullmatch(text) if isinstance(text, str) else None
    if match is None or not 0 <= int(match[2]) <= 65535:
        raise SettingsError(f"invalid {setting}: expected host:port such as 127.0.0.1:8700, got {text!r}")


def _witnesses(witnesses: Any) -> tuple[str, ...]:
    """Check the form of the witnesses; the code that asks them parses their keys."""
    if not isinstance(witnesses, list) or not all(
        isinstance(witness, str) and _WITNESS.fullmatch(witness) for witness in witnesses
    ):
        raise SettingsError(
            'invalid witnesses: expected a list of "URL KEY", each KEY as `arx witness init` printed it'
        )
    return tuple(witnesses)


def _webhook_hosts(hosts: Any) -> tuple[str, ...]:
    if not isinstance(hosts, list) or not all(isinstance(host, str) and _NETLOC.fullmatch(host) for host in hosts):
        raise SettingsError(
            f'invalid webhook_hosts: expected a list such as ["alerts.acme.internal:8443"], got {hosts!r:.200}'
        )
    return tuple(hosts)


def _ledger(ledger: Any) -> str | None:
    # The error omits the URL, which could hold a password.
    if ledger is not None and (not isinstance(ledger, str) or not keeps_nonces(ledger)):
        raise SettingsError(
            "invalid ledger: expected a unix:, redis: or rediss: URL, the latter two also with +sentinel:"
        )
    return ledger


def _witnesses_required(required: Any) -> bool:
    if not isinstance(required, bool):
        raise SettingsError(f"invalid witnesses_required: expected true or false, got {required!r}")
    return required


def _topology(replicas: Any, on_failover: Any, window_ms: int) -> tuple[int, str, int]:
    if type(replicas) is not int or not 0 <= replicas <= 16:
        raise SettingsError(f"invalid replicas: expected a number from 0 to 16, got {replicas!r}")
    if on_failover not in ON_FAILOVER:
        raise SettingsError(f"invalid on_failover: expected rotate or trust, got {on_failover!r}")
    if not 0 < window_ms <= 60_000:
        raise SettingsError(f"invalid failover_window: expected 1ms to 60s, got {format_duration(window_ms)}")
    return replicas, on_failover, window_ms


def _is_base_url(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or len(text) > 200:
        return False
    parts = split_url(text)
    if parts is None or not parts.hostname or parts.port == 0 or "@" in text:
        return False
    return parts.scheme in ("http", "https") and text == f"{parts.scheme}://{parts.netloc}"
