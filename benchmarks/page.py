# SPDX-License-Identifier: Apache-2.0
"""Put the figures of ``benchmarks/results/`` into docs/performance.md: ``python -m benchmarks.page``.

Each part of the page stands between two markers and comes from one file; a test holds page and files together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import draw
from benchmarks.draw import us
from benchmarks.gateway import report as gateway_report
from benchmarks.kill_report import DOCS, put, table
from benchmarks.measure import RESULTS, load

PAGE: Final = "performance.md"
COMPARED: Final = "decide, 3 delegations, five constraints each"
BOUND: Final = "decide, 3 bound delegations, five constraints each"
# What the work of a row is to take, us: the first name is who has to.
GOALS: Final[Mapping[tuple[str, str], float]] = {
    (COMPARED, "ARx, first sight"): 25,
    (COMPARED, "ARx, parent seen"): 6,
    ("decide, five restrictions, no proof", "ARx, first sight"): 8,
    ("decide, five restrictions, no proof", "ARx, seen"): 4,
    ("delegate one hop, five constraints", "ARx"): 4,
    ("delegate one hop, only `to` and `exp`", "ARx"): 3,
    ("make the per-call token", "ARx"): 3,
    ("delegate one hop of a bound token, five constraints", "ARx bound"): 60,
}

LEASED: Final = "decide, parent seen, with a leased budget"
STRICT: Final = "decide, parent seen, with a strict budget, by the clock"
FREE: Final = "ARx without a budget"
FIXED: Final = "fixed"
PERSON: Final = "a person's, from the gateway's memory"
GATEWAY_ALONE: Final = "a small call, the gateway alone"
FRONT: Final = "the same through the front of `arx run`"
FRONT_BOXED: Final = "the same from the box"
PUSH_DIRECT: Final = "a small push to the server of git"
PUSH_FRONT: Final = "the same from the box, through front and gateway"
POOL: Final = "a budget of 1 pool"
NAMED: Final = "rows about marks name the tool"
WITHOUT: Final = "no rows"
OTHERS: Final = "rows about marks name other tools"
TAKEN: Final = ("tenth_us", "median_us")
# What a part adds to a decision: its work, with it, without it, and the most that it is to add, us; a name is a row's.
ADDED: Final[Sequence[tuple[str, str, str, str, float | str]]] = (
    (
        "3 bound delegations, first sight",
        BOUND,
        "ARx bound, first sight",
        "ARx bearer, first sight",
        "3 Ed25519 checks",
    ),
    ("the same", BOUND, "ARx bound, first sight", "ARx bearer, first sight", "3 Ed25519 checks, cryptography"),
    ("3 bound delegations, parent seen", BOUND, "ARx bound, parent seen", "ARx bearer, parent seen", 3),
    ("a leased budget of 1 pool", LEASED, "ARx, 1 pool", FREE, 1.5),
    ("a leased budget of 4 pools", LEASED, "ARx, 4 pools", FREE, "-"),
    ("a strict budget of 1 pool, by the clock", STRICT, "ARx, 1 pool", FREE, 150),
    ("a strict budget of 4 pools, by the clock", STRICT, "ARx, 4 pools", FREE, 190),
)


def machine(found: Mapping[str, Any]) -> str:
    """Say on what it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    return f"{found['machine']}; Python {found['python']}{'; ' if versions else ''}{versions}."


