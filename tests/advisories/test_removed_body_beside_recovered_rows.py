# SPDX-License-Identifier: Apache-2.0
"""After ``arx audit reindex``, a body that was removed by hand between two restored records was taken for accounted.

The run's record named one range from the first to the last restored record, and not those that came back without a
body.
"""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from arx_caps.audit.ingest.entries import EVENT_CODE, RECOVERED, make_note, read_event
from arx_caps.audit.integrity import erasures as module
from arx_caps.audit.integrity.check import check_rows, rows_of
from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import RECORD
from tests.audit.test_backup import Backup, kept
from tests.audit.test_reindex import WHO, fill
from tests.audit.world import LOG

__all__ = ["kept"]

pytestmark = pytest.mark.spec("LOG 1.10", "LOG 1.11")

EDITED = (5, 9, 10, 40)  # their rows are not what was signed; 9 keeps its body
BODILESS = [[5, 5], [10, 10], [40, 40]]


def edit(store: LogStore) -> None:
    """Edit rows by hand, and remove the bodies of all but one of them."""
    with store.writing() as log:
        for index in EDITED:
            values = {"tool": "other"} if index == 9 else {"tool": "other", "body": None}
            log.connection.execute(update(RECORD).where(RECORD.c.idx == index).values(**values))


def remove_body(store: LogStore, index: int) -> None:
    """Remove a body by hand."""
    with store.writing() as log:
        log.connection.execute(update(RECORD).where(RECORD.c.idx == index).values(body=None))


def named_in(store: LogStore) -> list[dict[str, Any]]:
    """Return what each record of a rebuild names."""
    notes = select(RECORD.c.kept).where(RECORD.c.tool == RECOVERED, RECORD.c.code == EVENT_CODE).order_by(RECORD.c.idx)
    with store.reading() as c:
        return [read_event(bytes(each), None).named for each in c.execute(notes).scalars()]


@pytest.mark.slow
@pytest.mark.parametrize("most", [3000, 2])
@pytest.mark.parametrize("index", [7, 9, 39])
def test_a_body_beside_restored_rows_is_missed(
    kept: tuple[LogStore, Backup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, index: int
) -> None:
    """Also that of a restored row that had kept its body, and where the ranges need several records."""
    monkeypatch.setattr(module, "MAX_RANGES", most)
    store, folder = kept[0], tmp_path / "log"
    fill(store, 60)
    Publisher(store, LOG, folder).step()
    edit(store)
    assert reindex(store, folder, LOG.key, **WHO).mended == len(EDITED)
    Publisher(store, LOG, folder).step()
    rows = rows_of(store, folder, LOG.key)
    check_rows(rows)
    whole = {"first": 5, "last": 40, "records": 4}
    parts = [BODILESS] if most > 2 else [BODILESS[:2], BODILESS[2:]]
    assert named_in(store) == [{**whole, "indexes": part} for part in parts]
    remove_body(store, index)
    with pytest.raises(TamperedError, match=f"record {index} .* lost its body"):
        check_rows(rows)


def test_a_rebuild_of_an_earlier_version_accounts_as_before(kept: tuple[LogStore, Backup], tmp_path: Path) -> None:
    """Its record has no ranges: all between its ends."""
    store, folder = kept[0], tmp_path / "log"
    fill(store, 60)
    with store.writing() as log:
        named = {"first": 5, "last": 40, "records": 2}
        log.note(make_note(RECOVERED, "operator:ann", log.now_ms, named, named))
    Publisher(store, LOG, folder).step()
    remove_body(store, 7)
    rows = rows_of(store, folder, LOG.key)
    check_rows(rows)
    remove_body(store, 41)
    with pytest.raises(TamperedError, match=r"record 41 .* lost its body"):
        check_rows(rows)


def test_a_second_run_goes_on_after_several_records(
    kept: tuple[LogStore, Backup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another host's files, which go further: the unsigned records of the first run are no other history."""
    monkeypatch.setattr(module, "MAX_RANGES", 1)
    store, backup = kept
    fill(store, 60)
    folders = [tmp_path / "a", tmp_path / "b"]
    Publisher(store, LOG, folders[0]).step()
    copy = backup()
    fill(store, 200)
    Publisher(store, LOG, folders[1]).step()
    with LogStore(copy) as older:
        older.create()
        edit(older)
        reindex(older, folders[0], LOG.key, **WHO)
        assert [each["indexes"] for each in named_in(older)] == [[each] for each in BODILESS]
        reindex(older, folders[1], LOG.key, **WHO)
        with older.reading() as c:
            assert c.execute(select(func.count()).select_from(RECORD)).scalar() == older.size()
        Publisher(older, LOG, folders[1]).step()
        rows = rows_of(older, folders[1], LOG.key)
        check_rows(rows)
        kept_bodies = {7, 9}
        for each in named_in(older):
            assert not [one for one in each["indexes"] if kept_bodies & {*range(one[0], one[1] + 1)}]
