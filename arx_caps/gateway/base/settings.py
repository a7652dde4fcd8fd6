# SPDX-License-Identifier: Apache-2.0
"""The gateway's file: where it listens, and its upstreams, a table each.  ``docs/gateway.md`` describes it."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, field

from arx_caps.gateway.catalogue.terms import HostName
from arx_caps.isolation.choice import KINDS as ISOLATIONS
from arx_caps.settings.connections import ConnectionName
from arx_caps.settings.durations import parse_duration
from arx_caps.settings.forms import Network
from arx_caps.settings.toml_file import (
    REPEATABLE,
    SECRET,
    TomlEntry,
    TomlError,
    TomlTable,
    checked_text,
    duration,
    raise_mistakes,
    read_toml,
    several,
    text_that,
)
from arx_verifier.addresses import is_loopback, read_port, split_url
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import SettingsError, shorten
from arx_verifier.names import is_id, is_tool_pattern
from arx_verifier.verification.service_limits import ServiceLimits
from arx_verifier.verification.watch import Watch, read_watch

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a segment of the gateway's paths
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_PLAIN_HEADER: Final = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")  # that no server takes for another one
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_-]+)+")  # of a decider's paths
# As browsers write it: in lower case, with no default port (RFC 6454 6.2).
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(.+)")
_RESERVED: Final = frozenset(("healthz", "readyz", "metrics", "hosts"))  # paths of the gateway itself
SOURCES: Final = ("env:", "file:", "keyring:")  # of secrets: no file of settings has one
ASKED: Final = ("sampling", "elicitation", "roots")  # what an MCP server may ask of a client
KINDS: Final = ("forward-auth", "ext-authz", "ext-authz-http", "ext-mcp", "authzen")  # of deciders
_GRPC: Final = ("ext-authz", "ext-mcp")
_MEBIBYTE: Final = 1024 * 1024
_ACTION: Final = re.compile(r"[!-~]+ [!-~]+")  # an action and the type of a resource
_MEMBER: Final = re.compile(
    r"(resource\.id|context\.[\w-]+|(subject|action|resource)\.properties(\.[\w-]+)+)", re.ASCII
)


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


def _is_secure(place: SplitResult) -> bool:
    """Return whether no other party can read what is sent to a URL: TLS, or the same machine."""
    return place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname or ""))


def _is_plain_url(url: str) -> bool:
    """Return whether a URL has no query and no fragment.  RFC 9728 1.2."""
    parts = split_url(url) if url.isascii() and '"' not in url else None
    if parts is None or parts.username or parts.scheme not in ("http", "https") or not parts.netloc:
        return False
    return url == f"{parts.scheme}://{parts.netloc}{parts.path}"


def _is_decider_url(url: str) -> bool:
    # AuthZEN 9.1.1; the prefix of a PEP's requests is that of this URL, and it must be the only reading of it.
    place = split_url(url) if _is_plain_url(url) else None
    return place is not None and _is_secure(place) and not place.path.endswith("/")


def _is_token_url(url: str) -> bool:
    place = split_url(url)
    return place is not None and _is_secure(place) and bool(place.hostname) and not (place.username or place.fragment)


def _wrong_url(url: str) -> str | None:
    """Return why an upstream cannot have this URL, which may hold a password."""
    parts = split_url(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        return "expected http:// or https:// and a host"
    if parts.username or parts.query or url.endswith("#"):
        return "expected no user, query or fragment; a secret belongs into `credential`"
    return None


def _is_origin(text: str) -> bool:
    return bool(_ORIGIN.fullmatch(text)) and not text.endswith(_DEFAULT_PORTS.get(text.partition(":")[0], "/"))


def _or_empty(form: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: not text or form.fullmatch(text) is not None


Bytes: TypeAlias = Annotated[int, Meta(ge=1024, le=1024 * _MEBIBYTE)]
UpstreamName: TypeAlias = Annotated[
    str,
    text_that(
        lambda name: _NAME.fullmatch(name) and name not in _RESERVED,
        f"a name such as github, of [a-z0-9_-] and none of {', '.join(sorted(_RESERVED))}",
    ),
]
DeciderName: TypeAlias = Annotated[str, text_that(_NAME.fullmatch, "a name such as shop, of [a-z0-9_-]")]
Header: TypeAlias = Annotated[str, text_that(_HEADER.fullmatch, "the name of a header")]
Source: TypeAlias = Annotated[
    str,
    SECRET,
    text_that(
        lambda text: text.startswith(SOURCES), "env:NAME, file:PATH or keyring:SERVICE/USER: no secret is in this file"
    ),
]
SecretText: TypeAlias = Annotated[str, SECRET]  # an argument or a value that could be a secret itself
PlainBody: TypeAlias = Annotated[str, text_that(("opaque", "stream").__contains__, "one of opaque, stream")]
CallRate: TypeAlias = Annotated[str, text_that(read_rate, "a number of calls and a time such as 60/1m")]
UpstreamUrl: TypeAlias = Annotated[str, SECRET, checked_text(_wrong_url)]
TokenUrl: TypeAlias = Annotated[
    str, SECRET, text_that(_is_token_url, "https:// and a host, without a user and a fragment")
]
DeciderUrl: TypeAlias = Annotated[
    str,
    SECRET,
    text_that(_is_decider_url, "https://, a host and perhaps a path without a slash at its end"),
]
IsolationKind: TypeAlias = Annotated[str, text_that(ISOLATIONS.__contains__, f"one of {', '.join(ISOLATIONS)}")]
ServerRequest: TypeAlias = Annotated[str, text_that(ASKED.__contains__, f"one of {', '.join(ASKED)}")]
DeciderKind: TypeAlias = Annotated[str, text_that(KINDS.__contains__, f"one of {', '.join(KINDS)}")]
BodyHeader: TypeAlias = Annotated[str, text_that(_or_empty(_PLAIN_HEADER), "the name of a header such as X-Arx-Body")]
PathPrefix: TypeAlias = Annotated[str, text_that(_or_empty(_PREFIX), "a path such as /arx")]
ActionName: TypeAlias = Annotated[
    str, text_that(_ACTION.fullmatch, "an action and a type of resource, as in 'read record'")
]
QuestionMember: TypeAlias = Annotated[
    str,
    text_that(
        lambda path: _MEMBER.fullmatch(path) and path != "context.credential",
        "resource.id, context.NAME, or properties.NAME of subject, action or resource",
    ),
]
Origin: TypeAlias = Annotated[
    str,
    text_that(
        _is_origin,
        "an origin as browsers write it, in lower case without a path and a default port, such as https://chat.example",
    ),
]


class OAuthTerms(TomlTable, frozen=True, kw_only=True):
    """How the gateway fetches the access token of an upstream, by OAuth client credentials (RFC 6749 4.4).

    Attributes:
        token_url: The token endpoint.
        client_id: The gateway's id there; its secret is ``from``.
        scope: The scopes to ask for.
        resource: The resource to ask for (RFC 8707), as MCP servers need it.
    """

    token_url: TokenUrl
    client_id: str
    scope: str = ""
    resource: str = ""


class CredentialTerms(TomlTable, frozen=True, kw_only=True):
    """A credential of an upstream, which replaces that header of each forwarded request.

    Attributes:
        header: The header.
        source: Where the secret is: ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``.
        prefix: What the header has before the secret, such as ``Bearer`` and a space.
        oauth: Where the gateway fetches an access token with the secret; the header has the token, after ``Bearer``.
        connection: In the place of ``from``: the connection of the realm whose account of the person each call has.
    """

    header: Header = "Authorization"
    source: Source = field(name="from", default="")
    prefix: str = ""
    oauth: OAuthTerms | None = None
    connection: ConnectionName | None = None


class RateTerms(TomlTable, frozen=True, kw_only=True):
    """How much is forwarded, such as ``60/1m``; a message that is not, is refused as ``rate_limited``.

    Attributes:
        agent: Calls and other messages of each agent.
        tool: Calls of each agent to each tool.
        open: Requests and streams of each agent that are open at once.
    """

    agent: CallRate | None = None
    tool: CallRate | None = None
    open: Annotated[int, Meta(ge=1)] = 256


class GuardTerms(TomlTable, frozen=True, kw_only=True):
    """What the tables of upstreams and deciders have alike.

    Attributes:
        limits: See ``UpstreamTerms``; so are the others.
        effects: See there.
        marks: See there.
        watch: See there.
        until: See there.
        record: See there.
        group_by: See there.
    """

    limits: dict[str, Any] | None = None
    effects: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    watch: bool = False
    until: Any = None
    record: str | None = None
    group_by: str | None = None

    def read_watch(self) -> Watch | None:
        """Return the watch of the table, or None.

        Raises:
            SettingsError: It has no end, or one too far ahead; or what belongs to it is there without it.
        """
        return read_watch("watch" if self.watch else "enforce", self.until, self.record, self.group_by)


class UpstreamTerms(GuardTerms, frozen=True, kw_only=True):
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
        bodies: The routes whose bodies are not JSON: ``opaque``, judged by digest, size and type, or ``stream``, which
            goes on as it comes, and is judged by size and type.
        catalogue: In the place of ``routes``: the name of a shipped catalogue, or a file of one.
        hosts: The hosts whose requests a front sends here; with a catalogue, the host of ``url`` when omitted.
        credential: Its credential.
        timeout_ms: The longest time until an answer begins, and until one that is no stream ends.
        max_body: The longest body of a request, bytes.
        max_answer: The longest answer that is no stream, bytes.
        rate: Limits.
        ca: File of a further certificate authority for TLS with the upstream.
        resource: The URL at which OAuth clients reach it; without one, access tokens are refused.
        costs: By tool or pattern what a call costs, by unit, as in the service file, whose ``costs`` it replaces;
            without a ``reserve``, which no server behind the gateway could commit.
        watch: Whether calls go on that would be refused, until ``until``; of an upstream with a URL.
        until: When the watch ends, at most 30 days ahead: a time with its zone.
        record: ``arguments`` records each call with its arguments while it watches.
        group_by: What such records group callers without a token by: a header, or ``address``.
        limits: What each call must satisfy as well, whatever its token allows: ``rules``, ``net``, ``hours``,
            ``approve``.  No token, policy or mint can change them.
        effects: Tools, or patterns of them, whose effects are recorded too: what their answers show, `done`, `failed`
            or `unknown`.
        marks: Warnings that each allowed call sets before it is forwarded, such as ``["untrusted"]`` for a server whose
            every answer an attacker may have written; where the policy has rows for them.  Needs a ledger.
        dpop: Whether access tokens must be bound to a key of the client (DPoP, RFC 9449).
        server_requests: What an MCP server may ask of clients: ``sampling``, ``elicitation`` and ``roots``.
    """

    audience: str
    service: str | None = None
    url: UpstreamUrl | None = None
    command: Annotated[tuple[SecretText, ...], REPEATABLE] = ()
    env: dict[str, SecretText] = field(default_factory=dict)
    isolation: IsolationKind = "auto"
    user: str = ""
    home: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    openapi: str | None = None
    routes: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, PlainBody] = field(default_factory=dict)
    catalogue: str | None = None
    hosts: tuple[HostName, ...] | None = None
    credential: CredentialTerms | None = None
    timeout_ms: Annotated[int, duration()] = field(name="timeout", default=60_000)
    max_body: Bytes = _MEBIBYTE
    max_answer: Bytes = 16 * _MEBIBYTE
    rate: RateTerms = RateTerms()
    ca: str | None = None
    resource: str | None = None
    dpop: bool = False
    server_requests: tuple[ServerRequest, ...] = ()
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_http(self) -> bool:
        """Whether it is a plain HTTP service; else it speaks MCP."""
        return self.openapi is not None or self.catalogue is not None or bool(self.routes)

    @property
    def has_people(self) -> bool:
        """Whether its credentials are those of people's own accounts."""
        return self.credential is not None and self.credential.connection is not None

    @property
    def sources(self) -> list[str]:
        """Where its secrets are, and its plain variables."""
        return [*self.env.values(), *([self.credential.source] if self.credential else [])]

    @property
    def timeout_s(self) -> float:
        """``timeout_ms``, s."""
        return self.timeout_ms / 1000


