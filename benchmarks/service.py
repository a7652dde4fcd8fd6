# SPDX-License-Identifier: Apache-2.0
"""Measure ARx inside a service, in memory, at the start: ``make bench-service``, or ``python -m benchmarks.service``.

A small Starlette application under uvicorn, with and without the middleware, driven by ``wrk`` from another process;
each request has a one-shot token of its own, and the verifier follows a real store.  Writes
``benchmarks/results/service.json`` and what docs/performance.md shows of it.  About two minutes.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import page, start
from benchmarks.kill_stage import cpu_s
from benchmarks.measure import about, save, say
from benchmarks.realm import BODY, Realm, realm

ROOT: Final = Path(__file__).resolve().parents[1]
CROWDS: Final = (1, 16)  # how many connections ask at once
TOKENS_A_SECOND: Final = 20_000  # more than one process answers
TAIL_CHARS: Final = 180  # at most: what differs from call to call of one parent
GROWN: Final = {"parents": 100_000, "calls": 100_000, "kills": 1_000_000}
KILLS: Final = 100_000  # that a service starts beside


@contextlib.contextmanager
def served(*guarded_by: Path, code: Path = ROOT) -> Iterator[tuple[int, int]]:
    """Serve the application in a process of its own, with a service file guarded; yields its port and process id.

    Args:
        guarded_by: The service file, or nothing.
        code: The folder whose code it has.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.service_app", str(port), *map(str, guarded_by)]
    path = os.pathsep.join(map(str, (code, code / "verifier")))
    process = subprocess.Popen(command, cwd=code, env=os.environ | {"PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the service has ended"
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.02)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def drive(on: Realm, service: tuple[int, int], crowd: int, seconds: int) -> dict[str, float]:
    """Send requests from so many connections; returns how many a second, and how long one took everybody, us."""
    port, pid = service
    texts = on.http_calls(TOKENS_A_SECOND * seconds)
    head = texts[0][:-TAIL_CHARS]
    tokens, body = on.folder / "tokens", on.folder / "body"
    tokens.touch(0o600)
    tokens.write_text("\n".join([head, *[text[-TAIL_CHARS:] for text in texts]]), "ascii")
    body.write_bytes(BODY)
    command = ["wrk", "-t1", f"-c{crowd}", f"-d{seconds}s", "--latency", "-s", str(ROOT / "benchmarks" / "service.lua")]
    command += ["--timeout", "30s", f"http://127.0.0.1:{port}/refunds", "--", str(tokens), str(body)]
    if shutil.which("wrk") is None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.client",
            str(port),
            str(crowd),
            str(seconds),
            str(tokens),
            str(body),
        ]
    before = cpu_s(pid)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    used_us = (cpu_s(pid) - before) * 1e6
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bad"] == 0, f"not every request was answered with a grant: {found}"
    times = {"p50_us": found["p50_us"], "p99_us": found["p99_us"], "cpu_us": used_us / found["requests"]}
    return {"rps": found["requests"] / found["us"] * 1e6} | times


def load(on: Realm, seconds: int, rounds: int) -> list[dict[str, Any]]:
    """Drive both applications in turns; medians of the rounds."""
    results = []
    with served() as plain, served(on.service) as guarded:
        for crowd in CROWDS:
            found: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
            for _ in range(rounds):
                found["without"].append(drive(on, plain, crowd, seconds))
                found["with"].append(drive(on, guarded, crowd, seconds))
            for name, each in found.items():
                middle = {fact: round(statistics.median(one[fact] for one in each), 1) for fact in each[0]}
                results.append({"middleware": name, "connections": crowd} | middle)
            say(json.dumps(results[-2:]))
    return results


def grown(what: str, count: int) -> dict[str, int]:
    """Measure by how many bytes a fresh process grows with so many of something."""
    command = [sys.executable, "-m", "benchmarks.memory", what, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return {"count": count, "bytes": int(done.stdout)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description="Measure ARx inside a service.")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="time for each round of requests")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds with, and without, the middleware")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    options = parser.parse_args(arguments)
    few = 100 if options.quick else 1
    if shutil.which("wrk") is None:
        say("wrk is not installed (on Debian: apt-get install wrk): a slower client in Python asks")
    found = about("arx-verifier", "starlette", "uvicorn", "h11")
    with realm() as on:
        found["load"] = load(on, *((1, 1) if options.quick else (options.seconds, options.rounds)))
    say("memory")
    found["memory"] = {what: grown(what, count // few) for what, count in GROWN.items()}
    found["start"] = start.measure(KILLS // few)
    if not options.quick:
        save("service", found)
        page.write()
    sys.stdout.write(f"{page.service(found)}\n\n{page.memory(found)}\n\n{page.starts(found)}\n")


if __name__ == "__main__":
    main()
