# SPDX-License-Identifier: Apache-2.0
"""One token has one byte form and one text form; everything else is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.token import wire
from tests.support import QUICK

pytestmark = pytest.mark.spec("2.1")

FIELD = st.binary(max_size=200)
FIRST = FIELD
THIRD = st.builds(wire.ThirdPartyPacket, st.none() | FIELD, FIELD, FIELD)
PACKETS = st.builds(
    wire.Packets,
    st.none() | FIELD,
    FIELD,
    st.lists(FIRST | THIRD, max_size=6).map(tuple),
    st.binary(min_size=32, max_size=32),
)

SIGNATURE = bytes(range(32))
RAW = wire.encode(wire.Packets(b"acme", b"id", (b"one", wire.ThirdPartyPacket(b"at", b"two", b"vid")), SIGNATURE))
HEAD = b"\x02\x01\x04acme\x02\x02id\x00"
END = b"\x00\x06\x20" + SIGNATURE


@QUICK
@given(PACKETS)
def test_decode_is_the_inverse_of_encode(packets: wire.Packets) -> None:
    """What is written is read back, and gives the same bytes again."""
    raw = wire.encode(packets)
    assert wire.decode(raw) == packets
    assert wire.encode(wire.decode(raw)) == raw


@QUICK
@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: HEAD + tail + END))
def test_what_decodes_is_the_one_form(raw: bytes) -> None:
    """Any byte string that is accepted is exactly what its parts encode to; any other raises the one error."""
    try:
        packets = wire.decode(raw)
    except MalformedTokenError:
        return
    assert wire.encode(packets) == raw


@QUICK
@given(PACKETS, st.data())
def test_altered_bytes_never_decode_to_the_same_parts(packets: wire.Packets, data: st.DataObject) -> None:
    """No two byte strings mean one token."""
    raw = bytearray(wire.encode(packets))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedTokenError):
        assert wire.decode(bytes(raw)) != packets


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty"),
        (END, "no header"),
        (b"\x01" + RAW[1:], "version 1"),
        (b"\x03" + RAW[1:], "version 3"),
        (RAW + b"\x00", "a byte after the signature"),
        (RAW + END, "two signatures"),
        (RAW[:-1], "signature cut short"),
        (HEAD + b"\x00\x06\x1f" + SIGNATURE[:31], "signature of 31 bytes"),
        (HEAD + b"\x00\x06\x21" + SIGNATURE + b"\x00", "signature of 33 bytes"),
        (HEAD + b"\x00\x06\xa0\x00" + SIGNATURE, "signature length in two bytes"),
        (b"\x02\x01\x84\x00acme\x02\x02id\x00" + END, "location length not minimal"),
        (b"\x02\x01\x04acme\x02\x82\x00id\x00" + END, "identifier length not minimal"),
        (HEAD + b"\x02\x83\x00one\x00" + END, "caveat length not minimal"),
        (HEAD + b"\x02\x83\x80\x00one\x00" + END, "length in three bytes"),
        (HEAD + b"\x02\xff\xff\x01" + b"x" * 32767 + b"\x00" + END, "a length above 16 383"),
        (HEAD + b"\x02\x05one\x00" + END, "a caveat longer than the token"),
        (b"\x02\x02\x02id\x01\x04acme\x00" + END, "location after identifier"),
        (b"\x02\x01\x04acme\x00" + END, "no identifier"),
        (b"\x02\x01\x04acme\x01\x04acme\x02\x02id\x00" + END, "two locations"),
        (b"\x02\x02\x02id\x02\x02id\x00" + END, "two identifiers"),
        (HEAD + b"\x01\x02at\x02\x03one\x00" + END, "a first-party caveat with a location"),
        (HEAD + b"\x04\x03vid\x00" + END, "a caveat without identifier"),
        (HEAD + b"\x02\x03one\x04\x03vid\x04\x03vid\x00" + END, "two verification ids"),
        (HEAD + b"\x02\x03one\x05\x01x\x00" + END, "an unknown field"),
        (HEAD + b"\x02\x03one" + END, "a caveat that is not closed"),
        (HEAD + b"\x00" + END, "an empty section"),
        (HEAD[:-1] + END[1:], "a header that is not closed"),
    ],
)
def test_other_forms_are_refused(raw: bytes, why: str) -> None:
    """One byte form: each of these is accepted by some macaroon library, or nearly so."""
    with pytest.raises(MalformedTokenError):
        wire.decode(raw)


@pytest.mark.parametrize("size", range(len(RAW)))
def test_every_cut_is_refused(size: int) -> None:
    """A token that lost its end, at any byte, is no token."""
    with pytest.raises(MalformedTokenError):
        wire.decode(RAW[:size])


def test_the_number_of_caveats_is_bounded() -> None:
    """64 caveats are read, 65 are refused before their chain is folded."""
    most = wire.Packets(None, b"id", (b"x",) * 64, SIGNATURE)
    assert len(wire.decode(wire.encode(most)).caveats) == 64
    with pytest.raises(MalformedTokenError, match="64 caveats"):
        wire.decode(wire.encode(most._replace(caveats=(b"x",) * 65)))


def test_lengths_at_their_edges() -> None:
    """127 takes one length byte, 128 two, 16 383 is the longest."""
    for size, head in ((127, b"\x02\x7f"), (128, b"\x02\x80\x01"), (16_383, b"\x02\xff\x7f")):
        assert wire.packet(wire.IDENTIFIER, b"x" * size) == head + b"x" * size
        packets = wire.Packets(None, b"x" * size, (), SIGNATURE)
        assert wire.decode(wire.encode(packets)) == packets
    with pytest.raises(MalformedTokenError):
        wire.packet(wire.IDENTIFIER, b"x" * 16_384)


@pytest.mark.spec("2.2")
@QUICK
@given(st.binary(max_size=100))
def test_text_is_the_inverse_of_bytes(raw: bytes) -> None:
    """Text form and bytes are one to one."""
    text = wire.text_of(raw)
    assert wire.bytes_of(text) == raw
    assert not set(text) & set("+/=")


@pytest.mark.spec("2.2")
@QUICK
@given(st.text(st.sampled_from("ABab09-_+/= \n\0é"), max_size=12) | st.text(max_size=8))
def test_any_text_reads_one_way_or_not_at_all(text: str) -> None:
    """Whatever is accepted is what its bytes are written as."""
    try:
        raw = wire.bytes_of(text)
    except MalformedTokenError:
        return
    assert wire.text_of(raw) == text


@pytest.mark.spec("2.2")
@pytest.mark.parametrize(
    "text",
    [
        "QQ==",
        "QQ=",
        "QR",
        "Q",
        "QQ ",
        " QQ",
        "QQ\n",
        "Q\nQ",
        "-+8A",
        "_/8A",
        "+/8A",
        "QUJ",
        "QUJD\0",
        "QÜ",
        "Q\ud800",
        "QQQQQ",
    ],
)
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    """Padding, white space, the other alphabet, trailing bits and impossible lengths."""
    with pytest.raises(MalformedTokenError):
        wire.bytes_of(text)


@pytest.mark.spec("2.2", "2.3")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "arx1_",
        "arx1",
        "ARX1_" + wire.text_of(RAW),
        "arx2_" + wire.text_of(RAW),
        wire.text_of(RAW),
        " arx1_" + wire.text_of(RAW),
        "arx1_" + wire.text_of(RAW) + "\n",
        "arx1_" + wire.text_of(RAW) + "=",
        "arx1_" + wire.text_of(RAW) + "~arx1_" + wire.text_of(RAW),
        "arx1_arx1_" + wire.text_of(RAW),
        "arxb1_" + wire.text_of(RAW),
        "Bearer arx1_" + wire.text_of(RAW),
    ],
)
def test_texts_that_are_no_token(text: str) -> None:
    """Only ``arx1_`` and the canonical text of one macaroon is a token; a bundle never is."""
    with pytest.raises(MalformedTokenError):
        wire.decode(wire.split_text(text))


@pytest.mark.spec("2.2")
def test_the_size_of_a_text_is_bounded_before_it_is_read() -> None:
    """7 168 characters are looked at; one more is refused whatever it holds."""
    fits = "arx1_" + "A" * (wire.MAX_CREDENTIAL_CHARS - 5 - 3)
    assert wire.split_text(fits) == bytes((len(fits) - 5) * 3 // 4)
    with pytest.raises(MalformedTokenError, match="7168"):
        wire.split_text("arx1_" + "é" * wire.MAX_CREDENTIAL_CHARS)


@QUICK
@given(st.binary(max_size=200))
def test_junk_raises_only_arx_errors(raw: bytes) -> None:
    """A stranger's bytes cannot make the reader fail in another way."""
    for read in (wire.decode, wire.walk):
        with contextlib.suppress(ArxError):
            read(raw)
