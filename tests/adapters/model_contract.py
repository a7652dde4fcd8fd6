# SPDX-License-Identifier: Apache-2.0
"""What a run's model calls must do with a budget in every framework: a real mint, ledger and verifier, no model.

A test file of a framework imports the tests and has the fixture ``drive``.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

import pytest

from arx_caps.agent import Agent, ModelBudget, Session, StartedTask, Task
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Verifier
from arx_verifier.errors import BudgetError, RevokedError, Shortfall
from arx_verifier.journal import InMemoryDecisions
from arx_verifier.ledger import RedisLedger
from tests.agent.live import LiveMint, judged, live_mint
from tests.house.pages import ROOT, blocks
from tests.ledgers import new_ledger
from tests.servers import LONG_LEASE_MS, begun_store, free_ports, until

__all__ = [
    "test_a_broken_stream_costs_all_that_was_reserved",
    "test_a_failed_call_releases_its_reservation",
    "test_a_kill_ends_the_model_calls",
    "test_a_stream_commits_what_it_used",
    "test_an_exhausted_pool_ends_the_run",
    "test_an_unknown_cost_is_the_highest_one",
    "test_runs_at_once_never_overspend",
    "test_the_highest_cost_is_reserved_and_the_actual_one_committed",
    "test_the_part_of_a_sub_agent_pays_from_its_own_pool",
    "world",
]

PAGE: Final = [
    block.text
    for block in blocks((ROOT / "docs" / "adapters" / "model-costs.md").read_text(encoding="utf-8"))
    if block.language == "python"
]
COSTS: Final[dict[str, Any]] = {"llm.complete": {"usd": {"reserve": "$max_usd"}}}
AGENT: Final = "acme/research"
POLICY: Final = """
[audience.llm]
origins = ["http://127.0.0.1:9"]

[session]
agents = ["acme/**"]
ttl = "1h"

[task.study]
agents = ["acme/**"]
ttl = "10m"
audience = ["llm"]
allow = [{ tool = "llm.complete", args = { max_usd = { any = true } } }]
depth = 2
budget = { usd = "0.10" }
"""
# As the page has it: at most 8000 tokens in and 1000 out, which is 0.03 usd.
MOST_USD: Final = 30_000  # millionths


class Used(NamedTuple):
    """An answer of the model, and the tokens that it reports; None for no report."""

    input: int | None
    output: int = 0

    @property
    def usd(self) -> int:
        """Its cost by the page's prices, millionths."""
        return math.ceil((self.input or 0) * 2.5) + self.output * 10


class Broken(NamedTuple):
    """A stream that begins and fails."""

    error: Exception


class Pool(NamedTuple):
    """A pool, millionths."""

    committed: int
    reserved: int
    remaining: int


class Ran(NamedTuple):
    """A run: how often its model was called, and what it read of its tools."""

    calls: int
    read: list[str]


class Drive(Protocol):
    """Runs an agent of the framework whose model takes these steps, and calls a tool after each but the last one.

    A step is what the model used, an error, a stream that breaks, or a function that returns one of them.
    """

    def __call__(self, task: Task, budget: ModelBudget, *steps: Any, stream: bool = False, part: Any = None) -> Ran:
        """Run it, or raise its error; with ``part`` the tool is a sub-agent whose model takes these steps."""
        ...


