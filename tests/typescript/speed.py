# SPDX-License-Identifier: Apache-2.0
"""Time decisions in Node beside those in pure Python: ``python -m tests.typescript.speed``, also in ``make bench``.

Both decide the same tokens, in turns: a call with its proof, behind three delegations with five constraints each.
Printed is the median of the turns behind the first 50, in which Node still compiles, in us of processor time.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, Any, Final

os.environ["ARX_PURE"] = "1"  # before the verifier is imported

from tests.typescript.node import NODE, PROGRAMS, node
from tests.vectors.subject import AT, request_of, verifier_of

KEY: Final = bytes([7]) * 32
HISTORY: Final = "aW5jYXJuYXRpb24tMDAwMQ"
ARGUMENTS: Final = {"amount": 5, "currency": "EUR", "note": "late", "order": "o-1", "path": "/refunds/1"}
RULE: Final = {
    "args": {
        "amount": {"max": 50},
        "currency": {"one_of": ["EUR", "USD"]},
        "note": {"max_length": 80},
        "order": {"glob": "o-*"},
        "path": {"subpath": "/refunds"},
    },
    "tool": "orders.refund",
}
VECTOR: Final[dict[str, Any]] = {
    "realm": "acme",
    "audience": "orders",
    "keys": {"k1.0": KEY.hex()},
    "max_ttl_ms": 86_400_000,
    "epoch": {"incarnation": HISTORY, "applied": 7, "kills": {}, "freezes": {}},
    "request": {"tool": "orders.refund", "args": ARGUMENTS, "at": AT},
}
TURNS, WARM, TOKENS = 90, 50, 400


def chain(number: int) -> tuple[bytes, list[bytes]]:
    """Return identifier and caveats of a token; another number gives another token."""
    identifier = {
        "agent": "acme/support",
        "aud": "orders",
        "born": [HISTORY, 7],
        "depth": 4,
        "exp": AT + 60_000,
        "iat": AT - 1_000,
        "id": _text(number.to_bytes(16, "big")),
        "kid": "k1.0",
        "session": "s-1",
        "task": "t-1",
        "v": 1,
    }
    hops = [{"allow": [RULE], "hop": _text(bytes([hop]) * 9), "to": f"acme/worker{hop}"} for hop in range(3)]
    return _json(identifier), [_json({"allow": [RULE]}), *map(_json, hops)]


def signed(identifier: bytes, caveats: list[bytes], nonce: int) -> str:
    """Return a token with a call of its own."""
    text = _text(nonce.to_bytes(16, "big"))
    fields = (b"arx/1/call", b"orders", b"%d" % AT, text.encode(), b"tool", b"orders.refund", _json(ARGUMENTS))
    digest = hashlib.sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()
    every = [*caveats, b'{"call":["%s",%d,"%s"]}' % (_text(digest).encode(), AT, text.encode())]
    signature = _hmac(_hmac(b"macaroons-key-generator".ljust(32, b"\0"), KEY), identifier)
    for caveat in every:
        signature = _hmac(signature, caveat)
    body = b"\2" + _field(1, b"acme") + _field(2, identifier) + b"\0"
    body += b"".join(_field(2, caveat) + b"\0" for caveat in every) + b"\0" + _field(6, signature)
    return "arx1_" + _text(body)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _field(tag: int, value: bytes) -> bytes:
    size = len(value)
    return bytes([tag, size] if size < 128 else [tag, size & 127 | 128, size >> 7]) + value


def batches(*, new: bool) -> Iterator[list[str]]:
    """Yield tokens that were never seen: of one parent, or each of a parent of its own."""
    numbers = itertools.count(1 if new else 1 << 64)
    same = chain(0)
    while True:
        yield [signed(*(chain(number) if new else same), number) for number in itertools.islice(numbers, TOKENS)]


def main() -> None:
    """Print a line for each piece of work."""
    if shutil.which("npm") is None:
        print("Node: not measured, as there is no npm")
        return
    verifier, request = verifier_of(VECTOR), request_of(VECTOR)
    with subprocess.Popen([node(), PROGRAMS / "speed.ts"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(**words: Any) -> float:
            return _exchange(process.stdin, process.stdout, words)

        print(f"Node {NODE} and Python {sys.version.split()[0]} without compiled parts, us of processor time")
        for name, new in (("parent seen", False), ("first sight", True)):
            ours, theirs = list[float](), list[float]()
            for tokens in itertools.islice(batches(new=new), TURNS):
                theirs.append(ask(vector=VECTOR, tokens=tokens))
                began = time.thread_time_ns()
                decisions = [verifier.decide(token, request) for token in tokens]
                ours.append((time.thread_time_ns() - began) / len(tokens) / 1000)
                if not all(decision.allowed for decision in decisions):
                    raise AssertionError(decisions[0].code)
            mine, node_us = (statistics.median(times[WARM:]) for times in (ours, theirs))
            print(f"{name}: Node {node_us:.1f}, Python {mine:.1f}, {node_us / mine:.2f} times")
        hashed = statistics.median(ask(do="hash", count=10_000) for _ in range(10))
        print(f"HMAC-SHA-256 of 64 bytes by createHmac: {hashed:.2f}")
        print(f"a guarded route of Express, more than the bare one: {ask(do='express'):.0f}")
        process.stdin.close()


def _exchange(into: IO[str] | None, out: IO[str] | None, words: dict[str, Any]) -> float:
    assert into is not None
    assert out is not None
    into.write(json.dumps(words) + "\n")
    into.flush()
    return float(out.readline())


if __name__ == "__main__":
    main()
