# SPDX-License-Identifier: Apache-2.0
"""A durable journal acknowledged decisions that the disk had refused, or that it had not been asked to sync.

When a sync failed, the decision that made it was refused.  Those that waited behind it found nothing left to sync and
were allowed, and so were those that waited while the journal was closed.  A new file's name was never synced at all.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal
from tests.servers import until

FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
T0 = 1_700_000_000_000


class Disk:
    """Syncs as the kernel does, but may hold the next one until it is let go, and may fail it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.go, self.fails, self.kept = threading.Event(), threading.Event(), False, 0
        self._sync: Callable[[int], None] = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._fdatasync)

    def _fdatasync(self, fd: int) -> None:
        self.held.set()
        assert self.go.wait(60)
        if self.fails:
            self.fails = False  # the kernel reports a lost write once, and calls the next sync a success
            raise OSError(errno.EIO, "Input/output error")
        self._sync(fd)
        self.kept += 1


def together(journal: Journal, disk: Disk, others: int) -> list[str]:
    """Decide once and, while its sync is under way, on some other threads; return how each ended."""
    ended: list[str] = []

    def decide() -> None:
        try:
            journal.append(Decision("ok", T0, FACTS, "orders.get"))
            ended.append("kept")
        except AuditError:
            ended.append("refused")

    threads = [threading.Thread(target=decide) for _ in range(1 + others)]
    threads[0].start()
    assert disk.held.wait(60)
    before = journal._sequence
    for thread in threads[1:]:
        thread.start()
    until(lambda: journal._sequence == before + others)
    disk.go.set()
    for thread in threads:
        thread.join(20)
    return ended


@pytest.mark.parametrize("size", [1 << 16, 1 << 20], ids=["the next file begun", "one file"])
def test_a_caller_behind_a_failed_sync_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Each record of a file that the disk did not keep is refused, whichever thread asked for the sync."""
    disk = Disk(monkeypatch)
    journal = Journal(tmp_path, "v1", "orders", segment_bytes=size, max_bytes=1 << 24, mode="durable")
    disk.go.set()
    fill = range(340 if size == 1 << 16 else 3)
    assert all(journal.append(Decision("ok", T0, FACTS, "x")) for _ in fill)
    disk.held.clear()
    disk.go.clear()
    disk.fails = True
    ended = together(journal, disk, 3)
    in_first = ended.count("refused")
    assert in_first == 4 if size > 1 << 16 else 1 <= in_first <= 4
    assert journal.append(Decision("ok", T0, FACTS, "x")) > 0
    kept = disk.kept
    journal.close()
    assert disk.kept > kept


def test_closing_syncs_what_a_caller_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that is closed while decisions wait for the disk brings them there, or they are refused."""
    for fails in (False, True):
        disk = Disk(monkeypatch)
        journal = Journal(tmp_path / str(fails), "v1", "orders", max_bytes=1 << 26, mode="durable")
        disk.go.set()
        journal.append(Decision("ok", T0, FACTS, "first"))
        monkeypatch.setattr(journal, "_sync", _closing_first(journal, disk, fails))
        decision = Decision("ok", T0, FACTS, "orders.get")
        if fails:
            with pytest.raises(AuditError, match="not kept by the disk"):
                journal.append(decision)
        else:
            kept = disk.kept
            assert journal.append(decision) == 2
            assert disk.kept > kept


def _closing_first(journal: Journal, disk: Disk, fails: bool) -> Callable[..., None]:
    """Close a journal in the moment between a record's writing and its sync."""
    sync = journal._sync

    def closing(*record: object) -> None:
        disk.fails = fails
        journal.close()
        sync(*record)  # type: ignore[arg-type]

    return closing


def test_a_new_files_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each file its folder is synced too; without that a host that dies can lose the whole file."""
    folders: list[int] = []
    sync = os.fsync

    def seen(fd: int) -> None:
        folders.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        sync(fd)

    monkeypatch.setattr(os, "fsync", seen)
    journal = Journal(tmp_path, "v1", "orders", max_bytes=1 << 26, mode="durable")
    for _ in range(3):
        journal.append(Decision("ok", T0, FACTS, "x"))
    assert folders == [True]
    journal.close()
