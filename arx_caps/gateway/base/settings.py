# SPDX-License-Identifier: Apache-2.0
"""The gateway's file: where it listens, and its upstreams, a table each.  ``docs/gateway.md`` describes it."""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import fields

from arx_caps.isolation import KINDS as ISOLATIONS
from arx_caps.settings.durations import parse_duration
from arx_verifier.addresses import is_loopback, read_port, split_url
from arx_verifier.enforcement import RouteMap
from arx_verifier.errors import SettingsError

T = TypeVar("T", bound=msgspec.Struct)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a segment of the gateway's paths
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)+")  # of a decider's paths
# As browsers write it: in lower case, with no default port (RFC 6454 6.2).
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(.+)")
_RESERVED: Final = frozenset(("healthz", "readyz", "metrics"))  # paths of the gateway itself
SOURCES: Final = ("env:", "file:", "keyring:")  # of secrets: no file of settings has one
KINDS: Final = ("forward-auth", "ext-authz", "ext-authz-http", "ext-mcp", "authzen")  # of deciders
_GRPC: Final = ("ext-authz", "ext-mcp")
_MEBIBYTE: Final = 1024 * 1024
_ACTION: Final = re.compile(r"[!-~]+ [!-~]+")  # an action and the type of a resource
_MEMBER: Final = re.compile(
    r"(resource\.id|context\.[\w-]+|(subject|action|resource)\.properties(\.[\w-]+)+)", re.ASCII
)

