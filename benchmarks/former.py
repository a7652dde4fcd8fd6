# SPDX-License-Identifier: Apache-2.0
"""Measure this code and a former version of it in turns: ``python -m benchmarks.former FOLDER``.

The folder is a git worktree of the former version, with its compiled primitives.  What else the machine does meets both
alike; all figures are medians of the turns.  Parts: decisions in an event loop, a service under uvicorn,
and ``arx gateway`` before a FastMCP server.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import redis

from arx_caps.embedded import EmbeddedValkey
from benchmarks.budgets import EACH_SECOND
from benchmarks.gateway import turns as in_turns
from benchmarks.gateway.stage import stage
from benchmarks.measure import about, say
from benchmarks.realm import Realm, realm
from benchmarks.service import ROOT, drive, served
from tests.servers import until

WORK: Final = ("free", "nonces", "strict", "both", "ledger")
CROWD: Final = 16


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which a process has the code of a folder."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (folder, folder / "verifier")))}


def decisions(codes: dict[str, Path], count: int, times: int) -> dict[str, Any]:
    """Return by work and code: median and p99 by the clock, and processor time, us; also of 16 at once."""
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arx")))
        # A server for each: the functions that are loaded first stay.
        servers = {name: stack.enter_context(EmbeddedValkey(folder / name)) for name in codes}
        for server in servers.values():
            with redis.Redis.from_url(server.url) as admin:
                admin.execute_command(*EACH_SECOND)
                until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
        for work in WORK:
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
            for turn in range(times):
                for name in in_turns.rotated([*codes], turn):
                    script = str(ROOT / "benchmarks" / "loop_decisions.py")
                    words = [sys.executable, script, servers[name].url, work, str(count)]
                    options: dict[str, Any] = {"cwd": codes[name], "env": environment(codes[name])}
                    done = subprocess.run(words, capture_output=True, text=True, check=True, **options)
                    rows[name].append(json.loads(done.stdout))
            found[work] = {name: in_turns.medians(each) for name, each in rows.items()}
            say(f"{work}: {json.dumps(found[work])}")
    return found


@contextlib.contextmanager
def _with_nonces(on: Realm) -> Iterator[Path]:
    """Yield a copy of a service's file that keeps used calls in the store."""
    file = on.folder / "nonces.arx.json"
    said = json.loads(on.service.read_text("utf-8"))
    file.touch(0o600)
    file.write_text(json.dumps(said | {"nonces": said["store"], "journal": str(on.folder / "more")}), "utf-8")
    yield file


def _driven(on: Realm, files: Sequence[Path], code: Path, crowd: int, seconds: int) -> dict[str, float]:
    """Serve and drive; again if a busy machine kept the store from an answer in time."""
    for _ in range(5):
        with contextlib.suppress(AssertionError), served(*files, code=code) as service:
            drive(on, service, crowd, 1)
            return drive(on, service, crowd, seconds)
    raise RuntimeError("expected an answer to every request, got refusals in each of 5 tries")


def services(codes: dict[str, Path], seconds: int, times: int) -> dict[str, Any]:
    """Return by service and code the processor time of a request, us: at one connection and at 16."""
    rows: dict[str, list[dict[str, float]]] = {}
    with realm() as on, _with_nonces(on) as nonces:
        for turn in range(times):
            for crowd in (1, CROWD):
                for kind, files in (("bare", ()), ("memory", (on.service,)), ("nonces", (nonces,))):
                    for name in in_turns.rotated([*codes], turn):
                        row = _driven(on, files, codes[name], crowd, seconds)
                        rows.setdefault(f"{kind}, {crowd} at once, {name}", []).append(row)
    return {name: in_turns.medians(each) for name, each in sorted(rows.items())}


def gateways(former: Path, times: int, seconds: float) -> dict[str, Any]:
    """Return p50 and p99 of a call of one client, and what is added to a direct one, ms."""
    from benchmarks.gateway import __main__ as gateway

    python = {"fastmcp": gateway.environment_of(gateway.FOLDER / "fastmcp", *gateway.ENVIRONMENTS["fastmcp"])}
    with tempfile.TemporaryDirectory(prefix="arx") as folder, stage(Path(folder), python, former) as on:
        return gateway.latencies(on, on.client(), times, seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.former")
    parser.add_argument("folder", type=Path, help="a git worktree of the former version")
    parser.add_argument("--turns", type=int, default=7, metavar="N")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="decisions of a turn [2000]")
    parser.add_argument("--seconds", type=int, default=3, metavar="S", help="of each service in a turn [3]")
    parser.add_argument("--part", choices=("decisions", "services", "gateway"), action="append")
    options = parser.parse_args(arguments)
    codes = {"former": options.folder.resolve(), "present": ROOT}
    parts = options.part or ("decisions", "services")
    found = about("arx-verifier", "uvicorn", "uvloop", "httptools", "redis", "hiredis")
    if "decisions" in parts:
        found["decisions"] = decisions(codes, options.count, options.turns)
    if "services" in parts:
        found["services"] = services(codes, options.seconds, options.turns)
    if "gateway" in parts:
        found["gateway"] = gateways(codes["former"], options.turns, options.seconds / 2)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
