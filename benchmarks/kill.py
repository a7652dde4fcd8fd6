# SPDX-License-Identifier: Apache-2.0
"""Measure kills: ``make bench-kill``, or ``python -m benchmarks.kill [--quick] [--json FILE] [--write]``.

Real processes and a real server with an append-only file.  Progress goes to stderr, tables to stdout; ``--write`` puts
them, and the plot, into ``docs/``.  About five minutes; with ``--quick`` one, with figures that say little.
"""

import argparse
import functools
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from benchmarks import kill_mass, kill_report, kill_sections
from benchmarks.kill_stage import Stage, say, stage, wait_for_calm
from benchmarks.measure import machine


def run(on: Stage, *, quick: bool, calm_s: float) -> dict[str, Any]:
    """Measure everything; before each row wait so long at most until others leave the machine alone."""
    told = functools.partial(_told, calm_s)
    few = 10 if quick else 1
    latency: list[tuple[int, int, int]] = [
        (1, 1000, 0),
        (10, 500, 0),
        (50, 200, 0),
        (10, 500, 1),
        (50, 200, 1),
        (10, 300, 2),
    ]
    frozen = [
        (1, 1000, 10, 0),
        (10, 1000, 8, 0),
        (10, 300, 15, 0),
        (50, 1000, 3, 0),
        (10, 1000, 5, 1),
        (10, 1000, 5, 2),
    ]
    calm = [(10, 1000, 0), (10, 300, 0), (50, 1000, 0), (10, 1000, 1), (10, 1000, 2)]
    results: dict[str, Any] = {"machine": ground(on), "latency": [], "bounds": [], "no_faults": [], "checks": []}
    for verifiers, kills, depth in latency:
        told(results, "latency", kill_sections.latency, on, verifiers, kills // few, depth)
    for verifiers, lease_ms, trials, depth in frozen:
        told(results, "bounds", kill_sections.frozen_server, on, verifiers, lease_ms, max(1, trials // few), depth)
    for lease_ms, trials, one_way in ((1000, 10, False), (300, 20, False), (1000, 10, True)):
        told(results, "bounds", kill_sections.broken_link, on, lease_ms, max(1, trials // few), one_way=one_way)
    for verifiers, lease_ms, depth in calm:
        told(results, "no_faults", kill_sections.no_faults, on, verifiers, lease_ms, 20 / few, depth)
    for kills in (0, 1, 100_000, kill_mass.MILLION):
        told(results, "checks", kill_mass.check_cost, kills)
    say("costs")
    wait_for_calm(calm_s)
    results["costs"] = kill_mass.unit_costs(on, 20_000 // few)
    say("load")
    wait_for_calm(calm_s)
    results["load"] = kill_mass.load(on, kill_mass.MILLION // few)
    return results


def _told(
    calm_s: float, results: dict[str, Any], section: str, measure: Callable[..., dict[str, Any]], *how: Any, **more: Any
) -> None:
    """Measure one row, and say what came out."""
    wait_for_calm(calm_s)
    row = measure(*how, **more)
    results[section].append(row)
    say(f"{section}: {json.dumps({name: value for name, value in row.items() if name != 'last_all_ms'})}")


def ground(on: Stage) -> str:
    """Say what it was measured on."""
    with redis.Redis(unix_socket_path=str(on.server.data_dir / "valkey.sock")) as client:
        facts: Any = client.info("server")
    server = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {facts['redis_version']}"
    return f"{machine()}; Python {platform.python_version()}, {server}, appendfsync always"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description="Measure kills.")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--calm", type=float, default=0, metavar="S", help="before each row wait until others are idle")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="given", help="measure nothing: take this file's figures"
    )
    options = parser.parse_args()
    if options.given:
        results = json.loads(options.given.read_text("utf-8"))
    else:
        with stage() as on:
            results = run(on, quick=options.quick, calm_s=options.calm)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if options.write:
        kill_report.write(results)
    sys.stdout.write(f"{kill_report.figures(results)}\n\n{kill_report.costs(results)}\n")


if __name__ == "__main__":
    main()