Bytes = Annotated[int, Meta(ge=1024, le=1024 * _MEBIBYTE)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; a member that it does not have is an error."""


class OAuthTerms(_Table, frozen=True, kw_only=True):
    """How the gateway fetches the access token of an upstream, by OAuth client credentials (RFC 6749 4.4).

    Attributes:
        token_url: The token endpoint.
        client_id: The gateway's id there; its secret is ``from``.
        scope: The scopes to ask for.
        resource: The resource to ask for (RFC 8707), as MCP servers need it.
    """

    token_url: str
    client_id: str
    scope: str = ""
    resource: str = ""


class CredentialTerms(_Table, frozen=True, kw_only=True, rename={"source": "from"}):
    """A credential of an upstream, which replaces that header of each forwarded request.

    Attributes:
        header: The header.
        source: Where the secret is: ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``.
        prefix: What the header has before the secret, such as ``Bearer`` and a space.
        oauth: Where the gateway fetches an access token with the secret; the header has the token, after ``Bearer``.
    """

    header: str = "Authorization"
    source: str
    prefix: str = ""
    oauth: OAuthTerms | None = None


class RateTerms(_Table, frozen=True, kw_only=True):
    """How much is forwarded, such as ``60/1m``; a message that is not, is refused as ``rate_limited``.

    Attributes:
        agent: Calls and other messages of each agent.
        tool: Calls of each agent to each tool.
        open: Requests and streams of each agent that are open at once.
    """

    agent: str | None = None
    tool: str | None = None
    open: Annotated[int, Meta(ge=1)] = 256


class UpstreamTerms(_Table, frozen=True, kw_only=True):
    """A server behind the gateway.

    Attributes:
        audience: The audience of its tools in the policy.
        service: The service file of the audience; ``AUDIENCE.json`` beside the gateway's file when omitted.
        url: Its URL.
        command: The program and arguments of an MCP server that the gateway starts and speaks to over stdio.
        env: Environment variables of that program: values, or where secrets are, as in ``from`` of ``credential``.
        isolation: How that program is kept from the gateway and its files: `auto`, `bubblewrap`, `systemd`, `user` or
            `none`.
        user: The user that it runs as, of `user`, or beside `bubblewrap` and `systemd`.
        home: Its own folder, its HOME and working folder; `servers/NAME` beside the gateway's file, or the home of
            ``user``, when omitted.
        reads: Further files and folders that it may read.
        writes: Further files and folders that it may read and write.
        openapi: The OpenAPI file of a plain HTTP service.  Each operation is the tool of its ``operationId``.
        routes: The routes of a plain HTTP service, with their tools: ``"GET /orders/{order_id}" = "orders.get"``.
        credential: Its credential.
        timeout: The longest time until an answer begins, and until one that is no stream ends.
        max_body: The longest body of a request, bytes.
        max_answer: The longest answer that is no stream, bytes.
        rate: Limits.
        ca: File of a further certificate authority for TLS with the upstream.
        resource: The URL at which OAuth clients reach it; without one, access tokens are refused.
        costs: By tool or pattern what a call costs, by unit, as in the service file, whose ``costs`` it replaces;
            without a ``reserve``, which no server behind the gateway could commit.
        dpop: Whether access tokens must be bound to a key of the client (DPoP, RFC 9449).
    """

    audience: str
    service: str | None = None
    url: str | None = None
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    isolation: str = "auto"
    user: str = ""
    home: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    openapi: str | None = None
    routes: dict[str, str] = {}
    credential: CredentialTerms | None = None
    timeout: str = "60s"
    max_body: Bytes = _MEBIBYTE
    max_answer: Bytes = 16 * _MEBIBYTE
    rate: RateTerms = RateTerms()
    ca: str | None = None
    resource: str | None = None
    dpop: bool = False
    costs: dict[str, dict[str, Any]] = {}

    @property
    def is_http(self) -> bool:
        """Whether it is a plain HTTP service; else it speaks MCP."""
        return self.openapi is not None or bool(self.routes)

    @property
    def timeout_s(self) -> float:
        """``timeout``, s."""
        return parse_duration(self.timeout) / 1000


class ActionTerms(_Table, frozen=True, kw_only=True):
    """The tool of an action on a type of resource.

    Attributes:
        tool: The tool.
        args: Its arguments, each with the member of a question that it is: ``{ order_id = "resource.id" }``.  What a
            question does not have is no argument.
    """

    tool: str
    args: dict[str, str] = {}


class DeciderTerms(_Table, frozen=True, kw_only=True):
    """What a proxy of the site asks about each request, before it passes the request on.

    Attributes:
        kind: How the proxy asks: `forward-auth`, Envoy's `ext-authz` (gRPC) or `ext-authz-http`, agentgateway's
            `ext-mcp`, or `authzen`.
        listen: Host and port at which the proxy asks. No client may reach it.
        hosts: Networks of the proxies that may ask, whose headers about the client's request are trusted.
        audience: The audience of the tools in the policy.
        service: The service file of the audience; ``AUDIENCE.json`` beside the gateway's file when omitted.
        openapi: The OpenAPI file of what is behind the proxy.  Each operation is the tool of its ``operationId``.
        routes: The routes behind the proxy, with their tools: ``"GET /orders/{order_id}" = "orders.get"``.
        body_header: The header in which the proxy says ``none`` if a request has no body, whatever its client wrote in
            it.  Without one, each request but ``GET`` and ``HEAD`` may have a body that is not seen.
        bodies: Whether the proxy sends each body, and all of it; of `ext-authz` and `ext-authz-http`.
        path_prefix: What the proxy puts before the path; of `ext-authz-http`.
        backend: The name of the one MCP server that is asked about; of `ext-mcp`, which has no routes.
        spends: Whether an allowed call is used up, and draws on its budgets.  ``false`` is for a verifier behind the
            proxy, which spends and draws.
        resource: The URL at which OAuth clients reach the proxy; without one, access tokens are refused.
        url: Only with `authzen`: the URL of the decider as the PEPs have it.
        peps: Only with `authzen`: the PEPs that may ask, and where the secret of each is: ``env:NAME``, ``file:PATH``
            or ``keyring:SERVICE/USER``.
        actions: Only with `authzen`: the tool of each action on a type of resource.
        subjects: Only with `authzen`: what stands before the id of an agent, by types of subjects; `agent` has nothing.
        asserted: Only with `authzen`: whether a question without a credential gets the policy's answer about the agent
            that it names.  The PEP must then have authenticated it.
        costs: As of an upstream; not used with ``spends = false``.
    """

    kind: str
    listen: str
    hosts: tuple[str, ...] = ("127.0.0.1/32", "::1/128")
    audience: str
    service: str | None = None
    openapi: str | None = None
    routes: dict[str, str] = {}
    body_header: str = ""
    bodies: bool = False
    path_prefix: str = ""
    backend: str = ""
    spends: bool = True
    resource: str | None = None
    url: str | None = None
    peps: dict[str, str] = {}
    actions: dict[str, ActionTerms] = {}
    subjects: dict[str, str] = {}
    asserted: bool = False
    costs: dict[str, dict[str, Any]] = {}

    @property
    def is_grpc(self) -> bool:
        """Whether the proxy asks over gRPC."""
        return self.kind in _GRPC

    def address(self, gateway: "GatewayTerms") -> tuple[str, int]:
        """Return host and port.

        Args:
            gateway: The table ``gateway``.

        Raises:
            SettingsError: It is no address, or one that others reach without TLS.
        """
        return read_address(self.listen, gateway.behind_tls)


class GatewayTerms(_Table, frozen=True, kw_only=True):
    """The table ``gateway``.

    Attributes:
        listen: Hosts and ports.  An origin belongs to one audience, so that each audience needs one of its own: a port
            here, or a name at a proxy before the gateway.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        behind_tls: Whether a proxy before the gateway terminates TLS, so that it may listen beyond loopback.
        origins: The origins whose pages may call the upstreams, such as ``https://chat.example``.  When omitted, pages
            of every origin may call an MCP server with a ``resource``, and no page another upstream.
    """

    listen: tuple[str, ...] = ("127.0.0.1:8090",)
    trusted_proxies: tuple[str, ...] = ()
    behind_tls: bool = False
    origins: tuple[str, ...] | None = None


class GatewaySettings(NamedTuple):
    """The content of the gateway's file.

    Attributes:
        gateway: Where it listens.
        upstreams: The upstreams by name, which is the first segment of the path at which a client reaches it.
        deciders: The deciders by name.
        folder: The folder of the file, which paths in it are relative to.
        file: The file.
        realm: The folder of a realm that runs beside the gateway; None if there is none.
    """

    gateway: GatewayTerms
    upstreams: Mapping[str, UpstreamTerms]
    deciders: Mapping[str, DeciderTerms]
    folder: Path
    file: Path
    realm: Path | None = None

    @property
    def tables(self) -> dict[str, UpstreamTerms | DeciderTerms]:
        """The upstreams and the deciders; no two have one name."""
        return {**self.upstreams, **self.deciders}

    def service_file(self, name: str) -> Path:
        """Return the service file of an upstream or a decider."""
        terms = self.tables[name]
        return self.folder / (terms.service or f"{terms.audience}.json")

    def protected(self) -> tuple[Path, ...]:
        """Return the files and folders of the gateway and its realm, which no program of an upstream may reach."""
        found = [self.file] if self.realm is None else [self.file, self.realm]
        for name, terms in self.tables.items():
            service = self.service_file(name)
            found += [service, service.with_suffix(".key")]
            if isinstance(terms, UpstreamTerms):
                sources = [*terms.env.values(), terms.credential.source if terms.credential else ""]
            else:
                sources = [*terms.peps.values()]
            found += [self.folder / each.removeprefix("file:") for each in sources if each.startswith("file:")]
        return tuple(dict.fromkeys(path.absolute() for path in found))


_KINDS_OF_TABLES: Final[Any] = (("upstream", UpstreamTerms), ("decider", DeciderTerms))


def read_settings(path: Path | str, realm: Path | None = None) -> GatewaySettings:
    """Read the gateway's file.

    Args:
        path: The file, TOML.
        realm: The folder of a realm that runs beside the gateway.

    Raises:
        SettingsError: It cannot be read, or says something that the gateway does not understand.
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise SettingsError(f"{file} is not TOML: {error}") from error
    if unknown := sorted(content.keys() - {"gateway", "upstream", "decider"}):
        raise SettingsError(f"{file}: {unknown[0]}: expected the tables gateway, upstream.NAME and decider.NAME")
    upstreams, deciders = (_tables(file, content, *each) for each in _KINDS_OF_TABLES)
    if not upstreams and not deciders:
        raise SettingsError(
            f"{file} has no upstream and no decider: expected a table such as [upstream.github] or [decider.shop]"
        )
    gateway = _read(file, "gateway", content.get("gateway", {}), GatewayTerms)
    for text in gateway.listen:
        read_address(text, gateway.behind_tls)
    for origin in gateway.origins or ():
        if not _ORIGIN.fullmatch(origin) or origin.endswith(_DEFAULT_PORTS.get(origin.partition(":")[0], "/")):
            text = "expected an origin as browsers write it, in lower case without a path and a default port"
            raise SettingsError(f"{file}: gateway: origins: {text}, such as https://chat.example, got {origin!r:.100}")
    for name, terms in upstreams.items():
        if wrong := _fault(name, terms):
            raise SettingsError(f"{file}: upstream.{name}: {wrong}")
    taken = {read_address(text, gateway.behind_tls)[1]: "gateway" for text in gateway.listen}
    for name, decider in deciders.items():
        if wrong := _decider_fault(name, decider, upstreams, gateway, taken):
            raise SettingsError(f"{file}: decider.{name}: {wrong}")
    settings = GatewaySettings(gateway, upstreams, deciders, file.parent, file, realm)
    # Each has a verifier with a journal and used calls of its own: each would accept an approval once.
    services: dict[Path, str] = {}
    for name in settings.tables:
        if (other := services.setdefault(settings.service_file(name).resolve(), name)) != name:
            kind = "decider" if name in deciders else "upstream"
            raise SettingsError(f"{file}: {kind}.{name}: expected an audience of its own, got that of {other}")
    return settings


def _tables(file: Path, content: Mapping[str, Any], kind: str, terms: type[T]) -> dict[str, T]:
    tables = content.get(kind, {})
    if not isinstance(tables, dict):
        raise SettingsError(f"{file}: {kind}: expected a table such as [{kind}.shop]")
    return {name: _read(file, f"{kind}.{name}", table, terms) for name, table in tables.items()}


def _read(file: Path, place: str, table: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        members = ""
        if "unknown field" in str(error) and " - at " not in str(error):  # of this table, and of none within it
            members = f"; expected some of {', '.join(sorted(each.encode_name for each in fields(kind)))}"
        raise SettingsError(f"{file}: {place}: {error}{members}") from error


def _fault(name: str, terms: UpstreamTerms) -> str | None:
    """Return what is wrong with an upstream."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        return f"expected a name such as 'github', of [a-z0-9_-] and none of {', '.join(sorted(_RESERVED))}"
    if terms.resource is not None and not _is_resource(terms.resource, name):
        return f"resource: expected the URL of clients, which ends in /{name}, got {terms.resource!r:.100}"
    if terms.dpop and terms.resource is None:
        return "dpop: needs a `resource`, without which access tokens are refused"
    if (terms.url is None) == (not terms.command):
        return "expected one of `url` and `command`"
    if terms.url is not None:
        parts = split_url(terms.url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
            return f"url: expected http:// or https:// and a host, got {terms.url!r:.100}"
        if parts.username or parts.query or terms.url.endswith("#"):
            return "url: expected no user, query or fragment; a secret belongs into `credential`"
    if terms.command and (terms.is_http or terms.credential):
        return "`command` starts an MCP server over stdio, which has neither `openapi`, `routes` nor `credential`"
    if terms.isolation not in ISOLATIONS:
        return f"isolation: expected one of {', '.join(ISOLATIONS)}, got {terms.isolation!r:.100}"
    if not terms.command and (terms.isolation != "auto" or terms.user or terms.home or terms.reads or terms.writes):
        return "expected `isolation`, `user`, `home`, `reads` and `writes` only with `command`"
    if terms.isolation == "none" and (terms.user or terms.home or terms.reads or terms.writes):
        return 'expected `user`, `home`, `reads` and `writes` only with an isolation, got isolation = "none"'
    if terms.openapi is not None and terms.routes:
        return "expected one of `openapi` and `routes`"
    try:
        RouteMap(terms.routes)
    except SettingsError as error:
        return f"routes: {error}"
    if terms.credential is not None and not _HEADER.fullmatch(terms.credential.header):
        return f"credential: expected the name of a header, got {terms.credential.header!r:.100}"
    if terms.credential is not None and not terms.credential.source.startswith(SOURCES):
        return "credential: `from` expects env:NAME, file:PATH or keyring:SERVICE/USER: no secret is in this file"
    if terms.credential is not None and (oauth := terms.credential.oauth) is not None:
        place = split_url(oauth.token_url)
        if place is None or not _is_secure(place) or not place.hostname or place.username or place.fragment:
            return "credential.oauth: token_url: expected https:// and a host, without a user and a fragment"
    for rate in (terms.rate.agent, terms.rate.tool):
        if rate is not None and read_rate(rate) is None:
            return f"rate: expected a number of calls and a time such as '60/1m', got {rate!r:.100}"
    try:
        return None if parse_duration(terms.timeout) else "timeout: expected more than 0s"
    except ValueError as error:
        return f"timeout: {error}"


def _decider_fault(
    name: str, terms: DeciderTerms, upstreams: Mapping[str, UpstreamTerms], gateway: GatewayTerms, taken: dict[int, str]
) -> str | None:
    """Return what is wrong with a decider; ``taken`` has the ports so far, and gets its own."""
    if not _NAME.fullmatch(name) or name in upstreams:
        return "expected a name such as 'shop', of [a-z0-9_-], which no upstream has"
    if terms.kind not in KINDS:
        return f"kind: expected one of {', '.join(KINDS)}, got {terms.kind!r:.100}"
    if (terms.kind == "ext-mcp") != bool(terms.backend):
        return "backend: expected the name of the MCP server, of ext-mcp alone"
    if terms.backend and (terms.openapi or terms.routes or terms.body_header):
        return "ext-mcp has neither `openapi`, `routes` nor `body_header`"
    if terms.kind == "authzen":
        if wrong := _authzen_fault(terms):
            return wrong
    elif terms.url or terms.peps or terms.actions or terms.subjects or terms.asserted:
        return 'expected `url`, `peps`, `actions`, `subjects` and `asserted` only with kind = "authzen"'
    elif not terms.backend and bool(terms.openapi) == bool(terms.routes):
        return "expected one of `openapi` and `routes`"
    if not terms.hosts:
        return "hosts: expected the network of the proxy that asks"
    for text in terms.hosts:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            return f"hosts: expected a network such as 10.0.0.0/8, got {text!r:.60}"
    if terms.body_header and (not _HEADER.fullmatch(terms.body_header) or "_" in terms.body_header):
        return f"body_header: expected the name of a header such as X-Arx-Body, got {terms.body_header!r:.100}"
    if terms.bodies and (terms.kind not in ("ext-authz", "ext-authz-http") or terms.body_header):
        return "bodies: expected a kind of ext-authz, and no `body_header`"
    if terms.path_prefix and (terms.kind != "ext-authz-http" or not _PREFIX.fullmatch(terms.path_prefix)):
        return f"path_prefix: expected a path such as /arx, of ext-authz-http, got {terms.path_prefix!r:.100}"
    if terms.resource is not None and not terms.spends:
        # Else a proof of a client (DPoP) could be used twice.
        return "resource: needs `spends = true`, because no verifier behind the proxy takes access tokens"
    if terms.resource is not None and not _is_plain_url(terms.resource):
        return f"resource: expected the URL of clients, got {terms.resource!r:.100}"
    try:
        _, port = terms.address(gateway)
    except SettingsError as error:
        return f"listen: {error}"
    # A request is known by its port: clients could otherwise ask as the proxy does.
    if not port or (other := taken.setdefault(port, name)) != name:
        return f"listen: expected a port of its own, got that of {other}" if port else "listen: expected a port, got 0"
    return None


def _authzen_fault(terms: DeciderTerms) -> str | None:
    """Return what is wrong with the members that a decider has for AuthZEN."""
    if terms.body_header or (terms.openapi and terms.routes):
        return "expected no `body_header`, and at most one of `openapi` and `routes`"
    if not terms.peps or not all(source.startswith(SOURCES) for source in terms.peps.values()):
        return "peps: expected one, as env:NAME, file:PATH or keyring:SERVICE/USER: no secret is in this file"
    # AuthZEN 9.1.1; the prefix of a PEP's requests is that of this URL, and it must be the only reading of it.
    place = split_url(terms.url) if terms.url is not None and _is_plain_url(terms.url) else None
    if place is None or not _is_secure(place) or place.path.endswith("/"):
        return f"url: expected https://, a host and perhaps a path without a slash at its end, got {terms.url!r:.100}"
    for name, action in terms.actions.items():
        if not _ACTION.fullmatch(name):
            return f"actions: expected an action and a type of resource, as in 'read record', got {name!r:.100}"
        if not action.tool.startswith(f"{terms.audience}."):
            return f"actions: {name}: expected a tool that begins with {terms.audience}., got {action.tool!r:.100}"
        for path in action.args.values():
            if not _MEMBER.fullmatch(path) or path == "context.credential":
                return (
                    f"actions: {name}: expected resource.id, context.NAME, or properties.NAME of subject, action or "
                    f"resource, got {path!r:.100}"
                )
    return None


def _is_secure(place: SplitResult) -> bool:
    """Return whether no other party can read what is sent to a URL: TLS, or the same machine."""
    return place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname or ""))


def _is_plain_url(url: str) -> bool:
    """Return whether a URL has no query and no fragment.  RFC 9728 1.2."""
    parts = split_url(url) if url.isascii() and '"' not in url else None
    if parts is None or parts.username or parts.scheme not in ("http", "https") or not parts.netloc:
        return False
    return url == f"{parts.scheme}://{parts.netloc}{parts.path}"


def _is_resource(url: str, name: str) -> bool:
    """Return whether a URL can name an upstream as a resource."""
    return _is_plain_url(url) and urlsplit(url).path.endswith(f"/{name}")


def read_rate(text: str) -> tuple[int, int] | None:
    """Return a rate's number of calls and its time, ms; None if it is none.

    Args:
        text: Such as ``60/1m``.
    """
    form = _RATE.fullmatch(text)
    try:
        return (int(form[1]), parse_duration(form[2])) if form and parse_duration(form[2]) else None
    except ValueError:
        return None


def read_address(text: str, behind_tls: bool) -> tuple[str, int]:
    """Return host and port; beyond loopback TLS must end before the gateway.

    Args:
        text: Such as ``127.0.0.1:8090``.
        behind_tls: Whether a proxy terminates TLS.

    Raises:
        SettingsError: It is no address, or one that others reach without TLS.
    """
    host, _, port = text.rpartition(":")
    host, number = host.strip("[]"), read_port(port)
    if not host or number is None:
        raise SettingsError(f"invalid address to listen at: expected HOST:PORT, got {text!r:.100}")
    if not is_loopback(host) and not behind_tls:
        raise SettingsError(
            f"the gateway serves plain HTTP and would listen at {host}: give it a loopback address, or confirm that "
            "TLS ends before it (behind_tls = true)"
        )
    return host, number
