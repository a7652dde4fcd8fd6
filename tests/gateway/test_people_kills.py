# SPDX-License-Identifier: Apache-2.0
"""Kills of a connection or a person while calls run: after its confirmation the upstream accepts none of them."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.gateway.people import PeopleWorld, people
from tests.gateway.test_people import asked, connections

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("CONTROL 9.4", "10.1")]
CALLERS: Final = 4


def killed(world: PeopleWorld, person: str, kind: str) -> None:
    """Kill a person, or the person's connection, while calls run, and require that none is accepted afterwards."""
    with world.task(person) as task, world.client(task) as client:
        link, account = asked(client).json()["connect_url"], f"{person}-t"
        assert "Connected" in world.connect(link, person, account).text
        assert asked(client).json()["sub"] == account
        [own] = [each for each in connections(world) if (each["person"], each["state"]) == (person, "open")]
        over = threading.Event()

        def call() -> None:
            with world.client(task) as own_client:  # threads that share one may close its connections under each other
                while not over.is_set():
                    with contextlib.suppress(httpx.RemoteProtocolError):  # a kill ends an answer that is on its way
                        own_client.get("/items/1")

        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(call) for _ in range(CALLERS)]
            world.order("kill", own["subject"] if kind == "person" else f"connection:{own['id']}")
            over.set()
            for each in running:  # what was on its way at the confirmation has arrived
                each.result()
            seen = len(world.tracker.seen)
            answers = [*pool.map(lambda _: client.get("/items/1"), range(4 * CALLERS))]
        refused(answers, seen, world, account)


def refused(answers: list[httpx.Response], seen: int, world: PeopleWorld, account: str) -> None:
    codes = {answer.json()["code"] for answer in answers}
    assert codes <= {"revoked", "frozen", "connection_ended"}, codes
    assert account not in {name for name, _ in world.tracker.seen[seen:]}


@pytest.mark.parametrize(
    "kills", [6, pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.long, pytest.mark.timeout(7200)])]
)
def test_no_call_is_accepted_after_a_kill(tmp_path: Path, kills: int) -> None:
    """Each kill is of another person, whose gateway has a token in memory."""
    with people(tmp_path) as world:
        for number in range(kills):
            killed(world, f"p{number}", ("person", "connection")[number % 2])
