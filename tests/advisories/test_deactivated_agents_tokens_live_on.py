# SPDX-License-Identifier: Apache-2.0
"""In authgent, a holder could go on using the tokens of a deleted agent.

ARx: deactivation is a kill and a freeze.  Every token of the agent is revoked in every process, so is what it handed on
and what is delegated to it afterwards; it gets no new ones; and after it was thawed the old ones stay dead.
"""

from collections.abc import Iterator

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.token.wire import bytes_of
from tests.faults.witness import Witness
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.sqlite]

OTHER = "acme/support/backup"


@pytest.fixture
def services(live: Harness, valkey: EmbeddedValkey) -> Iterator[list[Witness]]:
    """Two processes of the tool service, with the key that the mint gave it."""
    file = live.service_file("orders")
    [(kid, text)] = file["keys"].items()
    started = [
        Witness(valkey.url, live.realm.name, f"orders-{number}", key=bytes_of(text), kid=kid) for number in range(2)
    ]
    yield started
    for service in started:
        service.close()


def show(services: list[Witness], tokens: dict[str, str], wanted: dict[str, str]) -> None:
    """Wait until every process decides so about every token."""
    for service in services:
        service.watch(**tokens)
    for service in services:
        until(lambda: service.codes() == wanted)  # noqa: B023


def start_task(holder: Holder) -> Task:
    return Task(Bundle.parse(holder.call("POST", "/v1/tasks", LOOKUP).json()["bundle"]))


def orders_of(task: Task) -> str:
    return task.bundle.tokens["orders"].encode()


@pytest.mark.slow
def test_the_tokens_of_a_deactivated_agent_are_dead(live: Harness, services: list[Witness]) -> None:
    """Two sessions, a delegation, another agent's token delegated to it; then the deactivation, and its end."""
    key, other = live.enrol(), live.enrol(OTHER)
    first, second = (start_task(live.open_session(key)[0]) for _ in range(2))
    others = start_task(live.open_session(other)[0])
    tokens = {
        "first": orders_of(first),
        "second": orders_of(second),
        "handed on": orders_of(first.delegate(OTHER)),
        "delegated to it": orders_of(others.delegate(AGENT)),
        "another's": orders_of(others),
    }
    show(services, tokens, dict.fromkeys(tokens, "ok"))
    assert live.operator().call("DELETE", f"/v1/agents/{AGENT}").json()["agent"]["state"] == "deactivated"
    tokens["handed on later"] = orders_of(first.delegate(OTHER))
    dead = {name: "ok" if name == "another's" else "revoked" for name in tokens}
    show(services, tokens, dead)

    # Delegated to it afterwards, by a living agent: what was born after the kill is frozen.
    later = start_task(live.open_session(other)[0])
    show(services, {"given": orders_of(later.delegate(AGENT))}, {"given": "frozen"})

    answer = live.operator().call("POST", "/v1/freezes/thaw", {"targets": [f"agent:{AGENT}"], "reason": "a mistake"})
    assert answer.status_code == 200, answer.text
    show(services, tokens, dead)
    show(services, {"new": orders_of(start_task(live.open_session(key)[0]))}, {"new": "ok"})
