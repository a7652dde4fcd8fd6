# SPDX-License-Identifier: Apache-2.0
"""What happens at once, at one mint or at two: the same as if one had come after the other.  On both databases."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_caps.credentials.keyfile import PublicKey
from arx_caps.database import engines
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.tables import AGENTS, HIGH_WATER, SESSIONS, GrantRow, SessionRow, TaskRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, StoreError
from tests.postgres import Postgres
from tests.servers import run_together, until

AGENT = "acme/support"
MARK = HighWater("h", 1, 1000)
SOME = Event.of("something", "mint")
ROUNDS = 6


@pytest.fixture
def dbs(tmp_path: Path, database: str | None) -> Iterator[tuple[MintDatabase, MintDatabase]]:
    """Two mints' views of one database."""
    url = database or f"sqlite:///{tmp_path}/mint.db"
    with MintDatabase(url, writer="one") as one, MintDatabase(url, writer="two") as two:
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

    run_together(*(partial(run, *each) for each in enumerate(calls)))
    return done


def waits(db: MintDatabase) -> bool:
    """Whether a connection waits for a lock; SQLite does not report that, and has one lock alone."""
    if db.system == "sqlite":
        return True
    with db.read() as c:
        return bool(c.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar())


def enrol(db: MintDatabase, path: str = AGENT) -> None:
    db.agents.add(db.unit(), path, key(), owner=None, metadata={}, what=SOME)


def session_row(name: str, agent: str = AGENT) -> SessionRow:
    now = now_ms()
    return SessionRow(
        id=name,
        agent=agent,
        jkt="j",
        status="open",
        policy="p",
        opened_at=now,
        expires_at=now + 60_000,
        ends_at=now + 60_000,
        incarnation="h",
        born=1,
    )


def task_row(name: str, session: str) -> TaskRow:
    now = now_ms()
    return TaskRow(
        id=name,
        session=session,
        agent=AGENT,
        template="t",
        params={},
        audiences=[],
        link="l",
        status="open",
        policy="p",
        started_at=now,
        expires_at=now + 60_000,
        incarnation="h",
        born=1,
    )


def open_session(db: MintDatabase, name: str) -> None:
    db.sessions.add(db.unit(), session_row(name), MARK, "acme", SOME)


def start_task(db: MintDatabase, name: str, session: str) -> None:
    grant = GrantRow(f"l-{name}", name, "{}", "p", now_ms(), now_ms() + 60_000)
    db.grants.start(db.unit(), task_row(name, session), MARK, "acme", SOME, grant)


def during(db: MintDatabase, change: Any, call: Callable[[], Any]) -> str:
    """Do something while a change is made that is not committed yet; what it came to."""
    outcome: list[str] = []
    with db.write() as c:
        c.execute(change)
        thread = threading.Thread(target=lambda: outcome.extend(at_once(call)))
        thread.start()
        until(lambda: waits(db) or outcome)
    thread.join()
    return outcome[0]


