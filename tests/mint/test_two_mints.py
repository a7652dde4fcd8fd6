# SPDX-License-Identifier: Apache-2.0
"""Two mints on one PostgreSQL and one store, as real processes: they are one mint, also while either is killed."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.runtime import MintRuntime
from arx_caps.settings.realm import Realm
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.macaroon import Macaroon
from tests.mint.harness import ISSUER, make_realm, now_ms
from tests.mint.processes import Caller, Load, MintProcess, open_session
from tests.mint.test_token_exchange import PAY, POLICY
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.servers
AGENTS = 3
ENOUGH = 4  # rounds of an agent, each with a dozen requests
TIMEOUT_S = 10.0
MOST = 2
FEW = f'[session.few]\nagents = ["acme/few"]\nttl = "8h"\nmax_open = {MOST}\n'


class Pair(NamedTuple):
    """Two mints of a realm, their store, and an operator who asks either."""

    realm: Realm
    mints: list[MintProcess]
    store: str
    operator: Caller


@contextmanager
def running(folder: Path, name: str, postgres: Postgres, store: str, settings: str = "") -> Iterator[Pair]:
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        realm = stack.enter_context(realm_of(folder, name, postgres, settings))
        # Both at once: one begins the history, the other finds it.
        starts = [pool.submit(MintProcess, realm, store) for _ in range(2)]
        for started in starts:  # each is ended, also where the other one did not start
            stack.callback(lambda started=started: started.exception() or started.result().kill())
        mints = [started.result() for started in starts]
        key, client = KeyFile.load(realm.operator_key_path), stack.enter_context(httpx.Client(timeout=TIMEOUT_S))
        operator = Caller(mints, client, key.key, None)
        body = {"assertion": make_assertion(key, audience=ISSUER, now=now_ms())}
        operator.token = operator.ask(0, "POST", "/v1/operators/token", body)["token"]
        yield Pair(realm, mints, store, operator)


@contextmanager
def realm_of(folder: Path, name: str, postgres: Postgres, more: str = "") -> Iterator[Realm]:
    url = postgres.database(template="made")
    made = make_realm(folder, name, database=url)
    made.policy_path.write_text(POLICY.replace("[session]", "[session.all]") + FEW)
    with (made.folder / "realm.toml").open("a") as settings:
        settings.write('key_refresh = "1s"\n' + more)
    yield Realm.open(made.folder)
    postgres.drop(url)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, valkey: EmbeddedValkey) -> Iterator[Pair]:
    """Mints that run for several tests."""
    with running(tmp_path_factory.mktemp("pair") / "realm", "pair", postgres, valkey.url) as made:
        yield made


@pytest.fixture
def mortal(tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey) -> Iterator[Pair]:
    """Mints that a test may kill."""
    with running(tmp_path / "realm", realm_name, postgres, valkey.url) as made:
        yield made


@pytest.fixture
def realm(tmp_path: Path, realm_name: str, postgres: Postgres) -> Iterator[Realm]:
    """A realm without a mint."""
    with realm_of(tmp_path / "realm", realm_name, postgres) as made:
        yield made


def enrol(operator: Caller, name: str) -> KeyFile:
    key = KeyFile.generate("agent", f"acme/{name}", ISSUER)
    answer = operator.ask(0, "POST", "/v1/agents", {"path": key.subject, "jwk": key.key.public.jwk})
    assert answer["status_code"] == 201, answer
    return key


def join(operator: Caller, audience: str) -> Caller:
    """Enrol a key of a service's own."""
    token = operator.ask(0, "POST", "/v1/services/invitations", {"audience": audience})["enrolment"]
    service = Caller(operator.mints, operator.client, SigningKey.generate(), None)
    assert service.ask(1, "POST", "/v1/services/keys", {"enrolment": token})["status_code"] == 201
    return service


def test_they_are_one_mint(pair: Pair) -> None:
    """What one did the other knows: agents, tokens, used proofs; and both are in the same history."""
    realm, mints, _, operator = pair
    agent, key = enrol(operator, "a"), SigningKey.generate()
    body = {"assertion": make_assertion(agent, audience=ISSUER, now=now_ms(), session_key=key.public)}
    opener = Caller(mints, operator.client, key, None)
    answers = [opener.once(mint, "POST", "/v1/sessions", body) for mint in mints]
    assert [answer.json().get("code", "ok") for answer in answers if answer] == ["ok", "replayed"]
    assert answers[0] is not None
    caller = Caller(mints, operator.client, key, answers[0].json()["token"])
    headers = caller.headers("GET", "/v1/whoami")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda mint: caller.once(mint, "GET", "/v1/whoami", **headers), mints))
    assert sorted(answer.json().get("code", "ok") for answer in answers if answer) == ["ok", "replayed"]
    task = caller.ask(0, "POST", "/v1/tasks", PAY)["task"]["id"]
    assert caller.ask(1, "DELETE", f"/v1/tasks/{task}")["task"]["state"] == "ended"
    assert caller.ask(0, "GET", "/v1/tasks")["tasks"][0]["state"] == "ended"
    with MintDatabase(realm.database_url) as db:
        kinds = Counter(event.kind for event in db.outbox.after(0))
        writers = {event.mint for event in db.outbox.after(0)}
    assert (kinds["mint.started"], kinds["epoch.begun"], kinds["epoch.rotated"]) == (2, 1, 0)
    assert len(writers) == 3  # and who made the realm