class ActionTerms(TomlTable, frozen=True, kw_only=True):
    """The tool of an action on a type of resource.

    Attributes:
        tool: The tool.
        args: Its arguments, each with the member of a question that it is: ``{ order_id = "resource.id" }``.  What a
            question does not have is no argument.
    """

    tool: str
    args: dict[str, QuestionMember] = field(default_factory=dict)


class DeciderTerms(GuardTerms, frozen=True, kw_only=True):
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
        costs: As of an upstream; not used with ``spends = false``.
        limits: As of an upstream.
        effects: Must be empty: a decider sees no answer. Name them in the service itself, or in an upstream.
        marks: As of an upstream; not with ``spends = false``.
        watch: Whether requests pass that would be refused, until ``until``.
        until: As of an upstream.
        record: As of an upstream.
        group_by: As of an upstream.
    """

    kind: DeciderKind
    listen: str
    hosts: Annotated[tuple[Network, ...], several("network", "name that of the proxy that asks")] = (
        "127.0.0.1/32",
        "::1/128",
    )
    audience: str
    service: str | None = None
    openapi: str | None = None
    routes: dict[str, str] = field(default_factory=dict)
    body_header: BodyHeader = ""
    bodies: bool = False
    path_prefix: PathPrefix = ""
    backend: str = ""
    spends: bool = True
    resource: str | None = None
    url: DeciderUrl | None = None
    peps: dict[str, Source] = field(default_factory=dict)
    actions: dict[ActionName, ActionTerms] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """Where its secrets are."""
        return [*self.peps.values()]

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


class GatewayTerms(TomlTable, frozen=True, kw_only=True):
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
    trusted_proxies: tuple[Network, ...] = ()
    behind_tls: bool = False
    origins: tuple[Origin, ...] | None = None


class GatewayFile(TomlTable, frozen=True, kw_only=True):
    """The tables of the file."""

    gateway: GatewayTerms = GatewayTerms()
    upstream: dict[UpstreamName, UpstreamTerms] = field(default_factory=dict)
    decider: dict[DeciderName, DeciderTerms] = field(default_factory=dict)


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

    def tools_file(self, name: str) -> Path:
        """Return the file of an upstream's accepted tools, beside its service file, whose folder is writable."""
        return self.service_file(name).with_suffix(".tools.json")

    def protected(self) -> tuple[Path, ...]:
        """Return the files and folders of the gateway and its realm, which no program of an upstream may reach."""
        found = [self.file] if self.realm is None else [self.file, self.realm]
        for name, terms in self.tables.items():
            service = self.service_file(name)
            found += [service, service.with_suffix(".key"), self.tools_file(name)]
            files = [each for each in terms.sources if each.startswith("file:")]
            found += [self.folder / each.removeprefix("file:") for each in files]
        return tuple(dict.fromkeys(path.absolute() for path in found))


