# SPDX-License-Identifier: Apache-2.0
"""Run the MCP conformance suite and the inspector with ARx before a real server: ``make conformance``.

The suite runs against the server itself, and through ``arx connect`` and ``arx gateway`` with a task that allows
everything: each scenario and each check must have the same outcome.  The gateway reaches the server over HTTP, and once
more over stdio.  What others made is in ``build/conformance``, and so are the results.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arx_caps.agent import Task
from tests.conformance.inspector import ERAS, Inspector, faults, hidden_faults
from tests.conformance.packages import BUILD, node_packages, server_python
from tests.conformance.suite import REVISIONS, differences, failures, run_suite
from tests.conformance.world import World

# The server has no tasks of MCP: it passes none of these scenarios.
LEFT_OUT: Final = "tasks-"
# Over a pipe the same server cannot do the same, and the suite must show it.
EXPECTED: Final = {
    "2025-11-25": {
        "server-sse-multiple-streams": "the gateway answers with JSON where a server over HTTP opens a stream",
        "server-sse-polling": "a server closes a stream of HTTP before its answer, so that the client asks for it",
    },
    "2026-07-28": {
        "http-custom-header-server-validation": "a server that reads no headers misses none for its arguments",
    },
}


def main() -> None:
    """Run it.

    Raises:
        SystemExit: An outcome is another one through ARx.
    """
    argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__).parse_args()
    packages, python = node_packages(), server_python()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), python)
        try:
            with world.running():
                lines += [*_suites(world, packages), *_inspections(world, packages, Path(folder))]
        finally:
            (BUILD / "logs.txt").write_text(world.logs(), "utf-8")
    if lines:
        sys.exit("\n".join(["failed:", *lines, f"see {BUILD}"]))


def _suites(world: World, packages: Path) -> Iterator[str]:
    with world.bridged(world.task("everything"), web=world.web, pipe=world.pipe) as bridge:
        for revision in REVISIONS:
            urls = {"direct": world.direct, "web": f"{bridge}/web", "pipe": f"{bridge}/pipe"}
            found = {
                name: {
                    scenario: checks
                    for scenario, checks in run_suite(packages, url, revision, BUILD / revision / name).items()
                    if not scenario.startswith(LEFT_OUT)
                }
                for name, url in urls.items()
            }
            yield from (f"{revision} direct: {line}" for line in failures(found["direct"]))
            for name, expected in (("web", {}), ("pipe", EXPECTED[revision])):
                lines = differences(found["direct"], found[name], expected)
                yield from (f"{revision} {name}: {line}" for line in lines)
                checks = sum(checks.total() for checks in found[name].values())
                _say(f"{revision} {name}: {len(found[name])} scenarios, {checks} checks; {len(lines)} differences")
                for scenario, reason in expected.items():
                    _say(f"  as expected, {scenario} is another one: {reason}")


def _inspections(world: World, packages: Path, folder: Path) -> Iterator[str]:
    file = world.task("little")
    with world.bridged(file, web=world.web) as bridge:
        targets = {
            "http": ("--transport", "http", "--server-url", f"{bridge}/web"),
            "stdio": ("--config", str(world.client_config(file, world.web)), "--server", "web"),
        }
        for name, target in targets.items():
            for era in ERAS:
                lines = [*faults(Inspector(packages, target, era, folder))]
                yield from (f"inspector, {name}, {era}: {line}" for line in lines)
                _say(f"inspector, {name}, {era}: {len(lines)} faults")
        yield from hidden_faults(world, f"{bridge}/web", Task.load(file))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
