# SPDX-License-Identifier: Apache-2.0
"""What happens at once, at one mint or at two: the same as if one had come after the other.  On both databases."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arx_caps import engines
from arx_caps.jose import SigningKey
from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.idempotency import spending_together
from arx_caps.mint.db.state import HighWater, MintState, now_ms
from arx_caps.mint.db.tables import AGENTS, HIGH_WATER, SESSIONS
from arx_verifier.errors import ArxError, GrantError, StoreError
from tests.postgres import Postgres
from tests.servers import until

AGENT = "acme/support"
MARK = HighWater("h", 1, 1000)
SOME = Event.of("something", "mint")
ROUNDS = 6


@pytest.fixture
def states(tmp_path: Path, database: str | None) -> Iterator[tuple[MintState, MintState]]:
    """Two mints' views of one database."""
    url = database or f"sqlite:///{tmp_path}/mint.db"
    with MintState(url, writer="one") as one, MintState(url, writer="two") as two:
        one.create()
        yield one, two


def key() -> PublicKey:
    return SigningKey.generate().public


def at_once(*calls: Callable[[], Any]) -> list[str]:
    """Do things at once; what each came to, ``ok`` or its code."""
    barrier, done = threading.Barrier(len(calls)), [""] * len(calls)

    def run(place: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            call()
            done[place] = "ok"
        except ArxError as error:
            done[place] = error.code

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def waits(state: MintState) -> bool:
    """Whether somebody waits for a lock; SQLite cannot tell, and has one lock alone."""
    if state.system == "sqlite":
        return True
    with state.read() as c:
        return bool(c.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar())


def enrol(state: MintState, path: str = AGENT) -> None:
    state.add_agent(path, key(), owner=None, metadata={}, what=SOME)


def session_row(name: str, agent: str = AGENT) -> dict[str, Any]:
    now = now_ms()
    own = {"id": name, "agent": agent, "jkt": "j", "status": "open", "policy": "p", "incarnation": "h", "born": 1}
    return own | {"opened_at": now, "expires_at": now + 60_000, "ended_at": None, "purpose": None}


def task_row(name: str, session: str) -> dict[str, Any]:
    now = now_ms()
    own = {"id": name, "session": session, "agent": AGENT, "template": "t", "params": "{}", "audiences": "[]"}
    own |= {"link": "l", "status": "open", "policy": "p", "incarnation": "h", "born": 1}
    return own | {"started_at": now, "expires_at": now + 60_000, "ended_at": None}


def open_session(state: MintState, name: str) -> None:
    state.add_session(session_row(name), MARK, "acme", SOME)


def start_task(state: MintState, name: str, session: str) -> None:
    grant = {
        "link": f"l-{name}",
        "content": "{}",
        "policy": "p",
        "granted_at": now_ms(),
        "expires_at": now_ms() + 60_000,
    }
    state.add_task(task_row(name, session), MARK, "acme", SOME, grant)


def during(state: MintState, change: Any, call: Callable[[], Any]) -> str:
    """Do something while a change is made that is not committed yet; what it came to."""
    outcome: list[str] = []
    with state.write() as c:
        c.execute(change)
        thread = threading.Thread(target=lambda: outcome.extend(at_once(call)))
        thread.start()
        until(lambda: waits(state) or outcome)
    thread.join()
    return outcome[0]


def test_an_end_that_came_first_leaves_nothing_behind(states: tuple[MintState, MintState]) -> None:
    """What begins while the end of what it belongs to is being written waits for that, and is refused."""
    one, two = states
    enrol(one)
    open_session(one, "s-1")
    ending = SESSIONS.update().values(status="ended")
    assert during(one, ending, lambda: start_task(two, "t-1", "s-1")) == "session_ended"
    deactivating = AGENTS.update().values(status="deactivated")
    assert during(one, deactivating, lambda: open_session(two, "s-2")) == "frozen"
    assert (two.tasks(), [row["id"] for row in two.sessions()]) == ([], ["s-1"])


def test_no_task_runs_in_an_ended_session(states: tuple[MintState, MintState]) -> None:
    """Whichever of start and end comes first, afterwards the session is over and so is every task of it."""
    one, two = states
    enrol(one)
    for n in range(ROUNDS):
        session = f"s-{n}"
        open_session(one, session)
        starts = [lambda s=session, t=t: start_task((one, two)[t % 2], f"t-{s}-{t}", s) for t in range(3)]
        *started, ended = at_once(*starts, lambda s=session: two.end_session(s, SOME))
        assert ended == "ok"
        assert set(started) <= {"ok", "session_ended"}
        assert [task["status"] for task in one.tasks(session=session)] == ["ended"] * started.count("ok")


def test_no_session_outlives_a_deactivation(states: tuple[MintState, MintState]) -> None:
    """A session is there before its agent's deactivation, and ended by it, or it is refused."""
    one, two = states
    for n in range(ROUNDS):
        agent = f"acme/a{n}"
        enrol(one, agent)

        def deactivate(agent: str = agent) -> None:
            two.set_agent_status(agent, "deactivated", SOME)
            two.end_sessions_of(agent)

        def open_one(agent: str = agent) -> None:
            one.add_session(session_row(f"s-{agent}", agent), MARK, "acme", SOME)

        opened, _ = at_once(open_one, deactivate)
        assert opened in ("ok", "frozen")
        assert [row["status"] for row in one.sessions(agent=agent)] == ["ended"] * (opened == "ok")


def test_a_key_belongs_to_one(states: tuple[MintState, MintState]) -> None:
    """Of many who enrol the same key at once for others, one gets it; nobody else is enrolled by halves."""
    same = key()

    def enrolling(n: int) -> Callable[[], None]:
        return lambda: states[n % 2].add_agent(f"acme/a{n}", same, owner=None, metadata={}, what=SOME)

    assert sorted(at_once(*map(enrolling, range(6)))) == ["key_enrolled"] * 5 + ["ok"]
    assert len(states[0].agents()) == len(states[0].outbox.after(0)) == 1


def test_a_path_is_enrolled_once(states: tuple[MintState, MintState]) -> None:
    """Of many who enrol the same agent at once, one succeeds, and its key is the one that counts."""
    assert sorted(at_once(*(lambda n=n: enrol(states[n % 2]) for n in range(6)))) == ["agent_exists"] * 5 + ["ok"]
    assert len(states[0].kids(AGENT)) == 1


def test_the_last_key_stays(states: tuple[MintState, MintState]) -> None:
    """Of two who take away an agent's two keys at once, one is refused."""
    for n in range(ROUNDS):
        agent, first, second = f"acme/a{n}", key(), key()
        states[0].add_agent(agent, first, owner=None, metadata={}, what=SOME)
        states[0].change_keys(agent, second, None, SOME)
        removals = [
            lambda s=s, a=agent, k=k: s.change_keys(a, None, k.kid, SOME)
            for s, k in zip(states, (first, second), strict=True)
        ]
        assert sorted(at_once(*removals)) == ["conflict", "ok"]
        assert len(states[0].kids(agent)) == 1


def test_a_service_is_enrolled_once(states: tuple[MintState, MintState]) -> None:
    """Many who enrol a service at once all find it, with the same key."""
    assert at_once(*(lambda n=n: states[n % 2].enrol_service("orders", "me", SOME) for n in range(6))) == ["ok"] * 6
    assert [row["audience"] for row in states[0].services()] == ["orders"]


def test_the_mark_is_never_lowered(states: tuple[MintState, MintState]) -> None:
    """However writers overtake each other, also at the very first, the mark ends at the furthest place."""
    raises = [lambda n=n: states[n % 2].raise_high_water("acme", HighWater("h", n)) for n in (3, 9, 4, 8, 5, 7, 6, 2)]
    assert at_once(*raises) == ["ok"] * 8
    assert states[0].high_water("acme") == HighWater("h", 9)
    raising = HIGH_WATER.update().values(seq=12)
    assert during(states[0], raising, lambda: states[1].raise_high_water("acme", HighWater("h", 11))) == "ok"
    assert states[0].high_water("acme") == HighWater("h", 12)


def test_a_proof_that_is_spent_with_its_change_is_spent_once(states: tuple[MintState, MintState]) -> None:
    """
    Of two calls with one proof one is done and the other is told ``replayed``, and nothing of it is done; a proof whose
    call was refused before it changed anything is spent all the same.
    """

    def call(state: MintState, jti: str, change: bool = True) -> None:
        with spending_together(state.spend_now):
            state.spend("proof", "k", jti, now_ms() + 60_000)
            if not change:
                raise GrantError("no", code="unknown_task")
            state.record(SOME)

    before = states[0].outbox.waiting()
    for number in range(ROUNDS):
        jti = str(number)
        assert sorted(at_once(*(partial(call, state, jti) for state in states))) == ["ok", "replayed"]
    assert states[0].outbox.waiting() == before + ROUNDS
    refused = partial(call, states[0], "refused", change=False)
    assert [*at_once(refused), *at_once(refused)] == ["unknown_task", "replayed"]


def test_many_writers_take_turns(states: tuple[MintState, MintState]) -> None:
    """
    Forty that write at once at one mint are all served, in the time that it takes, and none is told to come again.
    """
    assert at_once(*[lambda: states[0].record(SOME)] * 40) == ["ok"] * 40


def test_a_reader_of_the_record_misses_nothing(states: tuple[MintState, MintState]) -> None:
    """A follower that goes on from the last number it saw gets every event once, in order, while two mints write."""
    one, two = states
    seen: list[int] = []
    over = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = over.is_set()
            while found := two.outbox.after(seen[-1] if seen else 0, 7):
                seen.extend(event.id for event in found)

    def write(state: MintState) -> None:
        for n in range(25):
            state.record(Event.of("written", "mint", n=n))

    follower = threading.Thread(target=follow)
    follower.start()
    at_once(*(lambda s=s: write(s) for s in (one, two, one, two)))
    over.set()
    follower.join()
    assert seen == [event.id for event in one.outbox.after(0)]
    assert len(seen) == 100


def test_a_reader_waits_for_who_has_a_lower_number(states: tuple[MintState, MintState]) -> None:
    """An event that has its number and is not committed yet is never passed over for a later one."""
    one, two = states
    found: list[str] = []
    with one.write() as c:
        one.record_in(c, Event.of("first", "mint"))
        if one.system == "postgresql":
            two.record(Event.of("second", "mint"))
        reader = threading.Thread(target=lambda: found.extend(event.kind for event in two.outbox.after(0)))
        reader.start()
        if one.system == "postgresql":
            until(lambda: waits(two) or found)
    reader.join()
    if one.system == "postgresql":
        assert found == ["first", "second"]
    else:
        assert found in ([], ["first"])  # there the first is alone: nobody gets a number while it is not committed
        assert [event.kind for event in two.outbox.after(0)] == ["first"]


@pytest.mark.servers
def test_a_mint_that_stands_still_stops_nobody_for_long(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a row that somebody else has locked gives up and says so; nothing was changed."""
    monkeypatch.setattr(engines, "BUSY_S", 1)
    url = postgres.database(template="made")
    with MintState(url) as one, MintState(url) as two:
        enrol(one)
        with one.write() as c:
            c.execute(AGENTS.update().values(status="deactivated"))
            with pytest.raises(StoreError):
                open_session(two, "s-1")
            c.rollback()
        open_session(two, "s-1")
    postgres.drop(url)