def read_settings(path: Path | str, realm: Path | None = None) -> GatewaySettings:
    """Read the gateway's file.

    Args:
        path: The file, TOML.
        realm: The folder of a realm that runs beside the gateway.

    Raises:
        SettingsError: It cannot be read, or says something that the gateway does not understand.
    """
    entry, file = TomlEntry(read_toml(path)), Path(path)
    terms: GatewayFile = entry.read(GatewayFile, entry.text.document)
    if not terms.upstream and not terms.decider:
        raise entry.error("expected a table such as [upstream.github] or [decider.shop], got none")
    settings = GatewaySettings(terms.gateway, terms.upstream, terms.decider, file.parent, file, realm)
    places = {name: entry.at("upstream", name) for name in terms.upstream}
    places |= {name: entry.at("decider", name) for name in terms.decider}
    ports: dict[int, str] = {}
    raise_mistakes(
        [
            *_listen_mistakes(entry.at("gateway", "listen"), terms.gateway, ports),
            *chain.from_iterable(
                _upstream_mistakes(places[name], name, terms.upstream[name]) for name in terms.upstream
            ),
            *chain.from_iterable(_decider_mistakes(places[name], name, settings, ports) for name in terms.decider),
            *_shared_services(settings, places),
            *chain.from_iterable(_guard_mistakes(places[name], terms) for name, terms in settings.tables.items()),
        ]
    )
    return settings


