# SPDX-License-Identifier: Apache-2.0
"""Random pairs of a token and a call, decided by both verifiers: each decision must have the same code.

A token is that of a vector with further caveats of other vectors, some of them altered, and is signed again.  Its call,
the view of the epoch and the limits are of other vectors.  ``python -m tests.typescript.differential --pairs 20000``.
"""

import argparse
import base64
import hashlib
import hmac
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.typescript.node import PROGRAMS, node
from tests.vectors.families import load
from tests.vectors.subject import decide

_VALUES: Final = (
    '"x"',
    "0",
    "1",
    "5",
    "-1",
    "true",
    "[]",
    "{}",
    '"a/b"',
    '""',
    "null",
    '["a"]',
    '"orders.get"',
    "9007199254740991",
)
_VALUE: Final = re.compile(rb'(?<=:)("[^"]*"|-?\d+|true)')
_BATCH: Final = 500


def caveats_of(token: str) -> tuple[bytes, list[bytes], bytes] | None:
    """Return head, first-party caveats and signature of a bearer token; None if its bytes have another form."""
    if "~" in token or not token.startswith("arx1_"):
        return None
    try:
        raw = base64.urlsafe_b64decode(token[5:] + "=" * (-len(token) % 4 + 1))
        at = _end(raw, _end(raw, 1, 1), 2)
        head, caveats = raw[:at], list[bytes]()
        at += 1
        while raw[at]:
            end = _end(raw, at, 2)
            caveats.append(raw[at + 1 + (1 if raw[at + 1] < 128 else 2) : end])
            if raw[end]:
                return None
            at = end + 1
    except (ValueError, IndexError):
        return None
    return head, caveats, raw[at + 3 :]


def _end(raw: bytes, at: int, tag: int) -> int:
    if raw[at] != tag:
        raise ValueError("another field")
    low = raw[at + 1]
    return at + 2 + low if low < 128 else at + 3 + (raw[at + 2] << 7 | low & 127)


def _field(tag: int, value: bytes) -> bytes:
    size = len(value)
    return bytes([tag, size] if size < 128 else [tag, size & 127 | 128, size >> 7]) + value


class Pairs:
    """A source of pairs.

    Args:
        seed: The same pairs come of the same seed.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._vectors = [
            vector.input
            for vector in load()
            if vector.family == "tokens" and not {"costs", "calls"} & vector.input.keys()
        ]
        parts = [(vector, caveats_of(vector["token"])) for vector in self._vectors]
        self._bases = [(vector, found) for vector, found in parts if found is not None and found[1]]
        self._pool = sorted({caveat for _, found in parts if found is not None for caveat in found[1]})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self._next()

    def _next(self) -> dict[str, Any]:
        pick = self._random.choice
        vector, found = pick(self._bases)
        made = {name: value for name, value in vector.items() if name not in ("before", "costs")} | {"times": 1}
        if self._random.random() < 0.7:
            made["request"] = pick(self._vectors)["request"]
        if self._random.random() < 0.2:
            made["epoch"] = pick(self._vectors)["epoch"]
        if self._random.random() < 0.2 and "limits" in (other := pick(self._vectors)):
            made["limits"] = other["limits"]
        if self._random.random() < 0.8:
            made["token"] = self._signed(vector, *found[:2])
        return made

    def _signed(self, vector: dict[str, Any], head: bytes, caveats: list[bytes]) -> str:
        added = [self._altered(self._random.choice(self._pool)) for _ in range(self._random.randrange(3))]
        at = self._random.randrange(1, len(caveats) + 1)
        every = [*caveats[:at], *added, *caveats[at:]]
        identifier = head[_end(head, 1, 1) :]
        identifier = identifier[1 + (1 if identifier[1] < 128 else 2) :]
        kid = re.search(rb'"kid":"([^"]*)"', identifier)
        key = bytes.fromhex(vector["keys"].get(kid[1].decode() if kid else "", "00" * 32))
        signature = _hmac(_hmac(b"macaroons-key-generator".ljust(32, b"\0"), key), identifier)
        for caveat in every:
            signature = _hmac(signature, caveat)
        body = head + b"\0" + b"".join(_field(2, caveat) + b"\0" for caveat in every) + b"\0" + _field(6, signature)
        return "arx1_" + base64.urlsafe_b64encode(body).rstrip(b"=").decode()

    def _altered(self, caveat: bytes) -> bytes:
        places = [*_VALUE.finditer(caveat)]
        if not places or self._random.random() < 0.5:
            return caveat
        place = self._random.choice(places)
        return caveat[: place.start()] + self._random.choice(_VALUES).encode() + caveat[place.end() :]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def compare(pairs: int, seed: int) -> tuple[list[tuple[dict[str, Any], str, str]], Counter[str]]:
    """Return the pairs that the verifiers decide otherwise, each with the code of Python and that of TypeScript.

    Beside them: how many pairs have each code in Python.

    Args:
        pairs: How many pairs to compare.
        seed: The seed of the pairs.
    """
    source, wrong, codes = iter(Pairs(seed)), list[tuple[dict[str, Any], str, str]](), Counter[str]()
    command = [str(node()), str(PROGRAMS / "subject.ts")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for begin in range(0, pairs, _BATCH):
            batch = [next(source) for _ in range(min(_BATCH, pairs - begin))]
            for vector in batch:
                # One at a time: the pipe of the answers has no room for a batch.
                question = {"family": "tokens", "name": "", "levels": ["bearer"], "input": vector}
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                mine = decide(vector)["code"]  # while Node decides as well
                theirs = json.loads(process.stdout.readline())["code"]
                codes[mine] += 1
                if mine != theirs:
                    wrong.append((vector, mine, theirs))
        process.stdin.close()
    return wrong, codes


def main() -> None:
    """Compare pairs, and end with 1 if a decision differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wrong, codes = compare(given.pairs, given.seed)
    for vector, mine, theirs in wrong[:20]:
        print(f"Python {mine}, TypeScript {theirs}: {json.dumps(vector)[:6000]}")
    print(f"{given.pairs} pairs of seed {given.seed}: {len(wrong)} differ; {dict(codes.most_common())}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
