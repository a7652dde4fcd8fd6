# SPDX-License-Identifier: Apache-2.0
"""The byte form and the text form of macaroons, strict and bounded.  SPEC 2.

One token has exactly one byte form and one text form: minimal lengths, nothing after the signature, canonical unpadded
base64url.  Every other form is refused: two spellings of one token would be two cache keys, two replay keys and two log
lines.  This module interprets no packet.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from arx_verifier._native import twin
from arx_verifier.errors import MalformedTokenError

TOKEN_PREFIX: Final = "arx1_"  # noqa: S105 - a marker for secret scanners, not a secret
JOINT: Final = "~"  # between a token and its discharges; no character of base64url
BUNDLE_PREFIX: Final = "arxb1_"
MAX_CREDENTIAL_CHARS: Final = 7168  # with its header name below the common 8 KiB header limit
MAX_CAVEATS: Final = 64  # bounds the work of an unauthenticated chain: 64 HMACs take about 60 us
SIGNATURE_BYTES: Final = 32

VERSION: Final = 2  # macaroon format version, the first byte
EOS: Final = 0
LOCATION: Final = 1
IDENTIFIER: Final = 2
VERIFICATION_ID: Final = 4
SIGNATURE: Final = 6
TAIL: Final = bytes([EOS, SIGNATURE, SIGNATURE_BYTES])  # the bytes between the last caveat and the signature
_ENDING: Final = -len(TAIL) - SIGNATURE_BYTES

TO_URL: Final = bytes.maketrans(b"+/", b"-_")
FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")  # characters of the other alphabet become invalid ones
_SHORT: Final = 256  # above it, two replacements cost less than a look-up of each character
_PLUS, _SLASH, _EQUALS = b"+/="  # numbers: the search for a number costs a sixth of that for bytes
_PADDING: Final = (b"", b"", b"==", b"=")  # by the number of characters modulo 4
URL_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_URL_CHARS: Final = [char.encode() for char in URL_CHARS]
# The last characters that are allowed, by the number of characters modulo 4: they carry no bits beyond the last byte.
_LAST: Final = (
    frozenset(_URL_CHARS) | {b""},
    frozenset[bytes](),
    frozenset(_URL_CHARS[::16]),
    frozenset(_URL_CHARS[::4]),
)


class ThirdPartyPacket(NamedTuple):
    """A third-party caveat, uninterpreted."""

    location: bytes | None
    identifier: bytes
    verification_id: bytes


class Packets(NamedTuple):
    """The parts of a macaroon, uninterpreted.

    Attributes:
        location: The unsigned hint, or None.
        identifier: The identifier's bytes.
        caveats: First-party caveats as bytes, third-party ones as ``ThirdPartyPacket``, in order.
        signature: 32 bytes, a secret of the holder.
    """

    location: bytes | None
    identifier: bytes
    caveats: tuple[bytes | ThirdPartyPacket, ...]
    signature: bytes


@twin()
def sha256_of(first: bytes, then: bytes) -> bytes:
    """Return SHA-256 of two byte strings joined: 32 bytes."""
    return sha256(first + then).digest()


@twin()
def base64_of(raw: bytes) -> bytes:
    """Return bytes as canonical base64url without padding, in ASCII bytes."""
    text = b2a_base64(raw, newline=False)
    if len(text) < _SHORT:
        return text.translate(TO_URL, b"=")
    return text.replace(b"+", b"-").replace(b"/", b"_").rstrip(b"=")


def text_of(raw: bytes) -> str:
    """Return bytes as canonical base64url without padding."""
    return base64_of(raw).decode("ascii")


@twin()
def bytes_of(text: str | bytes) -> bytes:
    """Parse canonical base64url without padding.

    Args:
        text: The characters, without prefix.

    Returns:
        The bytes.

    Raises:
        MalformedTokenError: Another alphabet, padding, white space, or bits after the last byte.
    """
    over = len(text) & 3
    try:
        raw = text if isinstance(text, bytes) else text.encode("ascii")
        # Python's decoder accepts the other alphabet and ignores bits after the last byte.  Both would be a second
        # spelling of the same bytes.
        if raw[-1:] not in _LAST[over]:
            raise MalformedTokenError("this is not base64url text in its canonical form")
        if len(raw) < _SHORT:
            plain = raw.translate(FROM_URL)
        elif _PLUS in raw or _SLASH in raw or _EQUALS in raw:
            raise MalformedTokenError("this is not base64url text")
        else:
            plain = raw.replace(b"-", b"+").replace(b"_", b"/")
        return a2b_base64(plain + _PADDING[over] if over else plain, strict_mode=True)
    except (Base64Error, UnicodeEncodeError) as error:
        raise MalformedTokenError("this is not base64url text") from error


def split_text(text: str) -> bytes:
    """Return the bytes of a macaroon's text form.

    Args:
        text: ``arx1_`` and base64url, at most 7 168 characters.

    Returns:
        The macaroon's bytes.

    Raises:
        MalformedTokenError: Too long, another prefix, or not canonical.
    """
    if len(text) > MAX_CREDENTIAL_CHARS:
        raise MalformedTokenError(f"this token has more than {MAX_CREDENTIAL_CHARS} characters")
    if not text.startswith(TOKEN_PREFIX):
        if text.startswith(BUNDLE_PREFIX):
            raise MalformedTokenError("a bundle is not a token; send the service's token of the bundle")
        raise MalformedTokenError(f"a token begins with {TOKEN_PREFIX}")
    try:
        return bytes_of(text[len(TOKEN_PREFIX) :])
    except MalformedTokenError as error:
        if JOINT in text:
            raise MalformedTokenError(
                f"this is a token with discharges; the token is the part before the `{JOINT}`"
            ) from error
        raise


def packet(kind: int, data: bytes) -> bytes:
    """Return one packet, with its length in the fewest bytes.  SPEC 2.1.

    Args:
        kind: The packet's kind: ``LOCATION``, ``IDENTIFIER``, ``VERIFICATION_ID`` or ``SIGNATURE``.
        data: Its content.

    Raises:
        MalformedTokenError: *data* has more than 16 383 bytes.
    """
    size = len(data)
    if size < 0x80:
        return bytes((kind, size)) + data
    if size < 0x4000:
        return bytes((kind, size & 0x7F | 0x80, size >> 7)) + data
    raise MalformedTokenError("a packet has at most 16 383 bytes")


def caveat_packet(caveat: bytes | ThirdPartyPacket) -> bytes:
    """Return one caveat's packets with their end marker."""
    if isinstance(caveat, bytes):
        return packet(IDENTIFIER, caveat) + b"\0"
    location = packet(LOCATION, caveat.location) if caveat.location is not None else b""
    return location + packet(IDENTIFIER, caveat.identifier) + packet(VERIFICATION_ID, caveat.verification_id) + b"\0"


