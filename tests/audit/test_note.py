# SPDX-License-Identifier: Apache-2.0
"""Notes and checkpoints are C2SP's: the specifications' own examples verify, and nothing but the right form is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.merkle import note
from arx_caps.audit.merkle.checkpoint import Checkpoint, cosign, open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.note import Note, VerifierKey
from tests.audit.world import AT_S, LOG, ORIGIN, OTHER, STRANGER, WITNESS, checkpoint_of, records
from tests.support import QUICK

pytestmark = pytest.mark.spec("LOG 1.2")

# The example of c2sp.org/signed-note, "Verifier keys".
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
CHECKPOINT = checkpoint_of(records(5), LOG, WITNESS)


def test_the_specification_s_example_verifies() -> None:
    """Key and note are read, written back alike, and the signature holds."""
    key = VerifierKey.parse(EXAMPLE_KEY)
    read = Note.parse(EXAMPLE)
    assert (str(key), read.encode()) == (EXAMPLE_KEY, EXAMPLE)
    assert read.verified([key]) == {key: None}


def test_signatures_of_strangers_are_ignored() -> None:
    """Lines of unknown keys change nothing, also where they share a name, or an id, with a known one."""
    read = Note.parse(CHECKPOINT)
    like_name = note.Signature(ORIGIN, b"\0\0\0\0", b"x" * 64)
    like_id = note.Signature("other", LOG.key.key_id, b"x" * 64)
    crowd = [note.Signature(f"w{number}", b"\0\0\0\1", b"x" * 72) for number in range(16)]
    more = Note(read.text, (like_name, *crowd, *read.signatures, like_id))
    assert Note.parse(more.encode()).verified([LOG.key, STRANGER.key]) == {LOG.key: None}
    with pytest.raises(TamperedError, match="no trusted key"):
        more.verified([OTHER.key])


def test_a_bad_line_of_a_known_key_voids_the_note() -> None:
    """Not even another key's right signature saves it."""
    read = Note.parse(CHECKPOINT)
    by_log, by_witness = read.signatures
    for bad in (by_witness._replace(blob=b"\0" * 72), by_witness._replace(blob=by_witness.blob[:-1])):
        with pytest.raises(TamperedError, match="w1"):
            Note(read.text, (by_log, bad)).verified([LOG.key, WITNESS.key])
    assert open_checkpoint(Note(read.text, (by_log, bad)), LOG.key).checkpoint.size == 5


def test_a_witness_signs_text_and_time() -> None:
    """A cosignature verifies with its own time alone, and the result has that time."""
    signed = open_checkpoint(CHECKPOINT, LOG.key, [WITNESS.key, STRANGER.key])
    assert signed.seen == {WITNESS.key: AT_S}
    line = cosign(signed.note, WITNESS, AT_S)
    assert line in signed.note.signatures
    later = line._replace(blob=(AT_S + 1).to_bytes(8, "big") + line.blob[8:])
    with pytest.raises(TamperedError):
        WITNESS.key.check(signed.note.text, later)
    assert signed.note.signed(cosign(signed.note, WITNESS, AT_S + 9)).verified([WITNESS.key]) == {WITNESS.key: AT_S + 9}


def test_a_checkpoint_is_believed_from_its_own_log_alone() -> None:
    """Another log's key, a witness's in its place, a log key as witness, or no log signature: refused."""
    for key, witnesses, error in (
        (OTHER.key, (), TamperedError),
        (WITNESS.key, (), NoteError),
        (LOG.key, (OTHER.key,), NoteError),
    ):
        with pytest.raises(error):
            open_checkpoint(CHECKPOINT, key, witnesses)
    read = Note.parse(CHECKPOINT)
    with pytest.raises(TamperedError):
        open_checkpoint(Note(read.text, read.signatures[1:]), LOG.key, [WITNESS.key])
    with pytest.raises(TamperedError, match="wrong log"):
        open_checkpoint(CHECKPOINT, VerifierKey("another.example/log", note.LOG, LOG.key.public))
    with pytest.raises(NoteError):
        Checkpoint("another.example/log", 1, b"r" * 32).sign(LOG)


