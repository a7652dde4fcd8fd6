# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/comparison.md from ``benchmarks/results/compare.json``."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.compare.frameworks import BOTH
from benchmarks.kill_report import put, table

PAGE: Final = "comparison.md"
NAME: Final = "compare"
PRODUCTS: Final = ("arx", "tenuo")
# What is another one each time.
NUMBERED: Final = re.compile(r"(?<=ref: )[0-9a-f-]{8,}|(?<=id\":\")[0-9a-f]{8}|(?<=decision\": \")[0-9a-f]+-[0-9]+")
Rows = Mapping[str, Mapping[str, Any]]


def lines(rows: Rows) -> str:
    """Write how many lines of an example each product takes."""
    cells = [
        (
            BOTH[name].title,
            f"{row['arx']['lines']} + {row['policy']}",
            row["arx"]["lines"] + row["policy"],
            row["tenuo"]["lines"],
        )
        for name, row in rows.items()
    ]
    sums = {name: (row["arx"]["lines"] + row["policy"], row["tenuo"]["lines"]) for name, row in rows.items()}
    return table(("lines", "ARx, code + policy", "ARx", "tenuo"), cells) + _ahead("Fewer", sums)


def refusals(rows: Rows) -> str:
    """Write what a caller reads of a refund of 50."""
    parts = []
    for name, row in rows.items():
        said = [_says("ARx", row["arx"]["refusal"]), _says("tenuo", row["tenuo"]["refusal"])]
        for key, when in (("at_service", "its service"), ("detailed", "with its option of details")):
            if key in row["tenuo"]:
                said.append(_says(f"tenuo, {when}", row["tenuo"][key]))
        parts.append(f"{BOTH[name].title}:\n\n" + "\n".join(said))
    return "\n\n".join(parts)


def replays(rows: Rows) -> str:
    """Write what becomes of a request that is sent again, and of two equal calls."""
    asked = [(name, key) for name, row in rows.items() for key in ("replay", "repeat") if "replay" in row["arx"]]
    what = {"replay": "a captured request, sent again", "repeat": "the same call, made twice"}
    cells = [
        (f"{BOTH[name].title}: {what[key]}", *(rows[name][product][key] for product in PRODUCTS)) for name, key in asked
    ]
    return table(("what is sent", "ARx", "tenuo"), cells)


def kills(rows: Rows) -> str:
    """Write how long after a kill the next call was refused."""
    cells = [
        (BOTH[name].title, *(f"{row[product]['kill_ms']:.0f}" for product in PRODUCTS)) for name, row in rows.items()
    ]
    return table(("ms until a call is refused", "ARx, kill at the mint", "tenuo, list installed in the process"), cells)


def delegations(rows: Rows) -> str:
    """Write whether a worker got a part offline, and is held to it."""
    cells = [(BOTH[name].title, *(_delegation(row[product]) for product in PRODUCTS)) for name, row in rows.items()]
    return table(("framework", "ARx", "tenuo"), cells)


def overheads(rows: Rows) -> str:
    """Write what a call takes without a product, and what each adds."""
    cells, adds, unsure = [], {}, {}
    for name, row in rows.items():
        ours, theirs = (round(row[product]["added_us"]) for product in PRODUCTS)
        alone = round(min(row[product]["bare_us"] for product in PRODUCTS))
        shown = f"{theirs:,}"
        if BOTH[name].apart:  # what tenuo adds to its own server cannot be separated
            alone = round(row["arx"]["bare_us"])
            whole = round(row["tenuo"]["bare_us"]) + theirs
            shown, theirs = f"{whole:,} in all, without the framework", whole - alone
        cells.append((BOTH[name].title, f"{alone:,}", f"{ours:,}", shown))
        adds[name] = (ours, theirs)
        unsure[name] = 2 * math.hypot(*(row[product]["added_error_us"] for product in PRODUCTS))
    return table(("us a call", "the framework alone", "ARx adds", "tenuo adds"), cells) + _ahead("Less", adds, unsure)


def machine(found: Mapping[str, Any]) -> str:
    """Write on what it was measured, and with which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    return f"{found['machine']}; Python {found['python']}; {versions}."


PARTS: Final[Mapping[str, Callable[[Rows], str]]] = {
    "lines": lines,
    "refusals": refusals,
    "replays": replays,
    "kills": kills,
    "delegations": delegations,
    "overheads": overheads,
}


def rendered(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what belongs between the page's markers."""
    rows = {name: found["frameworks"][name] for name in BOTH if name in found["frameworks"]}
    return {marker: part(rows) for marker, part in PARTS.items()} | {"machine": machine(found)}


def write(found: Mapping[str, Any]) -> None:
    """Write the tables into the page."""
    for marker, text in rendered(found).items():
        put(PAGE, marker, text)


def _ahead(better: str, found: Mapping[str, tuple[int, int]], unsure: Mapping[str, float] | None = None) -> str:
    """Name the frameworks where each product has the smaller number, by more than is unsure."""
    wins: dict[str, list[str]] = {"tenuo": [], "ARx": [], "neither": []}
    for name, (ours, theirs) in found.items():
        sure = abs(ours - theirs) > (unsure or {}).get(name, 0)
        wins[("tenuo" if theirs < ours else "ARx") if sure else "neither"].append(BOTH[name].title)
    parts = [f"{better} with {who}: {', '.join(names)}." for who, names in wins.items() if names and who != "neither"]
    if wins["neither"]:
        parts.append(f"No difference beyond twice its standard error: {', '.join(wins['neither'])}.")
    return "\n\n" + "\n".join(parts)


def _says(who: str, said: str) -> str:
    # On one line, as a table's cell or a list's item is.
    return f"- {who}: `{NUMBERED.sub('…', ' '.join(said.split()))}`"


def _delegation(facts: Mapping[str, Any]) -> str:
    said = ["offline" if facts["offline"] else "online", "held to its part" if facts["narrower"] else "not held to it"]
    if "worker_ended" in facts:
        said.append("ended with the desk" if facts["worker_ended"] else "not ended with the desk")
    return ", ".join(said)