@pytest.mark.nightly
def test_either_may_die_in_the_middle_of_it(mortal: Pair) -> None:
    """Under a load, with a kill -9 of one and then the other: what was answered is there and nothing else is, and all
    that was ended is dead.
    """
    realm, mints, store, operator = mortal
    over = threading.Event()
    service = join(operator, "orders")
    loads = [Load(mints, enrol(operator, f"a{n}"), over, service) for n in range(AGENTS)]
    killed: dict[str, int] = {}
    for load in loads:
        load.start()
    try:
        for mint in mints:
            before = sum(load.rounds for load in loads)
            until(lambda before=before: sum(load.rounds for load in loads) > before + AGENTS, 60)
            mint.kill()
            alive = next(load for load in loads if load.sessions)
            target = f"session:{min(alive.sessions)}"
            report = operator.ask(0, "POST", "/v1/kills", {"targets": [target], "reason": "stop", "wait": False})
            killed[target] = report["seq"]
            mint.start()
        until(lambda: any(load.failed for load in loads) or all(load.rounds >= ENOUGH for load in loads), 60)
    finally:
        over.set()
        for load in loads:
            load.join()
    assert [load.failed for load in loads] == [None] * AGENTS
    check(realm, loads, killed, store)


def check(realm: Realm, loads: list[Load], killed: dict[str, int], store: str) -> None:
    with MintDatabase(realm.database_url) as db:
        sessions = {row.id: row for load in loads for row in db.sessions.list(agent=load.agent.subject)}
        tasks = {row.id: row for session in sessions for row in db.tasks.list(session=session)}
        events = []
        while page := db.outbox.after(events[-1].id if events else 0):
            events += page
        mark = db.epoch.high_water(realm.name)
        grants = {row.link for task in tasks for row in db.grants.list(task)}

    def count_of(kind: str, name: str) -> Counter[str]:
        return Counter(event.facts[name] for event in events if event.kind == kind)

    # A client without an answer asks again: the rows are those that were answered, each once in table and record.
    for kind, name, rows, answered in (
        ("session.opened", "session", set(sessions), union(load.sessions for load in loads)),
        ("task.started", "task", set(tasks), union(load.tasks for load in loads)),
        ("token.exchanged", "link", None, union(load.exchanged for load in loads)),
    ):
        assert (set(count_of(kind, name)), set(count_of(kind, name).values())) == (answered, {1}), kind
        assert rows is None or rows == answered, kind
    links = count_of("task.started", "link") + count_of("task.extended", "link") + count_of("task.attenuated", "link")
    answered = union(load.links for load in loads)
    assert (set(links), set(links.values()), grants) == (answered, {1}, answered)
    assert sum(count_of("session.renewed", "session").values()) >= sum(load.renewed for load in loads)
    assert union({f"session:{session}" for session in load.killed} for load in loads) <= set(killed)
    recorded = {(target, event.facts["seq"]) for event in events for target in event.facts.get("targets", ())}
    assert set(killed.items()) <= recorded
    assert not [task for task in tasks.values() if task.status == "open" and over(sessions, task)]
    ended = set(killed).union(*(load.ended for load in loads))
    epochs = Follower(store, realm.name, "afterwards")
    assert epochs.catch_up(0, 0, 5)
    for target in ended:
        kind, _, name = target.partition(":")
        row = sessions[name] if kind == "session" else tasks[name]
        assert epochs.check(row.incarnation, row.born, (target,)) is not None
        assert row.status == "ended" or target in killed
    epochs.close()
    assert mark is not None
    assert {row.incarnation for row in sessions.values()} == {
        mark.incarnation
    }  # no death of a mint began a new history


def union(sets: Any) -> set[str]:
    return set().union(*sets)


def over(sessions: dict[str, Any], task: dict[str, Any]) -> bool:
    return bool(sessions[task.session].status == "ended")


