# SPDX-License-Identifier: Apache-2.0
"""Measure the console's sessions: ``python -m benchmarks.console_sessions [--sessions N]``.

A mint in this process has many sessions, each with a task and three delegations in the log's index.  Each page is asked
for again and again by one browser in this process; given are the milliseconds from the request to the whole answer.
Then the drawing of trees alone.  It fails if a page takes longer than 100 ms (p95), or a tree of 150 holders longer
than 50 ms.  Figures go to ``benchmarks/results/console_sessions.json``.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import insert

from arx_caps.audit.store.tables import NODE
from arx_caps.console.tree import draw
from arx_caps.http.process import collect_rarely
from arx_caps.mint.db.tables import SESSIONS, TASKS
from arx_verifier.journal.decision import Decision
from benchmarks.measure import about, percentiles, save, say
from tests.audit.batches import batch_of, decision, facts
from tests.console.harness import sign_in
from tests.mint.harness import Harness, now_ms, open_unit

MOST_MS: Final = 100.0
MOST_TREE_MS: Final = 50.0
ROUNDS: Final = 40
AGENTS, PEOPLE, AT_ONCE = 40, 5_000, 5_000
PAGES: Final = (
    "/console/sessions",
    "/console/sessions?state=open",
    "/console/sessions?state=killed",
    "/console/sessions?state=frozen",
    "/console/sessions?state=ended",
    "/console/sessions?state=expired",
    "/console/sessions?agent=acme/support/a3",
    "/console/sessions?agent=acme/support/**",
    "/console/sessions?subject=person77",
    "/console/sessions?template=refund",
    "/console/sessions?template=rare",
    "/console/sessions?text=refund",
    "/console/sessions?text=nothing-has-this",
    "/console/sessions?text=s-0000000000000042",
    "/console/sessions?text=refund&state=killed&agent=acme/support/**&template=rare",
    "/console/agents",
    "/console/agents/acme/support/a3",
    "/console/sessions/{tree}",
    "/console/sessions/{tree}?zoom=all",
)


def fill(unit: Harness, count: int) -> None:
    """Put sessions into the mint's database, and their nodes into the log's."""
    mint, now = unit.mint, now_ms()
    for number in range(AGENTS):
        unit.enrol(f"acme/support/a{number}")
    common = {"jkt": "x", "policy": mint.policy.digest, "born": 0, "incarnation": mint.epochs.view()[0]}
    node = 1_000_000
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(count, start + AT_ONCE))
        with mint.db.write() as c:
            c.execute(insert(SESSIONS), [common | _session(number, now, count) for number in numbers])
            c.execute(insert(TASKS), [common | _task(number, now) for number in numbers])
        with mint.log.store._engine.begin() as c:
            c.execute(insert(NODE), [row for number in numbers for row in _nodes(number, node + 5 * number, now)])
        say(f"{numbers[-1] + 1:,} sessions")


def _session(number: int, now: int, count: int) -> dict[str, Any]:
    ended = number % 4 == 0
    return {
        "id": f"s-{number:016}",
        "agent": f"acme/support/a{number % AGENTS}",
        "purpose": "refund of an order",
        "subject_issuer": "https://idp.example",
        "subject": f"person{number % PEOPLE}",
        "subject_claims": "{}",
        "opened_at": now - (count - number) * 100,
        "expires_at": now + 3_600_000 * (number % 3 - 1),
        "ends_at": now + 3_600_000,
        "status": "ended" if ended else "open",
        "ended_at": now if ended else None,
    }


def _task(number: int, now: int) -> dict[str, Any]:
    return {
        "id": f"t-{number:016}",
        "session": f"s-{number:016}",
        "agent": f"acme/support/a{number % AGENTS}",
        "template": "refund" if number % 1000 else "rare",
        "params": "{}",
        "audiences": '["orders"]',
        "link": f"link{number}",
        "status": "open",
        "started_at": now,
        "expires_at": now + 3_600_000,
    }


def _nodes(number: int, first: int, now: int) -> Iterator[dict[str, Any]]:
    session, task, agent = f"s-{number:016}", f"t-{number:016}", f"acme/support/a{number % AGENTS}"
    path, above = b"", None
    for place, kind in enumerate(("session", "task", "link", "link", "link")):
        path += (first + place).to_bytes(8, "big")
        yield {
            "id": first + place,
            "path": path,
            "key": path,
            "parent": above,
            "kind": kind,
            "ref": (session, task)[place] if place < 2 else f"{place}-{number}",
            "name": agent if place < 2 else f"acme/worker{place}",
            "session": session,
            "task": task if place else "",
            "agent": agent,
            "subject": None,
            "allow": 20,
            "deny": place % 2,
            "other": 0,
            "first_ms": now - 1000,
            "last_ms": now - place,
        }
        above = first + place


def make_tree(unit: Harness, holders: int = 148) -> str:
    """Open a session with a tree of so many delegations, each with calls of its own; return its id."""
    _, session = unit.open_session(unit.enrol("acme/lead"))
    names: list[tuple[str, ...]] = [("acme/h0",)]
    made: list[Decision] = []
    for place in range(1, holders):
        names.append((*names[(place - 1) // 3], f"acme/h{place}"))
    for place, named in enumerate(names):
        caveats = (('{"exp":1,"to":"acme/x"}',),) * len(named)
        chain = facts(session["id"], "t-1", *named, agent="acme/lead", caveats=caveats)
        made += [decision(3 * place + call, chain, "ok" if call else "tool_not_allowed") for call in range(3)]
    unit.mint.log.store.take(batch_of(made), None)
    unit.mint.log.step()
    return str(session["id"])


def measure(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Return the median and the 95th percentile of the times of some work, ms."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return percentiles(times)


def drawings(rounds: int) -> dict[str, dict[str, float]]:
    """Return the times of drawing trees."""
    found = {}
    for count in (7, 40, 150, 400):
        nodes = [_holder(place) for place in range(count)]
        found[f"tree of {count}"] = measure(functools.partial(draw, nodes, "?node={}".format), rounds)
    return found


def _holder(place: int) -> Any:
    return SimpleNamespace(
        parent=(place - 1) // 3 if place else None,
        kind="link" if place else "session",
        name=f"acme/research/worker{place}",
        template=None,
        state="open",
        allowed=place,
        denied=int(place % 9 == 0),
        caveats=[{"allow": [{"tool": "x"}], "exp": 1}],
        removes=["every tool but x", "all time from now on"],
    )


def main() -> int:
    """Measure, write the figures, and return 1 if one is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    pages: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, open_unit(Path(folder) / "realm", log=True) as unit:
        fill(unit, given.sessions)
        tree, browser = make_tree(unit), sign_in(unit)
        collect_rarely()  # as the process of a mint does
        for path in PAGES:
            url = path.format(tree=tree)

            def ask(url: str = url) -> None:
                browser.get(url)
                assert browser.status == 200, browser.page

            pages[path] = measure(ask, given.rounds)
            say(f"{path}: p50 {pages[path]['p50']:.1f} ms, p95 {pages[path]['p95']:.1f} ms")
    trees = drawings(given.rounds)
    for name, figures in trees.items():
        say(f"{name}: p50 {figures['p50']:.1f} ms, p95 {figures['p95']:.1f} ms")
    save(
        "console_sessions",
        {"about": about("starlette", "jinja2"), "sessions": given.sessions, "pages": pages, "trees": trees},
    )
    slow = [path for path, figures in pages.items() if figures["p95"] > MOST_MS]
    slow += [name for name, figures in trees.items() if figures["p95"] > MOST_TREE_MS]
    for name in slow:
        say(f"too slow: {name}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
