# SPDX-License-Identifier: Apache-2.0
"""What an adapter of ``arx_verifier.integrations`` adds to one call of a service, beside the decision itself.

Run it with the Python of an adapter's environment:
``build/adapters/NAME-server/bin/python -m benchmarks.service_adapters NAME``, or with ``wsgi`` for ``ArxWSGI``.
The framework's application is called in the process, without a server, bare and guarded in turns; each call is signed
before it is timed.  The decision alone is timed too.
"""

import argparse
import asyncio
import io
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Final

import httpx

from arx_verifier import ArxWSGI, Constraint, Rule
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.wire import sha256_of

ROUNDS: Final = 100
CALLS: Final = 25  # of one round; bare, guarded and the decision take turns
PATH, BODY = "/orders/7/refund", b'{"amount":5}'
RULE: Final = Rule(tool="orders.refund", args={"order_id": 7, "amount": Constraint(max=20)})
REALM: Final = UnsafeTestRealm("orders")
TOOLS: Final = {"refund": "orders.refund"}


def of_wsgi(guarded: bool) -> Any:
    """Return a plain application."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        amount = json.loads(environ["wsgi.input"].read())["amount"]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"refunded": amount}).encode()]

    tools = {"POST /orders/{order_id:int}/refund": "orders.refund"}
    return ArxWSGI(app, verifier=REALM.verifier, tools=tools) if guarded else app


def of_flask(guarded: bool) -> Any:
    """Return an application of Flask."""
    from flask import Flask, request

    from arx_verifier.integrations import flask as adapter

    app = Flask("orders")

    @app.post("/orders/<int:order_id>/refund")
    def refund(order_id: int) -> Any:
        return {"refunded": request.get_json()["amount"]}

    if guarded:
        adapter.guard(app, REALM.verifier, tools=TOOLS)
    return app


def of_django(guarded: bool) -> Any:
    """Return an application of Django."""
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.urls import path

    from arx_verifier.integrations import django as adapter

    def refund(request: Any, order_id: int) -> Any:
        return JsonResponse({"refunded": json.loads(request.body)["amount"]})

    urls: Any = sys.modules.setdefault("orders_urls", types.ModuleType("orders_urls"))
    urls.urlpatterns = [path("orders/<int:order_id>/refund", refund, name="refund")]
    if not settings.configured:
        settings.configure(ROOT_URLCONF="orders_urls", ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="x")
        django.setup()
    settings.MIDDLEWARE = [adapter.NAME] if guarded else []
    app = get_wsgi_application()
    return adapter.guard(app, REALM.verifier, tools={"POST refund": "orders.refund"}) if guarded else app


def of_starlette(guarded: bool) -> Any:
    """Return an application of Starlette."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from arx_verifier.integrations import starlette as adapter

    async def refund(request: Any) -> Any:
        return JSONResponse({"refunded": (await request.json())["amount"]})

    app = Starlette(routes=[Route("/orders/{order_id:int}/refund", refund, methods=["POST"])])
    if guarded:
        adapter.guard(app, REALM.verifier, tools=TOOLS)
    return app


def of_fastapi(guarded: bool) -> Any:
    """Return an application of FastAPI."""
    from fastapi import Body, FastAPI

    from arx_verifier.integrations import fastapi as adapter

    app = FastAPI()

    @app.post("/orders/{order_id}/refund")
    async def refund(order_id: int, amount: int = Body(embed=True)) -> dict[str, int]:
        return {"refunded": amount}

    if guarded:
        adapter.guard(app, REALM.verifier, tools=TOOLS)
    return app


ADAPTERS: Final[dict[str, Callable[[bool], Any]]] = {
    "wsgi": of_wsgi,
    "flask": of_flask,
    "django": of_django,
    "starlette": of_starlette,
    "fastapi": of_fastapi,
}


def environ_of(header: str) -> dict[str, Any]:
    """Return a request of gunicorn's form."""
    fixed = {"REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": PATH, "RAW_URI": PATH, "QUERY_STRING": ""}
    fixed |= {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}
    fixed |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(BODY)), "HTTP_HOST": "127.0.0.1"}
    more: dict[str, Any] = {"wsgi.input": io.BytesIO(BODY), "wsgi.multiprocess": False, "REMOTE_ADDR": "127.0.0.1"}
    return fixed | more | {"HTTP_AUTHORIZATION": header}


def scope_of(header: str) -> dict[str, Any]:
    """Return a request of uvicorn's form."""
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": "", "path": PATH}
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"12")]
    more: dict[str, Any] = {"raw_path": PATH.encode(), "query_string": b"", "client": ("127.0.0.1", 1)}
    return scope | more | {"headers": [*headers, (b"authorization", header.encode())]}


def call_wsgi(app: Any, requests: list[Any]) -> None:
    """Call an application as a server of WSGI does."""
    for environ in requests:
        chunks = app(environ, lambda *_: lambda _: None)
        b"".join(chunks)
        getattr(chunks, "close", list)()


async def call_asgi(app: Any, requests: list[Any]) -> None:
    """Call an application as a server of ASGI does."""

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(_: Any) -> None:
        pass

    for scope in requests:
        await app(scope, receive, send)


def decide(headers: list[str]) -> None:
    """Decide on calls."""
    http = HttpCall("POST", PATH.encode(), sha256_of(BODY, b""))
    for header in headers:
        screened = REALM.verifier.screen(header[7:])
        assert not isinstance(screened, str)
        request = AccessRequest("orders.refund", {"order_id": 7, "amount": 5}, time.time_ns() // 1_000_000, None, http)
        assert REALM.verifier.decide(screened.token, request, screened=screened).code == "ok"


def measure(run: Callable[[], object]) -> float:
    """Return the time of one call, µs."""
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> None:
    """Measure one adapter."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_adapters", description=__doc__)
    parser.add_argument("name", choices=sorted(ADAPTERS))
    name = parser.parse_args().name
    caller, loop = REALM.caller(RULE), asyncio.new_event_loop()
    bare, guarded = ADAPTERS[name](False), ADAPTERS[name](True)

    def sign() -> list[str]:
        REALM.decisions.decisions.clear()
        request = httpx.Request("POST", f"http://127.0.0.1{PATH}", content=BODY)
        return [caller(request).headers.pop("authorization") for _ in range(CALLS)]

    def step(app: Any) -> float:
        if name in ("starlette", "fastapi"):
            scopes = [scope_of(header) for header in sign()]
            return measure(lambda: loop.run_until_complete(call_asgi(app, scopes)))
        environs = [environ_of(header) for header in sign()]
        return measure(lambda: call_wsgi(app, environs))

    rows = []
    for _ in range(ROUNDS):
        with_guard, codes = step(guarded), {each.code for each in REALM.decisions.decisions}
        assert codes == {"ok"}, codes
        headers = sign()
        rows.append((step(bare), with_guard, measure(lambda: decide(headers))))  # noqa: B023 - called at once
    for label, each in (("median", statistics.median), ("5th percentile", lambda row: sorted(row)[ROUNDS // 20])):
        without, full, decision = (each(row) for row in zip(*rows, strict=True))
        print(
            f"{name}, {label}: the framework {without:.0f} us, the decision {decision:.0f} us, "
            f"the adapter {full - without - decision:.0f} us"
        )


if __name__ == "__main__":
    main()
