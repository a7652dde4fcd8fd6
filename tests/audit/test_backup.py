# SPDX-License-Identifier: Apache-2.0
"""Backup and restore of the log: whole at any moment, completed by senders, and never a second history."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from arx_caps.audit.publish import Publisher
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import RECORD
from arx_caps.audit.tree import Frontier, leaf_hash
from arx_caps.audit.verify import Trust, verify
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG
from tests.postgres import Postgres
from tests.servers import BOTH

MADE = [decision(number, facts(f"s-{number % 9}")) for number in range(1, 2001)]
BATCHES = [batch_of(MADE[first : first + 50], first + 1) for first in range(0, len(MADE), 50)]
Backup = Callable[[], str]


def _sqlite(folder: Path) -> tuple[str, Backup]:
    def backup() -> str:
        with (
            closing(sqlite3.connect(folder / "audit.db")) as source,
            closing(sqlite3.connect(folder / "backup.db")) as copy,
        ):
            source.backup(copy)
        return f"sqlite:///{folder}/backup.db"

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
    assert begun.wait(20)
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
