# SPDX-License-Identifier: Apache-2.0
"""A mint killed at every step of what it does: what was answered holds, the rest can be done again, with the same
``Idempotency-Key`` to the same effect, and an ended thing is dead.  On both databases, with a second mint that goes on.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.agent.bundle import Bundle
from arx_caps.agent.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.jose import KeyFile, SigningKey
from arx_caps.mint.core import Mint
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore
from arx_caps.service.exchanging import GRANT_TYPE, TASK_TOKEN
from arx_verifier.access import AccessRequest
from arx_verifier.codec import bytes_of
from arx_verifier.decisions import InMemoryDecisions
from arx_verifier.feed import Follower
from arx_verifier.keys import KeyRing
from arx_verifier.verify import Verifier
from tests.mint.test_exchange import ORDER, PAY, POLICY
from tests.mint.test_tasks import verifier
from tests.mint.world import LOOKUP, Holder, World, client_of, make_realm, now_ms
from tests.servers import FAST_LEASE_MS

pytestmark = pytest.mark.servers
MOST_STEPS = 40


class Running(NamedTuple):
    """A session with a task, and what its holder has in hand."""

    holder: Holder
    session: str
    task: str
    bundle: str


class Crasher:
    """Mints that die at a step; the world's own mint goes on beside them."""

    def __init__(self, world: World, store: str) -> None:
        self.world, self.store = world, store
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mint.crashing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(
        self, step: int, holder: Holder, method: str, path: str, body: Any = None, key: str | None = None
    ) -> dict[str, Any] | None:
        """Have a mint that dies at a step answer a request; None where it died."""
        said = self._ask(step, holder, method, path, body, key)
        while said is not None and said["status"] == 503:  # under load its short lease ran out: it did nothing
            said = self._ask(step, holder, method, path, body, key)
        return said

    def _ask(
        self, step: int, holder: Holder, method: str, path: str, body: Any, key: str | None
    ) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"realm": str(self.world.realm.folder), "store": self.store, "step": step, "method": method}
        order |= {"path": path, "body": body, "headers": with_key(holder, path, key, method)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        assert told["code"] in (0, -signal.SIGKILL), told
        said: dict[str, Any] | None = told["said"]
        assert (said is None) == (told["code"] != 0)
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def with_key(holder: Holder, path: str, key: str | None, method: str = "POST") -> dict[str, str]:
    return holder.headers(method, path) | ({} if key is None else {"Idempotency-Key": key})


def repeat(holder: Holder, path: str, body: Any, key: str, answered: dict[str, Any] | None) -> dict[str, Any]:
    """Ask the mint that goes on for the same thing; it answers what the first one did, if that came to answer."""
    answer = holder.world.client.post(path, json=body, headers=with_key(holder, path, key))
    assert answer.is_success, answer.text
    told: dict[str, Any] = answer.json()
    if answered is not None:
        same = ("session", "task", "bundle", "token", "link", "kill")
        assert {name: told.get(name) for name in same} == {name: answered["body"].get(name) for name in same}
    return told


@pytest.fixture
def world(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, database: str | None) -> Iterator[World]:
    realm = make_realm(tmp_path / "realm", realm_name, database=database)
    with RevocationStore(valkey.url, realm_name) as store:
        store.load_functions()
        store.init(lease_ms=FAST_LEASE_MS)  # the dead are waited for no longer than this
    mint = Mint.open(Realm.open(realm.folder), store_url=valkey.url)
    with client_of(mint) as client:
        yield World(mint, client)


@pytest.fixture
def crasher(world: World, valkey: EmbeddedValkey) -> Iterator[Crasher]:
    made = Crasher(world, valkey.url)
    yield made
    made.close()


@pytest.fixture
def orders(world: World) -> Iterator[Verifier]:
    """A tool service's verifier, following the store."""
    file = world.operator().call("POST", "/v1/services", {"audience": "orders"}).json()
    keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=world.realm.name)
    epochs = Follower(file["store"], world.realm.name, "orders-test")
    verifier = Verifier(audience="orders", keys=keys, epochs=epochs, decisions=InMemoryDecisions())
    verifier.start()
    yield verifier
    verifier.close()


