# SPDX-License-Identifier: Apache-2.0
"""After ``arx audit reindex`` at two hosts a mint halted: bodies that the first run had lost looked removed by hand.

The first run's record names the rows that came back without bodies.  Where the second host's files went further, its
run replaced that record, and named its own rows alone.
"""

from pathlib import Path

import pytest
from sqlalchemy import select, update

from arx_caps.audit.ingest.entries import EVENT_CODE, RECOVERED, read_event
from arx_caps.audit.integrity.check import check_rows, rows_of
from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import RECORD
from tests.advisories.test_a_log_made_again_at_the_second_host import published
from tests.audit.test_backup import Backup, kept
from tests.audit.test_reindex import WHO, fill
from tests.audit.world import LOG

__all__ = ["kept"]


@pytest.mark.slow
@pytest.mark.spec("LOG 1.10", "LOG 1.11")
@pytest.mark.parametrize("names", ["ac", "abc"])
def test_the_last_run_names_what_every_run_lost(kept: tuple[LogStore, Backup], tmp_path: Path, names: str) -> None:
    """All rows hold after two and three runs; a body of before the backup is still missed."""
    made, backup = kept
    fill(made, 50)
    copy, before = backup(), made.size()
    sizes = [published(made, upto, tmp_path / name) for upto, name in ((100, "a"), (200, "b"), (300, "c"))]
    with LogStore(copy) as older:
        older.create()
        for name in names:
            reindex(older, tmp_path / name, LOG.key, **WHO)
        Publisher(older, LOG, tmp_path / "c").step()
        rows = rows_of(older, tmp_path / "c", LOG.key)
        check_rows(rows)
        notes = select(RECORD.c.kept).where(RECORD.c.tool == RECOVERED, RECORD.c.code == EVENT_CODE)
        with older.reading() as c:
            [named] = [read_event(bytes(kept), None).named for kept in c.execute(notes).scalars()]
        assert named == {
            "first": before,
            "last": sizes[-1] - 1,
            "records": sizes[-1] - before,
            "indexes": [[before, sizes[-1] - 1]],
        }
        with older.writing() as log:
            log.connection.execute(update(RECORD).where(RECORD.c.idx == before - 2).values(body=None))
        with pytest.raises(TamperedError, match=f"record {before - 2} .* lost its body"):
            check_rows(rows)
