# SPDX-License-Identifier: Apache-2.0
"""A realm's folder: what is where in it, and its settings.

Everything that a mint keeps stands below one folder that only its user can enter.  ``mint.server.init_realm`` makes it.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from arx_caps.durations import format_duration, parse_duration
from arx_caps.limits import DEFAULT_LIMITS, Limits, read_limits
from arx_verifier import names
from arx_verifier.errors import SettingsError
from arx_verifier.tls import ca_file
from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS

DATABASE_VARIABLE: Final = "ARX_DATABASE"
PASSPHRASE_VARIABLE: Final = "ARX_ROOT_PASSPHRASE"  # noqa: S105 - its name, not its value
DEFAULT_FOLDER: Final = ".arx"
DEFAULT_LISTEN: Final = "127.0.0.1:8700"
MIN_TTL_MS: Final = 1000
# Above a cluster's default node time-out and the default of min-replicas-max-lag.
DEFAULT_WINDOW_MS: Final = 24_000
# A rotation takes twice as long; a service's question costs the mint a millisecond.
DEFAULT_REFRESH_MS: Final = 60_000
REFRESH_MS: Final = (1_000, 24 * 3_600_000)
ON_FAILOVER: Final = ("rotate", "trust")
SETTINGS: Final = frozenset(
    (
        "name",
        "issuer",
        "listen",
        "store",
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
        "proxies",
        "metrics",
        "ca",
    )
)

_STORE: Final = re.compile(r"unix://|rediss?(\+sentinel|\+cluster)?://")
_DATABASE: Final = re.compile(r"(postgresql(\+psycopg)?|sqlite)://")
_WITNESS: Final = re.compile(r"https?://[^ ]+ +[^ ]+")
_LISTEN: Final = re.compile(r"(\[[0-9a-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Realm:
    """An existing realm's folder and settings.

    Attributes:
        folder: The folder, absolute.
        name: The realm's name; every token says it.
        issuer: The mint's public base URL, without a final slash.
        listen: Host and port the mint listens at.
        store: URL of the revocation store; None when ``arx up`` runs one in the folder.
        max_ttl_ms: The longest life of a token, ms; kills are remembered so long.
        replicas: How many of the store's replicas must have a kill on disk.
        on_failover: ``rotate`` ends every token when the store fails over; ``trust`` only where no kill can be lost.
        failover_window_ms: How long a deposed primary of the store may go on answering.
        database: URL of a database that several mints share; None for one in the folder.  May hold a password.
        key_refresh_ms: How long services go on with their keys before they ask for them again.
        witnesses: Who cosigns the audit log's checkpoints, each ``URL KEY``.
        witnesses_required: Whether a checkpoint is published only once all of them have.
        limits: How often somebody may call.
        metrics: Host and port that the mint's numbers are served at; None for nowhere.
        ca: File of a further authority for TLS, absolute; None for the system's alone.  ``ARX_CA`` wins.
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
        """Check the settings of a realm that is yet to be made; ``mint.server.init_realm`` makes it.

        Args:
            folder: Where it will be.
            name: The realm's name.
            issuer: The mint's public base URL, such as ``http://127.0.0.1:8700``.
            listen: Host and port to listen at.
            store: URL of a revocation store of your own.
            database: URL of a database of your own.
            ca: File of a further authority for TLS.

        Raises:
            SettingsError: A setting is not usable.
        """
        checked = _checked(name, issuer, listen, store, DEFAULT_MAX_TTL_MS)
        authority = None if ca is None else str(Path(ca).absolute())
        return cls(Path(folder).absolute(), *checked, database=_database(database), ca=authority)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a realm's settings.

        Raises:
            SettingsError: There is no realm, or its settings are not usable.
        """
        path = Path(folder).absolute()
        file = path / "realm.toml"
        try:
            settings = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError as error:
            raise SettingsError(
                f"there is no realm in {path}; make one with `arx init`, or name its folder (--realm-dir, ARX_HOME)"
            ) from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from error
        unknown = sorted(set(settings) - SETTINGS)
        if unknown:
            raise SettingsError(f"{file}: unknown setting {unknown[0]}")
        try:
            max_ttl_ms = parse_duration(settings.get("max_ttl", format_duration(DEFAULT_MAX_TTL_MS)))
            window_ms = parse_duration(settings.get("failover_window", format_duration(DEFAULT_WINDOW_MS)))
            refresh_ms = parse_duration(settings.get("key_refresh", format_duration(DEFAULT_REFRESH_MS)))
        except ValueError as error:
            raise SettingsError(f"{file}: max_ttl, failover_window or key_refresh: {error}") from error
        if not REFRESH_MS[0] <= refresh_ms <= REFRESH_MS[1]:
            raise SettingsError(f"{file}: key_refresh is 1s to 24h")
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
        )

    def settings(self) -> str:
        """Write ``realm.toml``."""
        lines = {"name": self.name, "issuer": self.issuer, "listen": self.listen, "store": self.store}
        lines["database"] = without_password(self.database) if self.database is not None else None
        lines["ca"] = self.ca
        lines["max_ttl"] = format_duration(self.max_ttl_ms)
        # A JSON string without characters beyond ASCII is a TOML string.
        written = [f"{key} = {json.dumps(value)}" for key, value in lines.items() if value is not None]
        return "# The realm's settings.  The mint reads them when it starts.\n" + "\n".join(written) + "\n"

    @property
    def policy_path(self) -> Path:
        """The policy."""
        return self.folder / "policy.toml"

    @property
    def root_path(self) -> Path:
        """The sealed root keys."""
        return self.folder / "keys" / "root.json"

    @property
    def root_key_path(self) -> Path:
        """What opens them, unless a passphrase does; may be mounted from elsewhere."""
        return self.folder / "keys" / "root.key"

    @property
    def log_key_path(self) -> Path:
        """The key that signs the audit log; may be mounted from elsewhere."""
        return self.folder / "keys" / "log.json"

    @property
    def log_origin(self) -> str:
        """The audit log's name, unless another was chosen when its key was made, which says it."""
        return f"{urlsplit(self.issuer).netloc}/{self.name}/log"

    @property
    def operator_key_path(self) -> Path:
        """The first operator's key file; belongs into safe hands."""
        return self.folder / "operator.key"

    @property
    def database_url(self) -> str:
        """The mint's state; may hold a password.  A server whose certificate is to be verified gets ``ca`` for it."""
        url = self.database or f"sqlite:///{self.database_path}"
        ca = ca_file(self.ca)
        if ca is None or "sslmode=verify-" not in url or "sslrootcert=" in url:
            return url
        return f"{url}&sslrootcert={quote(ca)}"

    @property
    def database_path(self) -> Path:
        """The mint's state, unless it is in a database elsewhere."""
        return self.folder / "mint.db"

    @property
    def audit_path(self) -> Path:
        """The audit log's database, unless it is in the realm's PostgreSQL."""
        return self.folder / "audit.db"

    @property
    def log_dir(self) -> Path:
        """The audit log's files as others may copy and check them; can be made again from its database."""
        return self.folder / "log"

    @property
    def valkey_dir(self) -> Path:
        """Data and socket of the embedded revocation store."""
        return self.folder / "valkey"

    @property
    def journals_dir(self) -> Path:
        """Decision journals of verifiers on this machine, the mint's among them."""
        return self.folder / "journals"

    @property
    def services_dir(self) -> Path:
        """Service files."""
        return self.folder / "services"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where the mint listens."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of a realm that is not named: ``$ARX_HOME``, else ``./.arx``."""
    return Path(environment.get("ARX_HOME") or DEFAULT_FOLDER)