def test_an_end_that_came_first_leaves_nothing_behind(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """What begins while the end of what it belongs to is being written waits for that, and is refused."""
    one, two = dbs
    enrol(one)
    open_session(one, "s-1")
    ending = SESSIONS.update().values(status="ended")
    assert during(one, ending, lambda: start_task(two, "t-1", "s-1")) == "session_ended"
    deactivating = AGENTS.update().values(status="deactivated")
    assert during(one, deactivating, lambda: open_session(two, "s-2")) == "frozen"
    assert (two.tasks.list(), [row.id for row in two.sessions.list()]) == ([], ["s-1"])


def test_no_task_runs_in_an_ended_session(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """Whichever of start and end comes first, afterwards the session is over and so is every task of it."""
    one, two = dbs
    enrol(one)
    for n in range(ROUNDS):
        session = f"s-{n}"
        open_session(one, session)
        starts = [lambda s=session, t=t: start_task((one, two)[t % 2], f"t-{s}-{t}", s) for t in range(3)]
        *started, ended = at_once(*starts, lambda s=session: two.sessions.end(s, SOME))
        assert ended == "ok"
        assert set(started) <= {"ok", "session_ended"}
        assert [task.status for task in one.tasks.list(session=session)] == ["ended"] * started.count("ok")


def test_no_session_outlives_a_deactivation(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """A session is there before its agent's deactivation, and ended by it, or it is refused."""
    one, two = dbs
    for n in range(ROUNDS):
        agent = f"acme/a{n}"
        enrol(one, agent)

        def deactivate(agent: str = agent) -> None:
            two.agents.set_status(agent, "deactivated", SOME)
            two.sessions.end_of(agent)

        def open_one(agent: str = agent) -> None:
            one.sessions.add(one.unit(), session_row(f"s-{agent}", agent), MARK, "acme", SOME)

        opened, _ = at_once(open_one, deactivate)
        assert opened in ("ok", "frozen")
        assert [row.status for row in one.sessions.list(agent=agent)] == ["ended"] * (opened == "ok")


def test_a_key_belongs_to_one(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """Of many who enrol the same key at once for others, one succeeds; no agent is half enrolled."""
    same = key()

    def enrolling(n: int) -> Callable[[], None]:
        return lambda: dbs[n % 2].agents.add(dbs[n % 2].unit(), f"acme/a{n}", same, owner=None, metadata={}, what=SOME)

    assert sorted(at_once(*map(enrolling, range(6)))) == ["key_enrolled"] * 5 + ["ok"]
    assert len(dbs[0].agents.list()) == len(dbs[0].outbox.after(0)) == 1


def test_a_path_is_enrolled_once(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """Of many who enrol the same agent at once, one succeeds, and its key is the one that counts."""
    assert sorted(at_once(*(lambda n=n: enrol(dbs[n % 2]) for n in range(6)))) == ["agent_exists"] * 5 + ["ok"]
    assert len(dbs[0].holder_keys.kids(AGENT)) == 1


def test_the_last_key_stays(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """Of two who take away an agent's two keys at once, one is refused."""
    for n in range(ROUNDS):
        agent, first, second = f"acme/a{n}", key(), key()
        dbs[0].agents.add(dbs[0].unit(), agent, first, owner=None, metadata={}, what=SOME)
        dbs[0].holder_keys.change(agent, second, None, SOME)
        removals = [
            lambda s=s, a=agent, k=k: s.holder_keys.change(a, None, k.kid, SOME)
            for s, k in zip(dbs, (first, second), strict=True)
        ]
        assert sorted(at_once(*removals)) == ["conflict", "ok"]
        assert len(dbs[0].holder_keys.kids(agent)) == 1


def test_a_service_is_enrolled_once(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """Many who enrol a service at once all find it, with the same key."""
    assert at_once(*(lambda n=n: dbs[n % 2].services.ensure("orders", "me", SOME) for n in range(6))) == ["ok"] * 6
    assert [row.audience for row in dbs[0].services.list()] == ["orders"]


def test_the_mark_is_never_lowered(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """However writers overtake each other, also at the very first, the mark ends at the furthest place."""
    raises = [
        lambda n=n: dbs[n % 2].epoch.raise_high_water("acme", HighWater("h", n)) for n in (3, 9, 4, 8, 5, 7, 6, 2)
    ]
    assert at_once(*raises) == ["ok"] * 8
    assert dbs[0].epoch.high_water("acme") == HighWater("h", 9)
    raising = HIGH_WATER.update().values(seq=12)
    assert during(dbs[0], raising, lambda: dbs[1].epoch.raise_high_water("acme", HighWater("h", 11))) == "ok"
    assert dbs[0].epoch.high_water("acme") == HighWater("h", 12)


def test_a_proof_that_is_spent_with_its_change_is_spent_once(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """
    Of two calls with one proof the mint does one and refuses the other as ``replayed``, without effect; a proof whose
    call was refused before it changed anything is spent all the same.
    """

    def call(db: MintDatabase, jti: str, change: bool = True) -> None:
        with db.unit(one_change=True) as unit:
            unit.spend("proof", "k", jti, now_ms() + 60_000)
            if not change:
                raise GrantError("no", code="unknown_task")
            unit.record(SOME)

    before = dbs[0].outbox.waiting()
    for number in range(ROUNDS):
        jti = str(number)
        assert sorted(at_once(*(partial(call, db, jti) for db in dbs))) == ["ok", "replayed"]
    assert dbs[0].outbox.waiting() == before + ROUNDS
    refused = partial(call, dbs[0], "refused", change=False)
    assert [*at_once(refused), *at_once(refused)] == ["unknown_task", "replayed"]


def test_many_writers_take_turns(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """
    Forty that write at once at one mint are all served, in the time that it takes, and none has to try again.
    """
    assert at_once(*[lambda: dbs[0].record(SOME)] * 40) == ["ok"] * 40


def test_a_reader_of_the_record_misses_nothing(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """A follower that goes on from the last number it saw gets every event once, in order, while two mints write."""
    one, two = dbs
    seen: list[int] = []
    over = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = over.is_set()
            while found := two.outbox.after(seen[-1] if seen else 0, 7):
                seen.extend(event.id for event in found)

    def write(db: MintDatabase) -> None:
        for n in range(25):
            db.record(Event.of("written", "mint", n=n))

    follower = threading.Thread(target=follow)
    follower.start()
    at_once(*(lambda s=s: write(s) for s in (one, two, one, two)))
    over.set()
    follower.join()
    assert seen == [event.id for event in one.outbox.after(0)]
    assert len(seen) == 100


def test_a_reader_waits_for_who_has_a_lower_number(dbs: tuple[MintDatabase, MintDatabase]) -> None:
    """An event that has its number and is not committed yet is never passed over for a later one."""
    one, two = dbs
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
        assert found in ([], ["first"])  # the first is alone: no other gets a number before its commit
        assert [event.kind for event in two.outbox.after(0)] == ["first"]


@pytest.mark.servers
def test_a_mint_that_hangs_stops_no_caller_for_long(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits for a row under another's lock gives up with an error; nothing was changed."""
    monkeypatch.setattr(engines, "BUSY_S", 1)
    url = postgres.database(template="made")
    with MintDatabase(url) as one, MintDatabase(url) as two:
        enrol(one)
        with one.write() as c:
            c.execute(AGENTS.update().values(status="deactivated"))
            with pytest.raises(StoreError):
                open_session(two, "s-1")
            c.rollback()
        open_session(two, "s-1")
    postgres.drop(url)
