# SPDX-License-Identifier: Apache-2.0
"""The front of a run: it terminates TLS for the hosts of a task, signs each request, and forwards it to the gateway.

The gateway reads each request again, decides on it, and adds the credential.  Here is no secret but the task.
"""

import asyncio
import contextlib
import functools
import json
import logging
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from uvicorn.server import ServerState

from arx_caps.agent.tasks.request_signer import came_before_start
from arx_caps.credentials.secret_source import Secret
from arx_caps.gateway.base.asgi import Message, Receive, Scope, Send, StreamedBody, pass_on, while_connected
from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamAnswer, UpstreamError
from arx_caps.gateway.catalogue.routes import head_of
from arx_caps.gateway.http.refusals import CODE, as_service
from arx_caps.gateway.upstream.credentials import Credential, LiveCall
from arx_caps.gateway.upstream.forwarder import Forwarder, answer_headers, read_whole
from arx_caps.http.connections import STREAMED
from arx_caps.http.httptools_protocol import bounded
from arx_caps.http.server import config_of, is_no_cut
from arx_caps.run.authority import HostUpstream, RunAuthority
from arx_caps.run.certificates import RunCertificates
from arx_caps.run.tunnel import PLACE, Tunnel
from arx_verifier import tls
from arx_verifier.enforcement.base.enforcement import BOX_HEADER, RefusedCall
from arx_verifier.enforcement.bounded_body import BodyTooLongError, ClientGoneError, receive_body
from arx_verifier.errors import ArxError, UnavailableError

_CONNECTIONS: Final = 256
_REQUEST_S: Final = 300.0  # for a whole request, and for a client that reads nothing of its answer
_KEEP_ALIVE_S: Final = 60
_ANSWER_MS: Final = 900_000  # a model may think for long before its answer begins; the gateway has limits of its own
_PROBLEM: Final = b"application/problem+json"
_KIND: Final = ((b"content-type", _PROBLEM), (b"cache-control", b"no-store"))
# Placeholders of the command; the gateway's own credentials replace them.
_KEYS: Final = frozenset((b"api-key", b"x-api-key", b"x-goog-api-key", b"private-token"))
_ENDED: Final = "revoked"
_LOOK_S: Final = 2.0  # between two looks for new hosts, and for the end of the task
_WAIT_S: Final = 10.0  # for the answer to one


class _CallToken(Credential):
    """The token of one call, in the place of an upstream's credential, and the statement of the box.  SPEC 12.11."""

    def __init__(self, box: str) -> None:
        super().__init__("gateway", None, Path())
        self._box = box

    async def headers(self, session: Any, call: LiveCall) -> dict[str, str]:  # noqa: ARG002 - see Credential
        # The forwarder sends no such header of the command: only the front states the box.
        return {"authorization": Secret(f"Bearer {call.token}"), BOX_HEADER.decode(): self._box}

    def leaks(self, headers: Any) -> Leaks:
        return Leaks("gateway", (Secret(headers["authorization"].removeprefix("Bearer ")),))


class _ToGateway(Forwarder):
    """Sends requests to one gateway, whose refusals clients may read."""

    def __init__(self, url: str, box: str) -> None:
        routes = {"GET /": "gateway"}  # of plain HTTP
        self.terms = UpstreamTerms(audience="", url=url, routes=routes, ca=tls.ca_file(), timeout_ms=_ANSWER_MS)
        super().__init__("gateway", self.terms, Path(), _CallToken(box))

    def _check(self, answer: Any, *, lent: bool) -> None:  # noqa: ARG002 - as Forwarder calls it
        super()._check(answer, lent=False)


