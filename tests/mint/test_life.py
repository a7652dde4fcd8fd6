# SPDX-License-Identifier: Apache-2.0
"""The whole life against a real store: what is ended is revoked everywhere, and no restart or loss brings it back."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.mint.dying import patiently
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, client_of, make_realm, now_ms
from tests.servers import run_together

pytestmark = pytest.mark.servers

Open = Callable[[], Harness]


@pytest.fixture
def realm(tmp_path: Path, realm_name: str, database: str | None) -> Realm:
    return make_realm(tmp_path / "realm", realm_name, database=database)


@pytest.fixture
def start_mint(realm: Realm, valkey: EmbeddedValkey) -> Iterator[Open]:
    """Start the realm's mint; called again, stop it and start it anew."""
    running: list[TestClient] = []

    def stop() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    def start() -> Harness:
        stop()
        mint = MintRuntime.open(Realm.open(realm.folder), store_url=valkey.url)
        client = client_of(mint)
        client.__enter__()
        running.append(client)
        return Harness(mint, client)

    yield start
    stop()


@pytest.fixture
def live(start_mint: Open) -> Harness:
    """The realm once its mint has started; ``start_mint`` starts it anew."""
    return start_mint()


@pytest.fixture
def orders(live: Harness, valkey: EmbeddedValkey) -> Iterator[Verifier]:
    """A tool service's verifier, made of what the mint gives it, following the real store."""
    file = live.service_file("orders")
    keys = {kid: bytes_of(key) for kid, key in file["keys"].items()}
    verifier = Verifier(
        audience="orders",
        keys=KeyRing(keys, realm=file["realm"], max_ttl_ms=file["max_ttl_ms"]),
        epochs=Follower(file["store"], file["realm"], "orders-test"),
        decisions=InMemoryDecisions(),
    )
    verifier.start()
    yield verifier
    verifier.close()


def ask(verifier: Verifier, bundle: str) -> str:
    """Call the task's tool and return the outcome."""
    token = Task(Bundle.parse(bundle)).call_token("orders", "orders.get", {"order_id": "o-1"})
    return verifier.decide(token, AccessRequest("orders.get", {"order_id": "o-1"}, now_ms())).code


def start_task(holder: Holder) -> tuple[str, str]:
    answer = holder.call("POST", "/v1/tasks", LOOKUP)
    assert answer.status_code == 201, answer.text
    return answer.json()["task"]["id"], answer.json()["bundle"]


def test_from_the_first_key_to_the_last_kill(live: Harness, orders: Verifier) -> None:
    """Enrol, open, start, call; then task, session and agent end one after the other, and what they held with them."""
    key = live.enrol()
    holder, session = live.open_session(key)
    (first, one), (_, two) = start_task(holder), start_task(holder)
    assert [ask(orders, one), ask(orders, two)] == ["ok", "ok"]
    answer = holder.call("DELETE", f"/v1/tasks/{first}").json()
    assert answer["task"]["state"] == "ended"
    assert answer["kill"]["durable"] is True
    assert answer["kill"]["targets"] == [f"task:{first}"]
    wait_applied(orders, answer["kill"]["seq"])
    assert [ask(orders, one), ask(orders, two)] == ["revoked", "ok"]
    assert holder.call("DELETE", f"/v1/tasks/{first}").json()["kill"] is None
    answer = holder.call("DELETE", f"/v1/sessions/{session['id']}").json()
    assert answer["session"]["state"] == "ended"
    wait_applied(orders, answer["kill"]["seq"])
    assert ask(orders, two) == "revoked"
    assert holder.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "revoked"
    holder, _ = live.open_session(key)
    _, three = start_task(holder)
    assert ask(orders, three) == "ok"
    answer = live.operator().call("DELETE", f"/v1/agents/{AGENT}").json()
    assert (answer["agent"]["state"], answer["kill"]["status"] in ("confirmed", "unconfirmed")) == ("deactivated", True)
    wait_applied(orders, answer["kill"]["seq"])
    assert ask(orders, three) == "revoked"
    again = Holder(live, live.session_key, None)
    refused = again.call("POST", "/v1/sessions", {"assertion": live.assertion(key)})
    assert (refused.status_code, refused.json()["code"]) == (401, "frozen")
    kinds = [event["kind"] for event in live.events() if event["kind"] != "operator.signed_in"]
    assert kinds == [
        "policy.loaded",
        "mint.started",
        "epoch.begun",
        "service.invited",
        "service.joined",
        "agent.enrolled",
        "session.opened",
        "task.started",
        "task.started",
        "task.ended",
        "session.ended",
        "session.opened",
        "task.started",
        "agent.deactivated",
        "targets.killed",
        "targets.confirmed",
    ]


