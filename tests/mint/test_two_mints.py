# SPDX-License-Identifier: Apache-2.0
"""Two mints on one PostgreSQL and one store, as real processes: they are one mint, also while either is killed."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.jose import KeyFile, SigningKey, make_assertion, make_dpop
from arx_caps.mint.core import Mint
from arx_caps.mint.state import State
from arx_caps.realm import Realm
from arx_verifier.feed import Follower
from tests.mint.world import ISSUER, LOOKUP, make_realm, now_ms
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.servers
AGENTS = 4
ENOUGH = 12  # rounds of an agent, each with several requests
TIMEOUT_S = 10.0


class MintProcess:
    """One of the mints: it can be killed and started again, at another port each time."""

    def __init__(self, realm: Realm, store: str) -> None:
        self._realm, self._store = realm, store
        self.start()

    def start(self) -> None:
        """Start it, and wait until it says that it listens."""
        command = [sys.executable, "-m", "arx_caps.mint.serve", "--realm-dir", str(self._realm.folder), "--port", "0"]
        environment = os.environ | {"ARX_STORE_URL": self._store}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        # Lines of its log may stand before the one that says that it listens.
        lines = map(json.loads, iter(self._process.stderr.readline, ""))
        told = next(line for line in lines if "ready" in line)
        assert told["ready"] is True, told
        self.url = f"http://{told['listen']}"
        self.pid = self._process.pid

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Caller:
    """Somebody with a key, who asks whichever mint answers, and says what was answered."""

    def __init__(self, mints: list[MintProcess], client: httpx.Client, key: SigningKey, token: str | None) -> None:
        self.mints, self.client, self.key, self.token = mints, client, key, token

    def headers(self, method: str, path: str) -> dict[str, str]:
        proof = make_dpop(self.key, method=method, url=ISSUER + path, now=now_ms(), token=self.token)
        return {"DPoP": proof} | ({} if self.token is None else {"Authorization": f"DPoP {self.token}"})

    def once(
        self, mint: MintProcess, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response | None:
        """Ask one mint; None when it died over it."""
        try:
            sent = headers or self.headers(method, path)
            return self.client.request(method, mint.url + path, json=body, headers=sent)
        except httpx.TransportError:
            return None

    def ask(self, turn: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Ask one mint after the other until one answers; for what is harmless to repeat."""
        for place in range(turn, turn + 50):
            answer = self.once(self.mints[place % 2], method, path, body)
            # A database or a store may be slow to see that a mint is gone; a client tries again, as it is told to.
            if answer is not None and answer.status_code != 503:
                told: dict[str, Any] = answer.json() | {"status_code": answer.status_code}
                return told
        raise AssertionError("no mint answers")


class Load(threading.Thread):
    """An agent at work: opens a session, starts tasks, ends some; knows what was answered."""

    def __init__(self, mints: list[MintProcess], key: KeyFile, over: threading.Event) -> None:
        super().__init__()
        self.mints, self.agent, self.over = mints, key, over
        self.sessions: set[str] = set()
        self.tasks: set[str] = set()
        self.ended: set[str] = set()
        self.rounds = 0
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=TIMEOUT_S) as client:
                while not self.over.is_set():
                    self.round(client)
                    self.rounds += 1
        except BaseException as error:
            self.failed = error

    def round(self, client: httpx.Client) -> None:
        caller = self.open_session(client)
        if caller is None:
            return
        session = caller.ask(0, "GET", "/v1/whoami")["session"]
        assert session in self.sessions
        for turn in range(2):
            told = caller.ask(turn, "POST", "/v1/tasks", LOOKUP)
            assert told["status_code"] == 201, told
            self.tasks.add(told["task"]["id"])
            if turn:
                self.end(caller, f"/v1/tasks/{told['task']['id']}", f"task:{told['task']['id']}")
        self.end(caller, f"/v1/sessions/{session}", f"session:{session}")

    def open_session(self, client: httpx.Client) -> Caller | None:
        """Open a session; the same assertion opens no second one at the other mint."""
        key = SigningKey.generate()
        assertion = make_assertion(self.agent, audience=ISSUER, now=now_ms(), session_key=key.public)
        caller, tokens = Caller(self.mints, client, key, None), []
        for mint in self.mints:
            answer = caller.once(mint, "POST", "/v1/sessions", {"assertion": assertion})
            if answer is not None and answer.status_code == 201:
                tokens.append(answer.json()["token"])
                self.sessions.add(answer.json()["session"]["id"])
            elif answer is not None and answer.status_code != 503:
                assert answer.json()["code"] == "replayed", answer.text
        assert len(tokens) <= 1
        return Caller(self.mints, client, key, tokens[0]) if tokens else None

    def end(self, caller: Caller, path: str, scope: str) -> None:
        told = caller.ask(self.rounds, "DELETE", path)
        if told["status_code"] == 200:
            self.ended.add(scope)
        else:  # its first answer was lost, and the kill was in the store already
            assert told["code"] == "revoked", told


@pytest.fixture
def realm(tmp_path: Path, postgres: Postgres, realm_name: str) -> Iterator[Realm]:
    url = postgres.database(template="made")
    yield make_realm(tmp_path / "realm", realm_name, database=url)
    postgres.drop(url)


@pytest.fixture
def mints(realm: Realm, valkey: EmbeddedValkey) -> Iterator[list[MintProcess]]:
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        # Both at once: one begins the history, the other finds it.
        made = list(pool.map(lambda _: MintProcess(realm, valkey.url), range(2)))
        for mint in made:
            stack.callback(mint.kill)
        yield made