@pytest.fixture
def agent(world: World) -> KeyFile:
    return world.enrol()


def started(world: World, agent: KeyFile) -> Running:
    holder, session = world.open_session(agent)
    told = holder.call("POST", "/v1/tasks", LOOKUP).json()
    return Running(holder, session["id"], told["task"]["id"], told["bundle"])


def outcome(world: World, orders: Verifier, bundle: str) -> str:
    """What the tool service says of the task, once it knows all that the store does."""
    header = world.mint.store.header()
    assert orders.epochs.catch_up(0, header.seq, 5)
    token = Task(Bundle.parse(bundle)).call_token("orders", "orders.get", {"order_id": "o-1"})
    return orders.decide(token, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms())).code


def count(world: World, kind: str) -> int:
    return sum(event["kind"] == kind for event in world.events())


def at_every_step(world: World, act: Callable[[int], dict[str, Any] | None]) -> int:
    """Do something with a death at one step after the other, until nobody dies of it; how many steps there were.

    The databases take turns: each step is tried on one of them.
    """
    for step in range(1 + (world.mint.state.system == "sqlite"), MOST_STEPS, 2):
        if (answered := act(step)) is not None:
            assert answered["status"] in (200, 201), answered
            return step
    raise AssertionError("it never got through")


def test_opening(world: World, crasher: Crasher, agent: KeyFile) -> None:
    """A session is there with its event or not at all, and the repeat gets that one; another one can be opened."""

    def act(step: int) -> dict[str, Any] | None:
        holder, before = Holder(world, SigningKey.generate(), None), len(world.mint.state.sessions())
        body, key = {"assertion": world.assertion(agent, holder.key)}, f"k-{step}"
        answered = crasher.ask(step, holder, "POST", "/v1/sessions", body, key)
        assert len(world.mint.state.sessions()) == count(world, "session.opened")
        told = repeat(holder, "/v1/sessions", body, key, answered)
        assert len(world.mint.state.sessions()) == count(world, "session.opened") == before + 1
        assert Holder(world, holder.key, told["token"]).call("POST", "/v1/tasks", LOOKUP).status_code == 201
        return answered

    assert at_every_step(world, act) > 6
    world.open_session(agent)


