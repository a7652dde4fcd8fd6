# SPDX-License-Identifier: Apache-2.0
"""A database that was put back gets from the log's files what it lost, and goes on with the same history."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from arx_caps.audit.ingest.entries import RECOVERED, make_note
from arx_caps.audit.integrity.repair import Reindexed, reindex
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import NODE, RECORD
from arx_caps.audit.store.totals import up_to_date
from arx_verifier.journal.decision import UNPROVEN, Decision
from arx_verifier.journal.tally import RefusalCount
from tests.audit.batches import START_MS, batch_of, decision, facts, sources_of
from tests.audit.test_backup import Backup, kept
from tests.audit.world import LOG

pytestmark = pytest.mark.spec("LOG 1.10")

__all__ = ["kept"]

WHO = {"by": "operator:ann", "reason": "the disk broke"}


def fill(store: LogStore, upto: int) -> None:
    """Put in a run's records up to a number: decisions, counts of what was not proven, a loss, a note."""
    mark = sources_of(store)[0].high_water if store.size() else 0
    made = [decision(n, facts(f"s-{n % 3}", "t-1", "helper")) for n in range(mark, upto - 1)]
    made.append(Decision("counted", START_MS, UNPROVEN, counts=(RefusalCount("malformed", "10.0.0.9", 3),)))
    store.take(batch_of(made, mark + 1), "s")
    store.take(batch_of([], upto + 3, lost_from=upto + 1), "s")
    with store.writing() as log:
        log.note(make_note("log.tested", "x", 1, {}, {}))


@pytest.fixture
def backups(kept: tuple[LogStore, Backup], tmp_path: Path) -> tuple[LogStore, str]:
    """A log of which a backup was made before more was put in, signed and published in ``tmp_path / "log"``."""
    made, backup = kept
    fill(made, 50)
    copy = backup()
    fill(made, 400)
    Publisher(made, LOG, tmp_path / "log").step()
    return made, copy


@pytest.fixture
def store(backups: tuple[LogStore, str]) -> LogStore:
    """The log."""
    return backups[0]


@pytest.fixture
def older(backups: tuple[LogStore, str]) -> Iterator[LogStore]:
    """The backup, put back."""
    with LogStore(backups[1]) as made:
        made.create()
        yield made


def sources(store: LogStore) -> dict[tuple[str, str, str], int]:
    return {(each.verifier, each.boot, each.audience): each.high_water for each in sources_of(store)}


def test_what_was_signed_comes_back(store: LogStore, older: LogStore, tmp_path: Path) -> None:
    """Every record but its body, each source's mark, and the log goes on from what was signed."""
    folder, size = tmp_path / "log", store.size()
    seen = open_checkpoint((folder / "checkpoint").read_bytes(), LOG.key)
    stuck = Publisher(older, LOG, folder)
    stuck.step()
    assert "older one" in (stuck.halted or "")
    lost = size - older.size()
    assert reindex(older, folder, LOG.key, **WHO) == Reindexed(lost, 0)
    assert lost > 300
    assert reindex(older, folder, LOG.key, **WHO) == Reindexed(0, 0)
    marks = sources(store)
    assert sources(older) == marks | {("log", "", ""): marks["log", "", ""] + 1}
    with older.reading() as c, store.reading() as d:
        rows = c.execute(select(RECORD.c.kept, RECORD.c.outcome, RECORD.c.code).order_by(RECORD.c.idx)).all()
        assert [tuple(row) for row in rows[:size]] == [
            tuple(row)
            for row in d.execute(select(RECORD.c.kept, RECORD.c.outcome, RECORD.c.code).order_by(RECORD.c.idx))
        ]
        nodes = select(*NODE.c).where(NODE.c.kind != "mint")
        mine, theirs = (up_to_date(each, each.execute(nodes).all()) for each in (c, d))
        assert {(n.kind, n.ref, n.allow, n.deny) for n in mine} == {(n.kind, n.ref, n.allow, n.deny) for n in theirs}
        assert c.execute(select(RECORD.c.tool).order_by(RECORD.c.idx.desc())).scalar() == RECOVERED
    again = Publisher(older, LOG, folder)
    again.step()
    assert again.halted is None
    assert verify(folder, Trust(LOG.key, held=seen)).records == size + 1
    assert older.take(batch_of([decision(403, facts())], 403), "s") == 403


def test_files_that_are_not_its_own_change_nothing(store: LogStore, older: LogStore, tmp_path: Path) -> None:
    """A database that went its own way, or files that were altered or cut: refused, and all is as it was."""
    folder, size = tmp_path / "log", older.size()
    bundle = folder / "tile/entries/000"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TamperedError, match="of the files is not what was signed"):
        reindex(older, folder, LOG.key, **WHO)
    bundle.unlink()
    with pytest.raises(IncompleteError):
        reindex(older, folder, LOG.key, **WHO)
    bundle.write_bytes(whole)
    assert older.size() == size
    older.take(batch_of([decision(53, facts(), "revoked")], 53), "s")
    with pytest.raises(TamperedError, match="not that of the signed"):
        reindex(older, folder, LOG.key, **WHO)
    assert older.size() == size + 1


def test_records_that_were_never_signed_go_only_on_request(older: LogStore, tmp_path: Path) -> None:
    """A tree of the database's own is dropped for the signed one at the word of the operator."""
    folder, size = tmp_path / "log", older.size()
    older.take(batch_of([decision(53, facts(), "revoked")], 53), "s")
    done = reindex(older, folder, LOG.key, **WHO, replace=True)
    assert (done.recovered > 300, done.mended) == (True, 1)
    again = Publisher(older, LOG, folder)
    again.step()
    assert again.halted is None
    assert verify(folder, Trust(LOG.key)).records == older.size() > size


def test_what_another_history_has_signed_stays(older: LogStore, tmp_path: Path) -> None:
    """Two checkpoints of one size are evidence, and no command drops one of them."""
    older.take(batch_of([decision(53, facts(), "revoked")], 53), "s")
    Publisher(older, LOG, tmp_path / "other").step()
    size = older.size()
    with pytest.raises(TamperedError, match="signed another history"):
        reindex(older, tmp_path / "log", LOG.key, **WHO, replace=True)
    assert older.size() == size
