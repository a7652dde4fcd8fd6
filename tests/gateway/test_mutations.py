# SPDX-License-Identifier: Apache-2.0
"""No changed call passes the gateway that an embedded verifier refuses, whatever the server behind it reads in it.

Each request that arrives at the upstream is read as lenient servers read it.  All of them must see the tool and the
arguments of the one record that allowed it, and an embedded verifier must allow the same.
"""

import contextlib
import hashlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import httpx
import pytest

from arx_verifier import Constraint, Rule, Verifier
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.mcp.messages import mcp_meaning
from arx_verifier.errors import RequestError
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.request import AccessRequest, HttpCall, read_json_object
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields, tool_fields
from tests.adapters.asgi_server import serving
from tests.gateway.mutations import EVERYWHERE, LONGEST, OF_PATHS, Sent, changed, json_readings
from tests.gateway.served_door import Recorder, open_door

pytestmark = pytest.mark.servers
SEED: Final = 20261128
RULES: Final = (
    Rule(tool="orders.get", args={"order_id": "o-1", "limit": Constraint(max=20, optional=True)}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    Rule(tool="orders.note", args={"order_id": "o-1"}, open=True),
    Rule(tool="orders.file", args={"note": Constraint(none_of=("o-2",))}),
    Rule(tool="orders.resources.read", args={"uri": "orders://terms"}),
    Rule(tool="orders.prompts.get", args={"name": "brief"}),
)
ROUTES: Final = {
    "GET /orders/{order_id}?{limit:int}": "orders.get",
    "POST /orders/{order_id}/refund": "orders.refund",
    "POST /orders/{order_id}/note": "orders.note",
    "GET /files/{note}": "orders.file",
}
# The upstream has more routes than the gateway.
SERVED: Final = (
    ("GET", "/orders/([^/]*)", "orders.get"),
    ("DELETE", "/orders/([^/]*)", "orders.drop"),
    ("POST", "/orders/([^/]*)/refund", "orders.refund"),
    ("POST", "/orders/([^/]*)/note", "orders.note"),
    ("GET", "/files/([^/]*)", "orders.file"),
)
CALLS: Final = (
    ("tools/call", {"name": "get", "arguments": {"order_id": "o-1"}}),
    ("tools/call", {"name": "refund", "arguments": {"order_id": "o-1", "amount": 20}}),
    ("tools/call", {"name": "note", "arguments": {"order_id": "o-1", "note": "x"}}),
    ("tools/call", {"name": "file", "arguments": {"note": "o-1"}}),
    ("tools/call", {"name": "drop", "arguments": {"order_id": "o-1"}}),
    ("tools/call", {"name": "get", "arguments": {"order_id": "o-2"}}),
    ("resources/read", {"uri": "orders://terms"}),
    ("prompts/get", {"name": "brief"}),
    ("tools/list", {}),
    ("ping", {}),
)
OPENING: Final = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
UNPROVEN: Final = ("flip", "cut", "stale", "none", "twice", "bare", "basic")  # the first three also in a message
TOKEN: Final = re.compile(r"arx1_[\w-]{100,}")
Meaning = tuple[str, dict[str, Any]]


class World:
    """An upstream that keeps what arrives, a verifier, and a second one of the same keys."""

    def __init__(self) -> None:
        self.realm, self.upstream, self.sessions = UnsafeTestRealm("orders"), Recorder(), dict[bytes, bytes]()
        self.records = InMemoryDecisions()
        self.realm.verifier, self.twin = self.verifier(self.records), self.verifier(InMemoryDecisions())
        self.caller, self.other = (
            self.realm.caller(*RULES),
            self.realm.caller(Rule(tool="orders.whoami"), agent="test/b"),
        )

    def verifier(self, records: InMemoryDecisions) -> Verifier:
        """A verifier with used calls of its own."""
        of = self.realm.verifier
        return Verifier(
            audience="orders", keys=of.keys, epochs=self.realm.epochs, decisions=records, record_arguments=("orders.*",)
        )

    def token(self, way: str, fields: Any) -> str:
        """The token of a call, or of another one."""
        signer = CallSigner((self.other if way == "other" else self.caller).macaroon, "orders")
        text = signer.sign(fields, time.time_ns() // 1_000_000 - (600_000 if way == "stale" else 0))
        half = len(text) // 2
        forms = {"cut": text[:-3], "flip": text[:half] + ("A" if text[half] != "A" else "B") + text[half + 1 :]}
        return forms.get(way, text)

    def credentials(self, sent: Sent) -> list[bytes]:
        """The values of ``Authorization`` of a request."""
        # As a server reads the target, or as it is sent.
        target = re.sub(rb"\Ahttp://[^/]*", b"", sent.target).partition(b"#")[0] if sent.token != "raw" else sent.target
        digest = hashlib.sha256(sent.body if sent.coding != "none" else b"").digest()
        text = self.token(sent.token, http_fields(HttpCall(sent.method.decode(), target, digest)))
        values = {
            "none": [],
            "twice": [f"Bearer {text}"] * 2,
            "bare": [text],
            "basic": [f"Basic {text}"],
            "lower": [f"bearer {text}"],
            "spaced": [f"Bearer  {text} "],
        }
        return [value.encode() for value in values.get(sent.token, [f"Bearer {text}"])]

    def with_token(self, sent: Sent) -> Sent:
        """The same message with the token of its call in it, where it has one meaning."""
        try:
            message = read_json_object(sent.body)
            tool, args = mcp_meaning("orders", message["method"], message.get("params") or {})
            token = self.token(sent.token, tool_fields(tool, args))
        except (RequestError, KeyError, TypeError, AttributeError):
            return sent
        inner = b'"params":{"_meta":{"dev.arx/cap":"%s"}' % token.encode()
        body = sent.body.replace(b'"params":{}', inner + b"}", 1)
        return replace(sent, body=body if body != sent.body else sent.body.replace(b'"params":{', inner + b",", 1))


def ask(url: str, raw: bytes, *, ends: bool = False) -> int:
    """Send bytes, and return the status; 0 without one."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(raw)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    statuses = [int(each) for each in re.findall(rb"^HTTP/1.1 (\d{3})", answer, re.MULTILINE)]
    return next((status for status in statuses if status != 100), 0)


def plain(value: Any, *, folds: bool, typed: bool) -> Any:
    """A value in a form to compare: numbers are floats; names in one case, texts of numbers as numbers if wanted."""
    if isinstance(value, dict):
        return {
            name.casefold() if folds else name: plain(each, folds=folds, typed=typed) for name, each in value.items()
        }
    if isinstance(value, list):
        return [plain(each, folds=folds, typed=typed) for each in value]
    if isinstance(value, str) and typed:
        with contextlib.suppress(ValueError):
            return float(value)
    return float(value) if type(value) in (int, float) else value


def same(reading: Meaning, record: Decision, *, folds: bool = False, typed: bool = False) -> bool:
    """Whether a reading is what a record has allowed."""
    args = json.loads(record.arguments or b"{}")
    with contextlib.suppress(OverflowError):
        one, other = plain(reading[1], folds=folds, typed=typed), plain(args, folds=folds, typed=typed)
        return (reading[0], one) == (record.tool, other)
    return False


def mcp_readings(scope: Any, body: bytes) -> Iterator[Meaning]:
    """The calls that MCP servers read in a request."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    for message in json_readings(headers, body):
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        routed = {b"mcp-method": message.get("method"), b"mcp-name": params.get("name", params.get("uri"))}
        for method, name in itertools.product(
            {str(message.get("method")), headers.get(b"mcp-method", b"").decode() or str(message.get("method"))},
            {str(routed[b"mcp-name"]), headers.get(b"mcp-name", b"").decode() or str(routed[b"mcp-name"])},
        ):
            yield from _mcp_calls(method, name, params)


def _mcp_calls(method: str, name: str, params: dict[str, Any]) -> Iterator[Meaning]:
    args = params.get("arguments") or {}
    if method == "tools/call" and isinstance(args, dict):
        yield f"orders.{name}", args
    elif method == "resources/read":
        yield "orders.resources.read", {"uri": name}
    elif method == "prompts/get":
        yield "orders.prompts.get", {"name": name, **({"arguments": args} if args else {})}


def http_readings(scope: Any, body: bytes) -> Iterator[Meaning]:
    """The calls that HTTP services read in a request."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    raw, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    overrides = [value.decode() for name, value in headers.items() if b"method" in name.replace(b"_", b"-")]
    queries = [dict(parse_qsl(query)), _first_of(parse_qsl(query)), dict(parse_qsl(query.replace(";", "&")))]
    methods = {scope["method"], *overrides, *(each["_method"] for each in queries if "_method" in each)}
    paths = {
        raw,
        raw.partition("#")[0],
        *(value.decode("latin-1") for name, value in headers.items() if b"url" in name),
    }
    paths = {unquote(path) for path in paths} | {
        unquote_to_bytes(path).decode("latin-1") for path in paths if "%f" in path
    }
    paths |= {unquote(path) for path in paths} | {re.sub(";[^/]*", "", path) for path in paths}
    paths |= {path.partition("\0")[0] for path in paths}
    paths |= {re.sub("/[^/]*/\\.\\.(?=/|$)", "", path.replace("\\", "/").replace("//", "/")) for path in paths}
    bodies = [*json_readings(headers, body)]
    with contextlib.suppress(UnicodeDecodeError):
        if b"form" in headers.get(b"content-type", b""):
            bodies.append(dict(parse_qsl(body.decode())))
    for method, path in itertools.product(methods, paths):
        for verb, pattern, tool in SERVED:
            if method.upper() == verb and (found := re.fullmatch(pattern, path.removeprefix("/v1"))):
                first = {"note" if tool == "orders.file" else "order_id": found[1]}
                for read, members in itertools.product(queries, bodies or [{}]):
                    yield tool, {**first, **read, **members}
                    yield tool, {**members, **read, **first}


def _first_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return dict(reversed(pairs))


def named_otherwise(scope: Any, record: Decision) -> list[bytes]:
    """The headers that give an argument of a call another value: MCP 2026-07-28 copies arguments to headers."""
    args = {name.casefold().replace("_", "-"): value for name, value in json.loads(record.arguments or b"{}").items()}
    wrong = []
    for header, value in scope["headers"]:
        name = header.decode().lower().removeprefix("mcp-param-").replace("_", "-")
        if header.lower().startswith(b"mcp-param-") and name in args and value.decode("latin-1") != str(args[name]):
            wrong.append(header)
    return wrong


def run(world: World, url: str, sent: Sent, kind: str, embedded: str | None) -> int:
    """Send one request, and check what arrived; return how many calls did."""
    sent = world.with_token(sent) if sent.meta else sent
    sent = replace(sent, headers=[(name, world.sessions.get(value, value)) for name, value in sent.headers])
    credentials = world.credentials(replace(sent, token="none") if sent.meta else sent)
    raw, begun = sent.raw(url.removeprefix("http://").partition("/")[0], credentials), len(world.records.decisions)
    world.upstream.arrived.clear()
    ask(url, raw, ends=sent.coding == "cut")
    got, allowed = list(world.upstream.arrived), [each for each in world.records.decisions[begun:] if each.allowed]
    seen = [(scope["method"], scope["raw_path"], scope["headers"], body) for scope, body in got]
    about = TOKEN.sub("TOKEN", f"{sent.how}\n{raw[:6000]!r}\n{seen}")
    in_message = b'"dev.arx/cap":"arx1' in sent.body
    assert not (got and sent.token in UNPROVEN[: 3 if in_message else None]), about
    if kind == "http" and embedded is not None and got:
        assert ask(embedded, raw, ends=sent.coding == "cut") == 200, about
    calls = 0
    for scope, body in got:
        headers = {name.lower() for name, _ in scope["headers"]}
        assert not headers & {b"authorization", b"cookie", b"forwarded"}, about
        assert b"arx1_" not in body, about
        assert kind == "http" or dict(scope["headers"]).get(b"mcp-session-id") in (None, b"s-1"), about
        found = [*(mcp_readings if kind == "mcp" else http_readings)(scope, body)]
        if b'"arx-schema"' in body and body.count(b"tools/list"):
            continue
        calls += bool(found)
        assert len(allowed) == 1 or not found, about
        for reading in found:
            exact = same(reading, allowed[0], typed=kind == "http")
            assert exact or same(reading, allowed[0], folds=True, typed=kind == "http"), f"{reading}\n{about}"
        assert kind == "http" or not found or not named_otherwise(scope, allowed[0]), about
        if kind == "mcp" and found:
            args = json.loads(allowed[0].arguments or b"{}")
            token = world.token("signed", tool_fields(allowed[0].tool, args))
            request = AccessRequest(allowed[0].tool, args, time.time_ns() // 1_000_000)
            assert world.twin.decide(token, request).allowed, about
    assert calls <= 1, about
    if got and calls:
        world.upstream.arrived.clear()
        ask(url, raw)
        assert not world.upstream.arrived, f"replayed: {about}"
    return calls


def mcp_bases() -> list[Sent]:
    """Messages of each kind, of both ways to state a revision."""
    bases = []
    for method, params in CALLS:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")]
        body = json.dumps(message, separators=(",", ":")).encode()
        stated = [*headers, (b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", method.encode())]
        bases += [Sent(b"POST", b"/orders", headers, body), Sent(b"POST", b"/orders", stated, body)]
    return bases


def http_bases() -> list[Sent]:
    """Requests of each route, and of routes that the gateway does not have."""
    headers = [(b"content-type", b"application/json")]
    posts = [
        ("o-1/refund", {"amount": 20}),
        ("o-1/note", {"note": "x"}),
        ("o-1/refund", {"amount": 50}),
        ("o-2/note", {}),
    ]
    gets = ["orders/o-1", "orders/o-1?limit=5", "orders/o-2", "files/o-1", "files/o-2", "metrics"]
    return [
        *(
            Sent(b"POST", b"/orders/orders/" + path.encode(), headers, json.dumps(body).encode())
            for path, body in posts
        ),
        *(Sent(b"GET", b"/orders/" + path.encode()) for path in gets),
        Sent(b"DELETE", b"/orders/orders/o-1"),
    ]


def mutate(folder: Path, kind: str, number: int, seed: int, parser: str) -> None:
    """Run a number of changed calls against one door."""
    world, random = World(), Random(seed)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(world.upstream, log_level="error"))
        terms = {"url": f"http://127.0.0.1:{port}/v1", "max_body": LONGEST, "timeout": 5_000}
        url = stack.enter_context(
            open_door(world.realm, folder, parser, **terms, routes=ROUTES if kind == "http" else {})
        )

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await guarded({**scope, "root_path": "/orders"} if scope["type"] == "http" else scope, receive, send)

        guarded = ArxMiddleware(Recorder(), verifier=world.twin, tools=ROUTES, max_body=LONGEST)
        embedded = (
            f"http://127.0.0.1:{stack.enter_context(serving(app, http=parser, log_level='error'))}"
            if kind == "http"
            else None
        )
        bases = mcp_bases() if kind == "mcp" else http_bases()
        if kind == "mcp":
            for name, caller in ((b"s-mine", world.caller), (b"s-other", world.other)):
                opened = httpx.post(url, json=OPENING, auth=caller, timeout=30)  # type: ignore[arg-type]
                world.sessions[name] = opened.headers["mcp-session-id"].encode()
        assert sum(run(world, url, base, kind, embedded) for base in bases) >= 5  # unchanged ones arrive
        changes = EVERYWHERE if kind == "mcp" else (*EVERYWHERE, *OF_PATHS)
        arrived = sum(
            run(world, url, sent, kind, embedded) for sent in itertools.islice(changed(random, bases, changes), number)
        )
        assert arrived > number / 50  # the changes are not all refused before they mean something


DOORS: Final = [("mcp", "httptools"), ("http", "httptools"), ("http", "h11")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "parser"), DOORS)
def test_a_changed_call_is_refused_or_means_what_its_record_says(kind: str, parser: str, tmp_path: Path) -> None:
    """A thousand changes of each door's calls."""
    mutate(tmp_path, kind, 1_000, SEED, parser)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (2, 3))])
@pytest.mark.parametrize(("kind", "parser"), DOORS)
def test_many_changed_calls(kind: str, parser: str, seed: int, tmp_path: Path) -> None:
    """As above, thousands of other changes."""
    mutate(tmp_path, kind, 6_000, seed, parser)
