# SPDX-License-Identifier: Apache-2.0
"""aiohttp signs what it sends, by ``Task.aiohttp_auth``."""

import asyncio
import io
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from arx_caps.agent import Task
from arx_verifier.errors import AttenuationError
from tests.adapters.http_clients import Answer, HttpClientContract, World, traced


async def later(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A body that can be read once, on the event loop."""
    for part in parts:
        yield part


async def retry(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Repeat a request while the service is busy, as a middleware of an application does."""
    while (answer := await handler(request)).status == 503:
        answer.release()
    return answer


class TestAiohttp(HttpClientContract):
    """The contract."""

    name = "aiohttp"

    def send(self, task: Task, method: str, url: str, **more: Any) -> Answer:
        async def run() -> Answer:
            headers = {"content-type": "application/json"} | more.get("headers", {})
            body = more.get("body")
            # aiohttp takes no synchronous iterator.
            body = later(body) if isinstance(body, Iterator) and not isinstance(body, io.IOBase) else body
            async with (
                aiohttp.ClientSession(middlewares=[task.aiohttp_auth(approvals=more.get("approvals", ()))]) as session,
                session.request(method, url, data=body, headers=headers) as answer,
            ):
                # A short refusal was read by the middleware.
                if more.get("stream") and answer.status != 401:
                    return Answer(answer.status, b"".join([part async for part in answer.content.iter_chunked(10)]))
                return Answer(answer.status, await answer.read())

        return asyncio.run(run())

    def bodies(self) -> Mapping[str, Callable[[], Any]]:
        return {**super().bodies(), "text": lambda: '{"amount":20}'}

    def repeat(self, task: Task, url: str) -> Answer:
        async def run() -> Answer:
            async with (
                aiohttp.ClientSession(middlewares=[retry, task.aiohttp_auth()]) as session,
                session.get(url) as answer,
            ):
                return Answer(answer.status, await answer.read())

        return asyncio.run(run())

    def shown(self, task: Task, url: str) -> str:
        async def run() -> str:
            auth = task.aiohttp_auth()
            async with aiohttp.ClientSession(middlewares=[auth], raise_for_status=True) as session:
                with pytest.raises(aiohttp.ClientError) as caught:
                    await session.get(url)
            error = caught.value
            seen = [error, auth, traced(error)]
            return " ".join(f"{each!r} {getattr(each, '__dict__', '')}" for each in seen) + url

        return asyncio.run(run())

    def test_a_redirect_is_refused(self, served: World) -> None:
        """Each request of one comes through a middleware as any other: following it could be a call of its own."""
        for path in ("/away", "/moved"):
            with pytest.raises(AttenuationError, match=rf"GET {path} was answered with a redirect \(307\)"):
                self.send(served.task(), "GET", served.address + path)

    def test_many_at_once(self, served: World) -> None:
        """Concurrent calls of one session do not share a proof."""

        async def run() -> set[int]:
            async with aiohttp.ClientSession(middlewares=[served.task().aiohttp_auth()]) as session:
                answers = await asyncio.gather(*[session.get(f"{served.address}/orders/o-{n}") for n in range(20)])
                return {answer.status for answer in answers}

        assert asyncio.run(run()) == {200}

    def test_json_and_forms(self, served: World) -> None:
        """What aiohttp encodes by itself is signed as it is sent; what it would compress is refused."""

        async def run() -> list[Any]:
            url = f"{served.address}/orders/o-1/refund"
            async with aiohttp.ClientSession(middlewares=[served.task().aiohttp_auth()]) as session:
                refunded = await session.post(url, json={"amount": 5})
                form = aiohttp.FormData({"amount": "5"})
                form.add_field("file", b"text", filename="a.txt")
                posted = await session.post(url, data=form)
                with pytest.raises(AttenuationError, match="compress"):
                    await session.post(url, json={"amount": 5}, compress=True)
                return [refunded.status, (await posted.json(content_type=None))["code"]]

        # The proof of the form is right: its service takes JSON.
        status, code = asyncio.run(run())
        assert (status, code) == (200, "malformed_request")

    def test_what_signs_is_not_pickled(self, served: World) -> None:
        """It holds a live token."""
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(served.task().aiohttp_auth())