def test_checkpoint_lines_are_kept() -> None:
    """Extension lines are read and signed; the empty log has size 0."""
    made = Checkpoint(ORIGIN, 0, b"r" * 32, ("more", "lines"))
    assert Checkpoint.parse(made.text()) == made
    assert open_checkpoint(made.sign(LOG).encode(), LOG.key).checkpoint == made


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n05\nAAAA\n",
        f"{ORIGIN}\n-1\n{'A' * 43}=\n",
        f"{ORIGIN}\n٣\n{'A' * 43}=\n",
        f"{ORIGIN}\n9999999999999999999\n{'A' * 43}=\n",
        f"{ORIGIN}\n5\n{'A' * 42}B=\n",
        f"{ORIGIN}\n5\n{'A' * 44}\n",
        f"{ORIGIN}\n5\n\n{'A' * 43}=\n",
        f"{ORIGIN}\n5\n{'A' * 43}=\n\nmore\n",
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n5\n{'A' * 43}=",
        f"\n5\n{'A' * 43}=\n",
    ],
)
def test_no_other_checkpoint_is_read(text: str) -> None:
    """Numbers and hashes have one spelling, lines are never empty."""
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"\n\n" + EXAMPLE.partition(b"\n\n")[2][:-1],
        EXAMPLE[:-1],
        EXAMPLE.replace("—".encode(), b"-"),
        EXAMPLE.replace(b"foo ", b"foo  "),
        EXAMPLE.replace(b"foo ", b"f+o "),
        EXAMPLE.replace(b"foo ", "f\u00a0o ".encode()),
        EXAMPLE.replace(b"aQM=", b"aQN="),
        EXAMPLE.replace(b"aQM=", b"aQM"),
        EXAMPLE.replace(b"message", b"mess\tage"),
        EXAMPLE.replace(b"message", b"mess\xffage"),
        EXAMPLE.replace(b"message", b"mess\r\nage"),
        EXAMPLE + EXAMPLE.partition(b"\n\n")[2] * note.MAX_SIGNATURES,
        b"x" * note.MAX_NOTE_BYTES + EXAMPLE,
        "text\n\n— n AAAA\n".encode(),
    ],
)
def test_no_other_note_is_read(raw: bytes) -> None:
    """Dashes, spaces, base64, UTF-8, control characters, line ends, numbers of lines: one form."""
    with pytest.raises(NoteError):
        Note.parse(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+530d903a",
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("foo", "fop"),
        EXAMPLE_KEY[:-4],
        EXAMPLE_KEY + "\n",
        "a b" + EXAMPLE_KEY[11:],
        str(VerifierKey("n", note.LOG, b"k" * 32)).replace("+AW", "+Bm"),
    ],
)
def test_no_other_key_is_read(text: str) -> None:
    """A key text that was mistyped or cut names no key."""
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


def test_a_note_without_signatures_is_not_written() -> None:
    """And a signer shows no secret, and is not pickled."""
    with pytest.raises(NoteError):
        Note("text\n").encode()
    assert repr(LOG) == f"<Signer {ORIGIN}>"
    with pytest.raises(TypeError):
        LOG.__reduce__()


@QUICK
@given(st.integers(0, len(CHECKPOINT) - 1), st.integers(1, 255))
def test_a_byte_of_a_checkpoint_that_changes_is_seen(place: int, by: int) -> None:
    """Wherever it stands, in text or signatures, a changed byte is refused, or leaves what was signed as it was."""
    raw = bytearray(CHECKPOINT)
    raw[place] ^= by
    try:
        signed = open_checkpoint(bytes(raw), LOG.key, [WITNESS.key])
    except (NoteError, TamperedError):
        return
    # What is left is a line that is now a stranger's: its name or key id was hit, the text never.
    assert signed.note.text == Note.parse(CHECKPOINT).text
    assert not signed.seen
