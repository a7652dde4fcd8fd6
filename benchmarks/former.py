# SPDX-License-Identifier: Apache-2.0
"""Measure this code and a former version of it in turns: ``python -m benchmarks.former FOLDER``.

The folder is a git worktree of the former version, with its compiled primitives.  What else the machine does meets both
alike; all figures are medians of the turns, and the report has the ratio of both versions.  Parts: decisions in an
event loop; a service under uvicorn, by the clock and by counted bytecodes; and ``arx gateway`` before a FastMCP server.
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
from subprocess import DEVNULL, PIPE
from typing import Any, Final

import redis

from arx_caps.embedded import EmbeddedValkey
from benchmarks.budgets import EACH_SECOND
from benchmarks.gateway import turns as in_turns
from benchmarks.gateway.places import ARX, FORMER, FORMER_SHARED, SHARED
from benchmarks.gateway.stage import stage
from benchmarks.measure import about, say
from benchmarks.realm import BODY, TARGET, Realm, realm
from benchmarks.service import ROOT, drive, served
from tests.servers import until

WORK: Final = ("free", "nonces", "strict", "both", "ledger")
CROWD: Final = 16
PARTS: Final = ("decisions", "services", "counts", "gateway")


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


def counts(codes: dict[str, Path]) -> dict[str, Any]:
    """Return by code the bytecodes that the middleware adds to a request, in all and by folder of the verifier."""
    found: dict[str, Any] = {}
    with realm() as on:
        for name, code in codes.items():
            words = [sys.executable, str(ROOT / "benchmarks" / "counted_request.py"), str(on.service)]
            words += [TARGET.decode(), BODY.decode()]
            env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(code / "verifier")))}
            with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True, env=env) as process:
                assert process.stdout is not None
                process.stdout.readline()
                found[name] = json.loads(process.communicate("\n".join(on.http_calls(100)))[0])
    return found


def gateways(former: Path, times: int, seconds: float) -> dict[str, Any]:
    """Return p50 and p99 of a call of one client, and what is added to a direct one, ms."""
    from benchmarks.gateway import __main__ as gateway

    python = {"fastmcp": gateway.environment_of(gateway.FOLDER / "fastmcp", *gateway.ENVIRONMENTS["fastmcp"])}
    with tempfile.TemporaryDirectory(prefix="arx") as folder, stage(Path(folder), python, former) as on:
        return gateway.latencies(on, on.client(), times, seconds)


def report(found: dict[str, Any]) -> str:
    """Return what was found as a table: both versions, and the present one by the former."""
    rows: list[tuple[str, float, float]] = []
    for work, codes in found.get("decisions", {}).items():
        for fact in ("p50", "processor", "processor_16"):
            rows.append((f"a decision, {work}: {fact}, us", codes["former"][fact], codes["present"][fact]))
    loads = found.get("services", {})
    for name in [name.removesuffix(", former") for name in loads if name.endswith(", former")]:
        both = [loads[f"{name}, {code}"]["cpu_us"] for code in ("former", "present")]
        rows.append((f"a request, {name}: processor, us", both[0], both[1]))
    counted = found.get("counts")
    if counted:
        added = [counted[code]["added"] for code in ("former", "present")]
        rows.append(("bytecodes that the middleware adds to a request", added[0], added[1]))
    gateway = found.get("gateway", {})
    for former, present in ((FORMER, ARX), (FORMER_SHARED, SHARED)) if gateway else ():
        for fact in ("added_p50_ms", "added_p99_ms"):
            rows.append((f"{present}: {fact}", gateway[former][fact], gateway[present][fact]))
    lines = ["| what | former | present | present / former |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {what} | {old:.4g} | {new:.4g} | {new / old:.2f} |" for what, old, new in rows]
    if "decisions" in found:
        strict, alone = (found["decisions"][work]["present"]["p50"] for work in ("strict", "ledger"))
        lines.append(f"\nA strict decision takes {strict / alone:.2f} times what a question to the ledger alone takes.")
    for crowd in (1, CROWD) if loads else ():
        bare, full = (loads[f"{kind}, {crowd} at once, present"]["cpu_us"] for kind in ("bare", "memory"))
        lines.append(f"\nThe middleware takes {full - bare:.0f} of {full:.0f} us of a request, {crowd} at once.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.former")
    parser.add_argument("folder", type=Path, help="a git worktree of the former version")
    parser.add_argument("--turns", type=int, default=7, metavar="N")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="decisions of a turn [2000]")
    parser.add_argument("--seconds", type=int, default=3, metavar="S", help="of each service in a turn [3]")
    parser.add_argument("--part", choices=PARTS, action="append", help="which one; all without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    codes = {"former": options.folder.resolve(), "present": ROOT}
    parts = options.part or PARTS
    found = about("arx-verifier", "uvicorn", "uvloop", "httptools", "redis", "hiredis")
    if "decisions" in parts:
        found["decisions"] = decisions(codes, options.count, options.turns)
    if "services" in parts:
        found["services"] = services(codes, options.seconds, options.turns)
    if "counts" in parts:
        found["counts"] = counts(codes)
    if "gateway" in parts:
        found["gateway"] = gateways(codes["former"], options.turns, options.seconds / 2)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.stdout.write(report(found) + "\n")


if __name__ == "__main__":
    main()
