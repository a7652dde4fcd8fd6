# SPDX-License-Identifier: Apache-2.0
"""Requests are signed for where they go, and go nowhere else: httpx and httpx2, sync and async."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import httpx
import httpx2
import pytest

from arx_caps.agent import ArxAuth, Task
from arx_verifier.errors import ArxError, AttenuationError, RequestError
from arx_verifier.request import AccessRequest, HttpCall
from tests.agent.holding import ORIGINS, REFUND, bundle, task
from tests.support import AT, PEER, verifier


class Seen(NamedTuple):
    """A request as it went on the wire."""

    url: str
    method: str
    target: bytes
    body: bytes
    authorization: str | None

    def code(self, audience: str, tool: str, args: dict[str, Any]) -> str:
        """What the audience's verifier says."""
        scheme, _, text = (self.authorization or "").partition(" ")
        assert scheme == "Bearer"
        call = HttpCall(self.method, self.target, sha256(self.body).digest())
        return verifier(audience=audience).decide(text, AccessRequest(tool, args, AT, PEER, call)).code


Answer = Callable[[str], tuple[int, dict[str, str]]]
Flavour = tuple[str, bool]
FLAVOURS: list[Flavour] = [("httpx", False), ("httpx", True), ("httpx2", False), ("httpx2", True)]


def fine(url: str) -> tuple[int, dict[str, str]]:
    """Answer every request with 200."""
    return 200, {}


class Client:
    """One of four clients behind one face, with a transport that records."""

    def __init__(self, flavour: Flavour, auth: ArxAuth, answer: Answer = fine) -> None:
        self._library: Any = {"httpx": httpx, "httpx2": httpx2}[flavour[0]]
        self._asynchronous, self._auth, self._answer = flavour[1], auth, answer
        self.seen: list[Seen] = []

    def _handle(self, request: Any) -> Any:
        url = str(request.url)
        self.seen.append(
            Seen(url, request.method, request.url.raw_path, request.content, request.headers.get("Authorization"))
        )
        status, headers = self._answer(url)
        return self._library.Response(status, headers=headers)

    def request(self, method: str, url: str, *, follow: bool = False, **more: Any) -> Any:
        """Send one request and wait for its answer."""
        if self._asynchronous:
            return asyncio.run(self._request(method, url, follow, more))
        transport = self._library.MockTransport(self._handle)
        with self._library.Client(transport=transport, auth=self._auth, follow_redirects=follow) as client:
            return client.request(method, url, **more)

    async def _request(self, method: str, url: str, follow: bool, more: dict[str, Any]) -> Any:
        transport = self._library.MockTransport(self._handle)
        async with self._library.AsyncClient(transport=transport, auth=self._auth, follow_redirects=follow) as client:
            return await client.request(method, url, **more)

    def streamed(self) -> Any:
        """A body that can be read once."""

        def parts() -> Iterator[bytes]:
            yield from (b'{"amount":20,', b'"order_id":"o-1"}')

        async def parts_later() -> AsyncIterator[bytes]:
            for part in parts():
                yield part

        return parts_later() if self._asynchronous else parts()


