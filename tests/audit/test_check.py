# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to the database's rows behind a signature is found, by index, and the signed records come back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import RECOVERED, make_note
from arx_caps.audit.integrity.check import check_rows, rows_of
from arx_caps.audit.integrity.repair import Reindexed, reindex
from arx_caps.audit.integrity.retention import erase, prune
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.questions import records
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import BATCH, NODE, RECORD, SOURCE, STATE
from arx_verifier.journal.decision import UNPROVEN, Decision
from arx_verifier.journal.tally import RefusalCount
from arx_verifier.token.targets import subject_target
from tests.audit.batches import BOOT, START_MS, batch_of, decision, facts
from tests.audit.world import LOG

pytestmark = [pytest.mark.long, pytest.mark.spec("LOG 1.11")]

ADA = ("https://idp.example", "ada")
CHAINS = [facts(), facts("s-2", "t-2", "helper"), facts("s-3", subject=ADA), facts("s-4", None)]
CODES = ["ok", "ok", "expired", "revoked"]
SIZE = 605
WHO = {"by": "operator:ann", "reason": "rows were edited"}
Change = Callable[[Connection, int], None]


class Kept(NamedTuple):
    """A log, signed, with its files."""

    store: LogStore
    publisher: Publisher

    @property
    def folder(self) -> Path:
        return self.publisher.folder

    def hold(self) -> int | None:
        """Return the index of the first row that is found, or None."""
        rows = rows_of(self.store, self.folder, LOG.key)
        found = [index for block in range(rows.blocks) for index, _ in rows.wrong(block)]
        if not found:
            check_rows(rows)
            return None
        with pytest.raises(TamperedError) as caught:
            check_rows(rows)
        assert caught.value.first == caught.value.last == found[0]
        return found[0]

    def change(self, change: Change, index: int) -> None:
        """Change the database as its keeper can."""
        with self.store.writing() as log:
            change(log.connection, index)

    def shown(self) -> list[Any]:
        """All that questions see."""
        with self.store.reading() as c:
            rows = c.execute(select(*RECORD.c, SOURCE.c.boot).join(SOURCE, SOURCE.c.id == RECORD.c.source))
            places = dict(c.execute(select(NODE.c.id, NODE.c.key)).all())  # type: ignore[arg-type]
            found = sorted(map(tuple, rows))
        return [(*row[:2], places[row[2]], *row[4:]) for row in found if row[0] < SIZE]


@pytest.fixture
def log(store: LogStore, tmp_path: Path) -> Kept:
    """A log of three blocks: decisions, counts of what was not proven, a loss, what the log says of itself."""
    made = [decision(n, CHAINS[n % 4], CODES[n % 4], f"tool.{n % 3}") for n in range(601)]
    made.append(Decision("counted", START_MS, UNPROVEN, counts=(RefusalCount("malformed", "10.0.0.9", 3),)))
    for at in range(0, 602, 97):
        store.take(batch_of(made[at : at + 97], at + 1), "s")
    store.take(batch_of([decision(606, facts())], 606, lost_from=603), "s")
    with store.writing() as writing:
        writing.note(make_note("log.tested", "x", 1, {}, {}))
    publisher = Publisher(store, LOG, tmp_path / "log")
    publisher.step()
    assert store.size() == SIZE
    return Kept(store, publisher)


def setting(**values: object) -> Change:
    return lambda c, index: c.execute(update(RECORD).where(RECORD.c.idx == index).values(**values)) and None


def taking(name: str, other: int) -> Change:
    """Put another row's value in."""
    return lambda c, index: setting(**{name: _row(c, other)[name]})(c, index)


def _row(c: Connection, index: int) -> dict[str, Any]:
    return dict(c.execute(select(*RECORD.c).where(RECORD.c.idx == index)).one()._mapping)


def removing(c: Connection, index: int) -> None:
    c.execute(delete(RECORD).where(RECORD.c.idx == index))


def swapping(c: Connection, index: int) -> None:
    one, two = _row(c, index), _row(c, index + 1)
    for at, row in ((index, two), (index + 1, one)):
        c.execute(update(RECORD).where(RECORD.c.idx == at).values(row | {"idx": at}))


def moving(c: Connection, index: int) -> None:
    """Take the row away, and have what follows take its place."""
    removing(c, index)
    for at in range(index + 1, SIZE):
        c.execute(update(RECORD).where(RECORD.c.idx == at).values(idx=at - 1))


def unfinding(c: Connection, index: int) -> None:
    """Take the stretch away by which a decision's id is found."""
    c.execute(delete(BATCH).where(BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index))


def renaming(c: Connection, index: int) -> None:
    """Say that the run was another one."""
    c.execute(update(SOURCE).where(SOURCE.c.boot == BOOT).values(boot="another"))


def forging(c: Connection, index: int) -> None:
    """Write the record anew, with a body that fits."""
    own = batch_of([decision(index, facts("s-9"), "ok", "nothing")], _row(c, index)["sequence"]).records[0]
    setting(kept=own.kept, body=own.body, tool="nothing", code="ok", outcome=1)(c, index)


CHANGES: dict[str, Change] = {
    "forged": forging,
    "leaf": setting(kept=b"nothing happened"),
    "body": taking("body", 3),
    "time": setting(at_ms=7),
    "outcome": setting(outcome=0),
    "code": setting(code="other"),
    "tool": setting(tool="other"),
    "sequence": setting(sequence=9999),
    "source": taking("source", SIZE - 1),
    "person": taking("node", 3),
    "removed": removing,
    "swapped": swapping,
    "moved up": moving,
}


