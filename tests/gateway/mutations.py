# SPDX-License-Identifier: Apache-2.0
"""Calls that are changed at random, and what lenient servers read of what arrives: material of ``test_mutations``.

A generator of one seed makes the same requests on every machine.  A reader is a server as it exists: one takes the last
of two members of a name, one the first, one ignores case, one routes by headers, one decodes a body twice.
"""

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

Headers = list[tuple[bytes, bytes]]
LONGEST: Final = 4096  # of a body, bytes
KNOWN: Final = ("method", "params", "id", "jsonrpc", "name", "arguments", "uri", "order_id", "amount", "note")


@dataclass(frozen=True)
class Sent:
    """A request as it is sent.

    Attributes:
        method: The HTTP method.
        target: The request target.
        headers: The headers, but for host, length and token.
        body: The body.
        coding: How the body is framed: its length, chunks, or both.
        token: What is done with the token.
        meta: Whether the token is in the message.
        how: The names of the changes.
    """

    method: bytes
    target: bytes
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    coding: str = "length"
    token: str = "signed"
    meta: bool = False
    how: tuple[str, ...] = ()

    def raw(self, host: str, credentials: list[bytes]) -> bytes:
        """Return the bytes of the request."""
        head = [(b"host", host.encode()), *((b"authorization", each) for each in credentials), *self.headers]
        body = self.body
        if self.coding in ("length", "both"):
            head.append((b"content-length", b"%d" % len(body)))
        if self.coding in ("chunked", "both", "cut"):
            head.append((b"transfer-encoding", b"chunked"))
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
            body += b"" if self.coding == "cut" else b"0\r\n\r\n"
        if self.coding == "twice":
            head += [(b"content-length", b"%d" % len(body)), (b"content-length", b"%d" % max(len(body) - 1, 0))]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        return b"%s %s HTTP/1.1\r\n%sconnection: close\r\n\r\n%s" % (self.method, self.target, lines, body)


