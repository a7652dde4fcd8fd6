# SPDX-License-Identifier: Apache-2.0
"""The same job with both products in one framework, in a process that has them: what comes out, as JSON.

The job is a desk: an agent looks up the order ``o-1`` and refunds up to 20 of it; a worker that it hands work to
refunds up to 10.  For ARx a mint, its store and an operator run; tenuo needs no server.
"""

import contextlib
import importlib.metadata
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.embedded import EmbeddedValkey
from benchmarks.compare.glue import lines_of
from tests.agent.live import LiveMint, live_mint

DESK, WORKER = "acme/desk", "acme/worker"
POLICY: Final = """
[audience.orders]
origins = ["{origin}"]
[session]
agents = ["acme/*"]
ttl = "1h"
[task.desk]
agents = ["acme/*"]
ttl = "10m"
depth = 1
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "o-1", note = {{ any = true }} }} }},
  {{ tool = "orders.refund", args = {{ order_id = "o-1", amount = {{ range = [1, 20] }}, note = {{ any = true }} }} }},
]
"""
POLICY_LINES: Final = len(POLICY.strip().splitlines())
TIMED_S: Final = 4.0
SHORT_S: Final = 0.1  # where figures are not asked for
DEADLINE_S: Final = 20.0
IN_A_TURN: Final = 20  # calls that are timed together, where a model makes them: a turn costs many calls
DONE: Final = ("o-1: kettle", "refunded ")


def get_order(order_id: str, note: str) -> str:
    """Return an order."""
    return f"{order_id}: kettle"


def refund(order_id: str, amount: int, note: str) -> str:
    """Refund a part of an order."""
    return f"refunded {amount} of {order_id}"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


SERVICE_PORT: Final = free_port()
_NUMBERS = itertools.count()


class Desk(NamedTuple):
    """What an example made.

    Attributes:
        ask: Let the agent call a tool, and return what its model sees.
        pass_to_worker: Let the agent give a refund of so much to the worker, and return what the worker's model sees.
        kill: End the agent's work; ARx's operator does it at the mint.
        turn: Let the agent make several calls in one turn of its model, and return what the model sees; None where an
            agent has no model.
        replay: Send the last call that passed again, as it was; None where no call leaves the process.
        at_service: What the service says to a refund of 50, where the product refuses it before it is sent.
        detailed: What it says in the product's mode with details for developers, where it has one.
    """

    ask: Callable[[str, dict[str, Any]], str]
    pass_to_worker: Callable[[int], str] | None
    kill: Callable[[], Any] | None = None
    turn: Callable[[list[tuple[str, dict[str, Any]]]], str] | None = None
    replay: Callable[[], str] | None = None
    at_service: Callable[[], str] | None = None
    detailed: Callable[[], str] | None = None


Example = Callable[..., contextlib.AbstractContextManager[Desk]]


class Framework(NamedTuple):
    """One framework.

    Attributes:
        bare: The job without a product.
        arx: With ARx; it runs in a folder with ``desk.json`` and ``orders.json``.
        tenuo: With tenuo.
        examples: The sources whose lines are counted, ARx and tenuo.
        versions: The packages whose versions matter.
        tenuo_bare: The job without tenuo, but with the client that it brings; None where it brings none.
    """

    bare: Example
    arx: Example
    tenuo: Example
    examples: tuple[tuple[Callable[..., Any], ...], tuple[Callable[..., Any], ...]]
    versions: tuple[str, ...]
    tenuo_bare: Example | None = None


def look_up() -> tuple[str, dict[str, Any]]:
    """Return a call that no other is equal to."""
    return "get_order", {"order_id": "o-1", "note": f"n-{next(_NUMBERS)}"}


def pay(amount: int) -> tuple[str, dict[str, Any]]:
    """Return a call that no other is equal to."""
    return "refund", {"order_id": "o-1", "amount": amount, "note": f"n-{next(_NUMBERS)}"}


def passed(text: str) -> bool:
    """Return whether the tool ran."""
    return any(done in text for done in DONE)


@contextlib.contextmanager
def realm() -> Iterator[tuple[LiveMint, contextlib.ExitStack]]:
    """Run a mint and its store, and be in a folder with the files of an agent and of a service.

    Yields:
        The mint, and what ends it.
    """
    with tempfile.TemporaryDirectory(prefix="arx") as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        policy = POLICY.format(origin=f"http://127.0.0.1:{SERVICE_PORT}")
        store = ends.enter_context(EmbeddedValkey(folder / "store"))
        mint = ends.enter_context(contextlib.ExitStack())
        live = mint.enter_context(live_mint(folder, store_url=store.url, name="desk", port=free_port(), policy=policy))
        ends.enter_context(contextlib.chdir(folder))
        for file, content in (
            ("orders.json", live.service_file("orders")),
            ("desk.json", json.loads(live.enrol(DESK).read_text())),
        ):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
                json.dump(content, out)
        live.enrol(WORKER)
        yield live, mint


def revoke(root: Any, warrant: Any) -> None:
    """Sign a list that revokes a warrant of tenuo, and install it in this process."""
    from tenuo import SignedRevocationList
    from tenuo.runtime import get_runtime

    runtime = get_runtime()
    runtime.apply_revocation_list(SignedRevocationList.builder().revoke(warrant.id).version(1).build(root))