@pytest.mark.slow
def test_a_row_that_was_changed_is_named_and_comes_back(log: Kept) -> None:
    """Wherever it stands: the first that is not what was signed, then as it was."""
    before = log.shown()
    for number, (name, change) in enumerate(CHANGES.items()):
        index = (0, 257, 600)[number % 3]
        log.change(change, index)
        assert log.hold() == index, name
        assert reindex(log.store, log.folder, LOG.key, **WHO).mended >= 1
        assert log.hold() is None, name
        after = log.shown()
        assert without_bodies(after, after) == without_bodies(before, after), name
        log.publisher.step()
        assert log.publisher.halted is None
        decisions = log.store.record(log.store.size() - 1)
        assert decisions is not None
        assert decisions.tool == RECOVERED
    assert sum(row[8] is None for row in log.shown()) <= 3  # the bodies that were overwritten or removed
    assert verify(log.folder, Trust(LOG.key)).records == SIZE + len(CHANGES)


def without_bodies(rows: list[Any], after: list[Any]) -> list[Any]:
    """What a row without a body does not say any more is left out: that, and the person."""
    return [
        row if other[8] is not None else (*row[:2], *row[3:8], row[9]) for row, other in zip(rows, after, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "first"), [(unfinding, 582), (renaming, 0)])
def test_what_finds_a_record_is_held_as_well(log: Kept, change: Change, first: int) -> None:
    """A record that is there and is not found by its id is as good as gone."""
    log.change(change, 600)
    assert log.hold() == first
    assert reindex(log.store, log.folder, LOG.key, **WHO).mended > 0
    assert log.hold() is None
    assert log.store.find(BOOT, 601) == [600]


@pytest.mark.slow
def test_what_the_log_says_of_itself_is_held(log: Kept) -> None:
    """Losses and events too."""
    for index, change in ((SIZE - 3, setting(outcome=0)), (SIZE - 1, setting(tool="log.other")), (SIZE - 1, removing)):
        log.change(change, index)
        assert log.hold() == index
        assert reindex(log.store, log.folder, LOG.key, **WHO) == Reindexed(0, 1)
        assert log.hold() is None


def test_what_was_taken_in_order_is_not_missed(log: Kept) -> None:
    """Retention and erasure take rows and bodies, and the rest holds; so does what comes afterwards."""
    assert log.hold() is None
    erase(log.store, subject=subject_target(*ADA), by="x", reason="y")
    assert log.hold() is None
    assert prune(log.store, log.folder, 300, by="x", reason="y") == 256
    log.store.take(batch_of([decision(607, facts("s-3", subject=ADA))], 607), "s")
    log.publisher.step()
    assert log.hold() is None
    assert reindex(log.store, log.folder, LOG.key, **WHO) == Reindexed(0, 0)
    log.change(removing, 300)
    assert log.hold() == 300


def test_rows_do_not_go_as_if_retention_had_taken_them(log: Kept) -> None:
    """Only what a record of the log says that it took is not missed."""

    def claim(c: Connection, index: int) -> None:
        c.execute(delete(RECORD).where(RECORD.c.idx < index))
        c.execute(update(STATE).values(first=index))

    log.change(claim, 256)
    with pytest.raises(TamperedError, match="no record of pruning names them"):
        check_rows(rows_of(log.store, log.folder, LOG.key))


def test_a_row_edited_before_it_is_signed_is_found(log: Kept) -> None:
    """What was committed is signed, not what a keeper made of it in the second in between; and the row is named."""
    log.store.take(batch_of([decision(607, facts())], 607), "s")
    log.change(forging, SIZE)
    log.publisher.step()
    assert log.publisher.halted is None
    assert log.hold() == SIZE
    assert reindex(log.store, log.folder, LOG.key, **WHO) == Reindexed(0, 1)
    with log.store.reading() as c:
        (found,) = [each for each in records(c, Question(session="s-1"), limit=1000) if each.idx == SIZE]
    assert found.tool == "lookup"


def test_files_that_are_edited_with_the_rows_are_named(log: Kept) -> None:
    """A hash that goes with an edited row is not under the signed root; nothing is mended by what is not signed."""
    from arx_caps.audit.merkle.tree import leaf_hash

    log.change(setting(kept=b"nothing happened"), 300)
    tile = log.folder / "tile/0/001"
    raw = tile.read_bytes()
    tile.write_bytes(raw[: 44 * 32] + leaf_hash(b"nothing happened") + raw[45 * 32 :])
    for what in (lambda: check_rows(rows_of(log.store, log.folder, LOG.key)), lambda: reindex(*log_of(log), **WHO)):
        with pytest.raises(TamperedError, match="256 to 511"):
            what()
    tile.write_bytes(raw)
    (log.folder / "tile/entries/001").unlink()
    with pytest.raises(IncompleteError):
        reindex(*log_of(log), **WHO)


def log_of(log: Kept) -> tuple[LogStore, Path, Any]:
    return log.store, log.folder, LOG.key


def test_rows_that_were_added_are_not_signed(log: Kept) -> None:
    """Behind the end of the tree nothing is the log's: a row that stands there keeps the next record out, loudly."""
    with log.store.writing() as writing:
        c = writing.connection
        c.execute(insert(RECORD).values(_row(c, 5) | {"idx": SIZE + 1, "sequence": 700}))
    log.publisher.step()
    with log.store.reading() as c:
        assert c.execute(select(STATE.c.size)).scalar_one() == SIZE
    assert verify(log.folder, Trust(LOG.key)).records == SIZE
