# SPDX-License-Identifier: Apache-2.0
"""A task attenuated while it runs, against a real store: all of it that was out is revoked, less is alive, and nothing
that was killed meanwhile comes back.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.revocation.store import RevocationStore
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import Harness, Holder, now_ms
from tests.servers import FAST_LEASE_MS

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 2.4"), pytest.mark.realm(lease_ms=FAST_LEASE_MS)]
REFUND = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}
GET_ONLY = {"caveats": {"orders": [{"allow": [{"tool": "orders.get"}]}]}}


@pytest.fixture
def services(live: Harness) -> Iterator[dict[str, Verifier]]:
    """The tool services' verifiers, following the store."""
    made = {}
    for audience in ("orders", "payments"):
        kid, key = live.mint.key_schedule.audience_key(audience)
        verifier = Verifier(
            audience=audience,
            keys=KeyRing({kid: key}, realm=live.realm.name),
            epochs=Follower(live.mint.store_url, live.realm.name, audience),
            decisions=InMemoryDecisions(),
        )
        verifier.start()
        made[audience] = verifier
    yield made
    for verifier in made.values():
        verifier.close()


@pytest.fixture
def direct(live: Harness) -> Iterator[RevocationStore]:
    """A client that writes straight into the store."""
    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        yield store


def started(holder: Holder) -> tuple[str, str]:
    answer = holder.call("POST", "/v1/tasks", REFUND).json()
    return answer["task"]["id"], answer["bundle"]


def ask(
    services: dict[str, Verifier], harness: Harness, bundle: str | Task, tool: str = "orders.get", **more: Any
) -> str:
    """What the tool's service says, once it knows all that the store does."""
    audience, args = tool.partition(".")[0], {"order_id": "o-1", **more}
    verifier = services[audience]
    assert verifier.epochs.catch_up(0, harness.mint.store.header().seq, 5)
    task = Task(Bundle.parse(bundle)) if isinstance(bundle, str) else bundle
    return verifier.decide(task.call_token(audience, tool, args), AccessRequest(tool, args, now_ms())).code


def test_what_is_out_dies_and_less_lives(live: Harness, services: dict[str, Verifier]) -> None:
    """The holder's tokens, a sub-agent's and an extension are revoked, as the answer shows; the rest has less."""
    holder, _ = live.session()
    task, bundle = started(holder)
    worker = Task(Bundle.parse(bundle)).delegate("acme/support/worker")
    more = holder.call("POST", f"/v1/tasks/{task}/extend", {"params": {"amount": 60}}).json()["bundle"]
    everybody: list[str | Task] = [bundle, worker, more]
    assert [ask(services, live, held) for held in everybody] == ["ok"] * 3
    answer = holder.call(
        "POST", f"/v1/tasks/{task}/attenuate", GET_ONLY | {"link": Bundle.parse(bundle).outline.link}
    ).json()
    assert (answer["kill"]["durable"], len(answer["kill"]["targets"])) == (True, 2)
    assert (answer["task"]["state"], answer["task"]["audiences"]) == ("open", ["orders"])
    assert [ask(services, live, held) for held in everybody] == ["revoked"] * 3
    assert ask(services, live, worker, "payments.refund", amount=5) == "revoked"
    left = Task(Bundle.parse(answer["bundle"]))
    assert left.audiences == ("orders",)
    assert ask(services, live, left) == "ok"
    shown = holder.call("GET", f"/v1/tasks/{task}").json()["grants"]
    assert [grant["ended_at"] is None for grant in shown].count(True) == 1
    assert holder.call("DELETE", f"/v1/tasks/{task}").json()["task"]["state"] == "ended"
    assert ask(services, live, left) == "revoked"