def test_of_many_at_both_as_many_get_a_session_as_there_is_room(pair: Pair) -> None:
    """A race at both mints: the agent never has more sessions than it may, and one that ended makes room for one."""
    _, mints, _, operator = pair
    agent = enrol(operator, "few")

    def attempt(turn: int) -> tuple[Caller, dict[str, Any]]:
        caller = Caller(mints, operator.client, SigningKey.generate(), None)
        assertion = make_assertion(agent, audience=ISSUER, now=now_ms(), session_key=caller.key.public)
        return caller, caller.ask(turn, "POST", "/v1/sessions", {"assertion": assertion})

    room = MOST
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(attempt, range(8)))
        opened = [(caller, reply) for caller, reply in answers if reply["status_code"] == 201]
        assert len(opened) == room
        assert {reply["code"] for _, reply in answers if reply["status_code"] != 201} == {"too_many_sessions"}
        caller, reply = opened[0]
        caller.token, room = reply["token"], 1
        path = f"/v1/sessions/{reply['session']['id']}"
        assert caller.ask(0, "DELETE", path)["status_code"] == 200


def test_a_policy_that_one_takes_the_other_goes_by(pair: Pair) -> None:
    """Loaded at one it is in force at both; a task that runs keeps its own, and each shows both by their digests."""
    realm, mints, _, operator = pair
    caller, _ = open_session(mints, operator.client, enrol(operator, "ruled"), 0)
    before, text = caller.ask(1, "POST", "/v1/tasks", PAY)["task"], realm.policy_path.read_text()
    loaded = operator.ask(0, "POST", "/v1/policies", {"policy": text.replace('"8h"', '"7h"', 1)})
    assert loaded["before"] == before["policy"]
    until(lambda: operator.ask(1, "GET", "/v1/policies/in-force")["digest"] == loaded["digest"])
    after = caller.ask(1, "POST", "/v1/tasks", PAY)["task"]
    assert after["policy"] == loaded["digest"]
    assert caller.ask(0, "GET", f"/v1/tasks/{before['id']}")["task"]["policy"] == before["policy"]
    for turn, digest in enumerate((before["policy"], after["policy"])):
        shown = operator.ask(turn, "GET", f"/v1/policies/{digest}")
        assert Policy.parse(shown["policy"], "shown").digest == digest


@pytest.mark.parametrize("at_once", [False, True])
def test_a_new_root_key_is_met_by_no_refusal(pair: Pair, *, at_once: bool) -> None:
    """What either mint signs while a root key is rotated the other one takes; services have it in time, if it waits."""
    _, mints, _, operator = pair
    agent, service = enrol(operator, f"rotated-{at_once}".lower()), join(operator, "orders")
    root = operator.ask(0, "POST", "/v1/root-keys/rotate", {"now": at_once})["name"]
    signed_by: list[set[str]] = [set(), set()]
    turn = 0

    def step() -> bool:
        nonlocal turn
        here, there, turn = turn % 2, 1 - turn % 2, turn + 1
        caller, _ = open_session(mints, operator.client, agent, here)
        assert caller.token is not None
        started = caller.ask(there, "POST", "/v1/tasks", PAY)
        assert started["status_code"] == 201, started
        # The keys are asked for before the task is looked at, as a service has them that refreshes in time.
        known = {key["kid"] for key in service.ask(here, "GET", "/v1/keys")["keys"]}
        kid = Bundle.parse(started["bundle"]).tokens["orders"].unverified_identifier.kid
        assert kid in known
        signed_by[here].add(Macaroon.parse(caller.token).unverified_identifier.kid.partition(".")[0])
        signed_by[there].add(kid.partition(".")[0])
        return all(root in names for names in signed_by)

    until(step)
    assert at_once or all(len(names) == 2 for names in signed_by)  # it was met before the change and after it


@pytest.mark.slow
@pytest.mark.spec("10.11")
def test_two_that_find_the_store_empty_begin_one_history(realm: Realm, own_valkey: EmbeddedValkey) -> None:
    """Mints that look at the same time at a store without their kills do not end each other's new history."""
    mints = [MintRuntime.open(realm, store_url=own_valkey.url) for _ in range(2)]
    mints[0].db.create()
    for _ in range(4):
        own_valkey_flush(own_valkey)
        barrier = threading.Barrier(2)

        def look(mint: MintRuntime, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            mint.history.attest()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(look, mints))
        mark = mints[0].db.epoch.high_water(realm.name)
        assert mark is not None
        assert mints[0].store.header().incarnation == mark.incarnation
    begun = [event for event in mints[0].db.outbox.after(0) if event.kind.startswith("epoch.")]
    assert len(begun) == 4
    for mint in mints:
        mint.close()


def own_valkey_flush(server: EmbeddedValkey) -> None:
    import redis

    with redis.Redis.from_url(server.url) as client:
        client.flushall()
