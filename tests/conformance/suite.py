# SPDX-License-Identifier: Apache-2.0
"""Run the conformance suite against a server, and compare what it found with and without ARx in between."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tests.conformance.packages import node_of

REVISIONS: Final = ("2025-11-25", "2026-07-28")
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
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    suite = packages / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    words = [str(node_of(packages)), str(suite), "server", "--url", url, "--requirements", revision]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (folder / "output.txt").open("w") as output:
        # Its exit code is that of the scored scenarios; here each check counts.
        subprocess.run(
            [*words, "--output-dir", str(folder)],
            env=environment,
            stdout=output,
            stderr=output,
            timeout=_WAIT_S,
            check=False,
        )
    found: Outcome = {}
    for file in folder.glob("server-*/checks.json"):
        scenario = _TIME.sub("", file.parent.name.removeprefix("server-"))
        checks = json.loads(file.read_text("utf-8"))
        # What is only information has no outcome, and depends on how events share the parts of a stream.
        found[scenario] = Counter((each["id"], each["status"]) for each in checks if each["status"] != "INFO")
    if not found:
        raise RuntimeError(f"the suite did not run: {(folder / 'output.txt').read_text('utf-8')[-2000:]}")
    return found


def failures(outcome: Outcome) -> list[str]:
    """Return a line for each check that was not passed.

    Args:
        outcome: What the suite found.
    """
    return [
        f"{scenario}: {check} {status}"
        for scenario, checks in sorted(outcome.items())
        for check, status in checks
        if status in ("FAILURE", "WARNING")
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