def grouped(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each work."""
    works: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        works.setdefault(row["work"], []).append(row)
    return works


def goals(found: Mapping[str, Any]) -> str:
    """Write the table of what is to be reached, beside the fastest of those that delegate and of those that do not."""
    rows = []
    for (work, name), goal in GOALS.items():
        times = {row["name"]: float(row["median_us"]) for row in grouped(found)[work]}
        others = {other: value for other, value in times.items() if not other.startswith("ARx")}
        jose = {other: value for other, value in others.items() if other.startswith(("PyJWT", "joserfc"))}
        best = [_fastest({other: others[other] for other in names}) for names in (others.keys() - jose, jose)]
        pure = times.get(name.replace("ARx", "ARx pure"))
        ours = (us(times[name]), us(pure) if pure is not None else "-")
        rows.append((f"{work}: {name}", *ours, f"{goal:g}", *best))
    return table(("us", found["build"], "pure Python", "goal", "fastest other that delegates", "fastest JWT"), rows)


def added(found: Mapping[str, Any]) -> str:
    """Write what holders' keys and budgets add to a decision, beside what they may."""
    rows = []
    for what, work, name, less, goal in ADDED:
        times = {row["name"]: float(row["median_us"]) for row in grouped(found)[work]}
        more = times[name] - times[less]
        most = times.get(goal) if isinstance(goal, str) else goal
        text = f"{us(times[goal])}: {goal}" if goal in times else str(goal)
        rows.append((what, us(more), text, "-" if most is None else f"{more / most:.2f}"))
    return table(("added to a decision", f"us, {found['build']}", "at most", "times that"), rows)


def _fastest(times: Mapping[str, float]) -> str:
    return min((value, f"{name} {us(value)}") for name, value in times.items())[1] if times else "cannot"


def comparison(found: Mapping[str, Any]) -> str:
    """Write a table for each work: name, median, how many times ours, characters."""
    parts = [f"Medians in microseconds. {machine(found)}"]
    for work, rows in grouped(found).items():
        if work.startswith("refuse"):
            continue  # beside the grant, not beside others
        cells = [
            (row["name"], us(row["median_us"]), f"{row['ratio']:.2f}", row.get("chars", ""))
            for row in sorted(rows, key=lambda row: float(row["median_us"]))
        ]
        parts.append(f"**{work[0].upper()}{work[1:]}**\n\n" + table(("who", "us", "times ours", "characters"), cells))
    return "\n\n".join(parts)


def refusals(found: Mapping[str, Any]) -> str:
    """Write what each refusal costs, beside the grant."""
    parts = []
    for work, rows in grouped(found).items():
        if work.startswith("refuse"):
            ordered = sorted(rows, key=lambda row: float(row["median_us"]))
            cells = [(row["name"], us(row["median_us"]), f"{row['ratio']:.2f}") for row in ordered]
            title = work.partition(", ")[2]
            parts.append(table((title, "us", "times the grant"), cells))
    return "\n\n".join(parts)


def growth(found: Mapping[str, Any]) -> str:
    """Write how the time grows with what can grow."""
    rows = []
    for row in found["curves"]:
        (first, least), (last, most) = row["points"][0], row["points"][-1]
        rows.append((row["what"], row["name"], f"{first:,} to {last:,}", us(least), us(most), row["fit"]))
    head = ("what grows", "which", "from, to", "us at first", "us at last", "growth")
    return f"{machine(found)}\n\n" + table(head, rows)


def _growth_plots(found: dict[str, Any]) -> dict[str, str]:
    lines: dict[str, dict[str, list[draw.Point]]] = {}
    log = {row["what"]: bool(row["log"]) for row in found["curves"]}
    for row in found["curves"]:
        lines.setdefault(row["what"], {})[row["name"]] = [(n, value) for n, value in row["points"]]
    panels = [draw.Panel(what, curves, log=log[what]) for what, curves in lines.items()]
    return {"performance-growth.svg": draw.panels("us a decision, as this grows", panels)}


def service(found: Mapping[str, Any]) -> str:
    """Write what the middleware costs a service."""
    rows, parts = [], [machine(found)]
    for row in found["load"]:
        waits = (f"{row['p50_us'] / 1000:.2f}", f"{row['p99_us'] / 1000:.2f}")
        times = (f"{row['rps']:,.0f}", *waits, f"{row['cpu_us']:.0f}")
        rows.append((f"{row['connections']} at once, {row['middleware']} the middleware", *times))
    parts.append(table(("requests", "a second", "p50, ms", "p99, ms", "processor time of one, us"), rows))
    without, guarded = found["load"][-2:]
    more, all_of_it = guarded["cpu_us"] - without["cpu_us"], guarded["cpu_us"]
    parts.append(
        f"With {guarded['connections']} connections that are never idle the middleware takes **{more:.0f} us of the "
        f"{all_of_it:.0f} us** of processor time that the service spends on a request, {more / all_of_it:.0%}."
    )
    return "\n\n".join(parts)


def memory(found: Mapping[str, Any]) -> str:
    """Write what parents, nonces and kills take."""
    sizes = found["memory"]
    parents, calls = sizes["parents"], sizes["calls"]
    rows = [
        ("parents of three delegations", parents["count"], parents["bytes"] - calls["bytes"]),
        ("nonces of the last 15 s", calls["count"], calls["bytes"]),
        ("live kills", sizes["kills"]["count"], sizes["kills"]["bytes"]),
    ]
    cells = [(what, f"{n:,}", f"{size / 1e6:.0f}", f"{size / n:,.0f}") for what, n, size in rows]
    return table(("what a process keeps", "how many", "MB", "bytes each"), cells)


def stamps(found: Mapping[str, Any]) -> str:
    """Write what stamps and checks of memory entries take."""
    goals = {"stamp": 10.0, "check": 6.0, "check 10,000 entries of one retrieval": 40_000.0}
    cells = [
        (row["work"], us(row["median_us"]), f"{goals[row['work']]:,.0f}" if row["work"] in goals else "-")
        for row in found["rows"]
    ]
    return f"{machine(found)}\n\n" + table((f"memory, {found['build']}", "us", "goal"), cells)


def marks(found: Mapping[str, Any]) -> str:
    """Write what calls take that rows about marks name, or do not, and what the ledger keeps of them."""
    rows = {row["name"]: row for row in found["rows"]}
    beside = {NAMED: POOL, OTHERS: WITHOUT}
    head = ("a call", "tenth, us", "median, us", "times the row before, tenth", "median")
    cells = [
        (
            name,
            us(row["tenth_us"]) if "tenth_us" in row else "-",
            us(row["median_us"]),
            *[f"{row[by] / rows[beside[name]][by]:.2f}" if name in beside and by in row else "-" for by in TAKEN],
        )
        for name, row in rows.items()
    ]
    kept = found["kept"]
    return (
        f"{machine(found)}\n\n{table(head, cells)}\n\n"
        f"A session with {kept['marks']} marks and {kept['rows']} rows of `distinct` that have counted "
        f"{kept['values']} values each takes {kept['bytes']:,} bytes of the ledger."
    )


def people(found: Mapping[str, Any]) -> str:
    """Write what a call with a person's credential takes, beside one with a fixed credential."""
    rows = {row["name"]: row for row in found["rows"]}
    cells = [(name, f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}") for name, row in rows.items()]
    more = rows[PERSON]["p50_ms"] - rows[FIXED]["p50_ms"]
    head = ("the upstream's credential", "p50, ms", "p99, ms")
    return f"{machine(found)}\n\n{table(head, cells)}\n\nThe person's adds {more:.3f} ms (p50), of at most 0.1 ms."


def run(found: Mapping[str, Any]) -> str:
    """Write what a call and a push take under `arx run`, beside the same without it."""
    rows = {row["name"]: row for row in found["rows"]}
    cells = [(name, *(f"{row[part]:.2f}" for part in ("tenth_ms", "p50_ms", "p99_ms"))) for name, row in rows.items()]
    lines = []
    for what, part in (("p50", "p50_ms"), ("a tenth", "tenth_ms")):
        took = {name: float(row[part]) for name, row in rows.items()}
        plain, boxed = (took[name] - took[GATEWAY_ALONE] for name in (FRONT, FRONT_BOXED))
        more = took[PUSH_FRONT] / took[PUSH_DIRECT] - 1
        lines.append(
            f"- {what}: the front adds {plain:.2f} ms to a call, with the box {boxed:.2f} ms; to a push {more:.0%}."
        )
    head = ("by the clock", "a tenth, ms", "p50, ms", "p99, ms")
    goal = "At most, on a quiet machine: 1 ms for a call, and 20% for a push, of the median."
    return f"{machine(found)}\n\n{table(head, cells)}\n\n" + "\n".join([goal, "", *lines])


def starts(found: Mapping[str, Any]) -> str:
    """Write how long it takes to start."""
    cells = [
        (row["what"], f"{row['ms']:.0f}", f"{row['least_ms']:.0f}", f"{row['cpu_ms']:.0f}")
        for row in found["start"]["rows"]
    ]
    cold = found["start"]["cold"]
    return (
        table(("a process's whole life", "ms", "least", "processor time"), cells)
        + f"\n\nA service's process has made and recorded its first decision **{cold['ms']:.0f} ms** after it was "
        f"started ({cold['least_ms']:.0f} at least), beside {cold['kills']:,} live kills in a Valkey."
    )


def _service(found: dict[str, Any]) -> dict[str, str]:
    return {"service": service(found), "memory": memory(found), "start": starts(found)}


def _latest(found: dict[str, Any]) -> dict[str, str]:
    return {"goals": goals(found), "added": added(found), "comparison": comparison(found), "refusals": refusals(found)}


def _latest_plots(found: dict[str, Any]) -> dict[str, str]:
    rows = {work: [(row["name"], float(row["median_us"])) for row in rows] for work, rows in grouped(found).items()}
    return {
        "performance-decide.svg": draw.bars("three delegations, five constraints each: us a decision", rows[COMPARED]),
        "performance-delegate.svg": draw.bars(
            "delegate one hop, five constraints: us", rows["delegate one hop, five constraints"]
        ),
    }


# By file of figures: what of the page comes from it, and which plots.
Renderer = Callable[[dict[str, Any]], dict[str, str]]
PARTS: Final[dict[str, tuple[Renderer, Renderer]]] = {
    "latest": (_latest, _latest_plots),
    "service": (_service, lambda _: {}),
    "gateway": (lambda found: {"gateway": f"{machine(found)}\n\n{gateway_report.tables(found)}"}, lambda _: {}),
    "stamps": (lambda found: {"stamps": stamps(found)}, lambda _: {}),
    "marks": (lambda found: {"marks": marks(found)}, lambda _: {}),
    "people": (lambda found: {"people": people(found)}, lambda _: {}),
    "run": (lambda found: {"run": run(found)}, lambda _: {}),
    "growth": (lambda found: {"growth": growth(found)}, _growth_plots),
}


def rendered() -> tuple[dict[str, str], dict[str, str]]:
    """Return what belongs between the page's markers, and the plots by file, of all figures there are."""
    texts: dict[str, str] = {}
    plots: dict[str, str] = {}
    for name, (text, plot) in PARTS.items():
        if (RESULTS / f"{name}.json").exists():
            texts |= text(load(name))
            plots |= plot(load(name))
    return texts, plots


def write(folder: Path = DOCS) -> None:
    """Write page and plots anew."""
    texts, plots = rendered()
    for marker, text in texts.items():
        put(PAGE, marker, text)
    for name, text in plots.items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write()
