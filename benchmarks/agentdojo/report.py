# SPDX-License-Identifier: Apache-2.0
"""Write the table of docs/marks.md from ``results.json``, which no machine changes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.kill_report import put, table

NAME: Final = "agentdojo"
VERSION: Final = "v1.2.2"  # of AgentDojo's tasks
PACKAGE: Final = "agentdojo==0.1.35"
NO_ROWS, PRESET, UNTRUSTED_ALONE, ASK = "no rows", "the preset", "`untrusted` alone", "`untrusted` with `approve`"
RESULTS: Final = Path(__file__).with_name("results.json")
POLICIES: Final = (NO_ROWS, PRESET, UNTRUSTED_ALONE, ASK)


def rendered(found: Mapping[str, Any]) -> str:
    """Return the table."""
    head = (
        "suite, rows",
        "benign runs",
        "untouched",
        "asked",
        "refused",
        "injected sends",
        "of them made",
        "goals reached",
    )
    return table(head, (_cells(suite, policy, found) for suite in found["suites"] for policy in POLICIES))


def _cells(suite: str, policy: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    of = found["suites"][suite][policy]
    benign, attacked = of["benign"], of["attacked"]
    runs = sum(benign.values())
    shares = [f"{benign.get(name, 0) / runs:.0%}" for name in ("untouched", "asked", "refused")]
    made = attacked.get("sends made", 0)
    reached = f"{attacked['goals']} of {attacked['runs']}"
    return f"{suite}, {policy}", runs, *shares, made + attacked.get("sends refused", 0), made, reached


def wrong(found: Mapping[str, Any]) -> list[str]:
    """Return what a run must not find: an injected send under rows that refuse each, or no attack that they stop."""
    return [
        f"{suite}: {of}"
        for suite, of in found["suites"].items()
        if of[UNTRUSTED_ALONE]["attacked"].get("sends made", 0)
        or of[ASK]["attacked"].get("sends made", 0)
        or not of[NO_ROWS]["attacked"].get("sends made", 0)
        or of[NO_ROWS]["benign"].get("refused", 0)
    ]


def load() -> dict[str, Any]:
    """Return the counts of the last run that was kept."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    return found


def write(found: Mapping[str, Any]) -> None:
    """Keep the counts, and put the table into the page."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    put("marks.md", NAME, rendered(found))
