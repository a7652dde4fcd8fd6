# SPDX-License-Identifier: Apache-2.0
"""Time calls with a person's credential from the gateway's cache beside calls with a fixed one: ``make bench-people``.

One client calls two upstreams of one gateway in turns, each over a connection of its own.  Both forward to the same
server, which does nothing but find the account of a token.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import page
from benchmarks.measure import about, save
from tests.gateway.people import GATEWAY, POLICY, ROUTES, Tracker, people
from tests.gateway.test_people import asked
from tests.servers import free_ports

CALLS: Final = 2000
FIXED: Final = "benchmark-token"
RULES: Final = (
    POLICY
    + """
[audience.fixed]
origins = ["http://127.0.0.1:FIXED"]
[task.both]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "1h"
audience = ["tracker", "fixed"]
upstream = {{ tracker = {{ "*" = ["repo.read"] }} }}
allow = [ {{ tool = "tracker.get", any = true }}, {{ tool = "fixed.get", any = true }} ]
"""
)
UPSTREAM: Final = """
[upstream.fixed]
audience = "fixed"
url = "{url}"
credential = {{ header = "Authorization", from = "file:fixed.secret", prefix = "Bearer " }}
[upstream.fixed.routes]
"GET /items/{{item}}" = "fixed.get"
"""


def times(clients: dict[str, httpx.Client], calls: int) -> dict[str, list[float]]:
    """Return how long each call took, by its credential, ms."""
    found: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(calls):
        for name, client in clients.items():
            begun = time.perf_counter()
            answer = client.get(f"/items/{number}")
            found[name].append((time.perf_counter() - begun) * 1000)
            assert answer.is_success, answer.text
    return found


def measured(folder: Path, calls: int) -> list[dict[str, Any]]:
    """Return p50 and p99 of each kind of call."""
    [port] = free_ports(1)
    tracker = Tracker()
    tracker.lives_s = 3600.0
    tracker.tokens[FIXED] = ("service", "repo.read", time.monotonic() + 3600)
    (folder / "fixed.secret").write_text(FIXED)
    (folder / "fixed.secret").chmod(0o600)
    gateway = GATEWAY.replace(":{gateway}", f':{{gateway}}", "127.0.0.1:{port}')
    files = {"policy": RULES.replace("FIXED", str(port)), "gateway": gateway, "routes": ROUTES + UPSTREAM}
    with people(folder, tracker=tracker, **files) as world, world.task("ann", "both") as task:
        fixed = f"http://127.0.0.1:{port}/fixed"
        with world.client(task) as person, httpx.Client(base_url=fixed, auth=task.auth("fixed"), timeout=30) as other:
            assert "Connected" in world.connect(asked(person).json()["connect_url"], "ann", "ann-t").text
            clients = {page.FIXED: other, page.PERSON: person}
            for client in clients.values():
                assert asked(client).is_success
            times(clients, calls // 10)
            rows = []
            for name, taken in times(clients, calls).items():
                cuts = statistics.quantiles(taken, n=100)
                rows.append({"name": name, "p50_ms": round(cuts[49], 4), "p99_ms": round(cuts[98], 4)})
            assert tracker.refreshes <= 1 + calls  # the issuer is not asked for each call
            return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.people", description="Time calls with an account.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    options = parser.parse_args()
    found: dict[str, Any] = about("arx-verifier", "uvicorn", "aiohttp")
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        found["rows"] = measured(Path(folder), 50 if options.quick else CALLS)
    if not options.quick:
        save("people", found)
        page.write()
    sys.stdout.write(page.people(found) + "\n")


if __name__ == "__main__":
    main()
