# SPDX-License-Identifier: Apache-2.0
"""Ask a service as ``service.lua`` does, where ``wrk`` is not installed.

    python -m benchmarks.client PORT CONNECTIONS SECONDS TOKENS BODY

Slower than ``wrk``: requests a second and their times are those of both together.  What the service's process spends on
a request is measured from outside and does not depend on who asks.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def requests(tokens: Path, body: bytes) -> Iterator[bytes]:
    """Yield requests, each with a one-shot token of its own."""
    head, *tails = tokens.read_text("ascii").splitlines()
    for tail in tails:
        fields = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {head}{tail}\r\n"
        yield f"POST /refunds HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(port: int, pending: Iterator[bytes], until: float, times: list[float]) -> int:
    """Ask on one connection until it is time; returns how many answers were none of success."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bad = 0
    while (begun := time.perf_counter()) < until:
        writer.write(next(pending))
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        bad += not head.startswith(b"HTTP/1.1 200 ")
        times.append(time.perf_counter() - begun)
    writer.close()
    return bad


async def main(port: int, crowd: int, seconds: int, pending: Iterator[bytes]) -> None:
    """Ask, and write what ``service.lua`` writes."""
    times: list[float] = []
    begun = time.perf_counter()
    bad = sum(await asyncio.gather(*(ask(port, pending, begun + seconds, times) for _ in range(crowd))))
    spent = time.perf_counter() - begun
    cuts = statistics.quantiles(times, n=100)
    told = {"requests": len(times), "us": spent * 1e6, "bad": bad, "p50_us": cuts[49] * 1e6, "p99_us": cuts[98] * 1e6}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    given = requests(Path(sys.argv[4]), Path(sys.argv[5]).read_bytes())
    asyncio.run(main(*map(int, sys.argv[1:4]), given))
