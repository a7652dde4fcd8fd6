# SPDX-License-Identifier: Apache-2.0
"""A task attenuated while it runs, against a real store: all of it that was out is revoked, less is alive, and nothing
that was killed meanwhile comes back.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from arx_caps.agent.bundle import Bundle
from arx_caps.agent.task import Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.app import create_app
from arx_caps.mint.runtime import MintRuntime
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.mint.world import ISSUER, Holder, World, make_realm, now_ms
from tests.servers import FAST_LEASE_MS

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 2.4")]
REFUND = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}
GET_ONLY = {"caveats": {"orders": [{"allow": [{"tool": "orders.get"}]}]}}


@pytest.fixture
def world(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, database: str | None) -> Iterator[World]:
    realm = make_realm(tmp_path / "realm", realm_name, database=database)
    with RevocationStore(valkey.url, realm_name) as store:
        store.load_functions()
        store.init(lease_ms=FAST_LEASE_MS)
    mint = MintRuntime.open(Realm.open(realm.folder), store_url=valkey.url)
    with TestClient(create_app(mint), base_url=ISSUER, raise_server_exceptions=False) as client:
        yield World(mint, client)


@pytest.fixture
def services(world: World) -> Iterator[dict[str, Verifier]]:
    """The tool services' verifiers, following the store."""
    made = {}
    for audience in ("orders", "payments"):
        kid, key = world.mint.key_schedule.audience_key(audience)
        verifier = Verifier(
            audience=audience,
            keys=KeyRing({kid: key}, realm=world.realm.name),
            epochs=Follower(world.mint.store_url, world.realm.name, audience),
            decisions=InMemoryDecisions(),
        )
        verifier.start()
        made[audience] = verifier
    yield made
    for verifier in made.values():
        verifier.close()


@pytest.fixture
def direct(world: World) -> Iterator[RevocationStore]:
    """Somebody who writes straight into the store."""
    with RevocationStore(world.mint.store_url, world.realm.name) as store:
        yield store


def started(holder: Holder) -> tuple[str, str]:
    told = holder.call("POST", "/v1/tasks", REFUND).json()
    return told["task"]["id"], told["bundle"]


def ask(services: dict[str, Verifier], world: World, bundle: str | Task, tool: str = "orders.get", **more: Any) -> str:
    """What the tool's service says, once it knows all that the store does."""
    audience, args = tool.partition(".")[0], {"order_id": "o-1", **more}
    verifier = services[audience]
    assert verifier.epochs.catch_up(0, world.mint.store.header().seq, 5)
    task = Task(Bundle.parse(bundle)) if isinstance(bundle, str) else bundle
    return verifier.decide(task.call_token(audience, tool, args), AccessRequest(tool, args, now_ms())).code


def test_what_is_out_dies_and_less_lives(world: World, services: dict[str, Verifier]) -> None:
    """The holder's tokens, a sub-agent's and an extension are revoked; the answer says so; what is left is less."""
    holder, _ = world.session()
    task, bundle = started(holder)
    worker = Task(Bundle.parse(bundle)).delegate("acme/support/worker")
    more = holder.call("POST", f"/v1/tasks/{task}/extend", {"params": {"amount": 60}}).json()["bundle"]
    everybody: list[str | Task] = [bundle, worker, more]
    assert [ask(services, world, held) for held in everybody] == ["ok"] * 3
    told = holder.call(
        "POST", f"/v1/tasks/{task}/attenuate", GET_ONLY | {"link": Bundle.parse(bundle).outline.link}
    ).json()
    assert (told["kill"]["durable"], len(told["kill"]["targets"])) == (True, 2)
    assert (told["task"]["state"], told["task"]["audiences"]) == ("open", ["orders"])
    assert [ask(services, world, held) for held in everybody] == ["revoked"] * 3
    assert ask(services, world, worker, "payments.refund", amount=5) == "revoked"
    left = Task(Bundle.parse(told["bundle"]))
    assert left.audiences == ("orders",)
    assert ask(services, world, left) == "ok"
    shown = holder.call("GET", f"/v1/tasks/{task}").json()["grants"]
    assert [grant["ended_at"] is None for grant in shown].count(True) == 1
    assert holder.call("DELETE", f"/v1/tasks/{task}").json()["task"]["state"] == "ended"
    assert ask(services, world, left) == "revoked"