def _kill(desk: Desk, kill: Callable[[], Any] | None) -> dict[str, Any]:
    """Return how long after a kill was begun the agent's next call is refused, ms, and whether its worker is ended."""
    if kill is None or desk.pass_to_worker is None:
        raise RuntimeError("a desk with a product: expected a kill and a worker")
    began = time.perf_counter()
    kill()
    while passed(desk.ask(*look_up())):
        if time.perf_counter() - began > DEADLINE_S:
            raise RuntimeError(f"the kill: expected a refusal within {DEADLINE_S:g} s, got answers alone")
    took = (time.perf_counter() - began) * 1000
    # In one process the worker is called through the desk, which is refused already.
    return {"kill_ms": took} if desk.turn else {"kill_ms": took, "worker_ended": not passed(desk.pass_to_worker(5))}


def added(bare: Desk, desk: Desk, seconds: float) -> dict[str, float]:
    """Return what a call takes without the product and what the product adds, us of processor time.

    Both are medians; ``added_error_us`` is the standard error of the second.
    """
    alone: list[float] = []
    more: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(alone) < 4:
        first, second = (_took(each) for each in ((bare, desk) if len(alone) % 2 else (desk, bare)))
        without, with_it = (first, second) if len(alone) % 2 else (second, first)
        alone.append(without)
        more.append(with_it - without)
    lower, middle, upper = statistics.quantiles(more, n=4)
    # Of a median: 1.2533 times that of a mean, whose deviation is 1 / 1.349 of the distance of the quartiles.
    error = 1.2533 * (upper - lower) / 1.349 / len(more) ** 0.5
    return {"bare_us": statistics.median(alone), "added_us": middle, "added_error_us": error}


def _took(desk: Desk) -> float:
    calls = [pay(5) for _ in range(IN_A_TURN if desk.turn else 1)]
    began = time.process_time()
    said = desk.turn(calls) if desk.turn else desk.ask(*calls[0])
    took = (time.process_time() - began) * 1e6
    if said.count(DONE[1]) != len(calls):
        raise RuntimeError(f"{len(calls)} refunds of 5: expected them, got {said!r}")
    return took / len(calls)


def _start(desk: Desk) -> None:
    until = time.monotonic() + DEADLINE_S
    while not passed(said := desk.ask(*look_up())):  # a verifier may have begun a moment ago
        if time.monotonic() > until:
            raise RuntimeError(f"the first call: expected an order, got {said!r}")


def _facts(desk: Desk, bare: Desk, seconds: float) -> dict[str, Any]:
    _start(desk)
    said = desk.ask(*pay(20))
    if not passed(said):
        raise RuntimeError(f"a refund of 20: expected it, got {said!r}")
    found: dict[str, Any] = {"refusal": desk.ask(*pay(50))}
    if passed(found["refusal"]):
        raise RuntimeError(f"a refund of 50: expected a refusal, got {found['refusal']!r}")
    for name, asks in (("at_service", desk.at_service), ("detailed", desk.detailed)):
        if asks:
            found[name] = asks()
    if desk.replay:
        desk.ask(*pay(7))
        found["replay"] = "accepted" if passed(desk.replay()) else "refused"
    again = pay(8)
    found["repeat"] = "accepted" if [passed(desk.ask(*again)) for _ in range(2)] == [True, True] else "refused"
    return found | added(bare, desk, seconds)


def _delegation(desk: Desk) -> dict[str, bool]:
    if desk.pass_to_worker is None:
        return {}
    within, beyond = desk.pass_to_worker(10), desk.pass_to_worker(15)
    if not passed(within):
        raise RuntimeError(f"the worker's refund of 10: expected it, got {within!r}")
    return {"offline": True, "narrower": not passed(beyond)}


def compare(framework: Framework, seconds: float) -> dict[str, Any]:
    """Return what both products do in a framework."""
    found: dict[str, Any] = {}
    with framework.bare() as bare:
        with framework.tenuo() as desk, (framework.tenuo_bare or framework.bare)() as alone:
            found["tenuo"] = _facts(desk, alone, seconds) | _delegation(desk)
            found["tenuo"] |= _kill(desk, desk.kill)
        with realm() as (mint, mint_runs):
            with framework.arx() as desk:
                facts = _facts(desk, bare, seconds)
                kill = {"targets": [f"agent:{DESK}"], "reason": "compared"}
                facts |= _kill(desk, lambda: mint.operator("POST", "/v1/kills", kill))
            Path("desk.json").write_text(mint.enrol("acme/other").read_text())
            with framework.arx() as desk:
                _start(desk)
                mint_runs.close()  # what is delegated from here on is delegated offline
                found["arx"] = facts | _delegation(desk)
    for name, examples in zip(("arx", "tenuo"), framework.examples, strict=True):
        found[name]["lines"] = sum(lines_of(each) for each in examples)
    return found


def main(framework: Framework) -> None:
    """Print what both products do in a framework; with ``--timed``, figures to believe."""
    found = compare(framework, TIMED_S if "--timed" in sys.argv[1:] else SHORT_S)
    versions = {name: importlib.metadata.version(name) for name in (*framework.versions, "tenuo")}
    print(json.dumps(found | {"policy": POLICY_LINES, "versions": versions}))