def test_a_repeat_goes_on_where_the_first_one_was(live: Harness, services: dict[str, Verifier]) -> None:
    """Attenuation by the same caveats changes nothing but the tokens; by more caveats, both apply."""
    holder, _ = live.session()
    task, bundle = started(holder)
    link = Bundle.parse(bundle).outline.link
    path, body = f"/v1/tasks/{task}/attenuate", {"caveats": {"payments": [{"depth": 1}]}, "link": link}
    first = holder.call("POST", path, body).json()["bundle"]
    again = holder.call("POST", path, body).json()["bundle"]
    assert ask(services, live, first, "payments.refund", amount=50) == "revoked"
    assert ask(services, live, again, "payments.refund", amount=50) == "ok"
    assert Bundle.parse(first).describe()["audiences"].keys() == Bundle.parse(again).describe()["audiences"].keys()
    less = {"allow": [{"args": {"amount": {"max": 20}}, "open": True, "tool": "payments.refund"}]}
    last = holder.call("POST", path, {"caveats": {"payments": [less]}}).json()["bundle"]
    assert ask(services, live, last, "payments.refund", amount=50) == "argument_not_allowed"
    assert ask(services, live, last, "payments.refund", amount=20) == "ok"
    assert Bundle.parse(last).outline.depth == 1
    # Without more than an end it keeps its attenuations; from the template it is asked for anew.
    longer = holder.call("POST", f"/v1/tasks/{task}/extend", {}).json()["bundle"]
    assert ask(services, live, longer, "payments.refund", amount=50) == "argument_not_allowed"
    assert Bundle.parse(longer).audiences == ("payments",)
    wide = holder.call("POST", f"/v1/tasks/{task}/extend", {"template": "refund"}).json()["bundle"]
    assert ask(services, live, wide, "payments.refund", amount=50) == "ok"


@pytest.mark.parametrize("target", ["session", "task", "agent"])
def test_what_is_killed_meanwhile_does_not_come_back(
    live: Harness, services: dict[str, Verifier], direct: RevocationStore, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """
    A kill straight in the store, between an attenuation's look and its own kill, is final: nothing is signed
    anew.
    """
    holder, session = live.session()
    task, bundle = started(holder)
    names = {"session": session["id"], "task": task, "agent": session["agent"]}
    kill = live.mint.store.kill

    def killed_first(*args: Any, **kwargs: Any) -> Any:
        direct.kill([f"{target}:{names[target]}"], "meanwhile", "operator:eve")
        return kill(*args, **kwargs)

    monkeypatch.setattr(live.mint.store, "kill", killed_first)
    answer = holder.call("POST", f"/v1/tasks/{task}/attenuate", GET_ONLY).json()
    assert answer["code"] == "revoked"
    assert ask(services, live, bundle) == "revoked"
    assert len(live.mint.db.grants.live(task)) == 1


def test_those_who_change_a_task_at_once(live: Harness, services: dict[str, Verifier]) -> None:
    """However attenuations meet, one bundle is alive at the end: that of the grant which the mint keeps."""
    holder, _ = live.session()
    task, bundle = started(holder)

    def attenuate(amount: int) -> tuple[int, Any]:
        values = {"allow": [{"args": {"amount": {"max": amount}}, "open": True, "tool": "payments.refund"}]}
        answer = holder.call("POST", f"/v1/tasks/{task}/attenuate", {"caveats": {"payments": [values]}})
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(attenuate, (40, 30, 20, 10)))
    worked = [answer["bundle"] for status, answer in done if status == 200]
    assert worked
    # On a loaded machine the mint's own lease may end.
    assert {answer["code"] for status, answer in done if status != 200} <= {"conflict", "stale"}
    states = [ask(services, live, each, "payments.refund", amount=5) for each in worked]
    assert states.count("ok") == 1
    assert ask(services, live, bundle) == "revoked"
    (alive,) = live.mint.db.grants.live(task)
    assert alive.link == Bundle.parse(worked[states.index("ok")]).outline.link


def test_of_two_attempts_that_overlap_the_later_one_kills_nothing(
    live: Harness, services: dict[str, Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is repeated while its first attempt still runs: that one, gone on, answers what the repeat has given."""
    holder, _ = live.session()
    task, _ = started(holder)
    path, of_task, given = f"/v1/tasks/{task}/attenuate", live.mint.db.grants.live, []

    def attempt() -> Any:
        headers = holder.headers("POST", path) | {"Idempotency-Key": "n-1"}
        return live.client.post(path, json=GET_ONLY, headers=headers).json()

    def slow(task: str) -> Any:
        monkeypatch.setattr(live.mint.db.grants, "live", of_task)
        with ThreadPoolExecutor(1) as pool:
            given.append(pool.submit(attempt).result())
        return of_task(task)

    monkeypatch.setattr(live.mint.db.grants, "live", slow)
    late = attempt()
    assert late == given[0]
    assert ask(services, live, late["bundle"]) == "ok"
    assert len(of_task(task)) == 1
