# SPDX-License-Identifier: Apache-2.0
"""A store that lost a freeze gets it again from the database: at a mint's start, and while it runs."""

from typing import Any

import pytest
from sqlalchemy import update

from arx_caps.audit.store.tables import RECORD
from arx_caps.cli.commands.doctor.history import check_history
from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.audit.feeds import KILLS, _kill
from arx_caps.mint.db.repositories.operations.kills import KillStep
from arx_caps.mint.db.tables import MEMORY_KEYS, Freeze
from arx_caps.mint.revocation.freezes import freezes_of
from arx_caps.mint.revocation.logged_freezes import find_missing
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.wire import StoreEntry
from arx_caps.settings.realm import Realm
from arx_verifier.errors import StoreError
from arx_verifier.memory.taints import TaintWindow, read_window
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.token.targets import subject_target
from tests.mint.dying import with_key
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.12")]


def test_what_is_ended_stays_frozen(live: Harness) -> None:
    """A deactivated agent, a removed operator, a key that was stolen: lost in the store, put back and recorded."""
    live.enrol()
    operator = live.operator()
    key = KeyFile.generate("operator", "gone", ISSUER)
    operator.call("POST", "/v1/operators", {"name": "gone", "jwk": key.key.public.jwk, "role": "read-only"})
    live.service_file("orders")
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 200
    assert operator.call("DELETE", "/v1/operators/gone").status_code == 200
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 200
    wanted = {f"agent:{AGENT}", "operator:gone", "key:k1.1"}
    assert freezes_of(live.mint.db) == wanted
    store = live.mint.store
    assert wanted <= set(store.freezes())
    assert live.mint.freezes.restore() == []
    # An operator restored an old copy of the freezes, or thawed them in the store itself.
    store.thaw(sorted(wanted), "lost", "operator:eve")
    assert live.mint.freezes.restore() == sorted(wanted)
    assert wanted <= set(store.freezes())
    values = [event for event in live.events() if event["kind"] == "targets.frozen" and event["by"] == "mint"]
    assert values[-1]["targets"] == sorted(wanted)
    # A mint that starts looks as well.
    store.thaw(sorted(wanted), "lost", "operator:eve")
    second = MintRuntime.open(Realm.open(live.realm.folder), store_url=live.mint.store_url)
    second.start()
    second.close()
    assert wanted <= set(store.freezes())


def test_a_thawed_agent_is_not_frozen_again(live: Harness) -> None:
    """What an operator thaws at the mint is wanted no more."""
    live.enrol()
    operator = live.operator()
    operator.call("DELETE", f"/v1/agents/{AGENT}")
    answer = operator.call("POST", "/v1/freezes/thaw", {"targets": [f"agent:{AGENT}"], "reason": "back", "wait": False})
    assert answer.status_code == 200
    # What it wrote before the kill stays tainted.
    (taint,) = map(read_window, freezes_of(live.mint.db))
    assert taint is not None
    assert taint[:2] == (f"agent:{AGENT}", 0)
    assert live.mint.freezes.restore() == []
    assert f"agent:{AGENT}" not in live.mint.store.freezes()


@pytest.mark.spec("18.4")
@pytest.mark.parametrize("lost_all", [True, False])
def test_a_lost_taint_comes_back_before_the_freeze_that_it_may_narrow(live: Harness, lost_all: bool) -> None:
    """What an agent wrote before a cleared time is tainted by its second kill, also after the store lost both."""
    live.enrol()
    operator, agent = live.operator(), f"agent:{AGENT}"
    body = {"targets": [agent], "reason": "test", "wait": False}
    assert operator.call("POST", "/v1/kills", body).status_code == 200
    assert operator.call("POST", "/v1/memory/clear", body | {"before": now_ms()}).status_code == 200
    store = live.mint.store
    (taint,) = set(store.freezes()) - {agent}
    assert store.freezes()[taint] > store.freezes()[agent], "it narrows the freeze"
    assert operator.call("POST", "/v1/kills", body).status_code == 200
    assert store.freezes()[taint] < store.freezes()[agent], "the second kill taints all"
    lost = {taint, agent} if lost_all else {taint}
    client: Any = store.exchange.client
    client.hdel(store.keys.freezes, *lost)
    client.hincrby(store.keys.header, "n", -len(lost))
    assert live.mint.freezes.restore() == [taint, agent]
    assert store.freezes()[taint] < store.freezes()[agent]


