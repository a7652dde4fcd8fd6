# SPDX-License-Identifier: Apache-2.0
"""Random pairs of token and call, most with one or two faults, made by ``tests.vectors.second``."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any, Final

from tests.vectors.second import (
    AT,
    FIRST,
    HOP,
    HOP2,
    INCARNATION,
    KEY,
    OTHER_KEY,
    SECOND,
    Token,
    bound,
    bound_call,
    call,
    canonical,
    discharge,
    hop,
    joined,
    links,
    mint,
    mint_bound,
    requiring,
)

_LINKS: Final = links(b"token-id-0000001", HOP)
_KILLS: Final = {"session:s-killed": 8, f"link:{_LINKS[1]}": 8, "task:t-dead": 9, "agent:acme/worker": 9}
_FREEZES: Final = {"agent:acme": 3, "task:t-cold": 4, "operator:ada": 5}
# Views by their index: one of others' kills, one of the token's, one of both, one behind.
VIEWS: Final = (
    (INCARNATION, 9, {"task:t-dead": 9}, {"task:t-cold": 4, "operator:ada": 5}),
    (INCARNATION, 9, _KILLS, {}),
    (INCARNATION, 9, _KILLS, _FREEZES),
    (INCARNATION, 6, {}, {}),
)
WORLD: Final[dict[str, Any]] = {"keys": {"k1.0": KEY.hex()}, "views": VIEWS, "at": AT}

_FACE: Final = "\U0001f600"
_TEXTS: Final = (
    "",
    "a",
    "o-1",
    "/data/a",
    "/data/..;x",
    "/data/a/",
    "a/b",
    "10.1.1.1",
    "::ffff:10.1.1.1",
    _FACE * 3,
    "é",
)
_TEXTS_TOO: Final = ("https://a.example/v1", "http://127.1/", "https://a.example:0443/", "5", "5.50", "\ud800", "a\nb")
_NUMBERS: Final = (0, 1, 5, -1, 5.0, 0.5, 19.99, -0.0, 1e-7, 2**53 - 1, 2**53, 1e16, -1e300, 9007199254740991.0)
_NAMES: Final = ("x", "y", "amount", "__proto__", "toString", "constructor", _FACE, "é", "")
_TOOLS: Final = ("orders.get", "orders.put", "orders", "orders.get.one", "a", "", "other.get")
_PATTERNS: Final = ("*", "orders.*", "orders.get", "orders.put", "a")
_ODD_PATTERNS: Final = ("", "*.get", "a*", "t" * 97, "a..b")
_PEERS: Final = (None, "192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "2001:db8::1", "fe80::1%eth0", "nonsense")
_NETS: Final = ("192.0.2.0/24", "10.0.0.0/8", "::/0", "2001:db8::/32", "0.0.0.0/0")
_ODD_NETS: Final = ("10.0.0.1/8", "::ffff:0:0/96", "192.0.2.7", "2001:DB8::/32", "fe80::%1/64")
_ODD: Final = (None, 1.5, -1, 2**53, True, "x", [], {}, "a" * 65, [1], {"a": 1}, "\n")
# Caveats that are no canonical JSON of this version, whatever a member says.
_RAW: Final = (
    b"{}",
    b"[]",
    b"time < 2030",
    b'{"nbf":1,"exp":1900000000000}',
    b'{"zone":"eu","exp":1900000000000}',
    b'{"exp": 1900000000000}',
    b'{"exp":1,"exp":1900000000000}',
    b'{"zone":1.5}',
    b'{"zone":null,"exp":1900000000000}',
    b'{"task":"\xff"}',
    b'{"\\u0065xp":1900000000000}',
    b'{"allow":[{"args":{"x":"\\ud800"},"tool":"*"}]}',
    b'{"allow":[{"args":{"x":{"max":1.5}},"tool":"*"}],"require":["eyes"]}',
    b'{"zone":' + b"[" * 17 + b"]" * 17 + b"}",
    b'{"":1}',
)


def random_pairs(source: random.Random, count: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield pairs: the index of a view, the text of a token, and a request.

    Args:
        source: Where chance comes from.
        count: How many.
    """
    for number in range(count):
        request = _request(source)
        kind = source.random()
        text = _bound(source, request, number) if kind < 0.06 else _bearer(source, request, number)
        yield source.choice((0, 0, 0, 0, 1, 2, 2, 3)), text, _wire(source, request)


def _request(source: random.Random) -> dict[str, Any]:
    args = {source.choice(_NAMES): _value(source) for _ in range(source.choice((0, 1, 1, 1, 2, 3)))}
    made: dict[str, Any] = {"tool": source.choice(_TOOLS[: source.choice((1, 2, 7))]), "args": args}
    if source.random() < 0.2:
        made["http"] = {
            "method": source.choice(("GET", "POST")),
            "target": source.choice(("/", "/a?b", "/a?")),
            "body": "",
        }
    return made


