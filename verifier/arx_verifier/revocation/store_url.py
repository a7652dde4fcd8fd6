# SPDX-License-Identifier: Apache-2.0
"""Where the revocation store is, and which of several servers is its primary.  SPEC 10.

A store of one server has an ordinary Redis URL.  One that fails over is asked for anew before each connection: its
Sentinels say which server is the primary, or the nodes of a cluster say which of them owns the realm's slot.  Whether
that server may be believed is not decided here: it must still answer a probe, which a replica and a deposed primary
refuse.
"""

import binascii
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
from redis.connection import Connection, ConnectionPool, SSLConnection, parse_url

import arx_verifier.tls as tls
from arx_verifier.errors import SettingsError

FORMS: Final = "unix://, redis://, rediss://, redis+sentinel:// or redis+cluster:// (both also with rediss)"
SLOTS: Final = 16384
ASK_S: Final = 0.5  # for one Sentinel or node: the next one may be better
_LOGIN: Final = ("username", "password", "sentinel_username", "sentinel_password")
REFUSED: Final = {
    True: "the Sentinels refused the login: sentinel_username and sentinel_password in the store's URL are for them",
    False: "the cluster's nodes refused the user or password",
}
NOT_PERMITTED: Final = "`arx redis acl --role verifier` prints what a follower needs"
PORTS: Final = {"sentinel": 26379, "cluster": 6379}


class CertificateError(redis.ConnectionError):
    """TLS with a server did not come about; its text says whose certificate was refused, and why."""


class FinderLoginError(redis.AuthenticationError):
    """The Sentinels, or the nodes of a cluster, refused the login; its text says which."""


class FoundServer(NamedTuple):
    """The server to talk to.

    Attributes:
        host: Its host.
        port: Its port.
        node: What it is as long as no failover happens; a restart does not change it.
    """

    host: str
    port: int
    node: str


class Address:
    """Where the store of a realm is.  Shows no password.

    ``redis+sentinel://HOST[:PORT],HOST…/SERVICE[/DB]`` names Sentinels and the service they watch, whose own user and
    password are ``?sentinel_username=…&sentinel_password=…``; ``redis+cluster://HOST[:PORT],HOST…`` names nodes of a
    cluster.

    Args:
        url: One of ``FORMS``, with user and password where needed.
        password: In place of one in the URL.
        realm: Whose slot of a cluster is meant.
        ca: A further authority, as ``tls.ca_file`` reads it, where the URL has no ``ssl_ca_certs``.

    Raises:
        SettingsError: The URL is none of these or turns the check of certificates off, or ``ca`` cannot be read.
    """

    def __init__(self, url: str, password: str | None = None, realm: str = "", *, ca: str | None = None) -> None:
        scheme, _, rest = url.partition("://")
        kind, _, self._several = scheme.partition("+")
        try:
            hosts, service, settings = _read_many(kind, self._several, rest) if self._several else ([], "", _read(url))
        except ValueError:
            # Not chained: what could not be read may be a piece of a password.
            raise SettingsError(f"the store's address is not a URL of the form {FORMS}") from None
        if password is not None:
            settings["password"] = password
        if settings.get("ssl_cert_reqs", "required") != "required" or "ssl_check_hostname" in settings:
            # A server that is not proven to be the store could answer every probe, and freeze every kill.
            raise SettingsError("the store's address must leave the check of its certificate alone")
        self._kind = settings.pop("connection_class", Connection)
        if self._kind is SSLConnection:
            self._kind = TLSConnection
            tls.add_authority(settings, ca)
        if self._several:
            settings["finder"] = _Finder(self._kind, self._several, hosts, service, settings, realm)
            self._kind = _FoundTLS if self._kind is TLSConnection else _FoundTCP
        self._settings = settings

    def __repr__(self) -> str:
        return f"Address({self._kind.__name__})"

    @property
    def username(self) -> str | None:
        """Who asks the store, if the address says."""
        return self._settings.get("username")

    @property
    def fails_over(self) -> bool:
        """Whether the primary may be another server tomorrow."""
        return bool(self._several)

    def connection(self, timeout_s: float) -> Any:
        """Make a connection that is not open yet; opening it looks for the primary first."""
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        return self._kind(**{**self._settings, **timeouts, "protocol": 3, "decode_responses": False})

    def pool(self, **settings: Any) -> ConnectionPool:
        """Make a pool of such connections."""
        return ConnectionPool(connection_class=self._kind, **{**self._settings, **settings})


def without_login(url: str) -> str:
    """Return an address without users and passwords: what others may be told of where the store is."""
    scheme, mark, rest = url.partition("://")
    place, question, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    kept = [field for field in query.split("&") if field.partition("=")[0] not in _LOGIN]
    return (
        scheme + mark + authority.rpartition("@")[2] + slash + path + (question + "&".join(kept) if any(kept) else "")
    )


def keeps_nonces(url: str) -> bool:
    """Tell whether used calls can be kept at an address: a server, or the primary that Sentinels name."""
    return url.partition("://")[0] in ("unix", "redis", "rediss", "redis+sentinel", "rediss+sentinel")


def refused_login(error: Exception, setting: str) -> str | None:
    """Say that a store refused who asks, and what to set; None for another error.

    Args:
        error: What the client library raised.
        setting: Where the login stands.
    """
    if isinstance(error, FinderLoginError):
        return f"cannot be found: {error}"
    if isinstance(error, redis.AuthenticationError):
        return f"refused the user or password: set {setting}"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"does not permit this user to do that: {NOT_PERMITTED}"
    return None


def _read(url: str) -> dict[str, Any]:
    settings: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's
    return settings