def wait_applied(verifier: Verifier, seq: int) -> None:
    assert verifier.epochs.catch_up(0, seq, 5.0)


def test_a_thawed_agent_starts_over(live: Harness, orders: Verifier) -> None:
    """A thaw of the freeze lets a deactivated agent in again, and nothing it held before comes back."""
    key = live.enrol()
    holder, _ = live.open_session(key)
    _, bundle = start_task(holder)
    operator = live.operator()
    operator.call("DELETE", f"/v1/agents/{AGENT}")
    answer = operator.call("POST", "/v1/freezes/thaw", {"targets": [f"agent:{AGENT}"], "reason": "a mistake"}).json()
    assert operator.call("GET", f"/v1/agents/{AGENT}").json()["state"] == "active"
    wait_applied(orders, answer["seq"])
    assert ask(orders, bundle) == "revoked"
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 401
    _, fresh = start_task(live.open_session(key)[0])
    assert ask(orders, fresh) == "ok"


def test_an_operator_kills_and_learns_who_confirmed(live: Harness, orders: Verifier) -> None:
    """The kill report names targets, place and verifiers; freeze and thaw come and go."""
    holder, session = live.session()
    _, bundle = start_task(holder)
    operator = live.operator()
    target = f"session:{session['id']}"
    report = operator.call("POST", "/v1/freezes", {"targets": [target], "reason": "look"}).json()
    assert (report["verifiers"], report["confirmed"], report["unreachable"]) == (2, 2, [])
    assert ask(orders, bundle) == "frozen"
    operator.call("POST", "/v1/freezes/thaw", {"targets": [target], "reason": "fine"})
    assert ask(orders, bundle) == "ok"
    report = operator.call("POST", "/v1/kills", {"targets": [target], "reason": "stop"}).json()
    answer = {"seq", "incarnation", "status", "verifiers", "unreachable", "fenced_in_ms", "took_ms", "summary"}
    assert answer <= set(report)
    assert (report["targets"], report["confirmed"], report["durable"]) == ([target], 2, True)
    assert ask(orders, bundle) == "revoked"
    assert operator.call("GET", f"/v1/sessions/{session['id']}").json()["session"]["state"] == "killed"
    killed, confirmed = live.events()[-2:]
    assert (killed["kind"], killed["seq"], killed["reason"]) == ("targets.killed", report["seq"], "stop")
    assert (confirmed["kind"], confirmed["seq"], confirmed["confirmed"]) == ("targets.confirmed", report["seq"], 2)


def test_a_restart_keeps_everything(start_mint: Open) -> None:
    """Agents, open sessions, running tasks, used ids and the history of kills are as they were."""
    live = start_mint()
    key = live.enrol()
    assertion = live.assertion(key)
    holder = Holder(live, live.session_key, None)
    token = holder.call("POST", "/v1/sessions", {"assertion": assertion}).json()["token"]
    task, _ = start_task(Holder(live, holder.key, token))
    mark = live.mint.db.epoch.high_water(live.realm.name)
    live = start_mint()
    assert live.mint.db.epoch.high_water(live.realm.name) == mark
    again = Holder(live, holder.key, None).call("POST", "/v1/sessions", {"assertion": assertion})
    assert again.json()["code"] == "replayed"
    holder = Holder(live, holder.key, token)
    assert [each["id"] for each in holder.call("GET", "/v1/tasks").json()["tasks"]] == [task]
    assert holder.call("DELETE", f"/v1/tasks/{task}").json()["task"]["state"] == "ended"
    assert [event["kind"] for event in live.events()].count("epoch.begun") == 1


