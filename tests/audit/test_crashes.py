# SPDX-License-Identifier: Apache-2.0
"""Writers of the log that are killed at every step: what was acknowledged is there, once, and the log goes on."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, or_, select, update

from arx_caps.audit.integrity.check import check_rows, rows_of
from arx_caps.audit.merkle.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.merkle.tree import edge_of
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import BATCH, CHECKPOINT, RECORD, STATE
from tests.audit.crashing import AT_ONCE
from tests.audit.world import LOG

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 1.10")]


class Writers:
    """Runs rounds, each in a process of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.audit.crashing", url, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self, steps: int, what: str = "") -> tuple[list[int], int]:
        """Return what one said before it was killed, or ended, and its exit code; with "r" it makes rows again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}{steps}\n")
        self._process.stdin.flush()
        output = json.loads(self._process.stdout.readline())
        return output["marks"], output["code"]

    def close(self) -> None:
        """End."""
        self._process.communicate()


@pytest.fixture
def writers(url: str, store: LogStore, tmp_path: Path) -> Iterator[Writers]:
    """Writers of a log."""
    made = Writers(url, tmp_path / "log")
    yield made
    made.close()


def published(folder: Path) -> SignedCheckpoint | None:
    """The checkpoint that a client may have seen by now."""
    file = folder / "checkpoint"
    return open_checkpoint(file.read_bytes(), LOG.key) if file.exists() else None


@pytest.mark.slow
def test_a_killed_log_loses_nothing_and_forks_nothing(
    url: str, store: LogStore, writers: Writers, tmp_path: Path
) -> None:
    """Each next writer finds all that was acknowledged, once; what is signed continues all that was published."""
    folder, acknowledged, killed = tmp_path / "log", 0, 0
    stride = 2 if url.startswith("sqlite") else 9
    for steps in range(1, 400, stride):
        marks, code = writers.round(steps)
        acknowledged = max([acknowledged, *marks])
        with store.reading() as c:
            sequences = list(c.execute(select(RECORD.c.sequence).order_by(RECORD.c.idx)).scalars())
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) >= acknowledged
        seen = published(folder)
        marks, ended = writers.round(0)
        half, whole = len(sequences) + AT_ONCE // 2, len(sequences) + AT_ONCE
        assert (marks, ended) == ([half, whole, -1], 0)
        assert verify(folder, Trust(LOG.key, held=seen)).records == store.size() == whole
        if code == 0:
            break
        assert code == -signal.SIGKILL
        acknowledged, killed = whole, killed + 1
    assert code == 0
    assert killed > 30 // stride


@pytest.mark.slow
def test_files_that_are_gone_or_cut_are_made_again(store: LogStore, writers: Writers, tmp_path: Path) -> None:
    """A crash of the disk takes files, or their ends; the next start makes the very same ones from the database."""
    folder = tmp_path / "log"
    writers.round(0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) > 2
    for harm in (
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
    ):
        for path in before:
            harm(path)
            again = Publisher(store, LOG, folder)
            again.step()
            assert again.halted is None
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def put_back(store: LogStore, folder: Path) -> None:
    """Take the last records away as an older database lacks them, and a row in the middle."""
    head = published(folder)
    assert head is not None
    size = head.checkpoint.size - 40
    edge = b"".join(edge_of(TileReader(fetch_from(folder), head.checkpoint.size).subtree, size))
    with store.writing() as log:
        c = log.connection
        c.execute(delete(RECORD).where(or_(RECORD.c.idx >= size, RECORD.c.idx == 3)))
        c.execute(delete(BATCH).where(BATCH.c.idx >= size))
        c.execute(delete(CHECKPOINT))
        c.execute(update(STATE).values(size=size, edge=edge))


@pytest.mark.slow
def test_rows_are_made_again_by_commands_that_are_killed(
    url: str, store: LogStore, writers: Writers, tmp_path: Path
) -> None:
    """At any step: the next one does the rest, every record is there once, and the log is signed on."""
    folder, stride = tmp_path / "log", 9 if url.startswith("sqlite") else 37
    for _ in range(4):
        writers.round(0)
    for steps in range(1, 400, stride):
        put_back(store, folder)
        _, code = writers.round(steps, "r")
        assert code in (0, -signal.SIGKILL)
        assert writers.round(0, "r") == ([-1], 0)
        check_rows(rows_of(store, folder, LOG.key))
        if code == 0:
            break
    assert code == 0
    assert writers.round(0)[0][-1] == -1  # what is signed continues what was
    assert verify(folder, Trust(LOG.key)).records == store.size()