Change = Callable[[Random, Sent], Sent]
HIDDEN: Final = (
    '"name":"drop"',
    '"Name":"drop"',
    '"NAME":"drop"',
    '"arguments":{"order_id":"o-2","amount":50}',
    '"Arguments":{"order_id":"o-2","amount":50}',
    '"argumentſ":{"order_id":"o-2"}',
    '"uri":"orders://secret"',
    '"URI":"orders://secret"',
    '"order_id":"o-2"',
    '"Order_Id":"o-2"',
    '"amount":50',
    '"AMOUNT":50',
    '"method":"tools/call"',
    '"Method":"tools/call"',
    '"params":{"name":"drop","arguments":{}}',
    '"Params":{"name":"drop","arguments":{}}',
    '"n\\u0061me":"drop"',
    '"id":7',
    '"ID":7',
    '"jsonrpc":"2.0"',
    '"result":{}',
    '"other":[1]',
    '"_method":"DELETE"',
    '"_meta":{"dev.arx/cap":"x"}',
)
NUMBERS: Final = (
    *("20.0", "2e1", "20.000000000000000001", "1e400", "-0", "-1", "020", "0x14", "NaN", "Infinity", "19.5", "50"),
    *("9007199254740993", "1e16", "20.00000000000000000000000000000000000000000001", '"20"', '"50"', "true", "[20]"),
    "1" * 5000,
)
TEXTS: Final = (
    *('"o-1\\u0000"', '"o-1\\u0000x"', '"\\ud800"', '"o-1 "', '"o\\u200b-1"', '"O-1"', '"o-2"', '["o-1"]', "null"),
    *('{"id":"o-1"}', '"%6f-1"', '"o-1/../o-2"', '"null"', '"[1]"', '""', '"o-1\\n"', '"ｏ-1"'),
)
METHODS: Final = (
    *("Tools/Call", "TOOLS/CALL", "tools/call ", "tools//call", "tools/call\0", "tools/cаll", "tools/list", "ping"),
    *("initialize", "tasks/get", "resources/read", "prompts/get", "completion/complete", "notifications/initialized"),
    *("notifications/tools/call", "roots/list", "", "sampling/createMessage", "subscriptions/listen"),
)
IDS: Final = ("null", "true", "1.5", "[]", "{}", '""', "1e3", "123456789012345678901234567890", '"arx-schema"', "-1")
VERSIONS: Final = (b"2025-03-26", b"2024-11-05", b"2025-11-25", b"2026-07-28", b"9999-99-99", b"", b"x", b"2026-07-28 ")
TYPES: Final = (
    *(b"application/json; charset=utf-7", b"application/json; charset=utf-16", b"text/plain", b"application/json-seq"),
    *(b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"Application/JSON", b"", b"*/*"),
    *(b"application/json; charset=utf-8", b"application/json, text/plain", b"application/vnd.api+json"),
)
MORE_HEADERS: Final[Headers] = [
    *((b"x-http-method-override", b"DELETE"), (b"X-HTTP-Method", b"DELETE"), (b"x-method-override", b"DELETE")),
    *((b"x-original-url", b"/orders/o-2"), (b"x-rewrite-url", b"/orders/o-2"), (b"x_http_method_override", b"DELETE")),
    *(
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-user", b"root"),
        (b"forwarded", b"for=root"),
        (b"te", b"gzip"),
    ),
    *((b"content-encoding", b"gzip"), (b"content-encoding", b"identity"), (b"content-encoding", b"deflate")),
    *((b"mcp-method", b"tools/call"), (b"Mcp-Method", b"tools/list"), (b"MCP-METHOD", b"Tools/Call")),
    *((b"mcp-name", b"drop"), (b"Mcp-Name", b"get"), (b"mcp-name", b"=?base64?ZHJvcA==?="), (b"mcp_name", b"drop")),
    *((b"mcp-param-order_id", b"o-2"), (b"Mcp-Param-Order-Id", b"o-2"), (b"mcp-param-amount", b"50")),
    *((b"mcp-param-note", b"o-1"), (b"mcp-session-id", b"s-mine"), (b"mcp-session-id", b"s-other")),
    *((b"mcp-session-id", b"s-1"), (b"mcp-session-id", b"s-1~k1.0~x"), (b"mcp-session-id", b"s-2~~")),
    *((b"last-event-id", b"1"), (b"accept", b"text/html"), (b"upgrade", b"websocket"), (b"expect", b"100-continue")),
    *((b"cookie", b"a=b"), (b"dev.arx/cap", b"x"), (b"content-type", b"text/plain"), (b"range", b"bytes=0-1")),
]


def _insert(random: Random, sent: Sent) -> Sent:
    """Put a member at the begin or the end of some object."""
    places = [at for at, byte in enumerate(sent.body) if byte in b"{}"]
    if not places:
        return sent
    at, text = random.choice(places), random.choice(HIDDEN).encode()
    if sent.body[at : at + 1] == b"{":
        rest = sent.body[at + 1 :]
        return replace(sent, body=sent.body[: at + 1] + text + (b"" if rest[:1] == b"}" else b",") + rest)
    before = sent.body[:at]
    return replace(sent, body=before + (b"" if before[-1:] == b"{" else b",") + text + sent.body[at:])


def _value(random: Random, sent: Sent) -> Sent:
    """Put another value in the place of an argument's, of the method or of the id."""
    name, values = random.choice(
        [(b'"amount":', NUMBERS), (b'"order_id":', TEXTS), (b'"id":', IDS), (b'"note":', TEXTS + NUMBERS)]
        + [(b'"method":', tuple(json.dumps(each, ensure_ascii=False) for each in METHODS))] * 2
    )
    before, found, rest = sent.body.partition(name)
    if not found:
        return sent
    end = min(at for at in (rest.find(b","), rest.find(b"}"), len(rest)) if at >= 0)
    return replace(sent, body=before + found + random.choice(values).encode() + rest[end:])


def _case(random: Random, sent: Sent) -> Sent:
    """Write a name in another case."""
    name = random.choice(KNOWN)
    other = random.choice([name.title(), name.upper(), name.replace("s", "ſ", 1), name.replace("k", "K"), name + " "])
    return replace(sent, body=sent.body.replace(f'"{name}":'.encode(), f'"{other}":'.encode(), 1))