def encode(packets: Packets) -> bytes:
    """Return the byte form of a macaroon, version 2."""
    head = packet(LOCATION, packets.location) if packets.location is not None else b""
    body = b"".join([caveat_packet(caveat) for caveat in packets.caveats])
    return b"\x02" + head + packet(IDENTIFIER, packets.identifier) + b"\0" + body + TAIL + packets.signature


def decode(raw: bytes) -> Packets:
    """Parse a macaroon, version 2.

    Args:
        raw: The whole macaroon and nothing else.

    Returns:
        Its parts, uninterpreted and unverified.

    Raises:
        MalformedTokenError: Another version, a field missing, out of place or not minimal, more than 64 caveats, or
            bytes after the signature.
    """
    body, signature = split_body(raw)
    location, identifier, caveats = walk(body)
    return Packets(location, identifier, caveats, signature)


@twin()
def read_text(text: str) -> tuple[bytes, bytes]:
    """Return ``split_body`` of the bytes of a macaroon's text form.

    Args:
        text: ``arx1_`` and base64url, at most 7 168 characters.

    Raises:
        MalformedTokenError: As ``split_text`` and ``split_body``.
    """
    return split_body(split_text(text))


def split_body(raw: bytes) -> tuple[bytes, bytes]:
    """Return the body of a macaroon, up to the end marker of its caveats, and its signature.

    Args:
        raw: The whole macaroon and nothing else.

    Raises:
        MalformedTokenError: It does not end in a signature.
    """
    if not raw.endswith(TAIL, _ENDING, -SIGNATURE_BYTES):
        raise MalformedTokenError("this macaroon does not end in a signature of 32 bytes")
    return raw[:_ENDING], raw[-SIGNATURE_BYTES:]


