# SPDX-License-Identifier: Apache-2.0
"""Parse the revocation store's URL, and find the primary among several servers.  SPEC 10."""

import binascii
import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.retry import Retry

import arx_verifier.tls as tls
from arx_verifier.addresses import split_url
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import Password, PasswordFile

FORMS: Final = "unix://, redis://, rediss://, redis+sentinel:// or redis+cluster:// (both also with rediss)"
SLOTS: Final = 16384
CLUSTERS: Final = ("redis+cluster", "rediss+cluster")
ASK_S: Final = 0.5  # longest wait for one Sentinel or node; then the next one is asked
_LOGIN: Final = ("username", "password", "sentinel_username", "sentinel_password")
REFUSED: Final = {
    True: "the Sentinels refused the login: sentinel_username and sentinel_password in the store's URL are for them",
    False: "the cluster's nodes refused the user or password",
}
NOT_PERMITTED: Final = "`arx redis acl --role {}` prints what it needs"
FOLLOWER: Final = "verifier"  # the role of the store's user that a service, or a relay, logs in as
_AUTHORITY_END: Final = re.compile(r"[/?#]")  # RFC 3986 3.2
PORTS: Final = {"sentinel": 26379, "cluster": 6379}


@cache
def slot_of(tag: str) -> int:
    """Return the slot of a hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


class CertificateError(redis.ConnectionError):
    """TLS with a server failed; the text names the host of the refused certificate, and the reason."""


class FinderLoginError(redis.AuthenticationError):
    """The Sentinels, or the nodes of a cluster, refused the login; the text names which."""


class PasswordFileError(redis.AuthenticationError):
    """The file of a password cannot be used at a login; the text names the file, and never what is in it."""


class FileLogin(redis.CredentialProvider):
    """The login of a connection whose password is in a file; redis-py asks at each connection.

    Args:
        username: The user, or None for the default one.
        password: The file.
    """

    def __init__(self, username: str | None, password: PasswordFile) -> None:
        self._username, self._password = username, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return user and password.

        Raises:
            PasswordFileError: The file cannot be used.
        """
        try:
            password = self._password.read()
        except SettingsError as error:
            raise PasswordFileError(str(error)) from error  # a follower waits and asks again after it
        return (password,) if self._username is None else (self._username, password)


class FoundServer(NamedTuple):
    """The server to connect to.

    Attributes:
        host: Its host.
        port: Its port.
        node: Its identity, which a restart keeps and a failover changes.
    """

    host: str
    port: int
    node: str


class FoundShard(NamedTuple):
    """The primary of a range of slots.

    Attributes:
        first: The first slot.
        last: The last slot.
        host: Its host.
        port: Its port.
        replica_places: Host and port of its replicas, without those that the cluster holds for failed.
    """

    first: int
    last: int
    host: str
    port: int
    replica_places: tuple[tuple[str, int], ...] = ()

    @property
    def replicas(self) -> int:
        """How many replicas it has, without those that the cluster holds for failed."""
        return len(self.replica_places)


