# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to a log's files is found offline: what was altered, what is missing, and from which record on."""

from pathlib import Path

import pytest

from arx_caps.audit.merkle.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tiles import TileWriter, leaf_of
from arx_caps.audit.merkle.verification import Trust, verify
from tests.audit.altered import LARGE, SMALL, TRUST, alter, bundle_of, flip, held, large_made, log, shown
from tests.audit.world import (
    AT_S,
    LOG,
    OTHER,
    STRANGER,
    WITNESS,
    Log,
    body,
    checkpoint_of,
    records,
    selection_of,
    write,
)

__all__ = ["large_made", "log"]  # fixtures


@pytest.mark.slow
@pytest.mark.spec("LOG 1.3")
def test_an_untouched_log_holds(log: Log, large_made: Log) -> None:
    """Every record is counted, and progress ends at the end."""
    notices: list[tuple[int, int]] = []
    checked = verify(log.folder, TRUST)
    assert (checked.kind, checked.records, checked.first, checked.gone) == ("log", SMALL, 0, ())
    checked = verify(large_made.folder, TRUST, lambda *each: notices.append(each))
    assert (checked.records, checked.checkpoint.size) == (LARGE, LARGE)
    assert notices == sorted(notices)
    assert notices[-1] == (LARGE, LARGE)
    assert len(notices) > 10


def test_the_empty_log_holds(tmp_path: Path) -> None:
    """And has one root only."""
    log = write(tmp_path, [])
    assert verify(tmp_path, TRUST).records == 0
    other = checkpoint_of([]).replace(b"47DEQpj8HBSa", b"47DEQpj8HBSb")
    log.published.write_bytes(other)
    with pytest.raises(TamperedError):
        verify(tmp_path, TRUST)


@pytest.mark.slow
@pytest.mark.spec("LOG 1.1")
@pytest.mark.long
def test_every_byte_of_every_record_is_held(log: Log) -> None:
    """Whichever byte of the bundle changes, length bytes included, the record it belongs to is named."""
    raw, at = bundle_of(log).read_bytes(), 0
    for index, record in enumerate(log.records):
        for place in range(at, at + 2 + len(record)):
            bundle_of(log).write_bytes(flip(place, 0xFF)(raw))
            with pytest.raises(TamperedError) as caught:
                verify(log.folder, TRUST)
            assert (caught.value.first, caught.value.last) == (index, index), place
        at += 2 + len(record)


@pytest.mark.spec("LOG 1.3")
@pytest.mark.parametrize(("kept", "first"), [(slice(1, None), 0), (slice(0, 0), None)])
def test_a_dropped_head_is_found(log: Log, kept: slice, first: int | None) -> None:
    """The first record is another one then; of nothing at all, everything is missing."""
    shown(log, log.records[kept])
    with pytest.raises(TamperedError if first is not None else IncompleteError, match="0") as caught:
        verify(log.folder, TRUST)
    assert getattr(caught.value, "first", None) == first


@pytest.mark.spec("LOG 1.1")
def test_a_dropped_middle_and_a_swap_are_found(log: Log) -> None:
    """From the first record on that is not in its place."""
    for index in (1, 17, SMALL - 2):
        shown(log, log.records[:index] + log.records[index + 1 :])
        with pytest.raises(TamperedError) as caught:
            verify(log.folder, TRUST)
        assert caught.value.first == index
        swapped = list(log.records)
        swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
        shown(log, swapped)
        with pytest.raises(TamperedError) as caught:
            verify(log.folder, TRUST)
        assert caught.value.first == index
    shown(log, [*log.records[:9], b"put in", *log.records[9:]])
    with pytest.raises(TamperedError):
        verify(log.folder, TRUST)