def _listen_mistakes(entry: TomlEntry, gateway: GatewayTerms, ports: dict[int, str]) -> Iterator[TomlError]:
    """Yield the mistakes of the gateway's addresses; ``ports`` gets their ports."""
    for index, text in enumerate(gateway.listen):
        try:
            ports[read_address(text, gateway.behind_tls)[1]] = "gateway"
        except SettingsError as error:
            yield entry.at(index).error(str(error))


def _upstream_mistakes(entry: TomlEntry, name: str, terms: UpstreamTerms) -> Iterator[TomlError]:
    if terms.resource is not None and not _is_resource(terms.resource, name):
        wanted = f"expected the URL of clients, which ends in /{name}"
        yield entry.at("resource").error(f"{wanted}, got {shorten(terms.resource)}")
    if terms.dpop and terms.resource is None:
        yield entry.at("dpop").error("needs a `resource`, without which access tokens are refused")
    if (terms.url is None) == (not terms.command):
        yield entry.error(f"expected one of `url` and `command`, got {'both' if terms.command else 'neither'}")
    if terms.command and (terms.is_http or terms.credential):
        yield entry.at("command").error(
            "starts an MCP server over stdio, which has neither `openapi`, `routes`, `catalogue` nor `credential`"
        )
    reaches = terms.user or terms.home or terms.reads or terms.writes
    if not terms.command and (terms.isolation != "auto" or reaches):
        yield entry.error("expected `isolation`, `user`, `home`, `reads` and `writes` only with `command`")
    elif terms.isolation == "none" and reaches:
        yield entry.at("isolation").error(
            'expected `user`, `home`, `reads` and `writes` only with an isolation, got isolation = "none"'
        )
    if terms.credential is not None:
        yield from _credential_mistakes(entry, terms, terms.credential)
    if (terms.openapi is not None) + (terms.catalogue is not None) + bool(terms.routes) > 1:
        yield entry.error("expected one of `openapi`, `routes` and `catalogue`, got several")
    if odd := next((route for route in terms.bodies if route not in terms.routes), None):
        yield entry.at("bodies", odd).error("expected a route that `routes` has as well")
    if terms.hosts and not terms.is_http:
        yield entry.at("hosts").error("is of a plain HTTP service alone")
    if terms.server_requests and terms.is_http:
        yield entry.at("server_requests").error("is of an MCP server alone")
    yield from _route_mistakes(entry.at("routes"), terms.routes)


