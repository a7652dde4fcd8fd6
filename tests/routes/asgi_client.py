# SPDX-License-Identifier: Apache-2.0
"""Send random requests to a guarded ASGI application and to its bare twin; compare what ran with what was judged."""

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from decimal import Decimal
from typing import Any
from uuid import UUID

from arx_verifier import CallSigner, HttpCall, Rule, Verifier
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields
from tests.routes.applications import LITERALS, NAMES, Drawn
from tests.routes.confusion import ConfusedError, draw_number, judged_of

UUID_TEXT = "6f1f0a8e-0000-4000-8000-00000000000a"
VALUES = (
    *LITERALS,
    "007",
    "7.0",
    "7.50",
    "7.5",
    "true",
    "yes",
    "1",
    UUID_TEXT,
    UUID_TEXT.upper(),
    "7.json",
    "x.json",
    "",
)
GOOD = {"int": ("7", "1"), "float": ("7.5", "7"), "uuid": (UUID_TEXT,), "path": ("x/7", "export")}
NUMBERS = (int, float, Decimal)
BODIES: tuple[Any, ...] = (5, "5", 5.0, True, "x", "true")


class ASGIClient:
    """Sends requests to a guarded application and to its bare twin.

    Args:
        seed: Of the application and its requests.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.seen = random.Random(~seed), Counter[str]()
        realm = UnsafeTestRealm("orders")
        self._decisions = realm.decisions
        self._signer = CallSigner(realm.caller(Rule(tool="*")).macaroon, "orders")
        verifier = Verifier(
            audience="orders",
            keys=realm.verifier.keys,
            epochs=realm.epochs,
            decisions=realm.decisions,
            record_arguments=["*"],
        )
        self.drawn, self.twin = Drawn(seed), Drawn(seed)
        counted = Counter((method, _bare(path)) for method, path, _ in self.drawn.routes)
        named = [route for route in self.drawn.routes if counted[route[0], _bare(route[1])] == 1]
        named = [route for route in named if self.random.random() < 0.8 and _has_own_names(route[1])]
        tools = {
            f"{method} {path}" + ("?{q}" if method == "POST" else ""): f"t{number}" for method, path, number in named
        }
        self.guarded = ArxMiddleware(self.drawn.app, verifier=verifier, tools=tools)
        self._named = {(method, number) for method, _, number in named}
        realm.verifier.start()
        self._late = self.random.random() < 0.2

    def _draw(self) -> tuple[dict[str, Any], bytes]:
        """Draw a request: near a route, or anywhere."""
        pick = self.random.choice
        method, path, _ = pick(self.drawn.routes)
        host = path.startswith("//")
        parts = path.removeprefix("//").split("/")[1:] if host else path.split("/")[1:]
        for at, part in enumerate(parts):
            if "{" in part:
                kind = part.partition(":")[2].partition("}")[0]
                parts[at] = pick(
                    (pick(VALUES), draw_number(self.random), *(pick(GOOD.get(kind, ("7", "export"))),) * 2)
                )
                parts[at] += part.partition("}")[2]
            elif self.random.random() < 0.05:
                parts[at] = pick(VALUES)
        target = pick(("", "", "", "", "", "", "/root", "/orders")) + "/" + "/".join(parts) + pick(("",) * 9 + ("/",))
        method = pick((method,) * 9 + ("HEAD", "POST", "OPTIONS"))
        query = pick(("", "", "", f"q={pick(VALUES)}")).encode()
        body = json.dumps({"amount": pick(BODIES)}).encode() if method == "POST" else b""
        scope = {"type": "http", "method": method, "path": target, "raw_path": target.encode(), "query_string": query}
        names = (b"a.example", b"b.example") if host else (b"other", b"other", b"a.example")
        headers = [(b"host", pick(names))]
        if body:
            headers.append((b"content-type", b"application/json"))
        root = pick(("",) * 6 + ("/root", "/root/", "/orders"))
        return scope | {"headers": headers, "root_path": root, "client": ("192.0.2.7", 1), "http_version": "1.1"}, body

    async def once(self) -> None:
        """Send one request to both.

        Raises:
            ConfusedError: The guarded application ran what was not judged, or not what the bare one ran.
        """
        scope, body = self._draw()
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        fields = http_fields(HttpCall(scope["method"], target, hashlib.sha256(body).digest()))
        token = self._signer.sign(fields, time.time_ns() // 1_000_000)
        bearer = (b"authorization", b"Bearer " + token.encode())
        before = len(self._decisions.decisions)
        answer = await _ask(self.guarded, scope | {"headers": [*scope["headers"], bearer]}, body)
        echo = f"{scope['method']} {target.decode()} {scope['root_path']} {scope['headers']} {body.decode()}: {answer}"
        made = self._decisions.decisions[before:]
        ran, early = self.drawn.ran[:], self.drawn.early[:]
        self.drawn.ran.clear()
        self.drawn.early.clear()
        if None in early:
            raise ConfusedError(f"a dependency ran without a grant: {echo}")
        if ran:
            self._compare(scope["method"], ran, [each for each in made if each.code == "ok"], echo)
            self.seen["ran"] += 1
        else:
            self.seen["refused"] += 1
        if not self._late:
            await self._compare_with_twin(scope, body, ran, echo)

    def _compare(
        self, method: str, ran: list[tuple[int, dict[str, Any], Any]], allowed: list[Any], message: str
    ) -> None:
        if len(ran) != 1 or len(allowed) != 1:
            raise ConfusedError(f"{len(ran)} endpoints ran for {len(allowed)} grants: {message}")
        ((number, values, tool),), decision = ran, allowed[0]
        named = {(method, number), ("GET" if method == "HEAD" else method, number)} & self._named
        if not named or not tool == decision.tool == f"t{number}":
            raise ConfusedError(f"endpoint {number} ran as {tool}, judged as {decision.tool}: {message}")
        judged = json.loads(decision.arguments)
        for name, value in values.items():
            in_path = f"{{{name}" in self.drawn.routes[number][1]
            if name in NAMES and in_path and type(value) in NUMBERS and judged.get(name) != judged_of(value):
                raise ConfusedError(f"{name} is {value!r}, judged as {judged.get(name)!r}: {message}")
            if name in judged and not _same(value, judged[name]):
                raise ConfusedError(f"{name} is {value!r}, judged as {judged[name]!r}: {message}")
            if name not in judged and value is not None:
                raise ConfusedError(f"{name} is {value!r}, and was not judged: {message}")

    async def _compare_with_twin(self, scope: dict[str, Any], body: bytes, ran: list[Any], message: str) -> None:
        """Compare with the application without a guard: it would have run the same, or nothing that is named."""
        await _ask(self.twin.app, scope, body)
        bare = self.twin.ran[:]
        self.twin.ran.clear()
        if ran and [each[:2] for each in ran if not _is_model(each)] != [
            each[:2] for each in bare if not _is_model(each)
        ]:
            raise ConfusedError(f"the bare application ran {bare}, the guarded one {ran}: {message}")
        if bare and not ran and "'status': 400" not in message:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            if (method, bare[0][0]) in self._named:
                raise ConfusedError(f"the bare application ran {bare}, the guarded one refused: {message}")

    def check(self, requests: int) -> None:
        """Send requests to both; half of them after a route was added.

        Args:
            requests: How many.

        Raises:
            ConfusedError: As ``once``.
        """
        asyncio.run(self._check(requests))

    async def _check(self, requests: int) -> None:
        for number in range(requests):
            if self._late and number == requests // 2:
                self.drawn.add_late()
            await self.once()


def _is_model(ran: tuple[int, dict[str, Any], Any]) -> bool:
    return any(hasattr(value, "model_fields_set") for value in ran[1].values())


def _has_own_names(path: str) -> bool:
    names = re.findall(r"\{([a-z0-9]+)", path)
    return len(set(names)) == len(names)


def _bare(path: str) -> str:
    for convertor in (":int", ":float", ":path", ":uuid"):
        path = path.replace(convertor, "")
    return path


def _same(value: Any, judged: Any) -> bool:
    if hasattr(value, "model_fields_set"):
        value = value.amount
    if type(judged) is str:
        text = "true" if value is True else "false" if value is False else str(value)
        return judged in (text, text.removesuffix(".0")) and (type(value) in (str, int, float, Decimal, bool, UUID))
    return (type(value) is bool) == (type(judged) is bool) and type(value) is not str and bool(value == judged)


async def _ask(app: Any, scope: dict[str, Any], body: bytes) -> str:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await app(dict(scope), receive, send)
    except Exception as error:  # an application that fails has run, or has not, all the same
        sent.append(repr(error))
    return str(sent)[:600]