@pytest.fixture
def operator(realm: Realm, mints: list[MintProcess]) -> Iterator[Caller]:
    key = KeyFile.load(realm.operator_key_path)
    with httpx.Client(timeout=TIMEOUT_S) as client:
        caller = Caller(mints, client, key.key, None)
        body = {"assertion": make_assertion(key, audience=ISSUER, now=now_ms())}
        caller.token = caller.ask(0, "POST", "/v1/operators/token", body)["token"]
        yield caller


def enrol(operator: Caller, n: int) -> KeyFile:
    key = KeyFile.generate("agent", f"acme/support/a{n}", ISSUER)
    told = operator.ask(n, "POST", "/v1/agents", {"path": key.subject, "jwk": key.key.public.jwk})
    assert told["status_code"] == 201, told
    return key


def test_they_are_one_mint(realm: Realm, mints: list[MintProcess], operator: Caller) -> None:
    """What one did the other knows: agents, tokens, used proofs; and both are in the same history."""
    key = enrol(operator, 0)
    caller = Load(mints, key, threading.Event()).open_session(operator.client)
    assert caller is not None
    headers = caller.headers("GET", "/v1/whoami")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda mint: caller.once(mint, "GET", "/v1/whoami", **headers), mints))
    assert sorted(answer.json().get("code", "ok") for answer in answers if answer) == ["ok", "replayed"]
    task = caller.ask(0, "POST", "/v1/tasks", LOOKUP)["task"]["id"]
    assert caller.ask(1, "DELETE", f"/v1/tasks/{task}")["task"]["state"] == "ended"
    assert caller.ask(0, "GET", "/v1/tasks")["tasks"][0]["state"] == "ended"
    with State(realm.database_url) as state:
        kinds = Counter(event.kind for event in state.outbox.after(0))
        writers = {event.mint for event in state.outbox.after(0)}
    assert (kinds["mint.started"], kinds["epoch.begun"], kinds["epoch.rotated"]) == (2, 1, 0)
    assert len(writers) == 3  # and who made the realm


def test_either_may_die_in_the_middle_of_it(
    realm: Realm, mints: list[MintProcess], operator: Caller, valkey: EmbeddedValkey
) -> None:
    """Under a load, with a kill -9 of one and then the other: all that was answered is there, and all ended is dead."""
    over = threading.Event()
    loads = [Load(mints, enrol(operator, n), over) for n in range(AGENTS)]
    killed: dict[str, int] = {}
    for load in loads:
        load.start()
    try:
        for mint in mints:
            before = sum(load.rounds for load in loads)
            until(lambda before=before: sum(load.rounds for load in loads) > before + AGENTS, 60)
            mint.kill()
            alive = next(load for load in loads if load.sessions)
            scope = f"session:{min(alive.sessions)}"
            report = operator.ask(0, "POST", "/v1/kills", {"scopes": [scope], "reason": "stop", "wait": False})
            killed[scope] = report["seq"]
            mint.start()
        until(lambda: any(load.failed for load in loads) or all(load.rounds >= ENOUGH for load in loads), 60)
    finally:
        over.set()
        for load in loads:
            load.join()
    assert [load.failed for load in loads] == [None] * AGENTS
    check(realm, loads, killed, valkey.url)


def check(realm: Realm, loads: list[Load], killed: dict[str, int], store: str) -> None:
    with State(realm.database_url) as state:
        sessions = {row["id"]: row for load in loads for row in state.sessions(agent=load.agent.subject)}
        tasks = {row["id"]: row for session in sessions for row in state.tasks(session=session)}
        events = []
        while page := state.outbox.after(events[-1].id if events else 0):
            events += page
        mark = state.high_water(realm.name)
    for load in loads:
        assert load.sessions <= set(sessions)
        assert load.tasks <= set(tasks)
    opened = Counter(event.facts["session"] for event in events if event.kind == "session.opened")
    started = Counter(event.facts["task"] for event in events if event.kind == "task.started")
    assert (set(opened), set(opened.values())) == (set(sessions), {1})
    assert (set(started), set(started.values())) == (set(tasks), {1})
    recorded = {(scope, event.facts["seq"]) for event in events for scope in event.facts.get("scopes", ())}
    assert set(killed.items()) <= recorded
    assert not [task for task in tasks.values() if task["status"] == "open" and over(sessions, task)]
    ended = set(killed).union(*(load.ended for load in loads))
    epochs = Follower(store, realm.name, "afterwards")
    assert epochs.catch_up(0, 0, 5)
    for scope in ended:
        kind, _, name = scope.partition(":")
        row = sessions[name] if kind == "session" else tasks[name]
        assert epochs.check(row["inc"], row["born"], (scope,)) is not None
        assert row["status"] == "ended" or scope in killed
    epochs.close()
    assert mark is not None
    assert {row["inc"] for row in sessions.values()} == {mark.inc}  # no death of a mint began a new history


def over(sessions: dict[str, Any], task: dict[str, Any]) -> bool:
    return bool(sessions[task["session"]]["status"] == "ended")


def test_two_that_find_the_store_empty_begin_one_history(realm: Realm, own_valkey: EmbeddedValkey) -> None:
    """Mints that look at the same time at a store without their kills do not end each other's new history."""
    mints = [Mint.open(realm, store_url=own_valkey.url) for _ in range(2)]
    mints[0].state.create()
    for _ in range(4):
        own_valkey_flush(own_valkey)
        barrier = threading.Barrier(2)

        def look(mint: Mint, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            mint.attest()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(look, mints))
        mark = mints[0].state.high_water(realm.name)
        assert mark is not None
        assert mints[0].store.header().inc == mark.inc
    begun = [event for event in mints[0].state.outbox.after(0) if event.kind.startswith("epoch.")]
    assert len(begun) == 4
    for mint in mints:
        mint.close()


def own_valkey_flush(server: EmbeddedValkey) -> None:
    import redis

    with redis.Redis.from_url(server.url) as client:
        client.flushall()
