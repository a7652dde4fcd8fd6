# SPDX-License-Identifier: Apache-2.0
"""Write the figures of the mint's benchmark into the documentation, between its markers."""

from typing import Any

from benchmarks.kill_plot import plot
from benchmarks.kill_report import DOCS, ms, put, table


def figures(results: dict[str, Any]) -> str:
    """Write the tables for ``docs/operations.md``."""
    calls = [
        (
            f"{row['what']}, {row['database']}",
            row["agents"],
            *(ms(row["ms"][part]) for part in ("p50", "p99", "max")),
            row["a_second"],
            ms(row["cpu_ms"]),
        )
        for row in sorted(results["calls"], key=lambda row: (row["database"] != "SQLite", row["what"], row["agents"]))
    ]
    names = ("first_page_ms", "next_page_ms", "open_of_agent_ms", "end_agent_ms")
    many = [
        (f"{row['sessions']:,}, {row['database']}", *(ms(row[name]["p50"]) for name in names))
        for row in results["many"]
    ]
    head = ("call", "agents at once", "p50", "p99", "max", "a second", "mint's processor time")
    of_many = ("live sessions", "list 100", "the next 100", "100 open ones of an agent", "end all of an agent")
    on = f"{results['machine']}; Python {results['python']}. Milliseconds."
    return f"{on}\n\n{table(head, calls)}\n\n{table(of_many, many)}"


def write(results: dict[str, Any]) -> None:
    """Put tables and plot into the documentation."""
    put("operations.md", "load", figures(results))
    lines = {
        f"{row['agents']}, {row['database']}": row["times_ms"]
        for row in results["calls"]
        if row["what"] == "start a task"
    }
    title = "Starting a task: share of answers, by agents at once"
    DOCS.joinpath("mint-latency.svg").write_text(plot(title, lines, "ms until the bundle is there"), "utf-8")