@pytest.mark.spec("10.11")
def test_a_store_that_lost_kills_gets_a_new_history(start_mint: Open, valkey: EmbeddedValkey, realm_name: str) -> None:
    """A store that is behind what the mint remembers, as after a restore, kills every older token at the next start."""
    live = start_mint()
    key = live.enrol()
    holder, _ = live.open_session(key)
    mark = live.mint.db.epoch.high_water(realm_name)
    assert mark is not None
    live.mint.db.epoch.raise_high_water(realm_name, HighWater(mark.incarnation, mark.seq + 5))
    live = start_mint()
    fresh = live.mint.db.epoch.high_water(realm_name)
    assert fresh is not None
    assert (fresh.incarnation != mark.incarnation, fresh.seq) == (True, mark.seq + 5)
    assert Holder(live, holder.key, holder.token).call("POST", "/v1/tasks", LOOKUP).json()["code"] == "revoked"
    start_task(live.open_session(key)[0])
    last = [event for event in live.events() if event["kind"].startswith("epoch.")][-1]
    assert (last["kind"], last["why"]) == ("epoch.rotated", "the store has lost kills")
    with RevocationStore(valkey.url, realm_name) as store:
        assert store.header().incarnation == fresh.incarnation


@pytest.mark.spec("10.11")
def test_a_store_that_is_emptied_under_a_running_mint_begins_anew(
    live: Harness, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """The mint notices, begins a new history above the old number, and grants again; old tokens are dead."""
    import redis

    key = live.enrol()
    holder, session = live.open_session(key)
    answer = holder.call("DELETE", f"/v1/sessions/{session['id']}").json()
    holder, _ = live.open_session(key)
    with redis.Redis.from_url(valkey.url) as client:
        for name in client.scan_iter(f"arx:{{{realm_name}}}:*"):
            client.delete(name)
    report = live.operator().call("POST", "/v1/kills", {"targets": ["agent:elsewhere"], "reason": "x"}).json()
    assert report["seq"] > answer["kill"]["seq"]
    assert report["incarnation"] != answer["kill"]["incarnation"]
    assert live.mint.epochs.catch_up(live.mint.epochs.boot_ns(), report["seq"], 10.0)
    # The mint grants nothing until the new history has its freezes again.
    assert patiently(lambda: holder.call("POST", "/v1/tasks", LOOKUP)).json()["code"] == "revoked"
    start_task(live.open_session(key)[0])


@pytest.mark.spec("4.2")
def test_longer_tokens_need_a_longer_memory_of_kills(start_mint: Open, realm: Realm) -> None:
    """With a longer max_ttl the history begins anew, because the old one would have forgotten kills too early."""
    live = start_mint()
    mark = live.mint.db.epoch.high_water(realm.name)
    (realm.folder / "realm.toml").write_text(dataclasses.replace(realm, max_ttl_ms=2 * realm.max_ttl_ms).settings())
    live = start_mint()
    fresh = live.mint.db.epoch.high_water(realm.name)
    assert mark is not None
    assert fresh is not None
    assert (fresh.incarnation != mark.incarnation, fresh.max_ttl_ms) == (True, 2 * mark.max_ttl_ms)


def test_without_its_store_a_mint_does_not_start(realm: Realm, tmp_path: Path) -> None:
    """No store, no start: a mint that cannot kill must not grant."""
    mint = MintRuntime.open(realm, store_url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(ArxError, match="store"):
        mint.start()
    mint.close()


def test_many_agents_at_once(live: Harness, orders: Verifier) -> None:
    """Concurrent sessions and tasks each get their own, and all of them work."""

    keys = [live.enrol(f"acme/support/a{n}") for n in range(6)]
    done: list[Any] = []

    def work(n: int) -> None:
        holder, _ = live.open_session(keys[n])
        task, bundle = start_task(holder)
        done.append((task, ask(orders, bundle), holder.call("DELETE", f"/v1/tasks/{task}").status_code))

    run_together(*(partial(work, n) for n in range(6)))
    assert len({task for task, _, _ in done}) == 6
    assert {outcome for _, *outcome in map(list, done) for outcome in [tuple(outcome)]} == {("ok", 200)}
