# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of the log: whole at any moment, completed by senders, and never a second history."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select

from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import REMEDY, Publisher
from arx_caps.audit.store.tables import RECORD
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG
from tests.postgres import Postgres
from tests.servers import BOTH

pytestmark = pytest.mark.spec("LOG 1.10")

MADE = [decision(number, facts(f"s-{number % 9}")) for number in range(1, 2001)]
BATCHES = [batch_of(MADE[first : first + 50], first + 1) for first in range(0, len(MADE), 50)]
Backup = Callable[[], str]


def _sqlite(folder: Path) -> tuple[str, Backup]:
    numbers = count()

    def backup() -> str:
        name = f"backup-{next(numbers)}.db"
        with closing(sqlite3.connect(folder / "audit.db")) as source, closing(sqlite3.connect(folder / name)) as copy:
            source.backup(copy)
        return f"sqlite:///{folder}/{name}"

    return f"sqlite:///{folder}/audit.db", backup


@pytest.fixture(params=BOTH)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[LogStore, Backup]]:
    """An empty log, and how its database is backed up into another one, which is then opened."""
    if request.param == "sqlite":
        url, backup = _sqlite(tmp_path)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.database()
        backup = partial(server.backup, url)
    with LogStore(url) as store:
        store.create()
        yield store, backup


def leaves(store: LogStore) -> list[bytes]:
    """The records, which give the tree that the database says it has."""
    with store.reading() as c:
        found = [bytes(kept) for kept in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]
    with store.writing() as log:
        assert log.tree.root() == Frontier.of(map(leaf_hash, found)).root()
    return found


def test_a_backup_at_any_moment_is_whole_and_goes_on(kept: tuple[LogStore, Backup]) -> None:
    """
    Made while records come, it is the log as it was at one moment; senders who still have the rest complete it, once.
    """
    store, backup = kept
    begun = threading.Event()

    def take() -> None:
        for batch in BATCHES:
            store.take(batch, "s")
            begun.set()

    taking = threading.Thread(target=take)
    taking.start()
    assert begun.wait(60)
    copy = backup()
    taking.join()
    whole = leaves(store)
    with LogStore(copy) as restored:
        restored.create()
        some = leaves(restored)
        assert 50 <= len(some) <= 2000
        assert some == whole[: len(some)]
        for batch in BATCHES:
            restored.take(batch, "s")
        assert leaves(restored) == whole


def test_a_backup_that_went_on_signs_no_second_history(kept: tuple[LogStore, Backup], tmp_path: Path) -> None:
    """
    Put back when nothing more was signed it goes on, its files made again; when more was, nothing is signed any more.
    """
    store, backup = kept
    for batch in BATCHES[:20]:
        store.take(batch, "s")
    publisher = Publisher(store, LOG, tmp_path / "log")
    publisher.step()
    copy = backup()
    signed = (tmp_path / "log" / "checkpoint").read_bytes()
    with LogStore(copy) as restored:
        again = Publisher(restored, LOG, tmp_path / "made-again")
        again.step()
        assert again.halted is None
        assert (tmp_path / "made-again" / "checkpoint").read_bytes() == signed
        assert verify(tmp_path / "made-again", Trust(LOG.key)).records == 1000
        for batch in BATCHES[20:]:
            store.take(batch, "s")
        publisher.step()
        shutil.copytree(tmp_path / "log", tmp_path / "kept")
        late = Publisher(restored, LOG, tmp_path / "log")
        late.step()
        assert late.halted is not None
        assert "it is an older one, such as a backup" in late.halted
        restored.take(batch_of([decision(1, facts("s-other"))], 1, boot="another"), "s")
        assert late.step() is False
    assert (tmp_path / "log" / "checkpoint").read_bytes() == (tmp_path / "kept" / "checkpoint").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "others", [1, pytest.param(8, marks=pytest.mark.nightly), 20]
)  # batches: fewer than were signed before, as many, more
@pytest.mark.parametrize("runs", [True, False])
def test_a_mint_that_is_ahead_signs_no_fork(
    kept: tuple[LogStore, Backup], tmp_path: Path, caplog: pytest.LogCaptureFixture, others: int, runs: bool
) -> None:
    """
    A backup is put back, and a mint that was stopped before it signs on: the one that knows more halts, whether it was
    restarted or not, and signs nothing over it.  The way out is to put the backup back again, for the one ahead first.
    """
    store, backup = kept
    folder, late, memory, its = (tmp_path / name for name in ("ahead", "behind", "ahead.signed", "behind.signed"))
    for batch in BATCHES[:4]:
        store.take(batch, "s")
    assert Publisher(store, LOG, late, memory=its).step()
    copy, again = backup(), backup()
    for batch in BATCHES[4:12]:
        store.take(batch, "s")
    ahead = Publisher(store, LOG, folder, memory=memory)
    assert ahead.step()
    shown = (folder / CHECKPOINT).read_bytes()
    with LogStore(copy) as restored:
        restored.create()
        behind = Publisher(restored, LOG, late, memory=its)
        for number in range(others):
            restored.take(batch_of([decision(n, facts("s-other")) for n in range(50)], 1, f"other-{number}"), "s")
            assert behind.step()
        ahead = put_under(ahead, restored) if runs else Publisher(restored, LOG, folder, memory=memory)
        before = restored.last_checkpoint()
        for _ in range(2):
            assert not ahead.step()
        assert ahead.halted is not None
        assert REMEDY in caplog.text
        assert (folder / CHECKPOINT).read_bytes() == memory.read_bytes() == shown
        assert restored.last_checkpoint() == before
        with pytest.raises(TamperedError, match=r"signed another history|not what was signed"):
            reindex(restored, folder, LOG.key, by="test", reason="mended", replace=True)
    with LogStore(again) as restored:
        restored.create()
        assert reindex(restored, folder, LOG.key, by="test", reason="mended").recovered == 400
        ahead = Publisher(restored, LOG, folder, memory=memory)
        assert ahead.step()
        behind = Publisher(restored, LOG, late, memory=its)
        assert not behind.step()
        assert behind.halted is not None  # what it signed meanwhile is evidence, in its own folder
        late.rename(tmp_path / "evidence")
        its.unlink()
        assert Publisher(restored, LOG, late, memory=its).step()
        assert (late / CHECKPOINT).read_bytes() == (folder / CHECKPOINT).read_bytes()


def put_under(publisher: Publisher, store: LogStore) -> Publisher:
    """Put another database in the place of a running mint's."""
    publisher._store = store
    return publisher
