# SPDX-License-Identifier: Apache-2.0
"""A ledger that ended cleanly goes on with its pools once; every copy, crash and older end leaves them exhausted."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.server import ledger_end
from arx_caps.mint.server.ledger_end import end_ledger, open_ledger
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import LOST, WAKING, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import look, new_ledger, only_bucket
from tests.servers import until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.spec("17.5"),
    pytest.mark.skipif(not ledger_end.MEMORY.is_dir(), reason="this system has no folder in memory"),
]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start a ledger as ``arx up`` does; yield its address."""
    with EmbeddedValkey(folder, fsync="everysec") as server:
        open_ledger(server.url, "acme")
        yield server.url


def take(url: str, pool: PoolDraw) -> Taken | Short:
    """Draw as a process that remembers nothing."""
    with closing(RedisLedger(url, "acme", timeout_s=30)) as ledger:
        return ledger.take("draw", "", [pool])


def is_lost(url: str, pool: PoolDraw) -> bool:
    """Whether a pool gives nothing, as its draws are not known."""
    answer = take(url, pool)
    return isinstance(answer, Short) and answer.remaining == LOST


def first(url: str) -> PoolDraw:
    """Begin the realm's first ledger, and draw 10 of 100 from a new pool."""
    with closing(new_ledger(url, "acme")) as ledger:
        since = look(ledger)[1]
        pool = PoolDraw("t/-/p/usd/task", 100, 0, since + 1, 10, 10)
        until(lambda: isinstance(ledger.take("draw", "", [pool]), Taken))
    return pool


