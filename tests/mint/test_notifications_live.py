# SPDX-License-Identifier: Apache-2.0
"""Notifications of a running realm: kills at the mint and at the store, late verifiers, a halted log, dead mints."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.audit.merkle.errors import DisputedError
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.notifications import alarms, sender
from arx_caps.revocation.wire import DIRECT
from arx_verifier.clock import now_ms
from arx_verifier.revocation.follower import Follower
from tests.audit.batches import BOOT, START_MS, batch_of, decision, facts
from tests.mint.harness import Harness, open_live
from tests.mint.receiver import Received, ReceiverProcess
from tests.mint.test_two_mints import running as two_mints
from tests.postgres import Postgres
from tests.servers import VerifierProcess, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7")]


@pytest.fixture
def running(
    tmp_path: Path, realm_name: str, valkey: EmbeddedValkey, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Harness]:
    """A realm with a store, whose notifications the receiver gets; it looks often."""
    receiver.got.clear()
    monkeypatch.setattr(sender, "LOOK_S", 0.02)
    monkeypatch.setattr(alarms, "EVERY_S", 0.05)
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, settings=settings, lease_ms=300) as harness:
        add(harness.operator().call, receiver)
        yield harness


class Answered(NamedTuple):
    """An answer's status."""

    status_code: int


def add(call: Callable[..., Any], receiver: ReceiverProcess, path: str = "/200") -> None:
    assert call("POST", "/v1/webhooks", {"url": receiver.url(path)}).status_code == 201


def of_kind(receiver: ReceiverProcess, kind: str) -> list[Received]:
    return [one for one in receiver.got if one.body["type"] == kind]


def test_kills_freezes_and_thaws_at_the_mint_and_at_the_store(running: Harness, receiver: ReceiverProcess) -> None:
    """Each is notified once, also one that the command line made while no mint answered."""
    operator = running.operator()
    body = {"targets": ["agent:acme/a"], "reason": "a test", "wait": False}
    seq = operator.call("POST", "/v1/kills", body).json()["seq"]
    operator.call("POST", "/v1/freezes", body)
    operator.call("POST", "/v1/freezes/thaw", body)
    bump = running.mint.store.kill_by_kind(["agent:acme/x", "agent:acme/y"], "at night", f"operator:ada{DIRECT}root)")
    receiver.wait(4)
    until(lambda: running.mint.db.notifications.page() == [])
    notices = [(one.body["type"], one.body["data"]["targets"], one.body["data"]["seq"]) for one in receiver.got]
    assert sorted(notices) == [
        ("targets.frozen", ["agent:acme/a"], seq + 1),
        ("targets.killed", ["agent:acme/a"], seq),
        ("targets.killed", ["agent:acme/x", "agent:acme/y"], bump.header.seq),
        ("targets.thawed", ["agent:acme/a"], seq + 3),  # after the taint of what the agent wrote
    ]


@pytest.mark.slow
@pytest.mark.spec("CONTROL 7.4")
def test_a_verifier_that_is_late_and_back(
    running: Harness, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch, valkey: EmbeddedValkey
) -> None:
    """One notification each, however often and by however many mints it is looked at."""
    monkeypatch.setattr(alarms, "LATE_MS", 1500)
    name = "orders-1"
    other = alarms.Alarms(running.mint.db, running.mint.store, running.mint.log)
    verifier = VerifierProcess(valkey.url, running.realm.name, name)
    verifier.pause()

    def looked_at(kind: str) -> bool:
        other.look()
        return bool(of_kind(receiver, kind))

    until(lambda: looked_at("verifiers.late"))
    verifier.resume()
    until(lambda: looked_at("verifiers.back"))
    verifier.close()
    until(lambda: len(of_kind(receiver, "verifiers.late")) == 2)  # it was killed
    for _ in range(20):
        other.look()
    until(lambda: running.mint.db.notifications.page() == [])
    late, back = of_kind(receiver, "verifiers.late"), of_kind(receiver, "verifiers.back")
    assert [one.body["data"]["verifiers"] for one in (*late, *back)] == [[name]] * 3
    assert late[0].body["link"].endswith("/console/verifiers")


@pytest.mark.spec("12.7")
def test_a_watch_that_ends_within_three_days(
    running: Harness, receiver: ReceiverProcess, valkey: EmbeddedValkey
) -> None:
    """One notification for each watch of a process, and none for one that ends later."""
    other = alarms.Alarms(running.mint.db, running.mint.store, running.mint.log)
    followers = [Follower(valkey.url, running.realm.name, f"orders-{days}-abcdef") for days in (2, 20)]
    for days, follower in zip((2, 20), followers, strict=True):
        follower.watch_until_ms = time.time_ns() // 1_000_000 + days * 24 * 3_600_000
        follower.start()
    try:
        until(lambda: sum(each.watches_until is not None for each in running.mint.store.verifiers()) == 2)

        def looked() -> bool:
            other.look()
            return bool(of_kind(receiver, "watch.ends"))

        until(looked)
        for _ in range(20):
            other.look()
        until(lambda: running.mint.db.notifications.page() == [])
        (notice,) = of_kind(receiver, "watch.ends")
        assert notice.body["data"]["verifiers"] == ["orders-2-abcdef"]
    finally:
        for follower in followers:
            follower.close()


