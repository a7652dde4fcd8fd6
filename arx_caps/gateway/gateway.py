# SPDX-License-Identifier: Apache-2.0
"""The gateway's ASGI application: upstreams by the first segment of the path, deciders by port, health, and reload."""

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client import generate_latest

from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource
from arx_caps.gateway.access_tokens.oauth_server import PATHS, ServerMetadata
from arx_caps.gateway.base.asgi import Message, Receive, Scope, Send
from arx_caps.gateway.base.settings import DeciderTerms, GatewaySettings, UpstreamTerms
from arx_caps.gateway.deciders.decider_runtime import RunningDecider
from arx_caps.gateway.upstreams import RunningUpstream
from arx_caps.http.certificates import CertificateWatch, CertifiedPlace
from arx_caps.http.cross_origin import CrossOrigin
from arx_caps.http.metric_families import GATEWAY as FAMILIES
from arx_caps.http.metrics import ProcessMetrics
from arx_verifier.enforcement.asgi.calls import send_answer
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.metrics.counted_decisions import Counts
from arx_verifier.metrics.export import Samples
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Screened
from arx_verifier.verification.watch import ended_by

_NOT_FOUND: Final = b'{"title": "Not Found", "status": 404, "detail": "no upstream of the gateway has this path"}'
_FOREIGN: Final = json.dumps(
    {
        "title": "Forbidden",
        "status": 403,
        "detail": "pages of this origin may not call this: name it in `origins` of the gateway's table",
    }
).encode()
_PROBLEM: Final = b"application/problem+json"
_ENDED: Final = json.dumps(
    {"title": "Forbidden", "status": 403, "detail": "an operator ended this task", "code": "revoked"}
).encode()
_GRACE_S: Final = 30.0  # for running calls of an upstream that a reload has removed

Running = RunningUpstream | RunningDecider


