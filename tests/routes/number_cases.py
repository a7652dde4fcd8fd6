# SPDX-License-Identifier: Apache-2.0
"""A limit on a number in the path, in the framework that is installed: what a view gets was judged as that number.

``python -m tests.routes`` runs it with each version of the frameworks.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from arx_verifier import CallSigner, Constraint, HttpCall, Rule
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields
from tests.routes.confusion import MAX_INTEGER, NUMBERS, ConfusedError

Ask = Callable[[str], int]
"""Sends a signed ``GET``, and returns the status of its answer."""
TOOLS: Final = {"refund": "orders.refund", "share": "orders.share"}
LIMITED: Final = (
    Rule(tool="orders.refund", args={"amount": Constraint(max=10)}),
    Rule(tool="orders.share", args={"amount": Constraint(max="10")}),
)
ANY: Final = (Rule(tool="*"),)
SHORT: Final = tuple("".join(each) for n in (1, 2) for each in itertools.product("0178+-_.eE \u0667\uff17", repeat=n))
ALLOWED: Final = ("0", "7", "10")
FRACTIONS: Final = ("0.5", "9.75")


class Framework(Protocol):
    """Guards an application with ``/refund/<integer>`` and ``/share/<number>``, and returns what asks it."""

    def __call__(self, rules: tuple[Rule, ...], ran: list[Any]) -> Ask:
        """Guard it; *ran* gets each amount that a view got."""


def _of_starlette(rules: tuple[Rule, ...], ran: list[Any]) -> Ask:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def saw(request: Request) -> PlainTextResponse:
        ran.append(request.path_params["amount"])
        return PlainTextResponse("done")

    routes = [Route("/refund/{amount:int}", saw, name="refund"), Route("/share/{amount:float}", saw, name="share")]
    return _asgi(Starlette(routes=routes), rules)


def _of_fastapi(rules: tuple[Rule, ...], ran: list[Any]) -> Ask:
    import fastapi

    app = fastapi.FastAPI()

    @app.get("/refund/{amount}")
    def refund(amount: int) -> None:
        ran.append(amount)

    @app.get("/share/{amount}")
    def share(amount: float) -> None:
        ran.append(amount)

    return _asgi(app, rules)


def _asgi(app: Any, rules: tuple[Rule, ...]) -> Ask:
    from tests.routes.asking import Guarded

    guarded = Guarded(app, TOOLS, *rules)
    return lambda target: asyncio.run(guarded.ask("GET", target)).status


def _of_flask(rules: tuple[Rule, ...], ran: list[Any]) -> Ask:
    from flask import Flask

    from arx_verifier.integrations.flask import guard

    app = Flask("numbers")

    @app.get("/refund/<int(signed=True):amount>")
    def refund(amount: int) -> str:
        ran.append(amount)
        return "done"

    @app.get("/share/<float(signed=True):amount>")
    def share(amount: float) -> str:
        ran.append(amount)
        return "done"

    realm = UnsafeTestRealm("orders")
    guard(app, realm.verifier, tools=TOOLS)
    return _wsgi(app, realm, rules)


def _of_django(rules: tuple[Rule, ...], ran: list[Any]) -> Ask:
    import sys
    from types import ModuleType

    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    from arx_verifier.integrations.django import NAME, guard
    from tests.routes.django_trees import set_up

    def saw(_request: Any, amount: Any) -> HttpResponse:
        ran.append(amount)
        return HttpResponse("done")

    urls = ModuleType("tests.routes.numbers")
    # Django has no converter of fractions.
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("refund/<int:amount>", saw, name="refund"),
        path("share/<int:amount>", saw, name="share"),
    ]
    sys.modules[urls.__name__] = urls
    set_up(ROOT_URLCONF=urls.__name__, MIDDLEWARE=[NAME])
    realm = UnsafeTestRealm("orders")
    tools = {f"GET {name}": tool for name, tool in TOOLS.items()}
    return _wsgi(guard(get_wsgi_application(), realm.verifier, tools=tools), realm, rules)


def _wsgi(app: Any, realm: UnsafeTestRealm, rules: tuple[Rule, ...]) -> Ask:
    from tests.routes.wsgi_client import call

    realm.verifier.start()
    signer = CallSigner(realm.caller(*rules).macaroon, "orders")

    def ask(target: str) -> int:
        fields = http_fields(HttpCall("GET", target.encode(), hashlib.sha256(b"").digest()))
        return call(app, "GET", target, b"", signer.sign(fields, time.time_ns() // 1_000_000))[0]

    return ask


FRAMEWORKS: Final[Mapping[str, Framework]] = {
    "starlette": _of_starlette,
    "fastapi": _of_fastapi,
    "flask": _of_flask,
    "django": _of_django,
}


def check(framework: str) -> None:
    """Send every short text that may be a number, and odd ones, to views with a limit and without one.

    Args:
        framework: Its name.

    Raises:
        ConfusedError: A view got another number than its text, or one above the limit, or none at all.
    """
    ran: list[Any] = []
    limited, unlimited = FRAMEWORKS[framework](LIMITED, ran), FRAMEWORKS[framework](ANY, ran)
    for name, ask in itertools.product(TOOLS, (limited, unlimited)):
        got: dict[str, Any] = {}
        for text in (*SHORT, *NUMBERS, *ALLOWED, *FRACTIONS, "11", "10.5"):
            status = ask(f"/{name}/{quote(text)}")
            if (status == 200) != bool(ran):
                raise ConfusedError(f"{framework}: /{name}/{text} is {status}, and the view got {ran}")
            if ran:
                got[text] = ran.pop()
        wrong = {text: value for text, value in got.items() if not _is_one(text, value, ask is limited)}
        numbers = FRACTIONS if name == "share" and framework != "django" else ALLOWED
        if wrong or not got.keys() >= {*numbers} or (ask is limited and {"11", "10.5"} & got.keys()):
            raise ConfusedError(f"{framework}: the view {name} got {wrong or got}; expected {numbers}, each as judged")


def _is_one(text: str, value: Any, is_limited: bool) -> bool:
    """Return whether a text is the one spelling of a number, and that within the limit."""
    spelt = text in (str(value), str(value).removesuffix(".0")) and text.isascii() and text not in ("-0", "-0.0")
    return spelt and (not is_limited or -MAX_INTEGER <= value <= 10)