def _coding(random: Random, sent: Sent) -> Sent:
    """Write the body in another coding of characters."""
    with contextlib.suppress(UnicodeError):
        text = sent.body.decode()
        coding = random.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "utf-8-sig"])
        return replace(sent, body=text.encode(coding))
    return sent


def _several(random: Random, sent: Sent) -> Sent:
    """Send a batch, or several values."""
    other = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"drop","arguments":{}}}'
    body = sent.body
    bodies = [b"[" + body + b"]", b"[" + body + b"," + other + b"]", body + b"\n" + other, body + other, b" \n" + body]
    bodies += [
        body + b",",
        body + b"\0",
        b"/**/" + body,
        body[:-1],
        body + b"}",
        b"[]",
        b"",
        body + b" ",
        b"\x1e" + body,
    ]
    return replace(sent, body=random.choice(bodies))


def _size(random: Random, sent: Sent) -> Sent:
    """Make the body too long, or too deep."""
    deep = random.choice([31, 33, 200, 100_000])
    longer = (b'{"jsonrpc":"2.0",' + b" " * LONGEST, b'{"x":' + b"[" * deep + b"]" * deep + b",")
    return replace(sent, body=sent.body.replace(b"{", random.choice(longer), 1))


def _byte(random: Random, sent: Sent) -> Sent:
    """Change one byte."""
    if not sent.body:
        return sent
    at = random.randrange(len(sent.body))
    byte = bytes([random.choice((0, 9, 34, 44, 92, 123, 125, 128, 255, random.randrange(256)))])
    return replace(sent, body=sent.body[:at] + byte + sent.body[at + random.randrange(2) :])


def _header(random: Random, sent: Sent) -> Sent:
    """Add a header, before or behind others."""
    added = random.choice(MORE_HEADERS)
    return replace(sent, headers=[added, *sent.headers] if random.random() < 0.5 else [*sent.headers, added])


def _type(random: Random, sent: Sent) -> Sent:
    """Name another type or revision, or none, in the place of the header or beside it."""
    name, values = random.choice([(b"content-type", TYPES), (b"mcp-protocol-version", VERSIONS)])
    kept = sent.headers if random.random() < 0.3 else [pair for pair in sent.headers if pair[0] != name]
    value = random.choice(values)
    return replace(sent, headers=[*kept, (name, value)] if value else kept)


def _again(random: Random, sent: Sent) -> Sent:
    """Send a header twice."""
    if not sent.headers:
        return sent
    name, value = random.choice(sent.headers)
    return replace(sent, headers=[*sent.headers, (name.title(), random.choice([value, b"x", b"drop", b"o-2"]))])


def _packed(random: Random, sent: Sent) -> Sent:
    """Compress the body, with or without a header that declares it."""
    packed, name = random.choice([(gzip.compress(sent.body), b"gzip"), (zlib.compress(sent.body), b"deflate")])
    headers = [*sent.headers, (b"content-encoding", name)] if random.random() < 0.7 else sent.headers
    return replace(sent, body=packed, headers=headers)


def _framing(random: Random, sent: Sent) -> Sent:
    """Frame the body in another way."""
    return replace(sent, coding=random.choice(["chunked", "both", "cut", "twice", "none"]))


def _http_method(random: Random, sent: Sent) -> Sent:
    """Use another HTTP method."""
    names = [b"GET", b"DELETE", b"PUT", b"PATCH", b"OPTIONS", b"HEAD", b"post", b"Post", b"TRACE", b"POSTX", b"CONNECT"]
    return replace(sent, method=random.choice(names))


def _token(random: Random, sent: Sent) -> Sent:
    """Do something with the token."""
    ways = ["none", "flip", "cut", "twice", "other", "bare", "basic", "lower", "spaced", "stale", "raw", "raw"]
    return replace(sent, token=random.choice(ways), meta=random.random() < 0.2)