@pytest.mark.spec("CONTROL 7.4")
def test_a_halted_log(running: Harness, receiver: ReceiverProcess) -> None:
    """Once when it is halted, also if another mint looks at it, and once when its mint signs again."""
    mint = running.mint
    mint.log.publisher.halt(ValueError("another root"))
    (got,) = wait_for(receiver, "log.halted")
    assert "another root" in got.body["data"]["why"]
    other = alarms.Alarms(mint.db, mint.store, mint.log)
    for _ in range(20):
        other.look()
    mint.log.publisher.halted = None  # as after a repair and a new start
    alarms.Alarms(mint.db, mint.store, mint.log).look()
    wait_for(receiver, "log.resumed")
    until(lambda: mint.db.notifications.page() == [])
    assert [len(of_kind(receiver, kind)) for kind in ("log.halted", "log.resumed")] == [1, 1]


def wait_for(receiver: ReceiverProcess, kind: str) -> list[Received]:
    until(lambda: of_kind(receiver, kind))
    return of_kind(receiver, kind)


@pytest.mark.slow
@pytest.mark.spec("CONTROL 7.4")
def test_many_refusals_of_an_agent(
    running: Harness, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One notification of ten thousand refusals, however many mints look, and one when they have ended."""
    mint, rate = running.mint, running.realm.limits.refusal_rate
    monkeypatch.setattr(alarms, "RECORDS_S", 0.05)
    ago = now_ms() - alarms.MINUTE_MS - START_MS
    few = [decision(ago, facts("s-2", agent="acme/few"), "argument_not_allowed")] * (rate - 1)
    mint.log.store.take(batch_of(few, boot="few"), "s")
    rogue = decision(ago, facts(agent="acme/rogue"), "argument_not_allowed")
    for first in range(1, 10_001, 2000):
        mint.log.store.take(batch_of([rogue] * 2000, first), "s")
    other = alarms.Alarms(mint.db, mint.store, mint.log, rate)

    def looked_at(kind: str) -> bool:
        other.look()
        return bool(of_kind(receiver, kind))

    until(lambda: looked_at("refusals.high"), 60)
    mint.log.store.take(batch_of([rogue] * 2000, 10_001), "s")
    for _ in range(20):
        other.look()
    monkeypatch.setattr(alarms, "EPISODE_MS", 0)  # as five minutes later
    until(lambda: looked_at("refusals.normal"))
    until(lambda: mint.db.notifications.page() == [])
    (high,), (normal,) = of_kind(receiver, "refusals.high"), of_kind(receiver, "refusals.normal")
    for got in (high, normal):
        assert (got.body["data"]["agents"], got.body["data"]["rate"]) == (["acme/rogue"], rate)
    assert "acme/rogue" in high.body["text"]
    assert "arx audit top" in high.body["command"]


@pytest.mark.slow
@pytest.mark.spec("CONTROL 7.4")
def test_what_happens_to_the_log_itself(
    running: Harness, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dispute and an erasure are notified once, also by mints that start later; a tool of such a name is nothing."""
    mint = running.mint
    monkeypatch.setattr(alarms, "RECORDS_S", 0.05)
    chain = facts("s-3", agent="acme/a")
    mint.log.take(batch_of([decision(1, chain, tool="log.pruned")]), "s")
    with pytest.raises(DisputedError):
        mint.log.take(batch_of([decision(2, chain)]), "s")
    body = {"subject": "subject:" + "0" * 32, "reason": "Ann asked to"}
    assert running.operator().call("POST", "/v1/audit/erase", body).status_code == 200
    for kind in ("records.disputed", "log.erased"):
        wait_for(receiver, kind)
    alarms.Alarms(mint.db, mint.store, mint.log).look()
    until(lambda: mint.db.notifications.page() == [])
    (disputed,), (erased,) = of_kind(receiver, "records.disputed"), of_kind(receiver, "log.erased")
    assert disputed.body["data"]["verifiers"] == [f"orders-1, run {BOOT}"]
    assert disputed.body["data"]["by"] == "service:orders"
    assert "Ann" not in erased.raw
    assert "0" * 32 not in erased.raw
    assert of_kind(receiver, "log.pruned") == []


@pytest.mark.nightly
def test_mints_that_are_killed_lose_nothing(
    tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey, receiver: ReceiverProcess
) -> None:
    """Two mints, one of which is killed as soon as it has answered a kill, each in turn: each kill arrives."""
    receiver.got.clear()
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with two_mints(tmp_path / "realm", realm_name, postgres, valkey.url, settings) as pair:
        add(lambda *call: Answered(pair.operator.ask(0, *call)["status_code"]), receiver)
        seqs = set()
        for turn in range(4):
            body = {"targets": [f"agent:acme/a{turn}"], "reason": "a test", "wait": False}
            seqs.add(pair.operator.ask(turn, "POST", "/v1/kills", body)["seq"])
            pair.mints[turn % 2].kill()
            if turn < 3:  # the other one is alone at the end
                pair.mints[turn % 2].start()
        # A busy machine has further notifications, such as that a verifier is late.
        until(lambda: {one.body["data"]["seq"] for one in of_kind(receiver, "targets.killed")} == seqs)
        with MintDatabase(pair.realm.database_url) as db:
            until(lambda: db.notifications.page() == [])
    kills = of_kind(receiver, "targets.killed")
    by_seq = {one.body["data"]["seq"]: one.id for one in kills}
    assert len({one.id for one in kills}) == len(by_seq) == 4  # one that came twice has its id