# The primary is looked up before each connection.  That server is not trusted yet: it must still answer a probe, which
# a replica and a deposed primary refuse.
class Address:
    """The address of a realm's store.  ``repr`` shows no password.

    ``redis+sentinel://HOST[:PORT],HOST…/SERVICE[/DB]`` names Sentinels and the service they watch, whose own user and
    password are ``?sentinel_username=…&sentinel_password=…``; ``redis+cluster://HOST[:PORT],HOST…`` names nodes of a
    cluster.

    Attributes:
        username: The user in the address, or None.
        key: Equal for the same server and login; a password in it is a secret.

    Args:
        url: One of ``FORMS``, with user and password where needed.
        password: Replaces a password in the URL; one in a file is read at each connection.
        realm: The realm, whose name determines the slot of a cluster.
        ca: File of a further authority for TLS, unless the URL has ``ssl_ca_certs``.
        name: What the server is, for an error.

    Raises:
        SettingsError: The URL has another form or disables certificate verification, or ``ca`` cannot be read.
    """

    def __init__(
        self, url: str, password: Password | None = None, realm: str = "", *, ca: str | None = None, name: str = "store"
    ) -> None:
        self.key = (url, password.path if isinstance(password, PasswordFile) else password, ca)
        scheme, _, rest = url.partition("://")
        kind, _, self._several = scheme.partition("+")
        try:
            hosts, service, settings = _read_many(kind, self._several, rest) if self._several else ([], "", _read(url))
        except ValueError:
            # Not chained: the text that could not be parsed may be a part of a password.
            raise SettingsError(f"invalid {name} URL: expected the form {FORMS}") from None
        self.username: str | None = settings.get("username")
        if isinstance(password, PasswordFile):
            settings.pop("password", None)
            settings["credential_provider"] = FileLogin(settings.pop("username", None), password)
        elif password is not None:
            settings["password"] = password
        if settings.get("ssl_cert_reqs", "required") != "required" or "ssl_check_hostname" in settings:
            # A server that is not authenticated could answer every probe, and withhold every kill.
            raise SettingsError("store URL must not disable TLS certificate verification")
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
    def fails_over(self) -> bool:
        """Whether the primary can change."""
        return bool(self._several)

    @property
    def is_cluster(self) -> bool:
        """Whether it names nodes of a cluster."""
        return self._several == "cluster"

    def connection(self, timeout_s: float) -> Any:
        """Return a connection that is not open yet; opening it finds the primary first.

        Args:
            timeout_s: Time-out of connecting and of each answer, s.
        """
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        return self._kind(**{**self._settings, **timeouts, "protocol": 3, "decode_responses": False})

    def client(self, timeout_s: float, node: tuple[str, int] | None = None, **settings: Any) -> redis.Redis:
        """Return a client of the server.  It repeats no command.

        Args:
            timeout_s: Time-out of connecting and of each answer, s.
            node: Host and port of the node of the cluster to ask; None for the server that is found.
            settings: Further settings of redis-py, or others instead of these.
        """
        # A command that was executed and not answered would find its own nonce, or draw twice; and a hidden retry
        # would hide which history answered.
        kind, own = self._kind, dict(self._settings)
        own |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
        if node is not None:
            kind = TLSConnection if issubclass(kind, TLSConnection) else Connection
            del own["finder"]
            own["host"], own["port"] = node
        return redis.Redis(connection_pool=ConnectionPool(kind, **own | settings))

    def find_shards(self, timeout_s: float, last: tuple[str, int] | None = None) -> list[FoundShard]:
        """Return the primaries of a cluster, as one of its nodes knows them.

        Args:
            timeout_s: Longest wait for one node, s.
            last: Host and port of the node to ask last.

        Raises:
            redis.RedisError: No node answered; see ``_Finder.ask``.
        """
        found: list[FoundShard] = self._settings["finder"].ask(_ask_shards, timeout_s, last)
        return found


def without_login(url: str) -> str:
    """Return a store's URL without users and passwords, for logs and for other services."""
    scheme, mark, rest = url.partition("://")
    place, question, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    kept = [field for field in query.split("&") if field.partition("=")[0] not in _LOGIN]
    return (
        scheme + mark + authority.rpartition("@")[2] + slash + path + (question + "&".join(kept) if any(kept) else "")
    )


def keeps_nonces(url: str) -> bool:
    """Return whether nonces can be kept at a URL: one server, the primary that Sentinels name, or a cluster."""
    return url.partition("://")[0] in ("unix", "redis", "rediss", "redis+sentinel", "rediss+sentinel", *CLUSTERS)


def is_cluster(url: str) -> bool:
    """Return whether a URL names nodes of a cluster."""
    return url.partition("://")[0] in CLUSTERS


def refused_login(error: Exception, setting: str, rights: str = NOT_PERMITTED.format(FOLLOWER)) -> str | None:
    """Return why a store refused a login, and what to set; None for another error.

    Args:
        error: The error of the client library.
        setting: The setting that contains the login.
        rights: Where the rights are that the user needs.
    """
    if isinstance(error, FinderLoginError):
        return f"cannot be found: {error}"
    if isinstance(error, PasswordFileError):
        return f"was not asked, for want of a password: {error}"
    if isinstance(error, redis.AuthenticationError):
        return f"refused the user or password: set {setting}"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"does not permit this user to do that: {rights}"
    return None


def _read(url: str) -> dict[str, Any]:
    settings: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's
    return settings


