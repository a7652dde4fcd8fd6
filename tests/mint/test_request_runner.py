# SPDX-License-Identifier: Apache-2.0
"""One runner for API, forms and pages: each refuses in its own form, charges once, and waits for no other's threads."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from arx_caps.mint.api.request_runner import FORM_THREADS
from arx_caps.mint.rate_limit import RateLimits
from tests.console.harness import Browser
from tests.mint.harness import ISSUER, Harness

pytestmark = [pytest.mark.sqlite, pytest.mark.spec("CONTROL 4.5")]
STRANGER = "203.0.113.7"
# Path, the longest body, and how a longer one is refused: status, media type, and whether the connection ends.
KINDS = {
    "API": ("/v1/kills", 64 * 1024, 413, "application/problem+json", True),
    "OAuth form": ("/oauth/token", 16 * 1024, 400, "application/json", True),
    "registration": ("/oauth/register", 16 * 1024, 400, "application/json", True),
    "consent": ("/oauth/consent", 16 * 1024, 400, "text/html; charset=utf-8", False),
    "console": ("/console/kill", 8 * 1024, 413, "text/html; charset=utf-8", False),
}


@pytest.fixture
def charged(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The addresses that were charged for a request."""
    limits, peers = RateLimits(unit.realm.limits), list[str | None]()
    monkeypatch.setattr(limits, "count_unproven", peers.append)
    monkeypatch.setattr(unit.mint, "limits", limits)
    return peers


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_body_is_refused_in_the_form_of_its_kind(unit: Harness, charged: list[str | None], kind: str) -> None:
    """One byte above the limit, whatever length was declared: refused, charged once, and not parsed."""
    path, limit, status, media_type, closes = KINDS[kind]
    client = TestClient(Browser(unit).client.app, base_url=ISSUER, client=(STRANGER, 1))
    for content in (b"x" * (limit + 1), iter([b"x" * limit, b"x"])):
        charged.clear()
        answer = client.post(path, content=content)
        assert (answer.status_code, answer.headers["content-type"]) == (status, media_type)
        assert f"too large: expected at most {limit} bytes" in answer.text
        assert (answer.headers.get("connection") == "close") == closes
        assert charged == [STRANGER]
    assert "too large" not in client.post(path, content=b"x" * limit).text


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_gone_is_no_failure(unit: Harness, charged: list[str | None], kind: str) -> None:
    """Half of a body is a 400 that nothing is written for, and its address is not charged for an answer."""
    path, *_ = KINDS[kind]
    messages: list[Message] = [{"type": "http.request", "body": b"a=", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "headers": []}
    scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "client": (STRANGER, 1)}
    asyncio.run(Browser(unit).client.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert b"".join(message.get("body", b"") for message in sent) == b""
    assert scope["arx.notes"]["code"] == "malformed_request"
    # Before the body is read, each request of a person's browser counts, and each registration.
    assert charged == ([STRANGER] if kind in ("consent", "registration") else [])


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_over_its_limit_is_refused_in_the_form_of_its_kind(
    unit: Harness, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its requests are 429 with ``Retry-After``, in the form of their kind, whatever their body is."""
    path, _, _, media_type, closes = KINDS[kind]
    limits = RateLimits(replace(unit.realm.limits, address_rate=0.001, address_burst=1))
    limits.count_unproven(STRANGER)
    monkeypatch.setattr(unit.mint, "limits", limits)
    client = TestClient(Browser(unit).client.app, base_url=ISSUER, client=(STRANGER, 1))
    answer = client.post(path, content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["content-type"]) == (429, media_type)
    assert int(answer.headers["retry-after"]) > 0
    assert (answer.headers.get("connection") == "close") == closes


def test_forms_at_work_leave_the_api_its_threads(unit: Harness) -> None:
    """While strangers' forms keep all threads of forms busy, a call of the API is answered."""
    begun, end = threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        end.wait()

    waiting = [FORM_THREADS.submit(work) for _ in range(40)]
    try:
        for _ in waiting:
            begun.acquire()
        assert unit.operator().call("GET", "/v1/agents").status_code == 200
    finally:
        end.set()
        for each in waiting:
            each.result()