def _wire(source: random.Random, request: dict[str, Any]) -> dict[str, Any]:
    """Return the request that comes: nearly always the one that was signed."""
    sent = dict(request)
    if source.random() < 0.05:
        sent["args"] = sent["args"] | {"x": _value(source)}
    if source.random() < 0.03:
        sent["tool"] = source.choice(_TOOLS)
    http = sent.get("http")
    if http is not None:
        body = hashlib.sha256(http["body"].encode()).hexdigest() if source.random() < 0.8 else bytes(32).hex()
        sent["http"] = [http["method"], http["target"], body]
    at = AT + source.choice((0, 0, 0, 0, 0, 0, 10_000, 10_001, -2_000, -2_001))
    return sent | {"at": at, "peer": source.choice(_PEERS)}


def _value(source: random.Random, depth: int = 0) -> Any:
    kind = source.random()
    if kind < 0.35:
        return source.choice(_TEXTS)
    if kind < 0.45:
        return source.choice(_TEXTS_TOO)
    if kind < 0.8:
        return source.choice(_NUMBERS)
    if kind < 0.88 or depth > 2:
        return source.choice((True, False, None))
    if kind < 0.94:
        return [_value(source, depth + 1) for _ in range(source.randrange(3))]
    return {source.choice(_NAMES): _value(source, depth + 1) for _ in range(source.randrange(3))}


def _plain(source: random.Random) -> Any:
    return source.choice((0, 1, 5, True, "a", "o-1", "5", "é", source.choice(_TEXTS)))


def _bounds(source: random.Random) -> dict[str, Any]:
    low, high = sorted((source.randrange(-3, 8), source.randrange(-3, 8)))
    if source.random() < 0.05:
        low, high = high, low
    return {"range": [low, high] if source.random() < 0.6 else [str(low), f"{high}.5"]}


def _constraint(source: random.Random, depth: int = 0) -> Any:
    kind = source.randrange(16 if depth < 2 else 11)
    plain: tuple[Any, ...] = (
        lambda: _plain(source),
        lambda: {"any": True},
        lambda: {"one_of": [_plain(source), _plain(source)]},
        lambda: {"none_of": [_plain(source)]},
        lambda: _bounds(source),
        lambda: {source.choice(("min", "max")): source.choice((0, 5, "5", "5.5", 2**53 - 1))},
        lambda: {"glob": source.choice(("a*", "o-*", "*/*", "a"))},
        lambda: {"subpath": source.choice(("/data", "/", "a"))},
        lambda: {"url": {"host": source.choice(("a.example", "*.example", "127.0.0.1")), "scheme": "https"}},
        lambda: {"cidr": source.choice(_NETS)},
        lambda: {source.choice(("length", "min_length", "max_length")): source.randrange(4)},
        lambda: {"each": _constraint(source, depth + 1)},
        lambda: {"fields": {source.choice(_NAMES[:8]): _constraint(source, depth + 1)}},
        lambda: {"any_of": [_plain(source), {"max": 5}]},
        lambda: {"not": {"max": 3}},
        lambda: {source.choice(("contains", "subset")): [_plain(source)]},
    )
    made = plain[kind]()
    if isinstance(made, dict) and source.random() < 0.08:
        made = made | {"optional": True}
    if isinstance(made, dict) and source.random() < 0.03:
        made = made | {source.choice(("regex", "max", "equal", "constructor", "open")): source.choice(_ODD)}
    return made


def _rule(source: random.Random, args: dict[str, Any]) -> dict[str, Any]:
    patterns = _PATTERNS if source.random() < 0.97 else _ODD_PATTERNS
    made: dict[str, Any] = {"tool": source.choice(patterns[: source.choice((2, 5))])}
    if source.random() < 0.6:
        names = [*args, *(source.choice(_NAMES[:8]) for _ in range(source.choice((0, 0, 1))))]
        made["args"] = {name: _fitting(source, args.get(name)) for name in names if name and name <= "\uffff"}
        if source.random() < 0.4:
            made["open"] = True
    return made


def _fitting(source: random.Random, value: Any) -> Any:
    """Return a constraint, often one that the value satisfies."""
    if source.random() < 0.5:
        return {"any": True}
    if isinstance(value, str) and source.random() < 0.5 and "\ud800" not in value:
        return value
    return _constraint(source)


def _member(source: random.Random, args: dict[str, Any]) -> dict[str, Any]:
    makers: tuple[Any, ...] = (
        lambda: {"allow": [_rule(source, args) for _ in range(source.choice((1, 1, 2)))]},
        lambda: {"aud": source.choice((["orders"], ["billing"], ["billing", "orders"]))},
        lambda: {"depth": source.choice((0, 1, 16, 17))},
        lambda: {"exp": AT + source.choice((-1, 0, 1, 9000, 9000, 9000, 90_000_000))},
        lambda: {"nbf": AT + source.choice((-1, -1, 0, 1, 2_001))},
        lambda: {"fresh": source.choice((0, 1000, 60_000, 60_001))},
        lambda: {"delegate_to": [source.choice(("acme/*", "acme/**", "**", "other/*", "a/**/b"))]},
        lambda: {
            "hop": source.choice((HOP, HOP2)),
            "to": source.choice(("acme/worker", "acme/a/b", "other/x", "Acme")),
        },
        lambda: {"net": [source.choice(_NETS if source.random() < 0.9 else _ODD_NETS)]},
        lambda: {"once": [source.choice(("a-1", "a b", "a" * 65)), AT + source.choice((0, -1, 1, -90_000_000))]},
        lambda: {"operators": [source.choice(("bob", "ada", ".x"))]},
        lambda: {"require": [source.choice(("call", "call", "holder", "signature", "eyes"))]},
        lambda: {"spend": ["p", "usd", "1", "task", AT]},
        lambda: {"task": source.choice(("t-1", "t-dead", "t-cold", "t 1"))},
        lambda: {source.choice(("hop", "to", "key", "sig", "zone", "toString", "Exp")): "x"},
    )
    return dict(source.choice(makers)())