def _credential_mistakes(entry: TomlEntry, terms: UpstreamTerms, credential: CredentialTerms) -> Iterator[TomlError]:
    place = entry.at("credential")
    if credential.connection is None:
        if not credential.source:
            yield place.error("needs `from`, or `connection` for the accounts of people")
        return
    if credential.source or credential.oauth is not None:
        yield place.error("expected one of `from` and `connection`, got both")
    if terms.watch:
        # A call that would be refused has no person whose account it may use.
        yield entry.at("watch").error("expected no `connection`: in watch mode a call may have no person")


def _route_mistakes(entry: TomlEntry, routes: Mapping[str, str]) -> Iterator[TomlError]:
    wrong = {route: error for route, tool in routes.items() if (error := _wrong_routes({route: tool}))}
    yield from (entry.at(route).error(error) for route, error in wrong.items())
    if not wrong and (error := _wrong_routes(routes)):
        yield entry.error(error)


def _wrong_routes(routes: Mapping[str, str]) -> str | None:
    try:
        RouteMap(routes)
    except SettingsError as error:
        return str(error)
    return None


def _decider_mistakes(
    entry: TomlEntry, name: str, settings: GatewaySettings, ports: dict[int, str]
) -> Iterator[TomlError]:
    """Yield the mistakes of a decider; ``ports`` has the ports so far, and gets its own."""
    terms = settings.deciders[name]
    if name in settings.upstreams:
        yield entry.error("expected a name that no upstream has")
    if (terms.kind == "ext-mcp") != bool(terms.backend):
        yield entry.at("backend").error("expected the name of the MCP server, of ext-mcp alone")
    if terms.backend and (terms.openapi or terms.routes or terms.body_header):
        yield entry.error("ext-mcp has neither `openapi`, `routes` nor `body_header`")
    if terms.kind == "authzen":
        yield from _authzen_mistakes(entry, terms)
    elif terms.url or terms.peps or terms.actions or terms.subjects:
        yield entry.error('expected `url`, `peps`, `actions` and `subjects` only with kind = "authzen"')
    elif terms.kind != "ext-mcp" and bool(terms.openapi) == bool(terms.routes):
        yield entry.error(f"expected one of `openapi` and `routes`, got {'both' if terms.routes else 'neither'}")
    yield from _route_mistakes(entry.at("routes"), terms.routes)
    if terms.bodies and (terms.kind not in ("ext-authz", "ext-authz-http") or terms.body_header):
        yield entry.at("bodies").error("expected a kind of ext-authz, and no `body_header`")
    if terms.path_prefix and terms.kind != "ext-authz-http":
        yield entry.at("path_prefix").error(f"is of ext-authz-http alone, got kind = {shorten(terms.kind)}")
    if terms.resource is not None and not terms.spends:
        # Else a proof of a client (DPoP) could be used twice.
        yield entry.at("resource").error(
            "needs `spends = true`, because no verifier behind the proxy takes access tokens"
        )
    if terms.resource is not None and not _is_plain_url(terms.resource):
        yield entry.at("resource").error(f"expected the URL of clients, got {shorten(terms.resource)}")
    try:
        _, port = terms.address(settings.gateway)
    except SettingsError as error:
        yield entry.at("listen").error(str(error))
        return
    # A request is known by its port: clients could otherwise ask as the proxy does.
    if not port or (other := ports.setdefault(port, name)) != name:
        wrong = f"expected a port of its own, got that of {other}" if port else "expected a port, got 0"
        yield entry.at("listen").error(wrong)


