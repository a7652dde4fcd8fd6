# SPDX-License-Identifier: Apache-2.0
"""Write the figures of the kill benchmark into the documentation, between its markers."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kill_plot import plot

DOCS = Path(__file__).resolve().parents[1] / "docs"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)])


def ms(value: float) -> str:
    """Write milliseconds with as many digits as mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def who(facts: dict[str, Any]) -> str:
    """Name a row: how many processes, through how many relays."""
    relays = {0: "", 1: ", through a relay", 2: ", through two relays"}[facts["relays"]]
    return f"{facts['verifiers']}{relays}"


def figures(results: dict[str, Any]) -> str:
    """Write the tables for ``docs/revocation.md``."""
    kills = [
        (
            who(row),
            row["kills"],
            *(
                " / ".join(ms(row[name][part]) for part in ("p50", "p99", "max"))
                for name in ("each_ms", "last_ms", "returned_ms", "confirmed_ms")
            ),
        )
        for row in results["latency"]
    ]
    bounds = [
        (
            row["what"],
            who(row),
            row["lease_ms"],
            row["trials"],
            ms(row["last_accept_ms"]["p50"]),
            ms(row["last_accept_ms"]["max"]),
            ms(row["recovery_ms"]["max"]) if "recovery_ms" in row else "",
        )
        for row in results["bounds"]
    ]
    calm = [
        (who(row), row["lease_ms"], f"{row['decisions']:,}", row["denied"], row["least_left_ms"])
        for row in results["no_faults"]
    ]
    checks = [(f"{row['kills']:,}", row["check_ns"]) for row in results["checks"]]
    load = results["load"]
    return "\n\n".join(
        [
            f"{results['machine']}. Milliseconds, p50 / p99 / max; every kill was on disk before it was acknowledged.",
            table(
                ("verifier processes", "kills", "in force, each", "in force, last", "kill returns", "all confirmed"),
                kills,
            ),
            table(("fault", "verifiers", "L", "trials", "last accept, p50", "max", "recovery, max"), bounds),
            "The last accept is counted from when the server had stopped or the kill had returned: it must be below L.",
            table(("without faults, verifiers", "L", "decisions", "denied", "least lease left"), calm),
            table(("live kills", "one check, ns"), checks),
            f"A verifier that starts beside {load['kills']:,} live kills is ready after **{load['loaded_s']} s** (its "
            f"process start included). Another client's longest wait for an answer meanwhile was "
            f"{load['ping_longest_ms']} ms, and {load['ping_longest_without_ms']} ms while nothing was copied. "
            f"A live kill takes {load['verifier_bytes_a_kill']} bytes in a verifier and "
            f"{load['server_bytes_a_kill']} in the store.",
        ]
    )


def costs(results: dict[str, Any]) -> str:
    """Write the table for ``docs/scale.md``."""
    cost, load = results["costs"], results["load"]
    waits = cost["relay_confirmed_ms"]
    rows = [
        ("a probe, processor time of the store", f"{cost['probe_us']:.0f} us"),
        ("a kill without subscribers, with its fsync", f"{cost['kill_us']:.0f} us"),
        ("a message to one subscriber", f"{cost['message_us']:.1f} us"),
        ("a connection, memory of the store", f"{cost['connection_bytes'] / 1000:.0f} kB"),
        ("a live kill, memory of the store", f"{load['server_bytes_a_kill']} B"),
        ("a live kill, memory of a verifier", f"{load['verifier_bytes_a_kill']} B"),
        (
            f"a relay of {cost['relay_verifiers']} verifiers, nothing killed, of one core",
            f"{cost['relay_idle_percent']:.0f} %",
        ),
        ("the store under that relay, of one core", f"{cost['relay_server_percent']:.1f} %"),
        ("a kill and all its confirmations, processor time of that relay", f"{cost['relay_kill_ms']:.0f} ms"),
        ("until all behind it have confirmed, p50 / max", f"{waits['p50']:.0f} / {waits['max']:.0f} ms"),
        ("a relay, memory", f"{cost['relay_bytes'] / 1e6:.0f} MB"),
    ]
    return f"{results['machine']}.\n\n" + table(("what", "measured"), rows)


def put(name: str, marker: str, text: str) -> None:
    """Replace what stands between two markers of a page."""
    path = DOCS / name
    pattern = re.compile(rf"(<!-- {marker}: begin[^>]*-->\n).*?(\n<!-- {marker}: end -->)", re.DOTALL)
    page, found = pattern.subn(lambda match: f"{match[1]}\n{text}\n{match[2]}", path.read_text("utf-8"))
    if found != 1:
        raise SystemExit(f"{path} has no place for {marker}")
    path.write_text(page, "utf-8")


def write(results: dict[str, Any]) -> None:
    """Write tables and plot."""
    put("revocation.md", "figures", figures(results))
    put("scale.md", "costs", costs(results))
    lines = {f"{who(row)}": row["last_all_ms"] for row in results["latency"]}
    drawing = plot("kills in force in the last verifier, by verifier processes", lines)
    (DOCS / "kill-latency.svg").write_text(drawing, "utf-8")