class Gateway:
    """The ASGI application of all upstreams and deciders.

    Args:
        settings: The gateway's file.

    Attributes:
        upstreams: The upstreams by name.
        deciders: The deciders by name.

    Raises:
        SettingsError: As ``RunningUpstream``.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._leaving: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._started = False
        self._cross_origin = CrossOrigin(self._answer, self._is_open)
        self._nonces: defaultdict[Path, MemoryNonces] = defaultdict(MemoryNonces)
        own = ProcessMetrics("gateway", FAMILIES)
        self._registry, self._counts = own.registry, defaultdict[str, Counts](lambda: Counts(int))
        self._answers, self._seconds = own.counter("arx_gateway_answers"), own.histogram("arx_gateway_seconds")
        self._open = own.gauge("arx_gateway_open")
        own.read_rest(self._samples)
        running = {name: self._made(name, settings) for name in settings.tables}
        _require_own_hosts(running)
        self._adopt(running)

    def _made(self, name: str, settings: GatewaySettings) -> Running:
        # A reload has two verifiers of one audience while calls of the first one run: each would accept a call once.
        nonces = self._nonces[settings.service_file(name).resolve()]
        kind = RunningDecider if name in settings.deciders else RunningUpstream
        return kind(name, settings, nonces, self._counts[name])

    def _adopt(self, running: dict[str, Running]) -> None:
        """Serve these upstreams and deciders, and no other ones."""
        self._running = running
        self.upstreams = {name: each for name, each in running.items() if isinstance(each, RunningUpstream)}
        self.deciders = {name: each for name, each in running.items() if isinstance(each, RunningDecider)}
        self._ports = {each.port: each for each in self.deciders.values() if not each.is_grpc}
        self._hosts = json.dumps({"hosts": {host: each.about for host, each in _hosts_of(running)}}).encode()
        # Of the names at which callers reach it; a reload that changes none reads them again all the same.
        resources = (terms.resource for terms in self._settings.tables.values())
        self._certificates = CertificateWatch(
            place for url in resources for place in CertifiedPlace.of_url("gateway", url)
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all upstreams, and close them at the end.

        Raises:
            ArxError: One cannot be started.
        """
        async with contextlib.AsyncExitStack() as stack:
            for upstream in self._running.values():
                await upstream.start()
                stack.push_async_callback(upstream.close)
            self._started = True
            yield
            stack.pop_all()
            await asyncio.gather(*self._leaving)
            for upstream in self._running.values():
                await upstream.close()

    async def reload(self, settings: GatewaySettings) -> None:
        """Serve what a new file says; an upstream whose table is the same is left alone.

        Args:
            settings: The new file.

        Raises:
            ArxError: An upstream cannot be started, or the addresses differ; nothing has changed.
        """
        old, new = self._settings.gateway, settings.gateway
        if (old.listen, old.behind_tls) != (new.listen, new.behind_tls):
            raise SettingsError("gateway: `listen` and `behind_tls` are read at a start alone; restart the gateway")
        if _ports_of(self._settings) != _ports_of(settings):
            raise SettingsError("decider: `listen` and `kind` are read at a start alone; restart the gateway")
        async with self._reloading:
            await self._reload(settings)

    async def _reload(self, settings: GatewaySettings) -> None:
        same = {
            name: upstream
            for name, upstream in self._running.items()
            if self._unchanged(name, self._settings.tables[name], settings)
        }
        # In a thread: an isolation is tried with a process, meanwhile calls and streams go on.
        changed = settings.tables.keys() - same.keys()
        new = await asyncio.to_thread(lambda: {name: self._made(name, settings) for name in changed})
        _require_own_hosts(same | new)
        async with contextlib.AsyncExitStack() as stack:
            for upstream in new.values():
                await upstream.start()
                stack.push_async_callback(upstream.close)
            stack.pop_all()
        old = [upstream for name, upstream in self._running.items() if name not in same]
        self._settings = settings
        self._adopt(same | new)
        for upstream in old:
            task = asyncio.ensure_future(self._leave(upstream))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _unchanged(self, name: str, terms: UpstreamTerms | DeciderTerms, settings: GatewaySettings) -> bool:
        """Return whether an upstream can go on; one with a secret that may differ is begun anew."""
        return (
            settings.tables.get(name) == terms
            and settings.gateway == self._settings.gateway
            and terms.openapi is None
            and getattr(terms, "catalogue", None) is None
            and not any(each.startswith(("file:", "keyring:")) for each in terms.sources)
        )

    async def _leave(self, upstream: Running) -> None:
        """Close an upstream once its calls are over, or have had their time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(upstream.idle.wait(), _GRACE_S)
        await upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        if scope["type"] == "lifespan":
            return
        if self._is_foreign(scope):
            await _whole(send, scope["method"], 403, _PROBLEM, _FOREIGN)
            return
        await self._cross_origin(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        """Return whether a page asks for what pages of its origin may not have.  MCP, transports: DNS rebinding."""
        # One that a proxy passes on to a decider is of a request that the proxy sends elsewhere.
        found = [value.strip(b" \t") for name, value in scope.get("headers", ()) if name == b"origin"]
        if not found or self._decider_at(scope) is not None:
            return False
        allowed, path = self._settings.gateway.origins, _path_of(scope)
        if path in PATHS or self._resource_at(path) is not None:
            return False  # public documents
        if allowed is not None:
            return len(found) != 1 or found[0].decode("latin-1") not in allowed
        upstream = self.upstreams.get(path.removeprefix("/").partition("/")[0])
        return upstream is None or upstream.resource is None

    def _decider_at(self, scope: Scope) -> RunningDecider | None:
        """Return the decider whose own port a request came to."""
        return self._ports.get((scope.get("server") or ("", 0))[1]) if scope["type"] == "http" else None

    def _is_open(self, scope: Scope) -> bool:
        """Return whether pages may read the answer, of those that ``_is_foreign`` lets ask."""
        if self._decider_at(scope) is not None:
            return False
        path = _path_of(scope)
        name, slash, _ = path.removeprefix("/").partition("/")
        if (upstream := self.upstreams.get(name)) is not None:
            is_mcp = not upstream.routes and not slash
            return is_mcp if self._settings.gateway.origins is None else is_mcp or bool(upstream.routes)
        return path in PATHS or self._resource_at(path) is not None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (asked := self._decider_at(scope)) is not None:
            await self._through(asked, scope, receive, send)
            return
        raw = _path_of(scope)
        name, slash, _ = raw.removeprefix("/").partition("/")
        upstream = self.upstreams.get(name)
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif upstream is None or (slash and not upstream.routes):
            await self._own(scope, raw, send)
        else:
            await self._through(upstream, {**scope, "root_path": f"/{upstream.name}"}, receive, send)

    async def rpc(self, name: str, call: str, request: Any, peer: str | None) -> Any:
        """Answer a call of gRPC to a decider.

        Args:
            name: The decider.
            call: The name of the call.
            request: Its message.
            peer: The address of who asks, or None.
        """
        decider = self.deciders[name]
        with self._counted(decider) as status:
            answer = await decider.answer(call, request, peer)
            status.append(200)
        return answer

    async def _through(self, upstream: Running, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted(upstream) as status:

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status.append(message["status"])
                await send(message)

            await upstream(scope, receive, counted)

    @contextlib.contextmanager
    def _counted(self, upstream: Running) -> Iterator[list[int]]:
        """Count what is answered meanwhile; the statuses that the block adds are its own."""
        began, statuses = time.monotonic(), list[int]()
        upstream.count(1)
        opened = self._open.labels(upstream.name)
        opened.inc()
        try:
            yield statuses
        finally:
            opened.dec()
            upstream.count(-1)
            self._answers.labels(upstream.name, str(statuses[-1] if statuses else 0)).inc()
            self._seconds.labels(upstream.name).observe(time.monotonic() - began)

    async def _own(self, scope: Scope, path: str, send: Send) -> None:
        status, kind, known = 200, b"application/json", scope["method"] in ("GET", "HEAD")
        if known and path == "/healthz":
            data = b"{}"
        elif known and path == "/readyz":
            states = {name: upstream.verifier.readiness() for name, upstream in self._running.items()}
            why = {name: state.why for name, state in states.items() if not state.ready}
            status, data = 503 if why or not self._started else 200, json.dumps({"why": why}).encode()
        elif known and path == "/hosts":
            status, kind, data = (403, _PROBLEM, _ENDED) if self._has_ended(scope) else (200, kind, self._hosts)
        elif known and path == "/metrics":
            kind, data = b"text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)
        elif known and (resource := self._resource_at(path)) is not None:
            data = await resource.metadata()
        elif known and path in PATHS and (server := self._server()) is not None:
            try:
                data = await server.document()
            except ArxError:
                status, kind = 503, _PROBLEM
                data = b'{"title": "The mint does not answer", "status": 503}'
        else:
            status, kind, data = 404, _PROBLEM, _NOT_FOUND
        await _whole(send, scope["method"], status, kind, data)

    def _has_ended(self, scope: Scope) -> bool:
        """Return whether an operator ended the task whose token a request has; that is no call, and has no record."""
        scheme, _, token = collect_headers(scope["headers"]).get(b"authorization", b"").decode("latin-1").partition(" ")
        verifiers = [each.verifier for each in self.upstreams.values()] if scheme.lower() == "bearer" else []
        screened = ((each, each.screen(token)) for each in verifiers)
        proven = ((each.epochs, found.proven) for each, found in screened if isinstance(found, Screened))
        return any(ended_by(*each) == "revoked" for each in proven)

    def _resource_at(self, path: str) -> OAuthResource | None:
        """Return the resource whose metadata is at a path."""
        resources = (each.resource for each in self._running.values())
        return next((each for each in resources if each is not None and each.metadata_path == path), None)

    def _server(self) -> ServerMetadata | None:
        """Return the metadata of the mint; None unless all resources have the same one."""
        servers = [each.resource.server for each in self._running.values() if each.resource is not None]
        return servers[0] if len({server.issuer for server in servers}) == 1 else None

    def _samples(self) -> Samples:
        """Yield the decisions of all upstreams, and the state of those that are not removed."""
        for name, counts in list(self._counts.items()):
            yield from (("arx_gateway_decisions", times, name, *labels) for labels, times in list(counts.items()))
        for name, upstream in self._running.items():
            verifier = upstream.verifier
            yield "arx_gateway_ready", verifier.readiness().ready, name
            yield "arx_gateway_journal_fill", getattr(verifier.decisions, "fill", 0.0), name
            if (watch := verifier.watch) is not None:
                yield "arx_gateway_watching", watch.until_ms / 1000, name
        yield from self._certificates.samples()


def _hosts_of(running: Mapping[str, Running]) -> list[tuple[str, RunningUpstream]]:
    upstreams = [each for each in running.values() if isinstance(each, RunningUpstream)]
    return [(host, each) for each in upstreams for host in each.hosts]


def _require_own_hosts(running: Mapping[str, Running]) -> None:
    """Raise for a host of several upstreams."""
    hosts: dict[str, str] = {}
    for host, upstream in _hosts_of(running):
        if (other := hosts.setdefault(host, upstream.name)) != upstream.name:
            raise SettingsError(f"upstream.{upstream.name}: hosts: {host} is of upstream.{other} already")


async def _whole(send: Send, method: str, status: int, kind: bytes, data: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(data))]
    await send_answer(Answer(status, headers, data), method, send)


def _path_of(scope: Scope) -> str:
    return str(scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1"))


def _ports_of(settings: GatewaySettings) -> dict[str, tuple[str, bool]]:
    return {name: (terms.listen, terms.is_grpc) for name, terms in settings.deciders.items()}
