# SPDX-License-Identifier: Apache-2.0
"""An access token that the gateway fetches: once for all calls, before it expires, anew once it is refused."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from arx_caps.gateway.base.settings import CredentialTerms, OAuthTerms, UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream import client_credentials
from arx_caps.gateway.upstream.forwarder import Forwarder, read_whole
from tests.gateway.door import CALL
from tests.servers import until

pytestmark = pytest.mark.servers
SECRET = "canary/of the+client"


class Clock:
    """The clock of the module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Site:
    """A token endpoint and an upstream.

    Attributes:
        asked: The requests for tokens: the header and the form.
        seen: The credentials that the upstream got.
        answer: The endpoint's answer, without the token.
        refuses: The tokens that the upstream refuses.
        release: Set while the endpoint answers.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.seen: list[str] = []
        self.answer: dict[str, Any] = {"token_type": "Bearer", "expires_in": "100"}
        self.status, self.release = 200, asyncio.Event()
        self.refuses: set[str] = set()
        self.release.set()

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers["authorization"], dict(await request.post())))
        await self.release.wait()
        token = {"access_token": f"canary-token-{len(self.asked)}"}
        return web.json_response({**token, **self.answer}, status=self.status)

    async def work(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers["authorization"])
        refused = self.seen[-1].removeprefix("Bearer ") in self.refuses
        return web.Response(status=401 if refused else 200, text=self.seen[-1] if request.path == "/echo" else "ok")


Call = Callable[..., Awaitable[int]]


def run(folder: Path, use: Callable[[Site, Call], Awaitable[None]]) -> None:
    async def main() -> None:
        site, app = Site(), web.Application()
        app.router.add_post("/token", site.token)
        app.router.add_get("/work", site.work)
        app.router.add_get("/echo", site.work)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        oauth = OAuthTerms(token_url=f"{url}/token", client_id="arx:1", scope="a b", resource="https://up.example/mcp")
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        credential = CredentialTerms(source="file:secret", oauth=oauth)
        terms = UpstreamTerms(audience="orders", url=url, routes={"GET /work": "orders.a"}, credential=credential)
        forwarder = Forwarder("orders", terms, folder)
        forwarder.open()

        async def call(path: str = "/work") -> int:
            try:
                async with forwarder.send("GET", [(b"authorization", b"mine")], b"", path, call=CALL) as answer:
                    await read_whole(answer, terms, "orders")
                    return answer.status
            except UpstreamError as error:
                if "refused the gateway (401)" not in str(error):
                    raise
                return 401

        try:
            await use(site, call)
        finally:
            await forwarder.close()
            await runner.cleanup()

    asyncio.run(main())


def test_one_token_is_fetched_for_all_calls(tmp_path: Path) -> None:
    """The client authenticates as RFC 6749 2.3.1 has it, and asks for its scope and resource."""

    async def use(site: Site, call: Call) -> None:
        assert await asyncio.gather(*(call() for _ in range(20))) == [200] * 20
        assert set(site.seen) == {"Bearer canary-token-1"}
        [(header, form)] = site.asked
        assert base64.b64decode(header.removeprefix("Basic ")) == b"arx%3A1:canary%2Fof+the%2Bclient"
        resource = {"resource": "https://up.example/mcp"}
        assert form == {"grant_type": "client_credentials", "scope": "a b", **resource}

    run(tmp_path, use)


def test_a_token_is_fetched_before_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call waits for the new one; others go on with the old one, which also outlives an endpoint that is down."""
    clock = Clock()
    monkeypatch.setattr(client_credentials, "time", clock)

    async def use(site: Site, call: Call) -> None:
        await call()
        clock.now += 49
        await call()
        assert len(site.asked) == 1
        clock.now += 2
        site.release.clear()
        renewing = asyncio.ensure_future(call())
        await asyncio.to_thread(until, lambda: len(site.asked) == 2)
        await call()
        assert not renewing.done()
        site.release.set()
        await renewing
        assert site.seen[-2:] == ["Bearer canary-token-1", "Bearer canary-token-2"]
        clock.now += 51
        site.status = 500
        assert [await call(), await call()] == [200, 200]
        assert (site.seen[-1], len(site.asked)) == ("Bearer canary-token-2", 3)
        clock.now += 50
        with pytest.raises(UpstreamError, match="gave no token"):
            await call()

    run(tmp_path, use)


def test_a_refused_token_is_fetched_anew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next call; an upstream that refuses each token has not one fetched for each call."""
    clock = Clock()
    monkeypatch.setattr(client_credentials, "time", clock)

    async def use(site: Site, call: Call) -> None:
        await call()
        clock.now += 10
        site.refuses = {"canary-token-1", "canary-token-2"}
        assert [await call() for _ in range(4)] == [401] * 4
        assert len(site.asked) == 2
        clock.now += 10
        assert [await call(), await call()] == [401, 200]
        assert len(site.asked) == 3

    run(tmp_path, use)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, {}),
        (200, {"token_type": "mac"}),
        (200, {"access_token": "a\nb"}),
        (200, {"access_token": None}),
        (200, {"expires_in": "soon"}),
        (200, {"expires_in": 0}),
        (200, {"padding": "x" * 70_000}),
    ],
)
def test_no_token_is_an_error_without_a_secret(
    status: int, answer: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The upstream gets no call, and the endpoint no second request at once."""
    caplog.set_level(logging.DEBUG)

    async def use(site: Site, call: Call) -> None:
        site.status, site.answer = status, site.answer | answer
        for _ in range(3):
            with pytest.raises(UpstreamError) as failed:
                await call()
            assert not failed.value.sent
            assert "canary" not in f"{failed.value!r}{failed.value.__cause__!r}"
        assert (site.seen, len(site.asked)) == ([], 1)

    run(tmp_path, use)
    assert "canary" not in caplog.text


def test_a_token_that_the_upstream_echoes_is_not_passed_on(tmp_path: Path) -> None:
    """As any other credential."""

    async def use(_: Site, call: Call) -> None:
        with pytest.raises(UpstreamError, match="answered with its credential"):
            await call("/echo")

    run(tmp_path, use)