class ModelWorld:
    """The mint, the verifier of the model calls, and an agent's session."""

    def __init__(self, mint: LiveMint, ledger: RedisLedger, verifier: Verifier, session: Session) -> None:
        self.mint, self.ledger, self.verifier, self.session = mint, ledger, verifier, session
        names: dict[str, Any] = {"verifier": verifier}
        exec(compile(PAGE[0].replace('open_verifier("llm.json")', "verifier"), "budget.py", "exec"), names)
        self.budget: ModelBudget = names["budget"]

    def start(self) -> StartedTask:
        """Start a task with 0.10 usd."""
        return self.session.start_task("study")

    def pool(self, task: Task, name: str = "study") -> Pool:
        """Return a pool of a task."""
        for row in self.ledger.shown(task.id):
            if row["pool"] == name:
                return Pool(row["committed"], row["reserved"], row["remaining"])
        return Pool(0, 0, -1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelWorld]:
    """One world for a file."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(EmbeddedValkey(folder / "store"))
        kept = stack.enter_context(EmbeddedValkey(folder / "ledger"))
        stack.enter_context(begun_store(store.url, "desk", lease_ms=LONG_LEASE_MS))
        port = free_ports(1)[0]
        mint = stack.enter_context(live_mint(folder, store_url=store.url, name="desk", port=port, policy=POLICY))
        ledger = new_ledger(kept.url, "desk")
        stack.callback(ledger.close)
        told: dict[str, Any] = {"decisions": InMemoryDecisions(), "ledger": ledger, "costs": COSTS}
        verifier = stack.enter_context(mint.service("llm", **told))
        agent = stack.enter_context(Agent.from_key_file(mint.enrol(AGENT)))
        session = stack.enter_context(agent.open_session(purpose="a test"))
        # A verifier that has just started refuses what was signed in the second before.
        until(lambda: judged(verifier, session.start_task("study"), "llm.complete", {"max_usd": "0.01"}) == "ok")
        yield ModelWorld(mint, ledger, verifier, session)


def test_the_highest_cost_is_reserved_and_the_actual_one_committed(world: ModelWorld, drive: Drive) -> None:
    """While the model works all of it is taken; afterwards what its library reports, of each call of the run."""
    task, during = world.start(), list[Pool]()

    def step(used: Used) -> Callable[[], Used]:
        return lambda: during.append(world.pool(task)) or used

    first, second = Used(1000, 200), Used(2001, 7)
    assert drive(task, world.budget, step(first), step(second)).calls == 2
    assert first.usd == 4500
    assert during == [
        Pool(0, MOST_USD, 100_000 - MOST_USD),
        Pool(first.usd, MOST_USD, 100_000 - MOST_USD - first.usd),
    ]
    both = first.usd + second.usd
    assert world.pool(task) == Pool(both, 0, 100_000 - both)


def test_an_exhausted_pool_ends_the_run(world: ModelWorld, drive: Drive) -> None:
    """The model is not called; the refusal names pool, hop, remaining and required."""
    task = world.start()
    with pytest.raises(BudgetError) as refused:
        drive(task, world.budget, Used(8000, 1000), Used(8000, 1000), Used(8000, 900), Used(1, 1))
    (shortfall,) = refused.value.failures
    assert isinstance(shortfall, Shortfall)
    assert refused.value.code == "insufficient_budget"
    assert shortfall.budget() == {
        "pool": "study",
        "hop": AGENT,
        "unit": "usd",
        "remaining": "0.011",
        "required": "0.03",
    }
    assert "0.011 usd left in study, opened by acme/research" in str(refused.value)
    assert world.pool(task) == Pool(89_000, 0, 11_000)


def test_a_failed_call_releases_its_reservation(world: ModelWorld, drive: Drive) -> None:
    """Also that of a stream that fails before it begins; after a timeout the provider may have done the work."""
    task = world.start()
    for stream in (False, True):
        with pytest.raises(Exception, match="the model is down"):
            drive(task, world.budget, RuntimeError("the model is down"), stream=stream)
        assert world.pool(task) == Pool(0, 0, 100_000)
    with pytest.raises(Exception, match="late"):
        drive(task, world.budget, TimeoutError("late"))
    assert world.pool(task) == Pool(MOST_USD, 0, 100_000 - MOST_USD)


def test_a_stream_commits_what_it_used(world: ModelWorld, drive: Drive) -> None:
    """As a call that is not streamed."""
    task, used = world.start(), Used(500, 50)
    assert drive(task, world.budget, used, used, stream=True).calls == 2
    assert world.pool(task) == Pool(2 * used.usd, 0, 100_000 - 2 * used.usd)


def test_a_broken_stream_costs_all_that_was_reserved(world: ModelWorld, drive: Drive) -> None:
    """The provider bills what it has made, and did not say how much that is."""
    task = world.start()
    with pytest.raises(Exception, match="it broke off"):
        drive(task, world.budget, Broken(RuntimeError("it broke off")), stream=True)
    assert world.pool(task) == Pool(MOST_USD, 0, 100_000 - MOST_USD)


def test_an_unknown_cost_is_the_highest_one(world: ModelWorld, drive: Drive) -> None:
    """A model that reports no usage, or none of any token."""
    task = world.start()
    drive(task, world.budget, Used(None))
    drive(task, world.budget, Used(0, 0), stream=True)
    assert world.pool(task) == Pool(2 * MOST_USD, 0, 100_000 - 2 * MOST_USD)


def test_runs_at_once_never_overspend(world: ModelWorld, drive: Drive) -> None:
    """Eight runs of one task with room for three: what their models used is what the pool has less, and not more."""
    task, spent, used = world.start(), list[int](), Used(7000, 1000)

    def step() -> Used:
        pool = world.pool(task)
        assert pool.committed + pool.reserved <= 100_000
        spent.append(used.usd)
        return used

    def run(_: int) -> bool:
        try:
            return drive(task, world.budget, step).calls == 1
        except BudgetError:
            return False

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(run, range(8)))
    assert sum(done) == len(spent) == 3
    assert world.pool(task) == Pool(sum(spent), 0, 100_000 - sum(spent))


def test_the_part_of_a_sub_agent_pays_from_its_own_pool(world: ModelWorld, drive: Drive) -> None:
    """And from that of the task; the agent reads that its worker has spent its part."""
    task, used = world.start(), Used(8000, 1000)
    (read,) = drive(task, world.budget, used, used, part=(used, used)).read
    assert "0.01 usd left in worker, opened by acme/research" in read
    assert world.pool(task, "worker") == Pool(MOST_USD, 0, 40_000 - MOST_USD)
    assert world.pool(task) == Pool(3 * MOST_USD, 0, 100_000 - 3 * MOST_USD)


def test_a_kill_ends_the_model_calls(world: ModelWorld, drive: Drive) -> None:
    """The call after the kill is refused, and its reservation is not made."""
    task, used = world.start(), Used(500, 50)

    def killed() -> Used:
        body = {"targets": [f"task:{task.id}"], "reason": "a test"}
        until(lambda: world.mint.operator("POST", "/v1/kills", body)["status"] == "confirmed")
        return used

    with pytest.raises(RevokedError):
        drive(task, world.budget, killed, used)
    assert world.pool(task) == Pool(used.usd, 0, 100_000 - used.usd)