@twin()
def cut_out(
    packets: Iterable[bytes | ThirdPartyPacket], mark: bytes, size: int
) -> tuple[tuple[bytes | ThirdPartyPacket, ...], tuple[bytes, ...]]:
    """Cut a text of fixed length out of each caveat that has a mark before it.

    Args:
        packets: Caveats.
        mark: The bytes before the text; the last occurrence counts.
        size: Length of the text, bytes.

    Returns:
        The caveats, with a zero byte instead of each text; and the texts, which are shorter if the caveat ends first.
    """
    rest: list[bytes | ThirdPartyPacket] = []
    texts: list[bytes] = []
    for packet in packets:
        if not isinstance(packet, bytes) or (at := packet.rfind(mark)) < 0:
            rest.append(packet)
            continue
        start = at + len(mark)
        rest.append(packet[:start] + b"\0" + packet[start + size :])
        texts.append(packet[start : start + size])
    return tuple(rest), tuple(texts)


@twin(ThirdPartyPacket)
def walk(body: bytes) -> tuple[bytes | None, bytes, tuple[bytes | ThirdPartyPacket, ...]]:
    """Parse a macaroon's body, which ends before the end marker and the signature.

    Args:
        body: Version, location, identifier and caveats.

    Returns:
        Location, identifier and caveats.

    Raises:
        MalformedTokenError: As ``decode``.
    """
    if body[:1] != b"\x02":
        raise MalformedTokenError("this is not a macaroon of version 2")
    try:
        location, at = None, 1
        if body[1] == LOCATION:
            size = body[2]
            if size < 0x80:
                at = size + 3
                location = body[3:at]
            else:
                location, at = _field(body, 1)
        if body[at] != IDENTIFIER:
            raise MalformedTokenError("a macaroon's identifier is missing")
        size, start = body[at + 1], at + 2
        if size >= 0x80:
            size, start = _long_size(size, body[start]), start + 1
        at = start + size
        if body[at] != EOS:
            raise MalformedTokenError("a macaroon's header is not closed")
        return location, body[start:at], _caveats(body, at + 1)
    except IndexError as error:
        raise MalformedTokenError("this macaroon is cut short") from error


def _caveats(body: bytes, at: int) -> tuple[bytes | ThirdPartyPacket, ...]:
    caveats: list[bytes | ThirdPartyPacket] = []
    end = len(body)
    while at < end:
        if body[at] == IDENTIFIER:
            # The fast path of nearly every caveat; ``_third_party`` below handles all other cases.
            start, size = at + 2, body[at + 1]
            if size >= 0x80:
                high = body[start]
                # A size that ``_long_size`` refuses becomes one that does not fit, so that ``_third_party`` raises.
                start, size = start + 1, (size & 0x7F | high << 7 if 0 < high < 0x80 else end)
            after = start + size
            if after < end and not body[after]:
                caveats.append(body[start:after])
                at = after + 1
                continue
        caveat, at = _third_party(body, at)
        caveats.append(caveat)
    if len(caveats) > MAX_CAVEATS:
        raise MalformedTokenError(f"a token has at most {MAX_CAVEATS} caveats")
    return tuple(caveats)


def _third_party(body: bytes, at: int) -> tuple[ThirdPartyPacket, int]:
    location = None
    if body[at] == LOCATION:
        location, at = _field(body, at)
    if body[at] != IDENTIFIER:
        raise MalformedTokenError("a caveat's identifier is missing")
    identifier, at = _field(body, at)
    if body[at] != VERIFICATION_ID:
        why = "a caveat is not closed" if location is None else "only a third-party caveat has a location"
        raise MalformedTokenError(why)
    verification_id, at = _field(body, at)
    if body[at] != EOS:
        raise MalformedTokenError("a caveat is not closed")
    return ThirdPartyPacket(location, identifier, verification_id), at + 1


def _field(body: bytes, at: int) -> tuple[bytes, int]:
    """Return the data of the field at ``at``, and the offset of the next one."""
    size = body[at + 1]
    start = at + 2
    if size >= 0x80:
        size, start = _long_size(size, body[start]), start + 1
    end = start + size
    data = body[start:end]
    if len(data) != size:
        raise MalformedTokenError("this macaroon is cut short")
    return data, end


def _long_size(low: int, high: int) -> int:
    # A length below 128 written in two bytes would be a second spelling of the same token.
    if not 0 < high < 0x80:
        raise MalformedTokenError("a packet's length is not in its shortest form, or is above 16 383")
    return low & 0x7F | high << 7