def _read_many(kind: str, several: str, rest: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Parse a URL of several servers into hosts, service and settings of redis-py."""
    if kind not in ("redis", "rediss") or several not in PORTS:
        raise ValueError("unknown scheme")
    # The hosts are split off first: some versions of Python refuse several, one of them in brackets.
    netloc = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    parts = urlsplit(f"{kind}://any{rest[len(netloc) :]}")
    login, at, listed = netloc.rpartition("@")
    hosts = [_host(name, PORTS[several]) for name in listed.split(",")]
    service, _, db = parts.path.strip("/").partition("/")
    if "@" in login:
        raise ValueError("one login for all hosts, before the first")
    if bool(service) != (several == "sentinel") or (db and not (db.isascii() and db.isdigit())):
        raise ValueError("a service must be named for Sentinels, and only for them")
    settings = _read(f"{kind}://{login}{at}any/{db or 0}?{parts.query}")
    del settings["host"]
    return hosts, unquote(service), settings


def _host(text: str, port: int) -> tuple[str, int]:
    parts = split_url(f"//{text}")
    if parts is None or not parts.hostname or parts.path or parts.username is not None:
        raise ValueError("not a host")
    return parts.hostname, parts.port or port


class TLSConnection(SSLConnection):
    """A TLS connection whose errors name the host of a refused certificate."""

    def connect(self) -> None:
        """Connect.

        Raises:
            CertificateError: TLS failed.
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
    """Asks Sentinels or nodes for the primary, one after the other, in a random order."""

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
        shared = {name: settings[name] for name in (*own, "credential_provider") if name in settings}
        login = own if several == "sentinel" else shared
        self._kind, self._hosts = kind, hosts
        self._settings = login | {name: value for name, value in settings.items() if name.startswith("ssl_")}
        self._ask: Callable[[Any, str], FoundServer] = (
            (lambda connection, _: _ask_sentinel(connection, service))
            if several == "sentinel"
            else lambda connection, at: _ask_node(connection, at, slot_of(realm))
        )
        self.require_role = several == "sentinel"

    def find(self, timeout_s: float | None) -> FoundServer:
        """Return the primary; see ``ask``."""
        found: FoundServer = self.ask(self._ask, timeout_s)
        return found

    def ask(
        self, question: Callable[[Any, str], Any], timeout_s: float | None, last: tuple[str, int] | None = None
    ) -> Any:
        """Return the first answer of a server.

        Args:
            question: Asks by a connection to the host that it is given.
            timeout_s: Longest wait for one server, s.
            last: Host and port of the server to ask last.

        Raises:
            FinderLoginError: No server knew the primary, and one refused the login.
            CertificateError: No server knew the primary, and one's certificate was refused.
            redis.ConnectionError: No server knew the primary.
        """
        refused, certificate = False, ""
        within = min(ASK_S, timeout_s or ASK_S)
        settings = {**self._settings, "socket_timeout": within, "socket_connect_timeout": within, "protocol": 2}
        for host, port in sorted(random.sample(self._hosts, len(self._hosts)), key=lambda place: place == last):
            connection = self._kind(host=host, port=port, **settings)
            try:
                connection.connect()
                return question(connection, host)
            except PasswordFileError:
                raise  # it is the same for each server
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                refused = True  # another server may know the user
            except CertificateError as error:
                certificate = str(error)  # another server may have a trusted certificate
            except (redis.RedisError, OSError, ValueError, TypeError, LookupError, AttributeError):
                continue  # it is down, does not know, or answers in an unknown form
            finally:
                connection.disconnect()
        if refused:
            raise FinderLoginError(REFUSED[self.require_role])
        if certificate:
            raise CertificateError(certificate)
        raise redis.ConnectionError("none of the servers named can say which one is the primary")


def _ask_sentinel(connection: Any, service: str) -> FoundServer:
    connection.send_command("SENTINEL", "MASTER", service, check_health=False)
    reply = connection.read_response()
    facts = reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
    host, port = facts[b"ip"].decode(), int(facts[b"port"])
    # The epoch rises with each failover, so that a primary which returns by a failover is not taken for a restarted
    # one.
    return FoundServer(host, port, f"sentinel {facts[b'config-epoch'].decode()} {host}:{port}")


def _ask_node(connection: Any, asked: str, slot: int) -> FoundServer:
    connection.send_command("CLUSTER", "SLOTS", check_health=False)
    for first, last, owner, *_ in connection.read_response():
        if first <= slot <= last:
            host, port, node = owner[0], int(owner[1]), owner[2].decode()
            if host == b"?":
                raise ValueError("it does not know the owner's address")
            return FoundServer(host.decode() if host else asked, port, f"cluster {node}")
    raise ValueError("no node owns the slot")


def _ask_shards(connection: Any, asked: str) -> list[FoundShard]:
    connection.send_command("CLUSTER", "SLOTS", check_health=False)
    found = []
    for first, last, *nodes in connection.read_response():
        if any(node[0] == b"?" for node in nodes):
            raise ValueError("it does not know the address of a node")
        places = [(node[0].decode() if node[0] else asked, int(node[1])) for node in nodes]
        found.append(FoundShard(first, last, *places[0], tuple(places[1:])))
    return found


class _Found:
    """A connection that finds the primary whenever it is opened."""

    node = ""

    def __init__(self, *, finder: _Finder, **settings: Any) -> None:
        self._finder = finder
        super().__init__(**settings)

    def connect(self) -> None:
        """Find the primary, connect to it, and require its role.

        Raises:
            redis.ConnectionError: There is no primary, it cannot connect, or the server is no primary.
        """
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
