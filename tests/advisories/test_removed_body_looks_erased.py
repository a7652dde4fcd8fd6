# SPDX-License-Identifier: Apache-2.0
"""A body that was removed from the database looked erased: the log did not say which bodies an erasure removed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import insert, select, update

from arx_caps.audit.ingest.entries import is_event, make_note, read_event
from arx_caps.audit.integrity import erasures as module
from arx_caps.audit.integrity.check import check_rows, rows_of
from arx_caps.audit.integrity.erasures import ERASED_KIND
from arx_caps.audit.integrity.repair import reindex
from arx_caps.audit.integrity.retention import erase, prune
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import RECORD
from arx_verifier.token.targets import subject_target
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG
from tests.servers import BOTH, empty_database

pytestmark = [pytest.mark.spec("LOG 1.9", "LOG 1.11")]

SIZE = 600
ADA = ("https://idp.example", "ada")
TARGET = subject_target(*ADA)
WHO = {"by": "operator:ann", "reason": "asked to"}


class SignedLog(NamedTuple):
    """A signed log with its files, every third record of which is Ada's."""

    store: LogStore
    publisher: Publisher

    def check(self) -> None:
        """Sign what is new, and check all rows."""
        self.publisher.step()
        assert self.publisher.halted is None
        rows = rows_of(self.store, self.publisher.folder, LOG.key)
        check_rows(rows)

    def remove(self, *indexes: int) -> None:
        """Remove bodies, as any user of the database can."""
        with self.store.writing() as log:
            log.connection.execute(update(RECORD).where(RECORD.c.idx.in_(indexes)).values(body=None))

    def named(self) -> list[dict[str, object]]:
        """Return what the records of erasures name."""
        with self.store.reading() as c:
            kept = [bytes(each) for each in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]
        events = [read_event(each, None) for each in kept if is_event(each)]
        return [event.named for event in events if event.kind == ERASED_KIND]


@pytest.fixture(params=BOTH)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SignedLog]:
    with contextlib.contextmanager(empty_database)(request, tmp_path / "audit.db") as url, LogStore(url) as store:
        store.create()
        made = [decision(n, facts("s-1", subject=ADA) if n % 3 == 0 else facts()) for n in range(SIZE)]
        store.take(batch_of(made), "s")
        yield SignedLog(store, Publisher(store, LOG, tmp_path / "log"))


def test_a_body_that_nothing_erased_is_missed(log: SignedLog) -> None:
    """The check names the records; a rebuild says in the log that their bodies are lost, and the log goes on."""
    log.check()
    log.remove(10, 12, 13, 14)
    with pytest.raises(TamperedError, match=r"record 10 .* lost its body, .*; the same is true of 12 to 14") as found:
        log.check()
    assert (found.value.first, found.value.last) == (10, 10)
    assert reindex(log.store, log.publisher.folder, LOG.key, **WHO).mended == 4
    log.check()
    log.remove(15)
    with pytest.raises(TamperedError, match="record 15"):
        log.check()


def test_an_erasure_accounts_for_its_own_records_alone(log: SignedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list is signed with it, in as many records as it needs; another person's body is missed all the same."""
    monkeypatch.setattr(module, "MAX_RANGES", 150)
    assert erase(log.store, subject=TARGET, **WHO) == SIZE // 3
    named = log.named()
    assert [each["records"] for each in named] == [150, 50]
    assert [first for each in named for first, _ in each["indexes"]] == [*range(0, SIZE, 3)]  # type: ignore[attr-defined]
    log.check()
    log.remove(4)
    with pytest.raises(TamperedError, match="record 4 "):
        log.check()


def test_all_before_an_index_and_what_was_pruned_is_accounted_for(log: SignedLog) -> None:
    """These need no list."""
    log.check()
    assert erase(log.store, before=300, **WHO) == 300
    log.check()
    assert prune(log.store, log.publisher.folder, 280, **WHO) == 256
    log.check()
    log.remove(300)
    with pytest.raises(TamperedError, match="record 300"):
        log.check()


def test_an_erasure_without_a_list_accounts_for_its_number(log: SignedLog) -> None:
    """One that an earlier version recorded: as many bodies may be gone before it, and no more."""
    log.remove(3, 9)
    with log.store.writing() as writing:
        writing.note(make_note(ERASED_KIND, "operator:ann", 1, {"records": 2}, {"records": 2, "reason": "x"}))
    log.check()
    log.remove(10)
    with pytest.raises(TamperedError, match="3 bodies are gone, and the erasures that list no records account for 2"):
        log.check()


def test_a_row_behind_the_tree_accounts_for_nothing(log: SignedLog) -> None:
    """A user of the database can write a row that looks like an erasure; no tree has it, so nothing signs it."""
    log.check()
    log.remove(10)
    forged = make_note(ERASED_KIND, "operator:ann", 1, {"records": 1, "indexes": [[10, 10]]}, {})
    row = {"idx": SIZE + 5, "at_ms": 1, "node": 1, "source": 1, "sequence": 99, "outcome": 0, "code": "event"}
    with log.store.writing() as writing:
        writing.connection.execute(insert(RECORD).values(**row, tool=ERASED_KIND, kept=forged.kept, body=forged.body))
    with pytest.raises(TamperedError, match="record 10 "):
        check_rows(rows_of(log.store, log.publisher.folder, LOG.key))
