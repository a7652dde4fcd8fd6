# SPDX-License-Identifier: Apache-2.0
"""Decide in an event loop of uvloop, and print how long that took: a process of ``benchmarks.former``.

python benchmarks/loop_decisions.py URL free|nonces|strict|both|ledger COUNT.  It uses the code of ``PYTHONPATH``.
"""

import asyncio
import json
import secrets
import statistics
import sys
import time
from typing import Any, Final

import uvloop

from arx_verifier.ledger.pools import PoolDraw
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import MemoryNonces, RedisNonces
from tests.ledgers import new_ledger
from tests.support import ANYTHING, access, mint, sign, verifier

CROWD: Final = 16
COSTS: Final[dict[str, Any]] = {"*": {"usd": "0.000001"}}


async def main(url: str, work: str, count: int) -> None:
    """Decide one after the other, then 16 at once."""
    name = secrets.token_hex(4)
    parts: dict[str, Any] = {"nonces": MemoryNonces(now_ms=time.time_ns() // 1_000_000 - 60_000)}
    ledger = new_ledger(url, name, 5)
    if work in ("nonces", "both"):
        parts["nonces"] = RedisNonces(url, f"arx:nonce:{name}:", timeout_s=5)
    if work in ("strict", "both", "ledger"):
        ledger.start()
        parts |= {"ledger": ledger, "costs": COSTS}
    await asyncio.sleep(0.01)
    opened = time.time_ns() // 1_000_000
    await asyncio.sleep(0.01)
    now = time.time_ns() // 1_000_000
    request = access(at=now)
    parent = mint(ANYTHING, iat=now - 1000, exp=now + 600_000)
    if work in ("strict", "both"):
        parent = parent.attenuate(Caveat(spend=("p", "usd", "1000000", "task", opened)))
    judge = verifier(**({} if work == "ledger" else parts))
    draw = PoolDraw("t/-/q/usd/task", 10**15, 0, opened, 1, 1)

    async def decide(token: str) -> None:
        if work == "ledger":
            ledger.take("draw", "", [draw])
        elif (code := (await judge.decide_async(token, request)).code) != "ok":
            raise RuntimeError(code)

    tokens = [sign(parent, request) for _ in range(2 * count)]
    times = []
    await decide(tokens.pop())
    began = time.process_time()
    for token in tokens[:count]:
        at = time.perf_counter()
        await decide(token)
        times.append((time.perf_counter() - at) * 1e6)
    cuts, cpu = statistics.quantiles(times, n=100), (time.process_time() - began) / count * 1e6
    rest = tokens[count:]
    began = time.process_time()
    for first in range(0, len(rest), CROWD):
        await asyncio.gather(*map(decide, rest[first : first + CROWD]))
    crowd = (time.process_time() - began) / len(rest) * 1e6
    print(json.dumps({"p50": cuts[49], "p99": cuts[98], "processor": cpu, "processor_16": crowd}))
    ledger.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