def _caveat(source: random.Random, args: dict[str, Any]) -> dict[str, Any] | bytes:
    kind = source.random()
    if kind < 0.03:
        return source.choice(_RAW)
    made = _member(source, args)
    while source.random() < 0.25:
        made |= _member(source, args)
    if kind < 0.06:
        made[source.choice([*made, "zone", "exp", "net", "aud"])] = source.choice(_ODD)
    if 0.06 < kind < 0.08:
        raw = canonical(made)
        at = source.randrange(len(raw))
        return raw[:at] + source.choice((b"", b" ", b"0", b'"', b"}", b"\x80", b",")) + raw[at + source.randrange(2) :]
    return made


def _identity(source: random.Random) -> dict[str, Any]:
    kind = source.random()
    if kind < 0.85:
        return {}
    changes: tuple[dict[str, Any], ...] = (
        {"session": "s-killed"},
        {"session": "s 1"},
        {"agent": "Acme"},
        {"agent": "a" * 97},
        {"aud": "billing"},
        {"kid": "k2.0"},
        {"born": ["other", 3]},
        {"born": [INCARNATION, 9]},
        {"depth": 17},
        {"depth": 0},
        {"exp": AT},
        {"exp": AT + 90_000_000},
        {"iat": AT + 60_001},
        {"model": _FACE * 97},
        {"meta": [_FACE * 64]},
        {"task": None},
        {"zone": 1},
        {"v": 2},
        {"policy": "p p"},
        {"subject": [_FACE * 512, "x"]},
    )
    return source.choice(changes)


def _bearer(source: random.Random, request: dict[str, Any], number: int) -> str:
    args = request["args"]
    first = {"allow": [_rule(source, args) if source.random() < 0.7 else {"tool": "*"}]}
    behind = [_caveat(source, args) for _ in range(source.choice((0, 0, 1, 1, 2, 3)))]
    key = KEY if source.random() < 0.98 else OTHER_KEY
    token = mint(*([first] if source.random() < 0.98 else []), *behind, key=key, **_identity(source))
    kind = source.random()
    if kind < 0.08:
        return _discharged(source, token, request)
    if kind < 0.6:
        return _signed(source, token, request, number).text()
    return _altered(source, token).text()


def _discharged(source: random.Random, token: Token, request: dict[str, Any]) -> str:
    asks = requiring(token, canonical({"id": "d"}) if source.random() < 0.9 else b"who")
    inside = [_caveat(source, request["args"]) for _ in range(source.choice((0, 1, 2)))]
    made = bound(discharge(*inside, third_party=canonical({"id": "d"})), asks)
    return asks.text() if source.random() < 0.3 else joined(asks, made)


def _signed(source: random.Random, token: Token, request: dict[str, Any], number: int) -> Token:
    try:
        return token.with_caveats(call(request, nonce=number.to_bytes(16, "big")))
    except UnicodeEncodeError:  # half of a surrogate pair, which no holder can sign
        return token if source.random() < 0.5 else token.with_caveats(call({"tool": "a", "args": {}}))


def _altered(source: random.Random, token: Token) -> Token:
    if source.random() < 0.96:
        return token
    return token._replace(signature=bytes([token.signature[0] ^ 1]) + token.signature[1:])


def _bound(source: random.Random, request: dict[str, Any], number: int) -> str:
    behind = [_caveat(source, request["args"]) for _ in range(source.choice((0, 0, 1)))]
    token, by, hops = mint_bound({"allow": [{"tool": "*"}]}, *behind, **_identity(source)), FIRST, ()
    if source.random() < 0.6:
        extra = {} if source.random() < 0.6 else _member(source, {})
        extra = {name: value for name, value in extra.items() if name not in ("hop", "to", "key", "sig")}
        signer = FIRST if source.random() < 0.9 else SECOND
        token, by, hops = token.with_caveats(hop(token, signer, "acme/worker", SECOND.public, **extra)), SECOND, (HOP,)
    if source.random() < 0.1:
        return token.text()
    try:
        sign, nonce = source.random() < 0.3, number.to_bytes(16, "big")
        return token.with_caveats(bound_call(token, by, request, hops=hops, sign=sign, nonce=nonce)).text()
    except UnicodeEncodeError:
        return token.text()