class Front:
    """The front between ``__aenter__`` and ``__aexit__``.

    Args:
        authority: The task and its hosts.
        folder: A folder that only this user can enter.
        has_port: Whether it also listens at a port of 127.0.0.1, where clients need its password: without a box.

    Attributes:
        ca_pem: The certificate of its authority, PEM.
        socket: Its Unix socket, which needs no password.
        proxy_url: The URL of its port, a secret; empty without one.
    """

    def __init__(self, authority: RunAuthority, folder: Path, *, has_port: bool) -> None:
        self._authority, self._certificates, self._has_port = authority, RunCertificates(folder), has_port
        self.ca_pem, self.socket, self.proxy_url = self._certificates.pem, folder / "front.sock", ""
        box = "none" if has_port else "bubblewrap"
        self._gateways = {origin: _ToGateway(origin, box) for origin in authority.gateways}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        protocol = bounded(places=_CONNECTIONS, request_s=_REQUEST_S, type_of=lambda _: "about:blank")
        config = config_of(self, http=protocol, lifespan="off", timeout_keep_alive=_KEEP_ALIVE_S)
        config.load()
        async with contextlib.AsyncExitStack() as stack:
            for forwarder in self._gateways.values():
                forwarder.open()
                stack.push_async_callback(forwarder.close)
            await self._authority.look(self._ask)
            self._stack = stack.pop_all()
        logging.getLogger("uvicorn.error").addFilter(is_no_cut)
        server_state: Any = ServerState()
        made: Any = protocol  # of uvicorn

        def opened(state: dict[str, Any]) -> Any:
            return made(config=config, server_state=server_state, app_state=state, _loop=loop)

        tunnel = functools.partial(Tunnel, self._certificates.context_of, opened)
        servers = [await loop.create_unix_server(tunnel, str(self.socket))]
        self.socket.chmod(0o600)
        if self._has_port:
            password = secrets.token_urlsafe(24)
            servers.append(await loop.create_server(functools.partial(tunnel, password), "127.0.0.1", 0))
            self.proxy_url = f"http://arx:{password}@127.0.0.1:{servers[1].sockets[0].getsockname()[1]}"
        self._stack.callback(_end, servers, server_state)
        following = asyncio.ensure_future(self._follow())
        self._stack.callback(following.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _ask(self, origin: str, token: str) -> tuple[int, bytes]:
        """Return the status and the body of what a gateway answers about its hosts.

        Raises:
            UnavailableError: It does not answer.
        """
        gateway, call = self._gateways[origin], _signed(token)
        try:
            async with asyncio.timeout(_WAIT_S), gateway.send("GET", [], b"", "/hosts", call=call) as answer:
                return answer.status, await read_whole(answer, gateway.terms, "gateway")
        except (UpstreamError, TimeoutError) as error:
            raise UnavailableError(getattr(error, "why", "") or str(error) or "it does not answer in time") from None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(ArxError):  # such as of a task that is over
                await self._authority.look(self._ask)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        host, wrong = _host_of(scope)
        if wrong:
            # What follows on this connection may be the rest of it.
            await _problem(400, "Bad Request", wrong, send, headers=[*_KIND, (b"connection", b"close")])
            return
        upstream = self._authority.find(host)
        terms = None if upstream is None else upstream.routes.find(scope)
        send = as_service(terms.refusal if terms is not None else _form_of(scope), scope, send)
        if upstream is None:
            hosts = ", ".join(self._authority.hosts) or "none"
            absent = f"no upstream of this task has the host {host}; it may call {hosts}. Do not retry."
            await _problem(403, "Forbidden", absent, send)
            return
        if await _is_unsupported(scope, send):
            return
        try:
            if terms is not None and terms.is_streamed:
                scope["state"][STREAMED] = True
                head, more = await head_of(terms)(receive)
                token = self._authority.sign_streamed(upstream, scope, head)
                streamed = StreamedBody(receive, head, more=more)
                await self._forward(upstream, scope, streamed.parts(), token, streamed.receive, send)
            else:
                body = bytes(await receive_body(receive, upstream.max_body))
                target = _target(upstream, scope).encode("ascii")
                for is_last in (False, True):
                    token = self._authority.sign(upstream, scope["method"], target, body)
                    if await self._forward(upstream, scope, body, token, receive, send, repeats=not is_last):
                        break
        except ClientGoneError:
            return
        except BodyTooLongError:
            await _problem(413, "Content Too Large", f"the body has more than {upstream.max_body} bytes", send)
        except RefusedCall as error:
            await _problem(400, "Bad Request", str(error.detail or error), send)
        except ArxError as error:
            await _problem(403, "Forbidden", f"{error}. Do not retry.", send)

    async def _forward(
        self,
        upstream: HostUpstream,
        scope: Scope,
        body: bytes | AsyncIterator[bytes],
        token: str,
        receive: Receive,
        send: Send,
        *,
        repeats: bool = False,
    ) -> bool:
        """Send a request and its answer; return False where the gateway had not started when it was signed."""
        gateway, begun = self._gateways[upstream.gateway], False
        headers = [pair for pair in scope["headers"] if pair[0] not in _KEYS]
        call = _signed(token)

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with (
                while_connected(receive),
                gateway.send(scope["method"], headers, body, _target(upstream, scope), call=call) as answer,
            ):
                return await self._answer(answer, gateway.terms, begin, repeats=repeats)
        except UpstreamError as error:
            if not begun:  # else the server cuts an answer that does not end
                await _problem(502, "Bad Gateway", f"the gateway does not answer: {error}", send, may=error.sent)
        return True

    async def _answer(self, answer: UpstreamAnswer, terms: UpstreamTerms, send: Send, *, repeats: bool) -> bool:
        headers, status = answer_headers(answer.raw_headers), answer.status
        codes = [value.decode("latin-1") for name, value in headers if name == CODE]
        # A client that reads 401 would ask for a login.
        shown = 403 if status == 401 else status
        if not any(name == b"content-type" and value.startswith(_PROBLEM) for name, value in headers):
            if _ENDED in codes:
                self._authority.note_end()
            await send({"type": "http.response.start", "status": shown, "headers": headers})
            await pass_on(answer.content.iter_any(), send)
            return True
        data = await read_whole(answer, terms, "gateway")
        if repeats and status == 401 and came_before_start(data):
            return False
        problem = _read(data)
        if problem.get("code") == _ENDED:
            self._authority.note_end()
        await _problem(shown, "", "", send, problem=problem, headers=headers)
        return True

    def __repr__(self) -> str:
        return "<Front>"


def _signed(token: str) -> LiveCall:
    return LiveCall(token, "", None)  # type: ignore[arg-type]  # the gateway reads the facts of the chain


def _host_of(scope: Scope) -> tuple[str, str]:
    """Return the host that a request is for, and why it has none that two readers would find."""
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    codings = [value.lower() for name, value in scope["headers"] if name == b"transfer-encoding"]
    if len(hosts) != 1:
        return "", "expected one Host"
    if codings not in ([], [b"chunked"]) or (
        codings and any(name == b"content-length" for name, _ in scope["headers"])
    ):
        return "", "expected one length of the body: Content-Length, or Transfer-Encoding: chunked"
    host, colon, port = hosts[0].rpartition(":")
    if not colon or "]" in port:
        host, port = hosts[0], ""
    place = scope["state"].get(PLACE)
    if place is not None and (host.strip("[]"), port or "443") != (place[0], str(place[1])):
        return "", f"Host: expected {place[0]}, as in CONNECT, got {hosts[0]:.100}"
    return host.strip("[]"), ""


async def _is_unsupported(scope: Scope, send: Send) -> bool:
    """Refuse a request that the front does not take; return whether it is one."""
    port = scope["state"].get(PLACE, ("", 443))[1]
    if port != 443:
        why = f"port {port} is refused: the front takes requests to port 443 alone. Do not retry."
        await _problem(403, "Forbidden", why, send)
    elif any(name == b"upgrade" for name, _ in scope["headers"]):
        # A client that reads this status goes on without the upgrade at once, and tries no second time.
        why = "a protocol besides HTTP/1.1, such as WebSocket, is refused. Do not retry."
        await _problem(426, "Upgrade Required", why, send, headers=[*_KIND, (b"upgrade", b"HTTP/1.1")])
    else:
        return False
    return True


def _form_of(scope: Scope) -> str:
    """Return the form of a refusal that has no route."""
    headers = dict(scope["headers"])
    reads_json = b"json" in headers.get(b"accept", b"") + headers.get(b"content-type", b"")
    return "json" if reads_json and not headers.get(b"user-agent", b"").startswith(b"git/") else "text"


def _target(upstream: HostUpstream, scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"/{upstream.name}{scope['raw_path'].decode('latin-1')}{'?' if query else ''}{query}"


def _read(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    return {}


async def _problem(
    status: int,
    title: str,
    detail: str,
    send: Send,
    *,
    may: bool = False,
    problem: dict[str, Any] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Answer with a problem, which has the members that gh and npm print too.  RFC 9457"""
    if problem is None:
        problem = {"title": title, "detail": detail, "may_have_run": may}
    what = "arx: this may have run" if problem.get("may_have_run") else "refused by arx"
    text = f"{what}: {problem.get('detail') or problem.get('title')}"
    data = json.dumps(problem | {"status": status, "message": text, "error": problem.get("error", text)}).encode()
    kept = [*(headers or _KIND), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": kept})
    await send({"type": "http.response.body", "body": data})


def _end(servers: list[asyncio.Server], state: Any) -> None:
    for server in servers:
        server.close()
    for connection in list(state.connections):
        connection.transport.abort()
