# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/performance.md on the gateway from ``benchmarks/results/gateway.json``."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.gateway.places import ARX, BARE, CADDY, DIRECT, SHARED
from benchmarks.kill_report import table

P50_MS: Final = 0.6
P99_MS: Final = 1.5
# What a bare pass-through added on the machine where the goals were set, ms: the goals are 2.3 and 4.4 times as much.
BARE_P50_MS: Final = 0.26
BARE_P99_MS: Final = 0.34
SHARE: Final = 0.8
STREAM_BYTES: Final = 64 * 1024
STREAMS: Final = 1_000
NOT_MEASURED: Final = "The deciders were not measured: nginx is not installed."
_FIGURES: Final = ("p50_ms", "p99_ms", "added_p50_ms", "added_p99_ms")


def tables(found: Mapping[str, Any]) -> str:
    """Write all tables; older figures have no deciders."""
    parts = [table_of_goals(found), table_of_peers(found)]
    if "deciders" in found:
        parts.append(table_of_deciders(found["deciders"]))
    return "\n\n".join(parts)


def table_of_goals(found: Mapping[str, Any]) -> str:
    """Write what is to be reached, what was, and the same of what only passes calls on."""
    calls, crowd, held = found["latency"], found["throughput"], found["streams"]
    rows = [
        (
            f"added at one client, {name}, ms",
            f"at most {goal}",
            *(f"{calls[who][key]:.2f}" for who in (ARX, SHARED, BARE, CADDY)),
        )
        for name, goal, key in (("p50", P50_MS, "added_p50_ms"), ("p99", P99_MS, "added_p99_ms"))
    ]
    rows += [
        (
            f"{name}, times what the pass-through adds",
            f"at most {goal:.1f}",
            *(f"{calls[who][key] / calls[BARE][key]:.1f}" for who in (ARX, SHARED, BARE, CADDY)),
        )
        for name, goal, key in (
            ("p50", P50_MS / BARE_P50_MS, "added_p50_ms"),
            ("p99", P99_MS / BARE_P99_MS, "added_p99_ms"),
        )
    ]
    shares = (f"{crowd[who]['share']:.0%}" for who in (ARX, SHARED, BARE, CADDY))
    rows.append(("calls a second of 16 clients, of those direct", f"at least {SHARE:.0%}", *shares))
    rows.append(
        ("memory of an idle stream, KiB", f"at most {STREAM_BYTES // 1024}", f"{held['bytes'] / 1024:.1f}", "", "", "")
    )
    rows.append(("idle streams held", f"at least {STREAMS:,}", f"{held['held']:,}", "", "", ""))
    share = found["decision_us"] / 1000 / calls[ARX]["added_p50_ms"]
    return (
        table(("what", "goal", "`arx gateway`", "used calls in the store", BARE, "Caddy"), rows)
        + f"\n\nThe decision on a call, with its record, takes {found['decision_us']:.0f} us, {share:.0%} of "
        f"what is added. The gateway's check of {held['held']:,} idle streams takes {held['processor']:.0%} of a core."
    )


def table_of_peers(found: Mapping[str, Any]) -> str:
    """Write what each of all places takes."""
    rows = []
    for name, row in found["latency"].items():
        crowd = found["throughput"][name]
        added = ("", "") if name == DIRECT else (f"{row['added_p50_ms']:.2f}", f"{row['added_p99_ms']:.2f}")
        waits = (f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}")
        rows.append((name, *waits, *added, f"{crowd['rate']:,.0f}", f"{crowd['share']:.0%}"))
    head = ("called", "p50, ms", "p99, ms", "added p50", "added p99", "16 clients, calls a second", "of direct")
    return table(head, rows)


def table_of_deciders(found: Mapping[str, Any]) -> str:
    """Write what a decider adds to the proxies that ask it."""
    if not found:
        return NOT_MEASURED
    rows = []
    for name, row in found.items():
        figures = (f"{row[key]:.2f}" if key in row else "" for key in _FIGURES)
        rows.append((name, *figures))
    return (
        "nginx and Caddy with the files of `deploy/`, without a decider and with one, before a service that does "
        "nothing; and the time of one question of `ext_authz`, for which a proxy waits:\n\n"
        + table(("asked", "p50, ms", "p99, ms", "added p50", "added p99"), rows)
    )