@pytest.mark.spec("LOG 1.3")
def test_a_dropped_tail_is_missing_not_altered(log: Log) -> None:
    """Files that exist verify; the report names the others.  Cut within a record, that record differs from the log."""
    shown(log, log.records[:-3])
    with pytest.raises(IncompleteError, match="41 to 43 are gone"):
        verify(log.folder, TRUST)
    shown(log, log.records)
    alter(bundle_of(log), lambda raw: raw[:-1])
    with pytest.raises(TamperedError) as caught:
        verify(log.folder, TRUST)
    assert caught.value.first == SMALL - 1
    for more in (b"\0", b"\0\0", b"\0\1x"):
        shown(log, log.records)
        alter(bundle_of(log), lambda raw, more=more: raw + more)  # type: ignore[misc]
        with pytest.raises(TamperedError, match="more than"):
            verify(log.folder, TRUST)


@pytest.mark.spec("LOG 1.2")
def test_a_log_rewritten_under_its_old_checkpoint_is_found(log: Log) -> None:
    """Records and tiles agree, the signature does not; an earlier checkpoint shows what still verifies."""
    altered = [*log.records[:30], b"another", *log.records[31:]]
    signed = log.published.read_bytes()
    write(log.folder, altered)
    log.published.write_bytes(signed)
    with pytest.raises(TamperedError) as caught:
        verify(log.folder, TRUST)
    assert (caught.value.first, caught.value.last) == (0, SMALL - 1)
    with pytest.raises(TamperedError) as caught:
        verify(log.folder, held(checkpoint_of(log.records[:25])))
    assert (caught.value.first, caught.value.last) == (25, SMALL - 1)


@pytest.mark.spec("LOG 1.2")
def test_a_checkpoint_rolled_back_is_found_by_who_saw_a_later_one(log: Log) -> None:
    """It verifies by itself: it was signed.  The holder of a later one learns where the log is cut."""
    write(log.folder, log.records[:40])
    assert verify(log.folder, TRUST).records == 40
    assert verify(log.folder, held(checkpoint_of(log.records[:40]))).records == 40
    with pytest.raises(TamperedError, match="rolled back") as caught:
        verify(log.folder, held(log.checkpoint))
    assert (caught.value.first, caught.value.last) == (40, SMALL - 1)


@pytest.mark.spec("LOG 1.2")
@pytest.mark.parametrize("seen", [1, 31, 40, SMALL])
def test_two_histories_are_found_by_who_saw_the_other(log: Log, seen: int) -> None:
    """The log's own key signed both."""
    other = [*log.records[:30], b"another", *log.records[31:]]
    trust = held(checkpoint_of(other[:seen]))
    if seen <= 30:
        assert verify(log.folder, trust).records == SMALL
        return
    with pytest.raises(TamperedError, match="two histories") as caught:
        verify(log.folder, trust)
    assert (caught.value.first, caught.value.last) == (0, seen - 1)


@pytest.mark.spec("LOG 1.2")
def test_every_byte_of_the_checkpoint_is_held(log: Log) -> None:
    """Whatever changes in it, it is not the log's word any more."""
    raw = log.checkpoint
    for place in range(len(raw)):
        log.published.write_bytes(flip(place)(raw))
        with pytest.raises((TamperedError, NoteError)):
            verify(log.folder, TRUST)
    log.published.write_bytes(checkpoint_of(log.records, OTHER))
    with pytest.raises(TamperedError):
        verify(log.folder, TRUST)


@pytest.mark.spec("LOG 1.3")
def test_every_byte_of_the_tiles_is_held(log: Log) -> None:
    """A tile that is not the records' is named as the tile; the records still hold."""
    tile = log.folder / f"tile/0/000.p/{SMALL}"
    raw = tile.read_bytes()
    for place in range(0, len(raw), 13):
        tile.write_bytes(flip(place)(raw))
        with pytest.raises(TamperedError, match="records are as they were logged"):
            verify(log.folder, TRUST)
    tile.unlink()
    assert verify(log.folder, TRUST).records == SMALL  # it can be made again from them


@pytest.mark.spec("LOG 1.2")
def test_a_witness_asked_for_must_have_cosigned(log: Log) -> None:
    """Not there is incomplete, wrong is tampered."""
    log.published.write_bytes(checkpoint_of(log.records, LOG, WITNESS))
    checked = verify(log.folder, Trust(LOG.key, (WITNESS.key,)))
    assert dict(checked.seen) == {WITNESS.key: AT_S}
    with pytest.raises(IncompleteError, match="w2 has not cosigned"):
        verify(log.folder, Trust(LOG.key, (WITNESS.key, STRANGER.key)))
    note = Note.parse(log.published.read_bytes())
    forged = note.signatures[1]._replace(blob=b"\0" * 72)
    log.published.write_bytes(note.signed(forged).encode())
    with pytest.raises(TamperedError, match="w1"):
        verify(log.folder, Trust(LOG.key, (WITNESS.key,)))


