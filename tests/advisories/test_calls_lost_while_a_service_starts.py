# SPDX-License-Identifier: Apache-2.0
"""A service that listens before it is loaded lost the calls that waited there, at each deployment.

gunicorn binds its socket first.  A call that was signed meanwhile is refused by the worker that then starts, since its
memory of used calls begins later; nothing ran, and the client gave the refusal to the agent.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from arx_caps.agent import Task
from arx_caps.agent.tasks.auth import ArxAuth
from arx_caps.agent.tasks.request_signer import RequestSigner
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.verification.nonces import MemoryNonces
from tests.agent.holding import bundle, token
from tests.agent.live import serving
from tests.support import verifier

pytestmark = pytest.mark.servers
TOOLS = {"POST /refunds": "orders.refund"}
REFUNDS = Rule(tool="orders.refund", args={"amount": Constraint(max=100)})
BODY = json.dumps({"amount": 5}).encode()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Signing:
    """An agent's client of one service: the first call is signed a second ago, each later one now."""

    def __init__(self, address: str) -> None:
        self.began, self.signed, self.first = now_ms(), list[str](), threading.Event()
        held = token("orders", REFUNDS, iat=self.began - 1_000, exp=self.began + 60_000)
        self.task = Task(bundle({"orders": held}, origins={"orders": (address,)}), now=self.clock)
        self.auth = ArxAuth(RequestSigner({"orders": (address,)}, self.sign))

    def clock(self) -> int:
        return now_ms() if self.signed else self.began - 1_000

    def sign(self, audience: str, method: str, target: bytes, body: bytes) -> str:
        self.signed.append(self.task.http_token(audience, method, target, body))
        self.first.set()
        return self.signed[-1]


class Service:
    """The service that starts: it says how often it ran, and is loaded at a time that the test sets."""

    def __init__(self) -> None:
        self.ran: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.ran.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def loaded(self, at: int) -> ArxMiddleware:
        return ArxMiddleware(self, verifier=verifier(nonces=MemoryNonces(now_ms=at)), tools=TOOLS)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def client_of(listening: socket.socket) -> tuple[str, Signing]:
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    return address, Signing(address)


def parts() -> Iterator[bytes]:
    """A body that can be read once."""
    yield BODY[:5]
    yield BODY[5:]


def call(library: Any, way: str, address: str, signing: Signing) -> tuple[int, bytes]:
    url, headers = f"{address}/refunds", {"content-type": "application/json"}
    if way == "async":

        async def run() -> Any:
            async with library.AsyncClient(auth=signing.auth, timeout=60) as client:
                return await client.post(url, content=BODY, headers=headers)

        answer = asyncio.run(run())
        return answer.status_code, answer.content
    with library.Client(auth=signing.auth, timeout=60) as client:
        if way == "streamed":
            with client.stream("POST", url, content=parts(), headers=headers) as answer:
                return answer.status_code, b"".join(answer.iter_bytes())
        answer = client.post(url, content=BODY, headers=headers)
        return answer.status_code, answer.content


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
def test_a_call_that_waited_is_made(listening: socket.socket, library: Any, way: str) -> None:
    """It is signed anew with the same body, and runs once."""
    address, signing = client_of(listening)
    service, answers = Service(), list[tuple[int, bytes]]()
    caller = threading.Thread(target=lambda: answers.append(call(library, way, address, signing)))
    caller.start()
    assert signing.first.wait(60)
    with serving(service.loaded(signing.began), fd=listening.fileno()):
        caller.join(20)
    assert (answers, service.ran, len(signing.signed)) == ([(200, b"done")], [BODY], 2)


@pytest.mark.parametrize("way", ["sync", "streamed", "async"])
def test_no_more_than_once(listening: socket.socket, way: str) -> None:
    """A service that answers so to each call, such as one whose clock is ahead, is not asked for ever."""
    address, signing = client_of(listening)
    service = Service()
    with serving(service.loaded(now_ms() + 60_000), fd=listening.fileno()):
        status, body = call(httpx, way, address, signing)
    assert (status, json.loads(body)["code"], service.ran, len(signing.signed)) == (401, "proof_invalid", [], 2)


def test_no_other_refusal_is_answered(listening: socket.socket) -> None:
    """A call that was made before, or that is of another time, may have run: it is left to the caller."""
    address, signing = client_of(listening)
    service = Service()
    same, asked = signing.task.http_token("orders", "POST", b"/refunds", BODY), list[str]()

    def again(audience: str, method: str, target: bytes, body: bytes) -> str:
        asked.append(method)
        return same

    signing.auth = ArxAuth(RequestSigner({"orders": (address,)}, again))
    with serving(service.loaded(0), fd=listening.fileno()):
        answers = [call(httpx, "sync", address, signing) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 401]
    assert (json.loads(answers[1][1])["code"], service.ran, len(asked)) == ("replayed", [BODY], 2)
