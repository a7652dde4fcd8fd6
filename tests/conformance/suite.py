# SPDX-License-Identifier: Apache-2.0
"""Run the conformance suite against a server, and compare what it found with and without ARx in between."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from tests.conformance.packages import node_of

REVISIONS: Final = ("2025-11-25", "2026-07-28")
BAD: Final = ("FAILURE", "WARNING")
_TIME: Final = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z")
_WAIT_S: Final = 300

Outcome = dict[str, Counter[tuple[str, str]]]  # of each scenario, how often a check had a status


def run_suite(packages: Path, url: str, revision: str, folder: Path) -> Outcome:
    """Run the server scenarios of a revision, also those of its extensions and those that the suite calls pending.

    Args:
        packages: The folder of the npm packages.
        url: The server.
        revision: The revision of MCP.
        folder: For the results; what is in it is removed.

    Raises:
        RuntimeError: The suite itself failed.
        TimeoutExpired: It takes too long.
    """
    # Its exit code is that of the scored scenarios; here each check counts.
    with started_suite(packages, folder, "server", "--url", url, "--requirements", revision) as suite:
        suite.wait(_WAIT_S)
    return outcome_of(folder, "server-")


@contextlib.contextmanager
def started_suite(packages: Path, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the suite; what it writes is in ``output.txt``.

    Args:
        packages: The folder of the npm packages.
        folder: For the results; what is in it is removed.
        words: Its arguments.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = packages / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    command = [str(node_of(packages)), str(script), *words, "--output-dir", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def checks_of(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Return the checks of each scenario.

    Args:
        folder: The results.
        kind: What the names of the results begin with.

    Raises:
        RuntimeError: The suite itself failed.
    """
    found = {
        _TIME.sub("", file.parent.name.removeprefix(kind)): json.loads(file.read_text("utf-8"))
        for file in folder.glob(f"{kind}*/checks.json")
    }
    if not found:
        raise RuntimeError(f"the suite did not run: {(folder / 'output.txt').read_text('utf-8')[-2000:]}")
    return found


def outcome_of(folder: Path, kind: str) -> Outcome:
    """Return how often a check of each scenario had a status; see ``checks_of``."""
    # What is only information has no outcome, and depends on how events share the parts of a stream.
    return {
        scenario: Counter((each["id"], each["status"]) for each in checks if each["status"] != "INFO")
        for scenario, checks in checks_of(folder, kind).items()
    }


def failures(outcome: Outcome) -> list[str]:
    """Return a line for each check that was not passed.

    Args:
        outcome: What the suite found.
    """
    return [
        f"{scenario}: {check} {status}"
        for scenario, checks in sorted(outcome.items())
        for check, status in checks
        if status in BAD
    ]


def differences(direct: Outcome, behind: Outcome, expected: Collection[str] = ()) -> list[str]:
    """Return lines for each scenario whose checks are not the same.

    Args:
        direct: What the suite found at the server.
        behind: What it found with ARx in between.
        expected: Scenarios that must differ.
    """
    lines = []
    for scenario in sorted(direct.keys() | behind.keys()):
        before, after = direct.get(scenario, Counter()), behind.get(scenario, Counter())
        if before == after and scenario in expected:
            lines.append(f"{scenario}: expected a difference, got none")
        elif before != after and scenario not in expected:
            lines.append(f"{scenario}:")
            lines += [f"  direct:      {check} {status}" for check, status in (before - after).elements()]
            lines += [f"  through ARx: {check} {status}" for check, status in (after - before).elements()]
    return lines
