# SPDX-License-Identifier: Apache-2.0
"""Calls of two people through one gateway, while it reloads, connections end, and others take their place."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.gateway.people import PeopleWorld, people
from tests.gateway.test_people import asked, connections
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("CONTROL 9.3", "CONTROL 9.4")]
ROUND: Final = 250  # calls of both, while one thing changes
# What a call may be answered while a connection changes, or the gateway or its store lags; 502 where the upstream has
# refused a token that the gateway just got.
REFUSED: Final = frozenset(
    ("connection_missing", "connection_ended", "connection_unavailable", "syncing", "stale", "store_unavailable", "502")
)


class Pair:
    """Ann and Bob, each with a task and an account, whose name has a number: another one with each connection."""

    def __init__(self, world: PeopleWorld, clients: dict[str, httpx.Client]) -> None:
        self.world, self.clients = world, clients
        self.numbers = dict.fromkeys(clients, 0)

    def connect(self, person: str) -> None:
        """Make calls of a person until one is answered; connect another account when the gateway asks for it."""

        def is_answered() -> bool:
            answer = asked(self.clients[person])
            link = answer.json().get("connect_url")
            if link is not None:
                self.numbers[person] += 1
                done = self.world.connect(link, person, f"{person}-{self.numbers[person]}")
                assert "Connected" in done.text, done.text
            return answer.is_success

        until(is_answered)

    def own(self, person: str) -> dict[str, Any]:
        """The person's open connection."""
        [found] = [each for each in connections(self.world) if (each["person"], each["state"]) == (person, "open")]
        return found

    def reload(self) -> None:
        """Make the gateway read its file again."""
        before = self.world.log().count("reloaded ")
        os.kill(self.world.pid, signal.SIGHUP)
        until(lambda: self.world.log().count("reloaded ") > before)

    def freeze(self) -> None:
        """Freeze Ann's connection, and thaw it."""
        target = f"connection:{self.own('ann')['id']}"
        self.world.order("freeze", target)
        self.world.order("thaw", target)

    def end(self) -> None:
        """End Bob's connection, and connect another account."""
        self.world.arx("connection", "end", self.own("bob")["id"], "--reason", "a test", "--yes")
        self.connect("bob")

    def kill(self) -> None:
        """Kill Ann's connection, and connect another account."""
        self.world.order("kill", f"connection:{self.own('ann')['id']}")
        self.connect("ann")

    def refuse(self) -> None:
        """Drop all access tokens at the upstream: the gateway fetches others."""
        self.world.tracker.tokens.clear()

    def call(self, number: int) -> str:
        """Make a call, and return how it ended: ``ok``, a code of a refusal, or whose account answered."""
        person = ("ann", "bob")[number % 2]
        method = ("GET", "POST")[number // 2 % 2]
        answer = self.clients[person].request(method, f"/items/{number}")
        if not answer.is_success:
            return str(answer.json().get("code", answer.status_code))
        found = answer.json()
        scopes = {"GET": "repo.read", "POST": "repo.read repo.write"}[method]
        is_own = found["sub"].rpartition("-")[0] == person and found["scope"] == scopes
        return "ok" if is_own else f"{person} got {found}"


NIGHTLY: Final = (pytest.mark.nightly, pytest.mark.long, pytest.mark.timeout(4 * 3600))


@pytest.mark.parametrize("calls", [2000, pytest.param(100_000, marks=NIGHTLY)])
def test_each_call_has_the_account_of_its_person(tmp_path: Path, calls: int) -> None:
    """Whatever changes between two calls, and while they run, the upstream sees the caller's own account."""
    ends: Counter[str] = Counter()
    with people(tmp_path) as world, ThreadPoolExecutor(8) as pool:
        for start in range(0, calls, 5 * ROUND):
            # Tasks end after ten minutes.
            with (
                world.task("ann") as first,
                world.task("bob") as second,
                world.client(first) as ann,
                world.client(second) as bob,
            ):
                pair = Pair(world, {"ann": ann, "bob": bob})
                for person in pair.clients:
                    pair.connect(person)
                changes: tuple[Callable[[], None], ...] = (pair.reload, pair.freeze, pair.end, pair.kill, pair.refuse)
                for each, change in enumerate(changes):
                    at = start + each * ROUND
                    running: list[Future[str]] = [pool.submit(pair.call, n) for n in range(at, at + ROUND)]
                    change()
                    ends.update(future.result() for future in running)
        wrong = {name: count for name, count in ends.items() if name != "ok" and name not in REFUSED}
        assert wrong == {}
        assert ends["ok"] > calls / 4
        for secret in world.tracker.secrets:
            assert secret not in world.log()
