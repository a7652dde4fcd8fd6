# SPDX-License-Identifier: Apache-2.0
"""A mint that is killed at a step of what it does, beside one that goes on, and what is then asked."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx2
import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import LOOKUP, Harness, Holder, now_ms
from tests.servers import FAST_LEASE_MS

MOST_STEPS = 40
PATIENCE_MS = 120_000
# For the fixture `live`: how long others wait for a mint that died.
SHORT_LEASE = pytest.mark.realm(lease_ms=FAST_LEASE_MS)


class Running(NamedTuple):
    """A session with a task, and what its holder has in hand."""

    holder: Holder
    session: str
    task: str
    bundle: str


class Patient(Holder):
    """A client that repeats a request while the mint, with a short lease, has lost the store under load."""

    @classmethod
    def of(cls, holder: Holder) -> "Patient":
        """Be another one, patiently."""
        return cls(holder.harness, holder.key, holder.token)

    def call(self, method: str, path: str, body: Any = None, **query: str) -> httpx2.Response:
        return patiently(lambda: super(Patient, self).call(method, path, body, **query))


def patiently(call: Callable[[], httpx2.Response]) -> httpx2.Response:
    """Make a call again, with another proof, as long as the answer is that it cannot be known now."""
    ends = now_ms() + PATIENCE_MS
    while (answer := call()).status_code == 503 and now_ms() < ends:
        pass
    return answer


class Crasher:
    """Mints that die at a step; the realm's own mint runs beside them."""

    def __init__(self, harness: Harness, store: str) -> None:
        self.harness, self.store = harness, store
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mint.crashing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(
        self, step: int, holder: Holder, method: str, path: str, body: Any = None, key: str | None = None
    ) -> dict[str, Any] | None:
        """Have a mint that dies at a step answer a request; None where it died."""
        answer = self._ask(step, holder, method, path, body, key)
        while answer is not None and answer["status"] == 503:  # under load its short lease ran out: it did nothing
            answer = self._ask(step, holder, method, path, body, key)
        return answer

    def _ask(
        self, step: int, holder: Holder, method: str, path: str, body: Any, key: str | None
    ) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"realm": str(self.harness.realm.folder), "store": self.store, "step": step, "method": method}
        order |= {"path": path, "body": body, "headers": with_key(holder, path, key, method)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        output = json.loads(self._process.stdout.readline())
        assert output["code"] in (0, -signal.SIGKILL), output
        answer: dict[str, Any] | None = output["said"]
        assert (answer is None) == (output["code"] != 0)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def with_key(holder: Holder, path: str, key: str | None, method: str = "POST") -> dict[str, str]:
    return holder.headers(method, path) | ({} if key is None else {"Idempotency-Key": key})


def repeat(holder: Holder, path: str, body: Any, key: str, answered: dict[str, Any] | None) -> dict[str, Any]:
    """Ask the mint that goes on for the same thing; it answers what the first one did, if that came to answer."""
    answer = patiently(lambda: holder.harness.client.post(path, json=body, headers=with_key(holder, path, key)))
    assert answer.is_success, answer.text
    reply: dict[str, Any] = answer.json()
    if answered is not None:
        same = ("session", "task", "bundle", "token", "link", "kill")
        assert {name: reply.get(name) for name in same} == {name: answered["body"].get(name) for name in same}
    return reply


@pytest.fixture
def crasher(live: Harness, valkey: EmbeddedValkey) -> Iterator[Crasher]:
    made = Crasher(live, valkey.url)
    yield made
    made.close()


@pytest.fixture
def orders(live: Harness) -> Iterator[Verifier]:
    """A tool service's verifier, following the store."""
    file = live.service_file("orders")
    keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=live.realm.name)
    epochs = Follower(file["store"], live.realm.name, "orders-test")
    verifier = Verifier(audience="orders", keys=keys, epochs=epochs, decisions=InMemoryDecisions())
    verifier.start()
    yield verifier
    verifier.close()


@pytest.fixture
def agent(live: Harness) -> KeyFile:
    return live.enrol()


def started(harness: Harness, agent: KeyFile) -> Running:
    holder, session = harness.open_session(agent)
    answer = patiently(lambda: holder.call("POST", "/v1/tasks", LOOKUP)).json()
    return Running(holder, session["id"], answer["task"]["id"], answer["bundle"])


def outcome(harness: Harness, orders: Verifier, bundle: str) -> str:
    """What the tool service says of the task, once it knows all that the store does."""
    header = harness.mint.store.header()
    assert orders.epochs.catch_up(0, header.seq, 5)
    token = Task(Bundle.parse(bundle)).call_token("orders", "orders.get", {"order_id": "o-1"})
    return orders.decide(token, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms())).code


def count(harness: Harness, kind: str) -> int:
    return sum(event["kind"] == kind for event in harness.events())


def at_every_step(harness: Harness, act: Callable[[int], dict[str, Any] | None]) -> int:
    """Run a function and kill it at one step after the other, until no step is left; return the number of steps.

    The databases take turns: each step is tried on one of them.
    """
    for step in range(1 + (harness.mint.db.system == "sqlite"), MOST_STEPS, 2):
        if (answered := act(step)) is not None:
            assert answered["status"] in (200, 201), answered
            return step
    raise AssertionError("it never got through")