def ended(folder: Path) -> PoolDraw:
    """Make a ledger with a pool that has 90 of 100 left, and end it."""
    with served(folder) as url:
        pool = first(url)
        assert end_ledger(url, "acme", folder)
    return pool


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a ledger.  The notes of its ends are removed, and none of another test."""
    notes: list[Path] = []
    note = ledger_end._note

    def noted(seal: str) -> Path:
        notes.append(note(seal))
        return notes[-1]

    monkeypatch.setattr(ledger_end, "_note", noted)
    yield tmp_path / "ledger"
    for each in notes:
        each.unlink(missing_ok=True)


def test_a_pool_has_what_it_had_left(folder: Path) -> None:
    """After each of several clean ends; and exactly that."""
    pool = ended(folder)
    for left in (80, 70):
        with served(folder) as url:
            assert take(url, pool) == Taken((left,), (10,), (-1,))
            assert end_ledger(url, "acme", folder)
    with served(folder) as url:
        assert take(url, pool._replace(cost=71, wanted=71)) == Short(0, 70)


def test_a_pool_that_no_call_has_drawn_on_is_lost(folder: Path) -> None:
    """Another ledger could have given it out meanwhile, as after any other end; so are the pools of the next minute."""
    pool = ended(folder)
    with served(folder) as url:
        assert is_lost(url, pool._replace(pool="t/-/q/usd/task"))
        with closing(RedisLedger(url, "acme")) as ledger:
            now, since, whole = look(ledger)
        assert whole < pool.opened < now < since
        assert is_lost(url, pool._replace(pool="t/-/r/usd/task", opened=now))


def test_a_pool_that_the_mint_registers_is_given_out_at_once(folder: Path) -> None:
    """Of a task that begins after the ledger, once; it goes on after a clean end, and is lost after a kill."""
    pool = ended(folder)._replace(pool="t/-/q/usd/task")
    with served(folder) as url, closing(RedisLedger(url, "acme")) as mint:
        mint.start()
        pool = pool._replace(opened=look(mint)[0])
        assert is_lost(url, pool)  # and that draws nothing
        assert mint.register([pool])
        assert take(url, pool) == Taken((90,), (10,), (-1,))
        assert mint.register([pool])  # late, or again
        assert take(url, pool) == Taken((80,), (10,), (-1,))
        (shown,) = mint.shown(pool.pool.partition("/")[0])[:1]
        assert (shown["lost"], shown["remaining"]) == (False, 80)
        assert end_ledger(url, "acme", folder)
    with served(folder) as url:
        assert take(url, pool) == Taken((70,), (10,), (-1,))
    with served(folder) as url, closing(RedisLedger(url, "acme")) as mint:  # without a seal
        mint.start()
        assert is_lost(url, pool)
        assert mint.register([pool])  # no mint does so again; the ledger has it, and does not take it for a new one
        assert is_lost(url, pool)


def test_a_ledger_that_no_supervisor_opened_registers_nothing(folder: Path) -> None:
    """The server before may run on, and give the pool out to those that reach it."""
    with served(folder) as url:
        pool = first(url)
    with EmbeddedValkey(folder, fsync="everysec") as server, closing(RedisLedger(server.url, "acme")) as mint:
        mint.start()
        new = pool._replace(pool="t/-/q/usd/task", opened=look(mint)[0])
        assert not mint.register([new])
        assert is_lost(server.url, new)


def test_a_note_of_a_folder_that_is_gone_is_removed(folder: Path, tmp_path: Path) -> None:
    """By the next end of any ledger of this user; that of a folder which is there stays, and is taken by its start."""
    gone = tmp_path / "gone"
    ended(gone)
    notes = ledger_end.MEMORY.glob("arx-ledger-*")
    (note,) = (each for each in notes if each.read_bytes() == os.fsencode(gone))
    shutil.rmtree(gone)
    pool = ended(folder)
    assert not note.exists()
    with served(folder) as url:
        assert take(url, pool) == Taken((80,), (10,), (-1,))


def test_nothing_changes_after_the_seal(folder: Path) -> None:
    """No draw, no top-up, and no second seal: the data have every draw."""
    with served(folder) as url:
        pool = first(url)
        assert end_ledger(url, "acme", folder)
        with closing(RedisLedger(url, "acme")) as ledger:
            for call in (
                lambda: ledger.take("draw", "", [pool]),
                lambda: ledger.settle("op", [(pool, 0)]),
                lambda: ledger.undo([pool]),
                lambda: ledger.top_up(pool.pool, 1),
            ):
                with pytest.raises(StoreError):
                    call()
            assert not ledger.seal("another")
        assert not end_ledger(url, "acme", folder)
    with served(folder) as url:
        assert take(url, pool) == Taken((80,), (10,), (-1,))


def test_a_copy_goes_on_once(folder: Path) -> None:
    """Of an ended ledger and its copies one start goes on; it uses the end up before the first draw."""
    pool = ended(folder)
    copies = [shutil.copytree(folder, folder.with_name(f"copy{number}")) for number in range(3)]
    with ThreadPoolExecutor(4) as starts:
        answers = [*starts.map(lambda each: _first_answer(each, pool), [folder, *copies])]
    assert sorted(isinstance(answer, Taken) for answer in answers) == [False, False, False, True]
    assert [answer.remaining for answer in answers if isinstance(answer, Short)] == [LOST] * 3


def _first_answer(folder: Path, pool: PoolDraw) -> Taken | Short:
    with served(folder) as url:
        return take(url, pool)


def test_a_copy_that_is_put_back_is_exhausted(folder: Path) -> None:
    """Also one of the very end before, and while a later end is noted."""
    pool = ended(folder)
    copy = shutil.copytree(folder, folder.with_name("copy"))
    with served(folder) as url:
        assert isinstance(take(url, pool._replace(cost=90, wanted=90)), Taken)
        assert end_ledger(url, "acme", folder)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    with served(folder) as url:
        assert is_lost(url, pool)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_without_a_seal_is_exhausted(folder: Path, number: signal.Signals) -> None:
    """Killed, or stopped by another hand: its callers could draw until it ended."""
    pool = ended(folder)
    with EmbeddedValkey(folder, fsync="everysec") as server:
        open_ledger(server.url, "acme")
        assert isinstance(take(server.url, pool), Taken)
        os.kill(server.server_pid, number)
        until(lambda: not server.running)
    with served(folder) as url:
        assert is_lost(url, pool)


def test_a_seal_without_its_note_is_exhausted(folder: Path) -> None:
    """The supervisor ended between both, or the machine was without power since."""
    with served(folder) as url:
        pool = first(url)
        with closing(RedisLedger(url, "acme")) as ledger:
            assert ledger.seal("a" * 64)
    with served(folder) as url:
        assert is_lost(url, pool)
        assert not open_ledger(url, "acme")


def test_a_start_that_ends_before_it_opens_uses_the_note_up(folder: Path) -> None:
    """It may have drawn, as far as the next one knows; until then nothing is drawn."""
    pool = ended(folder)
    with EmbeddedValkey(folder, fsync="everysec") as server, closing(RedisLedger(server.url, "acme")) as ledger:
        with pytest.raises(StoreError):
            ledger.take("draw", "", [pool])
        assert ledger_end._take(ledger.sealed())
    with served(folder) as url:
        assert is_lost(url, pool)


def test_a_server_that_no_supervisor_opens_is_exhausted(folder: Path) -> None:
    """It draws nothing for a while, and then begins anew: data of `arx up` may be moved to another server."""
    pool = ended(folder)
    with EmbeddedValkey(folder, fsync="everysec") as server, closing(RedisLedger(server.url, "acme")) as ledger:
        with pytest.raises(StoreError, match="while its server ends or starts"):
            ledger.take("draw", "", [pool])
        answers: list[Taken | Short] = []

        def answered() -> bool:
            with suppress(StoreError):
                answers.append(ledger.take("draw", "", [pool]))
            return bool(answers)

        until(answered)
        assert isinstance(answers[0], Short)
        assert answers[0].remaining == LOST
        assert not open_ledger(server.url, "acme")
        assert is_lost(server.url, pool)


def test_a_long_pause_waits_for_what_callers_remember(folder: Path) -> None:
    """As at any ledger that no caller asked for 30 s; then it goes on."""
    pool = ended(folder)
    with EmbeddedValkey(folder, fsync="everysec") as server, closing(RedisLedger(server.url, "acme")) as ledger:
        seen = int(ledger._client.redis.hget(only_bucket(ledger).keys[0], "seen"))
        ledger._client.redis.hset(only_bucket(ledger).keys[0], "seen", seen - 60_000)
        assert open_ledger(server.url, "acme")
        answer = ledger.take("draw", "", [pool])
        assert isinstance(answer, Short)
        assert answer.remaining == WAKING
        until(lambda: isinstance(ledger.take("draw", "", [pool]), Taken))


def test_a_note_that_would_outlive_the_power_is_not_made(folder: Path, tmp_path: Path) -> None:
    """On a system whose folder is on a disk, a backup could put the note back with the data."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_end, "MEMORY", disk)
        with served(folder) as url:
            pool = first(url)
            assert not end_ledger(url, "acme", folder)
            assert isinstance(take(url, pool), Taken)
        assert [*disk.iterdir()] == []
    with served(folder) as url:
        assert is_lost(url, pool)


def test_a_caller_that_saw_a_later_beginning_exhausts(folder: Path) -> None:
    """The caller's memory counts beside the note: decision 0096."""
    pool = ended(folder)
    with served(folder) as url, closing(RedisLedger(url, "acme")) as ledger:
        ledger.recall(lambda _: "9 another:1.2", lambda _, beginning: beginning)
        answer = ledger.take("draw", "", [pool])
        assert isinstance(answer, Short)
        assert answer.remaining == LOST
