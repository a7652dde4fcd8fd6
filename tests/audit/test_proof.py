# SPDX-License-Identifier: Apache-2.0
"""A proof file and a selection stand alone: they are checked with the log's key, and nothing in them can be changed."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.selection import is_selection, read_selection
from tests.audit.world import LOG, OTHER, WITNESS, Log, body, checkpoint_of, records, selection_of, write
from tests.support import QUICK

pytestmark = pytest.mark.spec("LOG 1.4")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log of some records."""
    return write(tmp_path_factory.mktemp("log"), records(37))


def proof_of(log: Log, index: int) -> RecordProof:
    """The proof of one record."""
    note = Note.parse(checkpoint_of(log.records, LOG, WITNESS))
    return RecordProof(log.records[index], body(index), index, tuple(log.reader.inclusion(index)), note)


def test_a_proof_file_is_read_back_and_holds(log: Log) -> None:
    """For every record; the result names the cosigners."""
    for index in range(log.size):
        made = proof_of(log, index)
        read = RecordProof.parse(made.encode())
        assert read == made
        signed = read.check(LOG.key, [WITNESS.key])
        assert (signed.checkpoint.size, list(signed.seen)) == (37, [WITNESS.key])
    with pytest.raises(TamperedError):
        made.check(OTHER.key)


def test_a_body_can_be_left_out_and_not_be_changed(log: Log) -> None:
    """The kept part names it: without it the proof holds, with another record's it does not."""
    made = proof_of(log, 5)
    replace(made, body=None).check(LOG.key)
    for other in (body(6), b"", body(5) + b"."):
        with pytest.raises(TamperedError, match="body of record 5") as caught:
            RecordProof.parse(replace(made, body=other).encode()).check(LOG.key)
        assert caught.value.first == 5


def test_its_form_is_the_specification_s(log: Log) -> None:
    """Header, extra, index, path, empty line, checkpoint."""
    made = proof_of(log, 0)
    lines = made.encode().split(b"\n")
    assert lines[0] == b"c2sp.org/tlog-proof@v1"
    assert lines[1].startswith(b"extra ")
    assert lines[2] == b"index 0"
    assert lines[3 + len(made.path)] == b""
    assert made.encode().endswith(b"\n\n" + made.note.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1", b"@v2"),
        (b"extra ", b"Extra "),
        (b"extra k", b"extra l"),
        (b"index 5", b"index 05"),
        (b"index 5", b"index -5"),
        (b"index 5", b"index 5 "),
        (b"index 5\n", b""),
        (b"\n\n", b"\n"),
        (b"index 5\n", b"index 5\nAAAA\n"),
        (b"index 5\n", b"index 5\n" + b"A" * 43 + b"=\n" + (b"A" * 43 + b"=\n") * 64),
    ],
)
def test_no_other_form_is_read(log: Log, old: bytes, new: bytes) -> None:
    """One spelling of everything, and bounded."""
    with pytest.raises(NoteError):
        RecordProof.parse(proof_of(log, 5).encode().replace(old, new, 1))


@QUICK
@given(st.data())
def test_a_byte_that_changes_is_seen(log: Log, data: st.DataObject) -> None:
    """At any place: refused, or a line of a signature that no reader asked for."""
    made = proof_of(log, 11)
    raw = bytearray(made.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = RecordProof.parse(bytes(raw))
        read.check(LOG.key)
    except (NoteError, TamperedError):
        return
    assert (read.kept, read.body, read.index, read.note.text) == (made.kept, made.body, 11, made.note.text)


def some_of(log: Log, *indices: int) -> bytes:
    """A selection of some records."""
    return selection_of(proof_of(log, 0).note, (proof_of(log, index) for index in indices))


@pytest.mark.spec("LOG 1.5")
def test_a_selection_is_read_back_and_each_record_holds(log: Log) -> None:
    """Also an empty one."""
    raw = some_of(log, 3, 4, 36)
    assert is_selection(raw)
    proofs = list(read_selection(io.BytesIO(raw)))
    assert [proof.index for proof in proofs] == [3, 4, 36]
    for proof in proofs:
        proof.check(LOG.key)
    assert list(read_selection(io.BytesIO(some_of(log)))) == []


@pytest.mark.spec("LOG 1.5")
def test_a_selection_that_breaks_off_is_incomplete(log: Log, tmp_path: Path) -> None:
    """Wherever it is cut; at the end of a line, or within one."""
    raw = some_of(log, 3, 4, 36)
    for length in range(0, len(raw), 41):
        with pytest.raises(IncompleteError):
            list(read_selection(io.BytesIO(raw[:length])))


@pytest.mark.spec("LOG 1.5")
def test_a_selection_out_of_order_is_none(log: Log) -> None:
    """A record twice, in another place, after the end, or an end that counts wrongly."""
    head, one, two, end = some_of(log, 3, 4).splitlines(keepends=True)
    for lines in ([head, two, one, end], [head, one, one, end], [head, one, end], [head, one, two, end, one]):
        with pytest.raises(NoteError):
            list(read_selection(io.BytesIO(b"".join(lines))))
    for bad in (b"{}\n", b"[]\n", head.replace(b"/1", b"/2"), b"\xff\n", b'{"end":0}\n'):
        with pytest.raises(NoteError):
            list(read_selection(io.BytesIO(bad + end)))