def _path(random: Random, sent: Sent) -> Sent:
    """Spell the path in another way."""
    target = sent.target
    first, _, rest = target[1:].partition(b"/")
    spelt = [
        *(
            b"/" + target,
            target + b"/",
            target + b"//",
            target + b"?",
            target + b"#x",
            target + b"%23x",
            target + b";a=b",
        ),
        *(b"/./" + target[1:], b"/x/.." + target, b"/x/%2e%2e" + target, b"/" + first + b"/%2e/" + rest),
        *(target.replace(b"o-1", b"%6f-1"), target.replace(b"o-1", b"o%2d1"), target.replace(b"o-1", b"o-2/../o-1")),
        *(
            target.replace(b"o-1", b"o-1%2f..%2fo-2"),
            target.replace(b"o-1", b"o-1%00"),
            target.replace(b"o-1", b"o-1%5cx"),
        ),
        *(target.replace(b"o-1", b"%256f-1"), target.replace(b"o-1", b"o-2"), target.replace(b"o-1", b"o-1\\x")),
        *(target.replace(b"o-1", b"o-%ff"), target.replace(b"o-1", b"o-%c3%bf"), target.replace(b"o-1", b"\xff")),
        *(
            b"http://127.0.0.1:9" + target,
            b"http://other" + target,
            target[1:],
            b"*",
            b"http:" + target,
            target.upper(),
        ),
        *(target + b"?note=x", target + b"?amount=50", target + b"?limit=5&limit=50", target + b"?limit=5;limit=50"),
        *(target + b"?_method=DELETE", target + b"?limit=5&Limit=50", target + b"?limit=%35", target + b"?limit=5+"),
        *(target + b"?limit=5%26limit=50", target + b"?limit[]=5", target + b"?limit=5#&limit=50", target + b"?%00=1"),
        *(target + b"%20", target + b"%0d%0aX:y", target.replace(b"/", b"%2f", 2), target + b".json", target + b"\t"),
    ]
    return replace(sent, target=random.choice(spelt))


EVERYWHERE: Final[tuple[Change, ...]] = (
    *(_insert, _insert, _insert, _value, _value, _case, _coding, _several, _size, _byte),
    *(_header, _header, _type, _again, _packed, _framing, _http_method, _token),
)
OF_PATHS: Final[tuple[Change, ...]] = (_path,) * 12


def changed(random: Random, bases: list[Sent], changes: tuple[Change, ...]) -> Iterator[Sent]:
    """Yield requests without end, each of them changed once to three times.

    Args:
        random: The generator's source.
        bases: The requests to change.
        changes: The changes.
    """
    while True:
        sent = random.choice(bases)
        for change in random.sample(changes, random.choice((1, 1, 1, 2, 2, 3))):
            sent = replace(change(random, sent), how=(*sent.how, change.__name__.strip("_")))
        yield sent


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.casefold(): value for name, value in pairs}


def _texts(headers: dict[bytes, bytes], body: bytes) -> Iterator[str]:
    """Yield the texts that servers decode a body to."""
    bodies = [body]
    with contextlib.suppress(Exception):
        bodies.append(gzip.decompress(body) if headers[b"content-encoding"] == b"gzip" else zlib.decompress(body))
    charset = headers.get(b"content-type", b"").decode("latin-1").lower().partition("charset=")[2].strip('"; ')
    for each in bodies:
        for coding in dict.fromkeys(("utf-8", json.detect_encoding(each), charset)):
            with contextlib.suppress(UnicodeError, LookupError):
                yield each.decode(coding).lstrip("\ufeff\x1e \t\r\n\0")


def json_readings(headers: dict[bytes, bytes], body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects that servers read in a body; a batch as its messages.

    Args:
        headers: The headers that arrived.
        body: The body that arrived.
    """
    for text in _texts(headers, body):
        for hook in (dict, _first, _folded):
            decoder = json.JSONDecoder(object_pairs_hook=hook, strict=False)
            left = text
            with contextlib.suppress(ValueError, RecursionError):
                while left:  # several values one after the other
                    value, end = decoder.raw_decode(left)
                    yield from (
                        each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)
                    )
                    left = left[end:].lstrip(", \t\r\n\0")
