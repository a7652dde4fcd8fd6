# SPDX-License-Identifier: Apache-2.0
"""Measure kills from the console: ``python -m benchmarks.console_kills [--kills N]``.

A mint with its console, five verifiers in processes of their own, and one browser that kills session after session by
the form.  Given are the time until every verifier has confirmed, as the record has it, and the time from the form to
the page with the final record.  Figures go to ``benchmarks/results/console_kills.json``.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from arx_caps.embedded import socket_path
from arx_caps.settings.realm import Realm
from benchmarks.measure import about, percentiles, save, say
from tests.cli.live import live_realm
from tests.console.test_kills_processes import FOLLOWER, Visitor
from tests.servers import child, free_ports

VERIFIERS: Final = 5
LETTERS: Final = str.maketrans("0123456789", "abcdefghij")  # so that no digit is in an id


def measure(kills: int) -> dict[str, dict[str, float]]:
    """Return the percentiles of both times, ms.

    Args:
        kills: How many sessions are killed.

    Raises:
        AssertionError: A kill was not confirmed by every verifier.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arx-bench-")))
        live = stack.enter_context(live_realm(folder / "realm", free_ports(1)[0]))
        realm = Realm.open(live.folder)
        url = f"unix://{socket_path(realm.valkey_dir)}"
        for number in range(VERIFIERS):
            command = [sys.executable, "-c", FOLLOWER, url, realm.name, f"orders-{number}"]
            verifier = stack.enter_context(child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(verifier.kill)
            assert verifier.stdout is not None
            assert verifier.stdout.readline() == "live\n"
        visitor = Visitor(live)
        stack.callback(visitor.client.close)
        confirmed = live.confirmed("kill", f"session:s-{'z' * 16}", "--reason", "the registry is known", "--yes")
        assert confirmed["verifiers"] == VERIFIERS + 1  # the mint has a view of its own
        whole = []
        for number in range(kills):
            visitor.get("/console/kill")
            began = time.perf_counter()
            target = f"session:s-{number:016d}".translate(LETTERS)
            path = visitor.post("/console/kill", targets=target, what="kill", reason="measured", do="go").url.path
            while "Final: recorded" not in visitor.page:
                visitor.get(path)
            whole.append((time.perf_counter() - began) * 1000)
        records = live.ok("kills", "list", "--limit", str(kills))["kills"]
        found = [record["confirmations"] for record in records]
        assert {(each["status"], each["confirmed"]) for each in found} == {("confirmed", VERIFIERS + 1)}, found
    return {"confirmed": percentiles([each["took_ms"] for each in found]), "page": percentiles(whole)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    given = parser.parse_args()
    figures = measure(given.kills)
    save("console_kills", about("starlette", "jinja2") | {"kills": given.kills} | figures)
    for name, taken in figures.items():
        say(f"{name}: p50 {taken['p50']:.1f} ms, p95 {taken['p95']:.1f} ms")


if __name__ == "__main__":
    main()
