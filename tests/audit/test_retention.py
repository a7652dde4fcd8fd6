# SPDX-License-Identifier: Apache-2.0
"""What is taken out of the log leaves every proof as good as it was, and is itself recorded."""

from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import select, update

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.audit.integrity.retention import erase, index_at, prune
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import BATCH, NODE, PRUNED, RECORD
from arx_verifier.token.targets import subject_target
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG

pytestmark = [pytest.mark.long, pytest.mark.spec("LOG 1.9")]

ADA = ("https://idp.example", "ada")
EVE = ("https://idp.example", "eve")


class Kept(NamedTuple):
    """A log of 700 records of two people, signed, and a proof of each record."""

    store: LogStore
    publisher: Publisher
    proofs: list[RecordProof]

    @property
    def folder(self) -> Path:
        return self.publisher.folder

    def prove(self, index: int) -> RecordProof:
        """Prove a record as it is now."""
        row = self.store.record(index)
        assert row is not None
        return self.publisher.prove(index, bytes(row.kept), row.body and bytes(row.body))


@pytest.fixture
def log(store: LogStore, tmp_path: Path) -> Kept:
    """The log, one batch a hundred records."""
    made = [decision(n, facts(f"s-{n % 5}", subject=(ADA, EVE)[n % 5 == 0])) for n in range(700)]
    for at in range(0, 700, 100):
        store.take(batch_of(made[at : at + 100], at + 1), "s")
    publisher = Publisher(store, LOG, tmp_path / "log")
    publisher.step()
    kept = Kept(store, publisher, [])
    kept.proofs.extend(kept.prove(index) for index in range(700))
    return kept


def hold(log: Kept) -> None:
    """Hold every proof that was ever made, and the log's whole files, to the log's key."""
    log.publisher.step()
    assert log.publisher.halted is None
    for proof in log.proofs:
        assert proof.check(LOG.key)


def events_in(log: Kept) -> list[tuple[str, dict[str, object]]]:
    """What the log says of itself, without the bodies."""
    with log.store.reading() as c:
        kept = [bytes(row.kept) for row in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx))]
    return [(event.kind, event.named) for event in (read_event(each, None) for each in kept if is_event(each))]


@pytest.mark.slow
def test_old_records_go_and_every_proof_holds(log: Kept, tmp_path: Path) -> None:
    """Whole blocks go; hashes, proofs and the rest stay; the files can be made again from what is left."""
    assert prune(log.store, log.folder, 600, by="operator:ann", reason="a year is over") == 512
    assert prune(log.store, log.folder, 600, by="operator:ann", reason="again") == 512
    hold(log)
    assert events_in(log) == [("log.pruned", {"first": 0, "last": 511})]
    assert (log.store.record(511), log.store.record(512) is not None) == (None, True)
    assert log.prove(699).check(LOG.key)
    with pytest.raises(IncompleteError, match="0 to 511 are gone"):
        verify(log.folder, Trust(LOG.key))
    head = verify(log.folder, Trust(LOG.key, since=512)).checkpoint
    again = Publisher(log.store, LOG, tmp_path / "again")
    again.step()
    made = verify(tmp_path / "again", Trust(LOG.key, since=512))
    assert (made.checkpoint.root, made.gone) == (head.root, ((0, 511),))


@pytest.mark.slow
def test_records_go_from_the_files_of_every_mint(log: Kept, tmp_path: Path) -> None:
    """One that runs lets them go with its next checkpoint, one that was stopped when it starts."""
    runs, stopped = (Publisher(log.store, LOG, tmp_path / name) for name in ("runs", "stopped"))
    for each in (runs, stopped):
        each.step()
    assert prune(log.store, log.folder, 600, by="operator:ann", reason="a year is over") == 512
    for each in (runs, Publisher(log.store, LOG, tmp_path / "stopped")):
        each.step()
        assert each.halted is None
        assert verify(each.folder, Trust(LOG.key, since=512)).gone == ((0, 511),)
        assert not (each.folder / "tile/entries/001").exists()


def test_only_what_is_signed_goes(store: LogStore, tmp_path: Path) -> None:
    """A record that no checkpoint covers is not removed: no proof could show what it was."""
    store.take(batch_of([decision(n, facts()) for n in range(600)]), "s")
    assert prune(store, tmp_path, 600, by="x", reason="y") == 0
    assert store.size() == 600


@pytest.mark.slow
def test_facts_of_a_person_go_and_every_proof_holds(log: Kept, url: str) -> None:
    """Their bodies are gone from the database's very files, others' stay, and nothing finds them by the person."""
    body = next(proof.body for proof in log.proofs if proof.index == 1)
    assert body is not None
    assert body in raw(url) or not url.startswith("sqlite")
    assert erase(log.store, subject=subject_target(*ADA), by="operator:ann", reason="asked for it") == 560
    hold(log)
    gone, stays = log.prove(1), log.prove(5)
    assert (gone.body, gone.kept, stays.body) == (None, log.proofs[1].kept, log.proofs[5].body)
    assert gone.check(LOG.key)
    [(kind, named)] = events_in(log)
    assert (kind, named["records"], named["indexes"]) == ("log.erased", 560, [[n, n + 3] for n in range(1, 700, 5)])
    assert body not in raw(url)
    with log.store.reading() as c:
        assert set(c.execute(select(NODE.c.subject).where(NODE.c.kind == "session")).scalars()) == {
            None,
            subject_target(*EVE),
        }


@pytest.mark.nightly
def test_what_comes_after_an_erasure_can_be_erased_too(log: Kept) -> None:
    """A later record of the same session and person is found by the person, and goes with the next erasure."""
    target = subject_target(*ADA)
    erase(log.store, subject=target, by="x", reason="y")
    log.store.take(batch_of([decision(700, facts("s-1", subject=ADA))], 701), "s")
    assert erase(log.store, subject=target, by="x", reason="y") == 1


@pytest.mark.slow
def test_bodies_go_by_age(log: Kept) -> None:
    """An age is an index: of what came before, the bodies go and the records stay."""
    with log.store.writing() as writing:
        writing.connection.execute(update(BATCH).where(BATCH.c.idx < 300).values(taken_ms=1000))
    assert index_at(log.store, 1001) == 300
    assert erase(log.store, before=300, by="x", reason="y") == 300
    hold(log)
    assert (log.prove(299).body, log.prove(300).body) == (None, log.proofs[300].body)
    assert verify(log.folder, Trust(LOG.key)).records == log.store.size()


@pytest.mark.slow
def test_a_prune_that_was_cut_off_goes_on(log: Kept) -> None:
    """Where it was killed between two transactions, or before the files, the next one ends it."""
    from arx_caps.audit.integrity import retention

    with log.store.writing() as writing:
        retention._take(writing, 256)
    log.publisher.step()
    hold(log)
    assert not (log.folder / "tile/entries/000").exists()
    assert prune(log.store, log.folder, 600, by="x", reason="y") == 512
    with log.store.reading() as c:
        assert c.execute(select(PRUNED.c.block)).scalars().all() == [0, 1]
    assert open_checkpoint((log.folder / "checkpoint").read_bytes(), LOG.key)


def raw(url: str) -> bytes:
    """All bytes of a SQLite database's files."""
    if not url.startswith("sqlite"):
        return b""
    path = Path(url.removeprefix("sqlite:///"))
    return b"".join(each.read_bytes() for each in path.parent.glob(path.name + "*"))
