# SPDX-License-Identifier: Apache-2.0
"""Send random requests to a guarded WSGI application and to its bare twin, and compare what ran with what was judged.

Nothing but bad spellings may be refused: the twin's requests are drawn so that it is known which of them have one.
"""

import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

from arx_verifier import CallSigner, HttpCall, Rule, Verifier
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields
from tests.routes.confusion import ConfusedError, draw_number, judged_of

UUID_TEXT: Final = "6f1f0a8e-0000-4000-8000-00000000000a"
# By the kind of a parameter: texts that are the one spelling of their value, and texts that are not.
GOOD: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("x", "7", "007", "a b", "caf\xe9", "a+b", "A", "export", "true", "7.50"),
    "slug": ("x", "7", "007", "A-b_c", "export"),
    "path": ("x", "a/b", "7/x", "export/7", "caf\xe9/b", "a/b/"),
    "int": ("7", "0", "12345678901234567890"),
    "signed": ("7", "-7", "0"),
    "padded": ("007", "700"),
    "float": ("7.5", "0.25", "100.0"),
    "uuid": (UUID_TEXT,),
    "lower": ("abc", "7"),
    "any": ("a", "b.c"),
    "digits": ("7", "007", "0"),
}
BAD: Final[Mapping[str, tuple[str, ...]]] = {
    "int": ("007", "\u0667"),
    "signed": ("-007", "-0"),
    "float": ("7.50", "07.5", "-0.0", "\u0667.5"),
    "lower": ("ABC", "aBc"),
}
ODD: Final = frozenset(text for texts in BAD.values() for text in texts)
_ODD_NUMBER: Final = re.compile(r"(?<![0-9.])0[0-9]|\.[0-9]+0(?![0-9])")
LITERALS: Final = ("orders", "export", "latest", "7", "x", "a-b")
BODIES: Final[tuple[Any, ...]] = (5, "5", 5.5, True, "x", None, [1, "a"], {"b": 1})


class Line(NamedTuple):
    """A method of an endpoint, and a path that leads to it.

    Attributes:
        method: The method.
        name: Of the endpoint, as ``tools`` names it.
        number: Of the endpoint.
        parts: The path: a literal text, or the kind of a parameter after a ``<``.
    """

    method: str
    name: str
    number: int
    parts: tuple[str, ...]


class Ran(NamedTuple):
    """What an endpoint saw: its number, its arguments by place, the tool of its grant, and if some have no name."""

    number: int
    parameters: dict[str, Any]
    query: dict[str, str]
    body: dict[str, Any]
    tool: str | None
    unnamed: bool