def test_a_claimed_size_makes_no_work(tmp_path: Path) -> None:
    """A log that signs a size of 2**62 over no files is incomplete at once."""
    log = write(tmp_path, records(1))
    made = open_checkpoint(log.checkpoint, LOG.key).checkpoint
    log.published.write_bytes(type(made)(made.origin, 1 << 62, made.root).sign(LOG).encode())
    with pytest.raises(IncompleteError):
        verify(tmp_path, TRUST)


def test_files_that_are_none_are_not_read(log: Log) -> None:
    """A pipe, a folder or a device in place of a file neither blocks the check nor fills its memory."""
    bundle_of(log).unlink()
    bundle_of(log).symlink_to("/dev/zero")
    with pytest.raises(IncompleteError):
        verify(log.folder, TRUST)
    log.published.unlink()
    log.published.mkdir()
    with pytest.raises(IncompleteError, match="no checkpoint"):
        verify(log.folder, TRUST)


def test_proofs_and_selections_are_known_by_their_beginning(log: Log, tmp_path: Path) -> None:
    """Each is checked as what it is; anything else is refused."""
    note = Note.parse(checkpoint_of(log.records, LOG, WITNESS))
    proofs = [RecordProof(log.records[at], body(at), at, tuple(log.reader.inclusion(at)), note) for at in (5, 9)]
    (tmp_path / "one").write_bytes(proofs[0].encode())
    (tmp_path / "some").write_bytes(selection_of(note, proofs))
    trust = Trust(LOG.key, (WITNESS.key,), open_checkpoint(log.checkpoint, LOG.key))
    one, some = verify(tmp_path / "one", trust), verify(tmp_path / "some", trust)
    assert (one.kind, one.first, one.proof) == ("proof", 5, proofs[0])
    assert (some.kind, some.first, some.records) == ("selection", 5, 2)
    alter(tmp_path / "some", lambda raw: raw.replace(b'"index":9', b'"index":8'))
    with pytest.raises(TamperedError) as caught:
        verify(tmp_path / "some", trust)
    assert caught.value.first == 8
    (tmp_path / "none").write_bytes(b"{}")
    with pytest.raises(NoteError):
        verify(tmp_path / "none", trust)


def test_a_proof_is_held_to_what_was_seen_as_far_as_it_can_be(log: Log, tmp_path: Path) -> None:
    """Of the same size the roots must be one; of another size only the log's files could show it."""
    made = RecordProof(log.records[1], None, 1, tuple(log.reader.inclusion(1)), Note.parse(log.checkpoint))
    (tmp_path / "one").write_bytes(made.encode())
    for raw, error in (
        (checkpoint_of(records(SMALL, "other ")), TamperedError),
        (checkpoint_of(log.records[:40]), IncompleteError),
    ):
        with pytest.raises(error):
            verify(tmp_path / "one", held(raw))


def test_a_log_that_grew_past_its_checkpoint_holds(log: Log) -> None:
    """A writer of tiles that is stopped before the checkpoint leaves what the next start finishes."""
    signed: bytes = log.published.read_bytes()
    writer = TileWriter.resume(log.folder, SMALL)
    writer.append(map(leaf_of, records(300, "more ")))
    writer.flush()
    assert log.published.read_bytes() == signed
    assert verify(log.folder, TRUST).records == SMALL


def test_what_holds_is_reported_for_scripts(log: Log) -> None:
    """Nothing in it needs more than JSON."""
    report = verify(log.folder, TRUST).to_dict()
    assert report["size"] == report["records"] == SMALL
    assert report["kind"] == "log"
    assert (log.folder / CHECKPOINT).exists()
    assert isinstance(open_checkpoint(log.checkpoint, LOG.key), SignedCheckpoint)
