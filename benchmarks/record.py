# SPDX-License-Identifier: Apache-2.0
"""What a record costs the call that it is of, and the shipper afterwards: ``python -m benchmarks.record``.

Times are of batches, so that the clock costs nothing; given are the median and the fastest batch, which a busy machine
disturbs least.  Files are written as in service, on fresh pages and over several segments.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts, digest_arguments, seal
from arx_verifier.journal.writer import Journal

BATCH, BATCHES = 200, 400
AT = 1_800_000_000_000
FACTS = ChainFacts(
    agent="acme/support",
    session="s-abcdefghij234567",
    named=("acme/worker", "acme/helper"),
    links=("A" * 22, "B" * 22),
    task="t-abcdefghij234567",
    token="t" * 22,
    audience="orders",
    policy="p" * 22,
    kid="k1.0",
    model="model-1",
)
ARGS = {"order_id": "A-1001", "amount": 20}


def decision(digest: bytes, salt: bytes) -> Decision:
    """A decision as a verifier makes it."""
    return Decision("ok", AT, FACTS, "orders.refund", digest, salt, "incarnation", 7, 12, (), "192.0.2.7", "rq-1", None)


def measure(work: Callable[[], Any], batches: int = BATCHES) -> tuple[float, float]:
    """Return the median and the least time of one piece of work, us."""
    times = []
    for _ in range(batches):
        start = time.perf_counter_ns()
        for _ in range(BATCH):
            work()
        times.append((time.perf_counter_ns() - start) / BATCH / 1000)
    times.sort()
    return times[len(times) // 2], times[0]


def main() -> None:
    """Print the table."""
    digest, salt = digest_arguments(ARGS)
    one = decision(digest, salt)
    payload = one.pack()
    sealed = seal(payload, "orders-1", "0123456789ab", 1234)
    print(f"{len(payload)} bytes in the journal; {len(sealed.kept)} kept and {len(sealed.body)} that can be erased\n")
    print("| us | median | least |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        strict = Journal(Path(folder) / "strict", "orders-1", "orders")
        durable = Journal(Path(folder) / "durable", "orders-1", "orders", mode="durable")
        rows = [
            ("digest the arguments, with a salt of its own", lambda: digest_arguments(ARGS), BATCHES),
            ("pack", one.pack, BATCHES),
            ("append: pack, checksum, copy, under the lock", lambda: strict.append(one), BATCHES),
            ("all: digest, make, append", lambda: strict.append(decision(*digest_arguments(ARGS))), BATCHES),
            ("append, mode durable, one thread", lambda: durable.append(one), 5),
            (
                "seal, in the shipper: split, hash the body",
                lambda: seal(payload, "orders-1", "0123456789ab", 1),
                BATCHES,
            ),
        ]
        for name, work, batches in rows:
            median, least = measure(work, batches)
            print(f"| {name} | {median:.2f} | {least:.2f} |", flush=True)
        strict.close()
        durable.close()


if __name__ == "__main__":
    main()