@pytest.fixture(params=FLAVOURS, ids=["httpx", "httpx-async", "httpx2", "httpx2-async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """A library, and whether it is used asynchronously."""
    return request.param


@pytest.mark.spec("8.1")
def test_each_request_carries_a_proof_of_itself(flavour: Flavour) -> None:
    """
    Method, raw path and query and body are signed, by the token of the audience that lives there.
    """
    client = Client(flavour, task().auth())
    client.request("GET", "https://orders.example/o%2d1/a b?full=yes&x=%C3%A4#part")
    client.request("POST", "https://payments.example:8443", json=REFUND)
    client.request("POST", "https://payments.example:8443/refund", content=client.streamed())
    client.request("GET", "HTTP://127.0.0.1:8701/")
    first, second, third, fourth = client.seen
    assert first.target.startswith(b"/o%2d1/a%20b?full=yes")
    assert first.code("orders", "orders.list", {}) == "ok"
    assert second.code("payments", "payments.refund", REFUND) == "ok"
    assert json.loads(third.body) == REFUND
    assert third.code("payments", "payments.refund", REFUND) == "ok"
    assert fourth.code("orders", "orders.list", {}) == "ok"
    for changed in (
        first._replace(method="DELETE"),
        first._replace(target=first.target + b"&y=1"),
        first._replace(body=b"x"),
    ):
        assert changed.code("orders", "orders.list", {}) == "proof_invalid"
    assert first.code("payments", "payments.refund", REFUND) == "wrong_audience"


def test_the_tasks_token_never_travels(flavour: Flavour) -> None:
    """
    No two requests carry one text, and none the task's own.
    """
    held = task()
    client = Client(flavour, held.auth())
    for _ in range(3):
        client.request("GET", "https://orders.example/")
    sent = {seen.authorization for seen in client.seen}
    assert len(sent) == 3
    assert not any(text in str(seen) for text in held.tokens.values() for seen in sent)


ELSEWHERE = [
    "https://evil.example/",
    "https://orders.example.evil.example/",
    "https://orders.example@evil.example/",
    "https://evil.example/#https://orders.example",
    "http://orders.example/",
    "https://orders.example:8443/",
    "https://orders.example./",
    "https://sub.orders.example/",
    "https://payments.example/",
    "http://127.0.0.1/",
    "https://127.0.0.1:8701/",
    "http://localhost:8701/",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nothing_is_sent_to_another_origin(flavour: Flavour, url: str) -> None:
    """
    A request to an origin of no audience is not sent, neither with a token nor without; the error says what is known.
    """
    client = Client(flavour, task().auth())
    with pytest.raises(
        AttenuationError, match=r"belongs to no audience of this task; known: .*orders\.example"
    ) as caught:
        client.request("GET", url)
    assert caught.value.code == "unknown_origin"
    assert client.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_carries_no_token(flavour: Flavour, status: int) -> None:
    """
    Neither to a stranger nor from one audience to the other: what was signed for one is not shown elsewhere.
    """
    for target in ("https://evil.example/", "https://payments.example:8443/refund", "http://orders.example/"):

        def answer(url: str, target: str = target) -> tuple[int, dict[str, str]]:
            return (status, {"Location": target}) if url.startswith("https://orders.example/") else (200, {})

        client = Client(flavour, task().auth(), answer)
        client.request("POST", "https://orders.example/", follow=True)
        assert [seen.url for seen in client.seen] == ["https://orders.example/", target]
        assert client.seen[1].authorization is None


def test_a_move_to_https_of_the_same_host_carries_only_the_one_call(flavour: Flavour) -> None:
    """
    Both libraries keep the header from http port 80 to https port 443 of a host; it is good for the signed call alone.
    """

    def answer(url: str) -> tuple[int, dict[str, str]]:
        return (308, {"Location": "https://o.example/other"}) if url == "http://o.example/" else (200, {})

    held = Task(bundle(origins={"orders": ("http://o.example",)}), now=lambda: AT)
    client = Client(flavour, held.auth(), answer)
    client.request("GET", "http://o.example/", follow=True)
    assert client.seen[1].authorization == client.seen[0].authorization
    assert client.seen[1].code("orders", "orders.list", {}) == "proof_invalid"


def test_a_redirect_within_the_origin_is_refused_there(flavour: Flavour) -> None:
    """
    What the client library carries on was signed for the first address and is good for no other.
    """

    def answer(url: str) -> tuple[int, dict[str, str]]:
        return (307, {"Location": "/other"}) if url.endswith("/first") else (200, {})

    client = Client(flavour, task().auth(), answer)
    client.request("GET", "https://orders.example/first", follow=True)
    assert client.seen[0].code("orders", "orders.list", {}) == "ok"
    assert client.seen[1].code("orders", "orders.list", {}) == "proof_invalid"


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_redirect_can_be_followed_by_hand(library: Any) -> None:
    """
    A request that is sent again, or whose redirect is sent, is signed anew.
    """
    sent: list[str] = []

    def handle(request: Any) -> Any:
        sent.append(request.headers["Authorization"])
        return library.Response(307, headers={"Location": "/other"})

    with library.Client(transport=library.MockTransport(handle), auth=task().auth()) as client:
        response = client.get("https://orders.example/")
        client.send(response.next_request)
        client.send(response.request)
    assert len(set(sent)) == 3


def test_another_authorization_header_is_not_overwritten(flavour: Flavour) -> None:
    """
    A holder wrote one: guessing which is meant could send the wider.
    """
    client = Client(flavour, task().auth())
    with pytest.raises(AttenuationError, match="Authorization header already"):
        client.request("GET", "https://orders.example/", headers={"authorization": "Bearer mine"})
    assert client.seen == []


def test_a_refusal_is_not_tried_again(flavour: Flavour) -> None:
    """
    One request, one token: 401 and 403 come back to the caller.
    """
    for status in (401, 403, 503):
        client = Client(flavour, task().auth(), lambda url, status=status: (status, {}))
        assert client.request("GET", "https://orders.example/").status_code == status
        assert len(client.seen) == 1


def test_two_audiences_at_one_origin_must_stay_apart(flavour: Flavour) -> None:
    """
    Behind one gateway the caller says which service is meant; nothing is guessed.
    """
    held = Task(bundle(origins=dict.fromkeys(ORIGINS, ("https://gate.example",))), now=lambda: AT)
    client = Client(flavour, held.auth())
    with pytest.raises(AttenuationError, match="serves orders and payments"):
        client.request("GET", "https://gate.example/")
    assert client.seen == []
    chosen = Client(flavour, held.auth("payments"))
    chosen.request("POST", "https://gate.example/", json=REFUND)
    assert chosen.seen[0].code("payments", "payments.refund", REFUND) == "ok"


def test_auth_for_what_the_task_does_not_have() -> None:
    """
    An unknown audience, or one without an address, is an error when the auth is made.
    """
    with pytest.raises(AttenuationError, match=r"no token for .*mail"):
        task().auth("mail")
    with pytest.raises(AttenuationError, match="names no origin for orders, payments"):
        Task(bundle(origins={})).auth()


@pytest.mark.spec("8.2")
def test_a_call_without_http_is_signed_by_tool_and_arguments() -> None:
    """
    ``call_token`` is good for one call of this tool with these arguments; an unknown audience is a mistake.
    """
    text = task().call_token("orders", "orders.get", {"order_id": "o-1"})
    judge = verifier()
    assert judge.decide(text, AccessRequest("orders.list", {}, AT, PEER)).code == "proof_invalid"
    assert judge.decide(text, AccessRequest("orders.get", {"order_id": "o-1"}, AT, PEER)).code == "ok"
    assert judge.decide(text, AccessRequest("orders.get", {"order_id": "o-1"}, AT, PEER)).code == "replayed"
    with pytest.raises(AttenuationError, match="no token for"):
        task().call_token("mail", "mail.send", {})


def test_a_header_is_made_from_texts() -> None:
    """
    Any client's request is signed by origin and target as texts; a target with other characters has no one form.
    """
    signer = task().request_signer("orders")
    header = signer.header(ORIGINS["orders"][0], "GET", "/orders/o-1?x=%C3%A4")
    seen = Seen("", "GET", b"/orders/o-1?x=%C3%A4", b"", header)
    assert seen.code("orders", "orders.get", {"order_id": "o-1"}) == "ok"
    with pytest.raises(RequestError):
        signer.header(ORIGINS["orders"][0], "GET", "/orders/\u00e4")
    with pytest.raises(ArxError):
        signer.header("http://127.0.0.1:1", "GET", "/orders/o-1")