def test_starting(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A task is there with its event or not at all, and the repeat gets that one; the end of the session ends all."""
    running = started(world, agent)

    def act(step: int) -> dict[str, Any] | None:
        before, key = len(world.mint.state.tasks()), f"k-{step}"
        answered = crasher.ask(step, running.holder, "POST", "/v1/tasks", LOOKUP, key)
        assert len(world.mint.state.tasks()) == count(world, "task.started")
        told = repeat(running.holder, "/v1/tasks", LOOKUP, key, answered)
        assert len(world.mint.state.tasks()) == count(world, "task.started") == before + 1
        assert outcome(world, orders, told["bundle"]) == "ok"
        return answered

    assert at_every_step(world, act) > 6
    assert world.operator().call("DELETE", f"/v1/sessions/{running.session}").status_code == 200
    assert {task["status"] for task in world.mint.state.tasks()} == {"ended"}


def test_finishing(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A task whose row says ended is dead; finishing again works for its agent, and then it is."""
    holder, session = world.open_session(agent)

    def act(step: int) -> dict[str, Any] | None:
        told = holder.call("POST", "/v1/tasks", LOOKUP).json()
        path = f"/v1/tasks/{told['task']['id']}"
        answered = crasher.ask(step, holder, "DELETE", path)
        row = world.mint.state.task(told["task"]["id"])
        assert row is not None
        if row["status"] == "ended" or answered is not None:
            assert outcome(world, orders, told["bundle"]) == "revoked"
        assert holder.call("DELETE", path).json()["task"]["state"] == "ended"
        assert outcome(world, orders, told["bundle"]) == "revoked"
        return answered

    assert at_every_step(world, act) > 10
    assert count(world, "task.ended") == len(world.mint.state.tasks(session=session["id"]))


def test_ending(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A session whose row says ended is dead with its tasks; ending it again works, and then it is."""

    def act(step: int) -> dict[str, Any] | None:
        running = started(world, agent)
        path = f"/v1/sessions/{running.session}"
        answered = crasher.ask(step, running.holder, "DELETE", path)
        row = world.mint.state.session(running.session)
        assert row is not None
        if row["status"] == "ended" or answered is not None:
            assert outcome(world, orders, running.bundle) == "revoked"
        mine = running.holder.call("DELETE", path)
        # Where the kill was in the store already, the session's own token is as dead as the rest.
        assert mine.status_code == 200 or mine.json()["code"] == "revoked"
        assert world.operator().call("DELETE", path).json()["session"]["state"] == "ended"
        assert outcome(world, orders, running.bundle) == "revoked"
        assert running.holder.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "revoked"
        return answered

    assert at_every_step(world, act) > 10
    assert count(world, "session.ended") == len(world.mint.state.sessions())


def test_renewing(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A renewal is there with its event or not at all; the token in hand goes on, and the end ends every token."""
    policy = world.realm.policy_path
    policy.write_text(policy.read_text().replace('ttl = "8h"', 'ttl = "8h"\nidle = "10m"'))
    world.mint.reload_policy()
    running = started(world, agent)
    path = f"/v1/sessions/{running.session}/renew"

    def act(step: int) -> dict[str, Any] | None:
        before, recorded = world.mint.state.session(running.session), count(world, "session.renewed")
        answered = crasher.ask(step, running.holder, "POST", path)
        after = world.mint.state.session(running.session)
        assert before is not None
        assert after is not None
        changed = after["expires_at"] > before["expires_at"]
        assert changed == (count(world, "session.renewed") > recorded)
        assert changed or answered is None
        assert running.holder.call("POST", path).status_code == 200
        return answered

    assert at_every_step(world, act) > 5
    told = running.holder.call("POST", path).json()
    running.holder.token = told["token"]
    assert running.holder.call("DELETE", f"/v1/sessions/{running.session}").status_code == 200
    assert outcome(world, orders, running.bundle) == "revoked"
    assert running.holder.call("POST", path).json()["code"] == "revoked"


def test_narrowing(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """Nothing that was narrowed is alive once it was answered or recorded; doing it again gives what works."""
    body = {"caveats": {"orders": [{"allow": [{"tool": "orders.get"}]}]}}

    def act(step: int) -> dict[str, Any] | None:
        running, recorded = started(world, agent), count(world, "task.narrowed")
        path = f"/v1/tasks/{running.task}/narrow"
        answered = crasher.ask(step, running.holder, "POST", path, body, f"k-{step}")
        if answered is not None or count(world, "task.narrowed") > recorded:
            assert outcome(world, orders, running.bundle) == "revoked"
        told = repeat(running.holder, path, body, f"k-{step}", answered)
        assert count(world, "task.narrowed") == recorded + 1
        assert outcome(world, orders, running.bundle) == "revoked"
        assert outcome(world, orders, told["bundle"]) == "ok"
        assert len(world.mint.state.live_grants(running.task)) == 1
        return answered

    assert at_every_step(world, act) > 10


def test_extending(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A grant is there with its event or not at all, and the repeat gets that one; the end of the task ends all."""
    running = started(world, agent)
    path = f"/v1/tasks/{running.task}/extend"

    def act(step: int) -> dict[str, Any] | None:
        before, key = count(world, "task.extended"), f"k-{step}"
        answered = crasher.ask(step, running.holder, "POST", path, {}, key)
        assert len(world.mint.state.live_grants(running.task)) == 1 + count(world, "task.extended")
        told = repeat(running.holder, path, {}, key, answered)
        assert count(world, "task.extended") == before + 1 == len(world.mint.state.live_grants(running.task)) - 1
        assert {outcome(world, orders, bundle) for bundle in (running.bundle, told["bundle"])} == {"ok"}
        return answered

    assert at_every_step(world, act) > 6
    last = running.holder.call("POST", path, {}).json()["bundle"]
    assert running.holder.call("DELETE", f"/v1/tasks/{running.task}").status_code == 200
    assert {outcome(world, orders, bundle) for bundle in (running.bundle, last)} == {"revoked"}


def test_exchanging(world: World, crasher: Crasher, agent: KeyFile) -> None:
    """A one-shot token is spent with what it was exchanged for, or not at all; the repeat gets that, no other call."""
    world.realm.policy_path.write_text(POLICY)
    world.mint.reload_policy()
    service, payments = own_key(world, "orders"), verifier(world, "payments")
    holder, _ = world.open_session(agent)
    task = Task(Bundle.parse(holder.call("POST", "/v1/tasks", PAY).json()["bundle"]))
    body = {"grant_type": GRANT_TYPE, "subject_token_type": TASK_TOKEN, "audience": "payments"}

    def act(step: int) -> dict[str, Any] | None:
        before = count(world, "token.exchanged")
        asked = body | {"subject_token": task.call_token("orders", "orders.get", ORDER)}
        answered = crasher.ask(step, service, "POST", "/v1/exchange", asked, f"k-{step}")
        told = repeat(service, "/v1/exchange", asked, f"k-{step}", answered)
        assert count(world, "token.exchanged") == before + 1
        onwards, args = Task(Bundle.parse(told["bundle"])), ORDER | {"amount": 50}
        text = onwards.call_token("payments", "payments.refund", args)
        assert payments.decide(text, AccessRequest("payments.refund", args, now_ms())).code == "ok"
        assert service.call("POST", "/v1/exchange", asked).json()["code"] == "replayed"
        return answered

    assert at_every_step(world, act) > 6


def own_key(world: World, audience: str) -> Holder:
    """A service that enrolled a key of its own."""
    told = world.operator().call("POST", "/v1/services/invitations", {"audience": audience}).json()
    service = Holder(world, SigningKey.generate(), None)
    assert service.call("POST", "/v1/services/keys", {"enrolment": told["enrolment"]}).status_code == 201
    return service


def test_deactivating(world: World, crasher: Crasher, orders: Verifier) -> None:
    """An agent whose row says deactivated gets nothing more; doing it again works, and what it held is dead."""

    def act(step: int) -> dict[str, Any] | None:
        path = f"acme/support/a{step}"
        agent = world.enrol(path)
        running = started(world, agent)
        answered = crasher.ask(step, world.operator(), "DELETE", f"/v1/agents/{path}")
        row = world.mint.state.agent(path)
        assert row is not None
        if row["status"] == "deactivated":
            refused = Holder(world, world.session_key, None)
            told = refused.call("POST", "/v1/sessions", {"assertion": world.assertion(agent)})
            assert (told.status_code, told.json()["code"]) == (401, "banned")
        if answered is not None:
            assert outcome(world, orders, running.bundle) == "revoked"
        told = world.operator().call("DELETE", f"/v1/agents/{path}")
        assert told.json()["agent"]["state"] == "deactivated"
        assert outcome(world, orders, running.bundle) == "revoked"
        assert f"agent:{path}" in world.mint.store.bans()
        return answered

    assert at_every_step(world, act) > 12


def test_killing(world: World, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A kill that was recorded or answered is in force; killing again works, and then it is."""

    def act(step: int) -> dict[str, Any] | None:
        running, recorded = started(world, agent), count(world, "scopes.killed")
        body = {"scopes": [f"session:{running.session}"], "reason": "stop", "wait": False}
        answered = crasher.ask(step, world.operator(), "POST", "/v1/kills", body)
        if answered is not None or count(world, "scopes.killed") > recorded:
            assert outcome(world, orders, running.bundle) == "revoked"
        assert world.operator().call("POST", "/v1/kills", body).json()["durable"] is True
        assert outcome(world, orders, running.bundle) == "revoked"
        return answered

    assert at_every_step(world, act) > 8
