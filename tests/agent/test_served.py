# SPDX-License-Identifier: Apache-2.0
"""A task calls a real service over real sockets: httpx and httpx2, sync and async, against the middleware."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from arx_caps.agent import Task
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.verification.nonces import MemoryNonces
from tests.agent.holding import bundle, token
from tests.agent.live import serving
from tests.servers import run_together
from tests.support import verifier

pytestmark = pytest.mark.servers

ROUTES = {
    "GET /orders/{order_id}": "orders.get",
    "POST /orders/{order_id}/refund": "orders.refund",
    "GET /away": "orders.away",
}
RULES = (
    Rule(
        tool="orders.get", args={"order_id": Constraint(glob="*"), "full": Constraint(one_of=("yes",), optional=True)}
    ),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(range=(0, 100))}),
    Rule(tool="orders.away", args={}),
)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Say who came and what for; send ``/away`` to another origin."""
    if scope["type"] != "http":
        raise NotImplementedError
    grant = scope["arx"]
    headers = [(b"content-type", b"application/json")]
    if scope["path"] == "/away":
        headers.append((b"location", b"http://localhost:%d/orders/o-1" % scope["server"][1]))
    body = json.dumps({"holder": grant.holder, "tool": grant.tool}).encode()
    await send({"type": "http.response.start", "status": 307 if scope["path"] == "/away" else 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a service behind the middleware."""
    with serving(ArxMiddleware(application, verifier=verifier(nonces=MemoryNonces()), tools=ROUTES)) as port:
        yield f"http://127.0.0.1:{port}"


def held(address: str) -> Task:
    """A task for that service, delegated to a worker, on the real clock."""
    now = time.time_ns() // 1_000_000
    granted = token("orders", *RULES, iat=now, exp=now + 60_000)
    task = Task(bundle({"orders": granted}, origins={"orders": (address,)}))
    return Task.from_text(task.delegate("acme/worker", args={"amount": {"max": 20}}, ttl="30s").encode())


def check(answers: list[Any]) -> None:
    """Hold the answers of the three calls of ``calls`` to what they must be."""
    first, second, third, fourth = answers
    assert (first.status_code, first.json()) == (200, {"holder": "acme/worker", "tool": "orders.get"})
    assert (second.status_code, second.json()["tool"]) == (200, "orders.refund")
    assert (third.status_code, third.json()["code"]) == (403, "argument_not_allowed")
    assert [failure["rule"] for failure in third.json()["failures"]] == ["amount max"]
    # The redirect went to another origin, without the token.
    assert (fourth.status_code, fourth.json()["code"], fourth.url.host) == (401, "missing_token", "localhost")


def calls(address: str) -> list[tuple[str, str, dict[str, Any]]]:
    """A query and an odd path, a body that fits, one that does not, a redirect to elsewhere."""
    return [
        ("GET", f"{address}/orders/a%20b%C3%A4~'?full=yes", {}),
        ("POST", f"{address}/orders/o-1/refund", {"json": {"amount": 20}}),
        ("POST", f"{address}/orders/o-1/refund", {"json": {"amount": 21}}),
        ("GET", f"{address}/away", {"follow_redirects": True}),
    ]


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_synchronous_client(address: str, library: Any) -> None:
    """
    What is signed is what arrives, byte for byte, and is judged by it.
    """
    with library.Client(auth=held(address).auth()) as client:
        check([client.request(method, url, **more) for method, url, more in calls(address)])


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_an_asynchronous_client(address: str, library: Any) -> None:
    """
    The same, and concurrent calls do not share a proof.
    """

    async def run() -> None:
        async with library.AsyncClient(auth=held(address).auth()) as client:
            check([await client.request(method, url, **more) for method, url, more in calls(address)])
            many = await asyncio.gather(*[client.get(f"{address}/orders/o-{n}") for n in range(20)])
            assert {answer.status_code for answer in many} == {200}

    asyncio.run(run())


def test_threads_share_one_auth(address: str) -> None:
    """
    One auth serves many threads; no call is refused as replayed.
    """
    auth, codes = held(address).auth(), []

    def work() -> None:
        with httpx.Client(auth=auth) as client:
            codes.extend(client.get(f"{address}/orders/o-1").status_code for _ in range(10))

    run_together(*[work] * 4)
    assert codes == [200] * 40
