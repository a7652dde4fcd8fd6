# SPDX-License-Identifier: Apache-2.0
"""A caller without a valid token could run the application's middleware, where a route decides.

The decision is made at the route, behind what the application has in front of it.  Only a body of more than 4 KiB had
the credential proven before.  Now each credential is proven before anything is read or runs; the route's decision takes
the proof over, and a refused call still leaves nothing in the cache.
"""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from arx_verifier import Rule
from arx_verifier.verification import authenticate
from tests.routes.asking import Answer, Guarded, ask

READ = {"GET /orders/{order_id}": "orders.get"}


def guarded(ran: list[str], *rules: Rule) -> Guarded:
    class Notes:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            ran.append(scope["path"])
            await self.app(scope, receive, send)

    async def get(_: Request) -> Response:
        return PlainTextResponse("")

    return Guarded(Starlette(routes=[Route("/orders/{order_id}", get)], middleware=[Middleware(Notes)]), READ, *rules)


@pytest.mark.parametrize(("text", "code"), [("x", "malformed"), ("", "bad_signature"), (None, "missing_token")])
def test_nothing_runs_for_who_proves_nothing(text: str | None, code: str) -> None:
    """Junk, another realm's token and none at all: each is refused before the application."""
    ran: list[str] = []
    mine, other = guarded(ran), guarded([])
    if text == "":
        answer = asyncio.run(other.ask("GET", "/orders/1", app=mine.app))
    else:
        answer = asyncio.run(ask(mine.app, "GET", "/orders/1", token=text or ""))
    assert (answer.status, answer.code, ran) == (401, code, [])


def test_a_call_is_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middleware alone proves the first of a parent, once, and later ones not at all."""
    proofs: list[Any] = []
    proves = authenticate.prove

    def prove(*given: Any) -> Any:
        proofs.append(given)
        return proves(*given)

    monkeypatch.setattr(authenticate, "prove", prove)
    on = guarded([])
    for _ in range(2):
        assert asyncio.run(on.ask("GET", "/orders/1")).status == 200
    assert len(proofs) == 1


def test_a_refused_call_leaves_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screened token is proven again with each call until one of them is allowed."""
    kept: list[Any] = []
    monkeypatch.setattr(authenticate.Authenticator, "remember", lambda *given: kept.append(given))
    on = guarded([], Rule(tool="orders.refund"))
    assert asyncio.run(on.ask("GET", "/orders/1")).code == "tool_not_allowed"
    assert kept == []


def test_a_key_that_is_replaced_meanwhile_proves_nothing() -> None:
    """A token that was proven by a key is refused when the key is gone by the time of the decision."""
    on: Guarded

    class Replaces:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            on.realm.verifier.keys.replace({"k1.0": b"l" * 32})
            await self.app(scope, receive, send)

    async def get(_: Request) -> Response:
        return PlainTextResponse("")

    on = Guarded(Starlette(routes=[Route("/orders/{order_id}", get)], middleware=[Middleware(Replaces)]), READ)
    answer: Answer = asyncio.run(on.ask("GET", "/orders/1"))
    assert answer.status == 401
    assert answer.code in ("bad_signature", "unknown_key")