def test_a_repeat_goes_on_where_the_first_one_was(world: World, services: dict[str, Verifier]) -> None:
    """Attenuation again by what is said already changes nothing but the tokens; by more, both hold."""
    holder, _ = world.session()
    task, bundle = started(holder)
    link = Bundle.parse(bundle).outline.link
    path, body = f"/v1/tasks/{task}/attenuate", {"caveats": {"payments": [{"depth": 1}]}, "link": link}
    first = holder.call("POST", path, body).json()["bundle"]
    again = holder.call("POST", path, body).json()["bundle"]
    assert ask(services, world, first, "payments.refund", amount=50) == "revoked"
    assert ask(services, world, again, "payments.refund", amount=50) == "ok"
    assert Bundle.parse(first).describe()["audiences"].keys() == Bundle.parse(again).describe()["audiences"].keys()
    less = {"allow": [{"args": {"amount": {"max": 20}}, "open": True, "tool": "payments.refund"}]}
    last = holder.call("POST", path, {"caveats": {"payments": [less]}}).json()["bundle"]
    assert ask(services, world, last, "payments.refund", amount=50) == "argument_not_allowed"
    assert ask(services, world, last, "payments.refund", amount=20) == "ok"
    assert Bundle.parse(last).outline.depth == 1
    # Without more than an end it keeps its attenuations; from the template it is asked for anew.
    longer = holder.call("POST", f"/v1/tasks/{task}/extend", {}).json()["bundle"]
    assert ask(services, world, longer, "payments.refund", amount=50) == "argument_not_allowed"
    assert Bundle.parse(longer).audiences == ("payments",)
    wide = holder.call("POST", f"/v1/tasks/{task}/extend", {"template": "refund"}).json()["bundle"]
    assert ask(services, world, wide, "payments.refund", amount=50) == "ok"


@pytest.mark.parametrize("target", ["session", "task", "agent"])
def test_what_is_killed_meanwhile_does_not_come_back(
    world: World, services: dict[str, Verifier], direct: RevocationStore, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """
    A kill straight in the store, between an attenuation's look and its own kill, is final: nothing is signed
    anew.
    """
    holder, session = world.session()
    task, bundle = started(holder)
    names = {"session": session["id"], "task": task, "agent": session["agent"]}
    kill = world.mint.store.kill

    def killed_first(*args: Any, **kwargs: Any) -> Any:
        direct.kill([f"{target}:{names[target]}"], "meanwhile", "somebody")
        return kill(*args, **kwargs)

    monkeypatch.setattr(world.mint.store, "kill", killed_first)
    told = holder.call("POST", f"/v1/tasks/{task}/attenuate", GET_ONLY).json()
    assert told["code"] == "revoked"
    assert ask(services, world, bundle) == "revoked"
    assert len(world.mint.db.grants.live(task)) == 1


def test_those_who_change_a_task_at_once(world: World, services: dict[str, Verifier]) -> None:
    """However attenuations meet, one bundle is alive at the end: that of the grant which the mint keeps."""
    holder, _ = world.session()
    task, bundle = started(holder)

    def attenuate(amount: int) -> tuple[int, Any]:
        said = {"allow": [{"args": {"amount": {"max": amount}}, "open": True, "tool": "payments.refund"}]}
        told = holder.call("POST", f"/v1/tasks/{task}/attenuate", {"caveats": {"payments": [said]}})
        return told.status_code, told.json()

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(attenuate, (40, 30, 20, 10)))
    worked = [told["bundle"] for status, told in done if status == 200]
    assert worked
    assert {told["code"] for status, told in done if status != 200} <= {"conflict"}
    states = [ask(services, world, each, "payments.refund", amount=5) for each in worked]
    assert states.count("ok") == 1
    assert ask(services, world, bundle) == "revoked"
    (alive,) = world.mint.db.grants.live(task)
    assert alive["link"] == Bundle.parse(worked[states.index("ok")]).outline.link


def test_of_two_attempts_that_overlap_the_later_one_kills_nothing(
    world: World, services: dict[str, Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is repeated while its first attempt still runs: that one, gone on, answers what the repeat has given."""
    holder, _ = world.session()
    task, _ = started(holder)
    path, live, given = f"/v1/tasks/{task}/attenuate", world.mint.db.grants.live, []

    def attempt() -> Any:
        headers = holder.headers("POST", path) | {"Idempotency-Key": "n-1"}
        return world.client.post(path, json=GET_ONLY, headers=headers).json()

    def slow(task: str) -> Any:
        monkeypatch.setattr(world.mint.db.grants, "live", live)
        with ThreadPoolExecutor(1) as pool:
            given.append(pool.submit(attempt).result())
        return live(task)

    monkeypatch.setattr(world.mint.db.grants, "live", slow)
    late = attempt()
    assert late == given[0]
    assert ask(services, world, late["bundle"]) == "ok"
    assert len(live(task)) == 1