def _read_many(kind: str, several: str, rest: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Read an address of several servers: hosts, service, and the rest in Redis' own way."""
    if kind not in ("redis", "rediss") or several not in PORTS:
        raise ValueError("unknown scheme")
    parts = urlsplit(f"{kind}://{rest}")
    login, at, listed = parts.netloc.rpartition("@")
    hosts = [_host(name, PORTS[several]) for name in listed.split(",")]
    service, _, db = parts.path.strip("/").partition("/")
    if "@" in login:
        raise ValueError("one login for all hosts, before the first")
    if bool(service) != (several == "sentinel") or (db and not db.isdigit()):
        raise ValueError("a service is named for Sentinels, and only for them")
    settings = _read(f"{kind}://{login}{at}any/{db or 0}?{parts.query}")
    del settings["host"]
    return hosts, unquote(service), settings


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.username is not None:
        raise ValueError("not a host")
    return parts.hostname, parts.port or port


class TLSConnection(SSLConnection):
    """A connection with TLS, which says whose certificate was refused."""

    def connect(self) -> None:
        """Connect.

        Raises:
            CertificateError: TLS did not come about.
            redis.ConnectionError: It cannot connect.
        """
        this: Any = self
        try:
            super().connect()  # type: ignore[no-untyped-call]  # redis-py's
        except redis.ConnectionError as error:
            if isinstance(error, CertificateError) or (why := tls.explain(error, f"{this.host}:{this.port}")) is None:
                raise
            raise CertificateError(why) from error


class _Finder:
    """Asks Sentinels or nodes for the primary, one after the other in a random order: some may be cut off."""

    def __init__(
        self,
        kind: Any,
        several: str,
        hosts: list[tuple[str, int]],
        service: str,
        settings: dict[str, Any],
        realm: str,
    ) -> None:
        own = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        login = own if several == "sentinel" else {name: settings.get(name) for name in own}
        self._kind, self._hosts = kind, hosts
        self._settings = login | {name: value for name, value in settings.items() if name.startswith("ssl_")}
        slot = binascii.crc_hqx(realm.encode(), 0) % SLOTS
        self._ask: Callable[[Any, str], FoundServer] = (
            (lambda one, _: _ask_sentinel(one, service))
            if several == "sentinel"
            else lambda one, at: _ask_node(one, at, slot)
        )
        self.require_role = several == "sentinel"

    def find(self, timeout_s: float | None) -> FoundServer:
        """Find the primary.

        Raises:
            FinderLoginError: Nobody could tell, and somebody refused the login.
            CertificateError: Nobody could tell, and somebody's certificate was refused.
            redis.ConnectionError: Nobody could tell.
        """
        refused, certificate = False, ""
        within = min(ASK_S, timeout_s or ASK_S)
        settings = {**self._settings, "socket_timeout": within, "socket_connect_timeout": within, "protocol": 2}
        for host, port in random.sample(self._hosts, len(self._hosts)):
            one = self._kind(host=host, port=port, **settings)
            try:
                one.connect()
                return self._ask(one, host)
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                refused = True  # another one may know the user
            except CertificateError as error:
                certificate = str(error)  # another one may have a better one
            except (redis.RedisError, OSError, ValueError, TypeError, LookupError, AttributeError):
                continue  # it is down, does not know, or answers in an unknown form
            finally:
                one.disconnect()
        if refused:
            raise FinderLoginError(REFUSED[self.require_role])
        if certificate:
            raise CertificateError(certificate)
        raise redis.ConnectionError("none of the servers named can say which one is the primary")


def _ask_sentinel(one: Any, service: str) -> FoundServer:
    one.send_command("SENTINEL", "MASTER", service, check_health=False)
    told = one.read_response()
    facts = told if isinstance(told, Mapping) else dict(zip(told[::2], told[1::2], strict=True))
    host, port = facts[b"ip"].decode(), int(facts[b"port"])
    # The epoch rises with each failover, so that a primary which comes back by one is not taken for a restarted one.
    return FoundServer(host, port, f"sentinel {facts[b'config-epoch'].decode()} {host}:{port}")


def _ask_node(one: Any, asked: str, slot: int) -> FoundServer:
    one.send_command("CLUSTER", "SLOTS", check_health=False)
    for first, last, owner, *_ in one.read_response():
        if first <= slot <= last:
            host, port, node = owner[0], int(owner[1]), owner[2].decode()
            if host == b"?":
                raise ValueError("it does not know the owner's address")
            return FoundServer(host.decode() if host else asked, port, f"cluster {node}")
    raise ValueError("nobody owns the slot")


class _Found:
    """A connection that looks for the primary whenever it is opened."""

    node = ""

    def __init__(self, *, finder: _Finder, **settings: Any) -> None:
        self._finder = finder
        super().__init__(**settings)

    def connect(self) -> None:
        """Find the primary, connect to it, and make sure that it says it is one."""
        this: Any = self
        if this._sock is not None:  # noqa: SLF001 - already open; the library has no public way to ask
            return
        this.host, this.port, self.node = self._finder.find(this.socket_connect_timeout)
        super().connect()  # type: ignore[misc]  # a mixin: the class beside it has it
        if self._finder.require_role:
            this.send_command("ROLE", check_health=False)
            if this.read_response()[0] not in (b"master", "master"):
                this.disconnect()
                raise redis.ConnectionError("the server that the Sentinels name is no primary yet")


class _FoundTCP(_Found, Connection):
    """``_Found`` without TLS."""


class _FoundTLS(_Found, TLSConnection):
    """``_Found`` with TLS."""
