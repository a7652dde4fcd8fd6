# SPDX-License-Identifier: Apache-2.0
"""What a run with a task must do in every agent framework, with a real mint and service and a model with a script.

A test file of a framework imports the tests and has the fixture ``drive``.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

import httpx
import pytest

from arx_caps.agent import CurrentTaskAuth, Task, local_tool
from arx_verifier import current_grant
from tests.adapters.agent_world import WORKER, World, whole, world
from tests.agent.test_kept_task import HOUR, Night, night

__all__ = [
    "acme",
    "night",
    "test_a_kill_cuts_a_running_stream",
    "test_a_kill_ends_a_long_function_of_this_process",
    "test_a_retry_is_signed_anew",
    "test_a_run_of_hours",
    "test_no_error_shows_a_credential",
    "test_no_run_waits_where_no_code_can_ask",
    "test_runs_in_threads_never_mix_their_tasks",
]

TOOLS: Final = {"get_order": "orders.get", "refund": "orders.refund", "watch": "orders.watch"}
STOPPED: Final = ("An operator ended this work", "An operator froze this work")
HOURS: Final = """
[audience.orders]
origins = ["http://127.0.0.1:{port}"]

[session.night]
agents = ["acme/**"]
ttl = "48h"
idle = "8h"

[task.look]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "4h"
audience = ["orders"]
allow = [{{ tool = "orders.get", args = {{ order_id = "$order_id" }} }}]
"""


class Ran(NamedTuple):
    """A run that ended.

    Attributes:
        answers: What the model read of its tools.
        asked: How often the model was asked.
    """

    answers: list[str]
    asked: int


class Drive(Protocol):
    """Runs an agent with a task, functions for tools, and a model that takes these steps.

    A step is a tool and its arguments, last words, or a function that returns one of them.
    """

    def __call__(self, task: Task, functions: Sequence[Callable[..., str]], *steps: Any) -> Ran:
        """Run it to its end."""
        ...


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for a file."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


def get_order_at(url: str) -> Callable[[str], str]:
    """Return a tool that looks an order up with whatever task runs it."""

    def get_order(order_id: str) -> str:
        """Look an order up."""
        with httpx.Client(auth=CurrentTaskAuth()) as client:
            return client.get(f"{url}/orders/{order_id}").raise_for_status().text

    return get_order


@pytest.mark.parametrize("night", [HOURS], indirect=True)
def test_a_run_of_hours(night: Night, drive: Drive) -> None:
    """Three hours between two calls: the session is renewed and the task extended; one that is not kept expires."""
    task, get_order = night.start(), get_order_at(night.url.removesuffix("/orders/o-1"))

    def later() -> Any:
        night.pass_time(0, task)  # what the threads do soon after a call
        night.pass_time(3 * HOUR, task)
        return "get_order", {"order_id": "o-1"}

    ends = task.expires_at, night.session.expires_at
    assert drive(task, [get_order], *[later] * 8, "done").answers == ["found"] * 8
    assert task.expires_at - ends[0] > 18 * HOUR
    assert night.session.expires_at - ends[1] > 12 * HOUR
    task.let_go()
    *_, last = drive(task, [get_order], later, later, "done").answers
    assert last.startswith("get_order was refused: the token must be used before ")


def test_a_kill_cuts_a_running_stream(acme: World, drive: Drive) -> None:
    """A tool that reads for as long as its service writes is ended, its next call is refused, and the run ends."""
    path = "acme/killed/stream"

    def watch(order_id: str) -> str:
        """Watch an order."""
        with httpx.stream("GET", f"{acme.url}/orders/{order_id}/watch", auth=CurrentTaskAuth()) as response:
            response.raise_for_status()
            lines = response.iter_lines()
            next(lines)
            acme.kill(f"agent:{path}")
            try:
                for _ in lines:
                    pass
            except httpx.RemoteProtocolError:
                return "the stream broke off"
        return "the stream ended"

    with acme.session(path) as session:
        task = session.start_task("desk", order_id="o-1")
        ran = drive(task, [watch], *[("watch", {"order_id": "o-1"})] * 2, "stopped")
    broken, refused = ran.answers
    assert broken == "the stream broke off"
    assert refused.startswith(STOPPED)
    assert ran.asked <= 3


def test_a_kill_ends_a_long_function_of_this_process(acme: World, drive: Drive) -> None:
    """Decided on the values that it receives, and ended in long work, which rechecks its grant."""
    path = "acme/killed/local"
    with acme.mint.service("orders") as verifier, acme.session(path) as session:

        @local_tool(verifier, "orders.refund")
        def refund(order_id: str, amount: int) -> str:
            """Refund a part of an order."""
            grant = current_grant()
            assert grant is not None
            if amount == 7:
                acme.kill(f"agent:{path}")
                while True:
                    grant.recheck()
            return f"{grant.holder} {amount}"

        steps = [("refund", {"order_id": "o-1", "amount": amount}) for amount in ("50", 500, 9, 7)]
        ran = drive(session.start_task("desk", order_id="o-1"), [refund], *steps, "stopped")
    text, beyond, passed, ended = ran.answers
    assert text.startswith('refund was refused: amount must be between 1 and 100, got "50"')
    assert beyond.startswith("refund was refused: amount must be between 1 and 100, got 500.")
    assert passed == f"{path} 9"
    assert ended.startswith(STOPPED)
    assert ran.asked <= 5


def test_a_retry_is_signed_anew(acme: World, drive: Drive) -> None:
    """A tool that tries again sends another token, and so does a model that calls it again."""

    def get_order(order_id: str) -> str:
        """Look an order up."""
        with httpx.Client(base_url=acme.url, auth=CurrentTaskAuth()) as client:
            while (response := client.get(f"/orders/{order_id}")).status_code == httpx.codes.BAD_GATEWAY:
                pass
            return str(response.raise_for_status().json()["item"])

    acme.service.failures, before = 1, len(acme.service.credentials)
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        ran = drive(task, [get_order], *[("get_order", {"order_id": "o-1"})] * 2, "done")
    assert ran.answers == ["kettle"] * 2
    sent = acme.service.credentials[before:]
    assert len(set(sent)) == len(sent) == 3


def test_runs_in_threads_never_mix_their_tasks(acme: World, drive: Drive) -> None:
    """Each has an agent and a task of its own, and an order that no other task allows."""
    acme.service.served.clear()
    get_order, orders = get_order_at(acme.url), [f"o-{place}" for place in range(4)]
    with acme.session() as session, ThreadPoolExecutor(len(orders)) as threads:
        tasks = {order: session.start_task("desk", order_id=order) for order in orders}
        ran = threads.map(
            lambda order: drive(tasks[order], [get_order], *[("get_order", {"order_id": order})] * 3, "done"), orders
        )
        assert all("was refused" not in text for each in ran for text in each.answers)
    assert len(acme.service.served) == 3 * len(orders)
    assert all(tasks[each.order_id].id == each.task for each in acme.service.served)


def test_no_run_waits_where_no_code_can_ask(acme: World, drive: Drive) -> None:
    """A task that came from another process: the run is not suspended, and the model reads what is missing."""

    def refund(order_id: str, amount: int) -> str:
        """Refund a part of an order."""
        raise AssertionError("it ran")

    with acme.session() as session, session.start_task("payout", order_id="o-1") as task:
        elsewhere = Task.from_text(task.delegate(WORKER).encode())
        ran = drive(elsewhere, [refund], ("refund", {"order_id": "o-1", "amount": 500}), "done")
        assert acme.waiting(task) == []
    (refused,) = ran.answers
    assert "an operator has to approve this call with exactly these arguments" in refused
    assert ran.asked == 2


def test_no_error_shows_a_credential(acme: World, drive: Drive) -> None:
    """A service that fails, and one that cannot be reached: with the local variables of all frames."""

    def watch(order_id: str) -> str:
        """Watch an order from an address that this machine does not have."""
        transport = httpx.HTTPTransport(local_address="203.0.113.1")
        with httpx.Client(auth=CurrentTaskAuth(), transport=transport) as client:
            return client.get(f"{acme.url}/orders/{order_id}/watch").text

    acme.service.failures, seen = 1, list[str]()
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        for tool in ("get_order", "watch"):
            with pytest.raises(Exception) as failed:
                drive(task, [get_order_at(acme.url), watch], (tool, {"order_id": "o-1"}), "done")
            seen.append(whole(failed.value))
    assert "502 Bad Gateway" in seen[0]
    assert "ConnectError" in seen[1]
    assert all("order_id = 'o-1'" in text for text in seen)
    acme.require_secrecy(*seen)


def played(steps: Sequence[Any], number: int) -> Any:
    """Return a step of a script: a tool and its arguments, or last words."""
    step = steps[number]
    return step() if callable(step) else step