def _authzen_mistakes(entry: TomlEntry, terms: DeciderTerms) -> Iterator[TomlError]:
    """Yield the mistakes in the members that a decider has for AuthZEN."""
    if terms.body_header or (terms.openapi and terms.routes):
        yield entry.error("expected no `body_header`, and at most one of `openapi` and `routes`")
    if not terms.peps:
        yield entry.at("peps").error("expected one, as env:NAME, file:PATH or keyring:SERVICE/USER, got none")
    if terms.url is None:
        yield entry.error("needs `url`, at which the PEPs reach the decider")
    for name, action in terms.actions.items():
        if not action.tool.startswith(f"{terms.audience}."):
            yield entry.at("actions", name, "tool").error(
                f"expected a tool that begins with {terms.audience}., got {shorten(action.tool)}"
            )


def _shared_services(settings: GatewaySettings, places: Mapping[str, TomlEntry]) -> Iterator[TomlError]:
    # Each has a verifier with a journal and used calls of its own: each would accept an approval once.
    services: dict[Path, str] = {}
    for name in settings.tables:
        if (other := services.setdefault(settings.service_file(name).resolve(), name)) != name:
            yield places[name].error(f"expected an audience of its own, got that of {other}")


def _guard_mistakes(entry: TomlEntry, terms: UpstreamTerms | DeciderTerms) -> Iterator[TomlError]:
    limits = terms.limits
    checks: dict[str, Callable[[], object]] = {
        "limits": lambda: limits is None or ServiceLimits(limits),
        "effects": lambda: _hold_effects(terms),
        "marks": lambda: _hold_marks(terms),
        "watch": terms.read_watch,
    }
    for member, check in checks.items():
        try:
            check()
        except SettingsError as error:
            yield entry.at(member).error(str(error))
    if terms.watch and isinstance(terms, UpstreamTerms) and terms.command:
        # The program has them in its environment: they would go with every call, also with one without a token.
        yield entry.at("watch").error("expected `url`: a program has the gateway's credentials for each call")


def _hold_effects(terms: UpstreamTerms | DeciderTerms) -> None:
    if terms.effects and isinstance(terms, DeciderTerms):
        raise SettingsError("a decider sees no answer: name `effects` in the service itself, or in an upstream")
    if odd := next((each for each in terms.effects if not is_tool_pattern(each)), None):
        raise SettingsError(f"expected tools such as {terms.audience}.refund, or patterns, got {shorten(odd)}")


def _hold_marks(terms: UpstreamTerms | DeciderTerms) -> None:
    if odd := next((each for each in terms.marks if not is_id(each)), None):
        raise SettingsError(f"expected names of marks, 1 to 64 of [A-Za-z0-9._-], got {shorten(odd)}")
    if terms.marks and isinstance(terms, DeciderTerms) and not terms.spends:
        raise SettingsError("the verifier behind the proxy sets marks: leave it out with `spends = false`")


def _is_resource(url: str, name: str) -> bool:
    """Return whether a URL can name an upstream as a resource."""
    return _is_plain_url(url) and urlsplit(url).path.endswith(f"/{name}")


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