class Tree(Protocol):
    """A drawn application.

    Attributes:
        lines: Its endpoints.
        ran: What ran, in order.
    """

    lines: list[Line]
    ran: list[Ran]

    def guard(self, verifier: Verifier, tools: Mapping[str, str]) -> None:
        """Guard the application."""

    def call(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""


class WSGIClient:
    """Sends requests to a guarded application and to its bare twin.

    Args:
        seed: Of the application and its requests.
        draw: Draws the application of a seed; the second one is the twin's.
    """

    def __init__(self, seed: int, draw: type[Any]) -> None:
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
        realm.verifier.start()
        self.guarded: Tree = draw(seed, "guarded")
        self.twin: Tree = draw(seed, "bare")
        named = {(line.method, line.name): line.number for line in self.guarded.lines if line.method != "HEAD"}
        named = {key: number for key, number in named.items() if self.random.random() < 0.85}
        # A query has no place in other methods, unless its line declares it.
        self._queried = {key for key in named if key[0] in ("GET", "HEAD") or self.random.random() < 0.5}
        suffix = {key: "?{q}" if key in self._queried and key[0] != "GET" else "" for key in named}
        tools = {f"{method} {name}{suffix[method, name]}": f"t{number}" for (method, name), number in named.items()}
        self._named = {(method, number) for (method, _), number in named.items()}
        self._queried_numbers = {(method, named[method, name]) for method, name in self._queried}
        self.guarded.guard(verifier, tools)

    def check(self, requests: int) -> None:
        """Send requests to both.

        Args:
            requests: How many.

        Raises:
            ConfusedError: The guarded application ran what was not judged, or not what the bare one ran.
        """
        for _ in range(requests):
            self._once()

    def _draw(self) -> tuple[str, str, bytes, bool]:
        """Return method, target, body, and whether a text is not the one spelling of its value."""
        pick = self.random.choice
        line = pick(self.guarded.lines)
        segments, numbers = [], set[str]()
        for part in line.parts:
            text = part
            if part.startswith("<"):
                kind = part[1:]
                text = pick(BAD[kind]) if kind in BAD and self.random.random() < 0.15 else pick(GOOD[kind])
                if self.random.random() < 0.1:
                    text = draw_number(self.random)
                    numbers.add(text)
            if self.random.random() < 0.03:
                text = pick((*GOOD["text"], *GOOD["signed"], *BAD["float"]))
            segments.append(text)
        path = "/" + "".join(segments).removeprefix("/")
        # A text of one kind may be led to a parameter of another one, and a regular expression may divide one.
        is_odd = (
            path != path.lower()
            or _ODD_NUMBER.search(path) is not None
            or any(text in ODD | numbers for text in segments)
        )
        if self.random.random() < 0.15:
            path = path.removesuffix("/") if path.endswith("/") and self.random.random() < 0.5 else path + "/"
        method = pick((line.method,) * 8 + ("HEAD", "POST", "OPTIONS", "GET", "PUT"))
        query = pick(("", "", "", "q=7", "q=caf%C3%A9"))
        body = b""
        if method not in ("GET", "HEAD") and self.random.random() < 0.6:
            body = json.dumps({"amount": pick(BODIES)}).encode()
        raw = quote(path, safe="/+" if self.random.random() < 0.9 else "/")
        return method, raw + (f"?{query}" if query else ""), body, is_odd

    def _once(self) -> None:
        method, target, body, is_odd = self._draw()
        fields = http_fields(HttpCall(method, target.encode(), hashlib.sha256(body).digest()))
        token = self._signer.sign(fields, time.time_ns() // 1_000_000)
        before = len(self._decisions.decisions)
        status, answer = call(self.guarded.call, method, target, body, token)
        ran, bare = self.guarded.ran[:], self._bare(method, target, body)
        self.guarded.ran.clear()
        exchange = f"{method} {target} {body.decode()}: {status} {answer[:300]!r}"
        allowed = [each for each in self._decisions.decisions[before:] if each.code == "ok"]
        if ran:
            self._compare(method, ran, allowed, exchange)
            self.seen["ran"] += 1
            if [each._replace(tool=None) for each in ran] != bare:
                raise ConfusedError(f"the bare application ran {bare}, the guarded one {ran}: {exchange}")
            return
        self.seen["refused"] += 1
        if len(bare) != 1 or not {(method, bare[0].number), self._like(method, bare[0].number)} & self._named:
            return
        why = "an empty segment" if "//" in target else self._reason(method, bare[0], is_odd)
        if not (why and status == 400):
            raise ConfusedError(
                f"the bare application ran {bare}, the guarded one refused without a reason: {exchange}"
            )
        self.seen[f"refused, {why}"] += 1

    def _like(self, method: str, number: int) -> tuple[str, int]:
        return ("GET" if method == "HEAD" else method, number)

    def _reason(self, method: str, bare: Ran, is_odd: bool) -> str:
        """Return why the guarded application may refuse what the bare one ran; empty for no reason."""
        if is_odd:
            return "another spelling"
        if bare.unnamed:
            return "a parameter without a name"
        if bare.query and self._like(method, bare.number) not in self._queried_numbers:
            return "an argument in the query"
        places = (bare.parameters, bare.query, bare.body)
        if len({name for place in places for name in place}) < sum(map(len, places)):
            return "an argument in two places"
        return ""

    def _bare(self, method: str, target: str, body: bytes) -> list[Ran]:
        call(self.twin.call, method, target, body, "")
        ran = self.twin.ran[:]
        self.twin.ran.clear()
        return ran

    def _compare(self, method: str, ran: list[Ran], allowed: list[Any], exchange: str) -> None:
        if len(ran) != 1 or len(allowed) != 1:
            raise ConfusedError(f"{len(ran)} endpoints ran for {len(allowed)} grants: {exchange}")
        (one,), (decision,) = ran, allowed
        named = {(method, one.number), self._like(method, one.number)} & self._named
        if not named or not one.tool == decision.tool == f"t{one.number}":
            raise ConfusedError(f"endpoint {one.number} ran as {one.tool}, judged as {decision.tool}: {exchange}")
        judged = json.loads(decision.arguments)
        expected = {name: judged_of(value) for name, value in one.parameters.items()} | one.query | one.body
        if json.dumps(judged, sort_keys=True) != json.dumps(expected, sort_keys=True):
            raise ConfusedError(f"endpoint {one.number} got {expected}, judged were {judged}: {exchange}")


def call(app: Any, method: str, target: str, body: bytes, token: str) -> tuple[int, bytes]:
    """Send one request as a WSGI server does; return its status, 0 for an error, and the body of the answer."""
    raw, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": target,
        "SERVER_NAME": "orders.example",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "orders.example",
        "REMOTE_ADDR": "192.0.2.7",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
    if token:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    heads: list[int] = []

    def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Any:
        heads.append(int(status[:3]))
        return lambda _data: None

    answer = app(environ, start_response)
    try:
        content = b"".join(answer)
    except Exception as error:  # an application that fails has run, or has not, all the same
        return 0, repr(error).encode()
    finally:
        if hasattr(answer, "close"):
            answer.close()
    return heads[-1] if heads else 0, content