def without_password(url: str) -> str:
    """Return a database's URL as it may be shown and written down."""
    scheme, slashes, rest = url.partition("://")
    login, at, place = rest.rpartition("@")  # first: a password may hold any other sign
    host, _, query = place.partition("?")
    kept = "&".join(field for field in query.split("&") if "password" not in field.partition("=")[0])
    return f"{scheme}{slashes}{login.partition(':')[0]}{at}{host}{'?' if kept else ''}{kept}"


def _database(url: Any) -> str | None:
    """Check a database's URL, roughly: whoever opens it knows it."""
    if url is None or (isinstance(url, str) and _DATABASE.match(url)):
        return url
    raise SettingsError("database is a URL: postgresql://USER@HOST/NAME, its password in ARX_DATABASE_PASSWORD")


def _ca(folder: Path, ca: Any) -> str | None:
    """Read the file of a further authority: relative to the folder; it is opened where it is needed."""
    if ca is None or (isinstance(ca, str) and ca):
        return None if ca is None else str(folder / ca)
    raise SettingsError("ca is the file of a certification authority, in PEM")


def _checked(name: Any, issuer: Any, listen: Any, store: Any, max_ttl_ms: int) -> tuple[str, str, str, str | None, int]:
    if not names.is_realm(name):
        raise SettingsError("a realm's name is [a-z0-9][a-z0-9._-]{0,31}")
    if not isinstance(issuer, str) or not _is_base_url(issuer):
        raise SettingsError(
            "the issuer is the mint's public base URL: https://host or http://host:port, no final slash"
        )
    _host_and_port("listen", listen)
    if store is not None and (not isinstance(store, str) or not _STORE.match(store)):
        raise SettingsError("store is a URL: unix:, redis: or rediss:, the latter two also +sentinel: or +cluster:")
    if max_ttl_ms < MIN_TTL_MS:
        raise SettingsError("max_ttl is at least 1s")
    return name, issuer, listen, store, max_ttl_ms


def _host_and_port(setting: str, text: Any) -> None:
    found = _LISTEN.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 0 <= int(found[2]) <= 65535:
        raise SettingsError(f"{setting} is host:port, such as 127.0.0.1:8700")


def _witnesses(said: Any) -> tuple[str, ...]:
    """Check the witnesses, roughly: whoever asks them reads their keys."""
    if not isinstance(said, list) or not all(isinstance(each, str) and _WITNESS.fullmatch(each) for each in said):
        raise SettingsError('witnesses is a list of "URL KEY", the key as `arx witness init` printed it')
    return tuple(said)


def _witnesses_required(said: Any) -> bool:
    if not isinstance(said, bool):
        raise SettingsError("witnesses_required is true or false")
    return said


def _topology(replicas: Any, on_failover: Any, window_ms: int) -> tuple[int, str, int]:
    if type(replicas) is not int or not 0 <= replicas <= 16:
        raise SettingsError("replicas is a number from 0 to 16")
    if on_failover not in ON_FAILOVER:
        raise SettingsError("on_failover is rotate or trust")
    if not 0 < window_ms <= 60_000:
        raise SettingsError("failover_window is at most 60s")
    return replicas, on_failover, window_ms


def _is_base_url(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or len(text) > 200:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    bare = f"{parts.scheme}://{parts.netloc}"
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in text and text == bare and port != 0
