# SPDX-License-Identifier: Apache-2.0
"""A desk that calls tools over HTTP: those of an MCP server, for ``mcp`` and ``fastmcp``, or of another agent."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import httpx

from benchmarks.compare import stage
from benchmarks.compare.stage import Desk
from tests.adapters.asgi_server import serving

NAMES: Final = {"get_order": "get", "refund": "refund"}  # of the tools at the server
Call = Callable[..., Awaitable[str]]
Opens = Callable[[str], AbstractAsyncContextManager[Call]]


class Tap:
    """An ASGI application that keeps the last request whose body has a mark, as it came."""

    def __init__(self, app: Any, mark: bytes) -> None:
        self._app, self._mark, self.last = app, mark, httpx.Request("POST", "http://127.0.0.1")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""

        async def tapped() -> Any:
            message = await receive()
            if message["type"] == "http.request" and self._mark in (body := message.get("body", b"")):
                headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
                host = dict(headers)[b"host"].decode()
                self.last = httpx.Request("POST", f"http://{host}{scope['path']}", headers=headers, content=body)
            return message

        await self._app(scope, tapped if scope["type"] == "http" else receive, send)

    def replay(self) -> str:
        """Send the request again, and return the answer."""
        with httpx.Client() as client:
            return client.send(self.last).text


class Line:
    """A client that is open in a task of its own, and called from outside of any event loop."""

    def __init__(self, opened: AbstractAsyncContextManager[Call], names: Mapping[str, str]) -> None:
        self._names = names
        self._loop = asyncio.new_event_loop()
        self._asked: asyncio.Queue[Any] = asyncio.Queue()
        self._opened = self._loop.create_future()
        self._task = self._loop.create_task(self._serve(opened))
        self._wait(self._opened)

    async def _serve(self, opened: AbstractAsyncContextManager[Call]) -> None:
        async with opened as call:
            self._opened.set_result(None)
            while asked := await self._asked.get():
                tool, args, answer = asked
                try:
                    answer.set_result(await call(self._names.get(tool, tool), args))
                except Exception as error:  # a product's refusal before the call is sent
                    answer.set_result(str(error))

    def ask(self, tool: str, args: dict[str, Any]) -> str:
        """Call a tool and return what comes back."""
        answer = self._loop.create_future()
        self._asked.put_nowait((tool, args, answer))
        return str(self._wait(answer))

    def _wait(self, answer: asyncio.Future[Any]) -> Any:
        self._loop.run_until_complete(asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED))
        return answer.result() if answer.done() else self._task.result()

    def close(self) -> None:
        """Close the client."""
        self._asked.put_nowait(None)
        self._loop.run_until_complete(self._task)
        self._loop.close()


@contextlib.contextmanager
def desk(
    app: Any,
    desk_client: Opens,
    worker_client: Opens,
    unchecked: Opens | None = None,
    port: int = 0,
    kind: tuple[str, bytes] = ("/mcp", b'"tools/call"'),
) -> Iterator[Desk]:
    """Serve an application, and be a desk and its worker that call it.

    Args:
        app: The application.
        desk_client: Opens the desk's client of an address.
        worker_client: Opens the worker's.
        unchecked: Opens the desk's without the check before a call is sent.
        port: The port to serve at.
        kind: The path of the address, and what the body of a call contains.
    """
    tap = Tap(app, kind[1])
    with serving(tap, port) as port, contextlib.ExitStack() as ends:
        url = f"http://127.0.0.1:{port}{kind[0]}"

        def line(opens: Opens) -> Line:
            return ends.enter_context(contextlib.closing(Line(opens(url), NAMES if kind[0] else {})))

        asks, to_worker = line(desk_client).ask, line(worker_client).ask
        past = line(unchecked).ask if unchecked else None

        yield Desk(
            asks,
            lambda amount: to_worker(*stage.pay(amount)),
            replay=tap.replay,
            at_service=(lambda: past(*stage.pay(50))) if past else None,
        )


def calling(client: Any) -> AbstractAsyncContextManager[Call]:
    """Return the calls of a client of the SDK that this opens."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Call]:
        async with client as inner:

            async def call(tool: str, args: dict[str, Any]) -> str:
                return text_of((await inner.call_tool(tool, args)).content)

            yield call

    return opened()


def text_of(content: Any) -> str:
    """Return the text of a tool's result."""
    return "\n".join(block.text for block in content)


def tenuo_sessions(root: Any) -> tuple[Any, Any, Any]:
    """Return the sessions of the desk and of its worker with tenuo, for a server of either SDK, and the warrant."""
    from tenuo import Exact, HolderIdentity, Range, Runtime, SigningKey, Warrant, Wildcard, configure

    key, worker_key = SigningKey.generate(), SigningKey.generate()
    roots = [root.public_key]
    configure(issuer_key=key, trusted_roots=roots)  # without an issuer's key its client refuses to check a call
    warrant = (
        Warrant.mint_builder()
        .capability("get", order_id=Exact("o-1"), note=Wildcard())
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 20), note=Wildcard())
        .holder(key.public_key)
        .ttl(600)
        .mint(root)
    )
    part = (
        warrant.grant_builder()
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 10), note=Wildcard())
        .holder(worker_key.public_key)
        .ttl(300)
        .grant(key)
    )
    desk = Runtime(HolderIdentity(key), roots).session_from_wire(warrant)
    worker = Runtime(HolderIdentity(worker_key), roots).session_from_wire([warrant, part])
    return desk, worker, warrant


@contextlib.asynccontextmanager
async def tenuo_client(url: str, session: Any) -> AsyncIterator[Call]:
    """Open the client of a session."""
    from tenuo.mcp import SecureMCPClient

    async with SecureMCPClient(url=url, transport="http", inject_warrant=True) as client:

        async def call(tool: str, args: dict[str, Any], **more: Any) -> str:
            with session.runtime.session_scope(session):
                return text_of(await client.call_tool(tool, args, **more))

        yield call


@contextlib.asynccontextmanager
async def unchecked(url: str, session: Any) -> AsyncIterator[Call]:
    """Open the client of a session without its check before a call is sent, to see what the service says."""
    async with tenuo_client(url, session) as call:
        yield functools.partial(call, warrant_context=False, raise_on_tool_error=False)


@contextlib.asynccontextmanager
async def plain(url: str) -> AsyncIterator[Call]:
    """Open tenuo's client as one that checks and signs nothing."""
    from tenuo.mcp import SecureMCPClient

    async with SecureMCPClient(url=url, transport="http") as client:

        async def call(tool: str, args: dict[str, Any]) -> str:
            return text_of(await client.call_tool(tool, args, warrant_context=False))

        yield call


@contextlib.contextmanager
def with_tenuo(make_app: Callable[[Any], Any]) -> Iterator[Desk]:
    """The desk with tenuo.

    Args:
        make_app: Makes the server's application, which trusts this public key.
    """
    from tenuo import SigningKey

    root = SigningKey.generate()
    held, part, warrant = tenuo_sessions(root)
    with desk(
        make_app(root.public_key),
        lambda url: tenuo_client(url, held),
        lambda url: tenuo_client(url, part),
        lambda url: unchecked(url, held),
    ) as made:
        yield made._replace(kill=lambda: stage.revoke(root, warrant))