@pytest.mark.spec("18.3")
def test_a_stolen_memory_key_is_frozen_by_the_repeat_of_a_call_that_failed(
    live: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next key is there before the old ones can be frozen, whenever the first call fails."""
    operator = live.operator()
    live.service_file("memory")
    path, schedule = "/v1/services/memory/replace-key", live.mint.key_schedule
    assert list(schedule.memory_keys()) == ["memory.1"]

    def fail(**_: Any) -> None:
        raise StoreError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "read_plan", fail)
        answer = live.client.post(path, json={"stolen": True}, headers=with_key(operator, path, "once"))
        assert answer.status_code == 503
    answer = live.client.post(path, json={"stolen": True}, headers=with_key(operator, path, "once"))
    assert answer.status_code == 200, answer.text
    frozen = {target for target in live.mint.store.freezes() if target.startswith("key:memory.")}
    assert frozen == {f"key:{kid}" for kid in list(schedule.memory_keys())[:-1]} >= {"key:memory.1"}


@pytest.mark.spec("18.3")
def test_the_newest_memory_key_is_that_of_the_highest_number(live: Harness) -> None:
    """A clock that was set back between two keys leaves the stolen one no way out, and the new one in force."""
    operator = live.operator()
    live.service_file("memory")
    with live.mint.db.write() as c:
        c.execute(update(MEMORY_KEYS).values(created_at=now_ms() + 3_600_000))
    assert operator.call("POST", "/v1/services/memory/replace-key", {"stolen": True}).status_code == 200
    frozen = {target for target in live.mint.store.freezes() if target.startswith("key:memory.")}
    assert frozen == {"key:memory.1"}


@pytest.mark.spec("18.4")
def test_the_right_to_freeze_trusts_no_entry_of_a_memory(live: Harness) -> None:
    """A taint without an end narrows the freeze of a killed agent: no kill and no freeze makes one."""
    live.enrol()
    operator, agent = live.operator(), f"agent:{AGENT}"
    body = {"reason": "test", "wait": False}
    assert operator.call("POST", "/v1/kills", body | {"targets": [agent]}).status_code == 200
    for path in ("/v1/freezes", "/v1/kills"):
        narrow = body | {"targets": [str(TaintWindow(agent, now_ms() + 3_600_000))]}
        for more in ({}, {"freeze": True})[: 1 + (path == "/v1/kills")]:
            answer = operator.call("POST", path, narrow | more)
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), answer.text
    ended = body | {"targets": [str(TaintWindow(agent, 0, now_ms()))]}
    assert operator.call("POST", "/v1/freezes", ended).status_code == 200
    assert operator.call("POST", "/v1/freezes/thaw", ended).status_code == 200
    assert set(live.mint.store.freezes()) == {agent}


@pytest.mark.realm(log=True)
def test_the_log_has_the_freezes_of_a_database_that_lost_them(unit: Harness) -> None:
    """
    A freeze without a later thaw counts; one of an erased person, one that was thawed and one that is known do not.
    """
    log, db = unit.mint.log.store, unit.mint.db
    person, entries = subject_target("https://id.example", "ada"), []

    def add(op: str, target: str) -> None:
        at = len(entries) + 1
        entries.append(_kill("A", StoreEntry(at, op, target, at, "operator:ada", "why", f"targets.{op}")))

    for op, target in (
        ("kill+freeze", "agent:acme/one"),
        ("kill+freeze", "agent:acme/two"),
        ("thaw", "agent:acme/two"),
        ("freeze", "agent:acme/two"),
        ("freeze", "agent:acme/thawed"),
        ("thaw", "agent:acme/thawed"),
        ("freeze", "agent:acme/known"),
        ("freeze", "agent:acme/late"),
        ("kill", "session:s-aaaaaaaaaaaaaaaa"),
        ("freeze", person),
    ):
        add(op, target)
    with log.writing() as writing:
        source = writing.source(KILLS, "A")
        writing.append(source, entries)
        writing.mark(source, len(entries))
    place = HistoryPlace("A", 11, "")
    known = Freeze("agent:acme/known", 7, "operator:ada", "why")
    # The database followed a thaw that the log does not have yet.
    thaw = KillStep(11, "A", 11, "thaw", [("thaw", "agent:acme/late")], 11, "operator:ada", "why")
    assert db.epoch.follow("acme", None, place, [known], [], [thaw])
    missing = {freeze.target: (freeze.op, freeze.seq) for freeze in find_missing(db, log)}
    wanted = {"agent:acme/one": ("kill+freeze", 1), "agent:acme/two": ("freeze", 4)}
    assert missing == wanted | {person: ("freeze", 10)}
    with log.writing() as writing:  # as an erasure does
        writing.connection.execute(update(RECORD).where(RECORD.c.tool == "store.freeze").values(body=None))
    assert {freeze.target for freeze in find_missing(db, log)} == wanted.keys()


def test_a_mint_that_starts_freezes_what_the_log_alone_has(live: Harness) -> None:
    """The doctor names it before, and finds nothing after."""
    log, store, target = live.mint.log.store, live.mint.store, "agent:acme/lost"

    def found() -> tuple[bool | None, str]:
        [check] = [check for check in check_history(store, live.realm) if check.name == "freezes"]
        return check.ok, check.found

    assert found()[0]
    with log.writing() as writing:
        entry = StoreEntry(1, "kill+freeze", target, 1, "operator:ada", "stolen", "targets.killed")
        writing.append(writing.source(KILLS, "A"), [_kill("A", entry)])
    ok, named = found()
    assert not ok
    assert target in named
    second = MintRuntime.open(Realm.open(live.realm.folder), store_url=live.mint.store_url)
    second.start()
    second.close()
    assert target in store.freezes()
    assert found()[0]
    [row] = [row for row in live.mint.db.epoch.frozen() if row.target == target]
    assert (row.op, row.by, row.why) == ("kill+freeze", "operator:ada", "stolen")


def test_a_new_root_key_leaves_no_retired_key_unfrozen(live: Harness) -> None:
    """The retired number of a stolen key has a key id with it, which is frozen before the answer."""
    operator = live.operator()
    live.service_file("orders")
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 200
    assert operator.call("POST", "/v1/root-keys/rotate", {"now": True}).status_code == 200
    assert set(live.mint.store.freezes()) == {"key:k1.1", "key:k2.1"}
    [check] = [check for check in check_history(live.mint.store, live.realm) if check.name == "freezes"]
    assert check.ok, check.found
    seq = live.mint.store.header().seq
    assert operator.call("POST", "/v1/root-keys").is_success
    assert live.mint.store.header().seq == seq + 1, "k3.1 alone"
