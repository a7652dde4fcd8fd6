# SPDX-License-Identifier: Apache-2.0
"""Print the medians of a run, and how many times ours the others take.

python benchmarks/report.py results.json
"""

import json
import sys
from pathlib import Path
from typing import Any


def rows_of(benchmarks: list[dict[str, Any]]) -> list[tuple[str, float, float, Any]]:
    """Order one group by time: name, median in us, ratio to ours, characters."""
    ours = [bench["stats"]["median"] for bench in benchmarks if bench["extra_info"].get("ours")]
    base = ours[0] if ours else min(bench["stats"]["median"] for bench in benchmarks)
    rows = [
        (
            bench["name"].removeprefix("test_"),
            bench["stats"]["median"] * 1e6,
            bench["stats"]["median"] / base,
            bench["extra_info"].get("chars", ""),
        )
        for bench in benchmarks
    ]
    return sorted(rows, key=lambda row: row[1])


def report(results: dict[str, Any]) -> str:
    """Write the tables of a run.

    Args:
        results: What pytest-benchmark wrote with ``--benchmark-json``.

    Returns:
        Markdown, one table a group.
    """
    machine = results["machine_info"]
    lines = [f"{machine['cpu'].get('brand_raw', machine['machine'])}, Python {machine['python_version']}, medians", ""]
    groups: dict[str, list[dict[str, Any]]] = {}
    for bench in results["benchmarks"]:
        groups.setdefault(bench["group"], []).append(bench)
    for group, benchmarks in groups.items():
        lines += [f"## {group}", "", "| what | median, us | times ours | characters |", "| --- | ---: | ---: | ---: |"]
        for name, median, ratio, chars in rows_of(benchmarks):
            lines.append(f"| {name} | {median:.1f} | {ratio:.2f} | {chars} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the file that is named, print its tables."""
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/report.py results.json")
    print(report(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
