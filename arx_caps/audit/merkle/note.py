# SPDX-License-Identifier: Apache-2.0
"""Signed notes: a text and its signature lines (c2sp.org/signed-note).  LOG 1.2.

There are two kinds of key.  A log signs the text as it is (0x01).  A witness signs it together with the time
(0x04, c2sp.org/tlog-cosignature).  ``checkpoint`` parses the text.
"""

import hashlib
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from arx_caps.audit.merkle.errors import NoteError, TamperedError

LOG: Final = 0x01
WITNESS: Final = 0x04
MAX_NOTE_BYTES: Final = 256 * 1024
MAX_SIGNATURES: Final = 64  # the format requires at least 16; verifying one costs 0.1 ms
MAX_NAME_BYTES: Final = 255
_DASH: Final = "— "  # em dash, space
_KEY_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = {LOG: 64, WITNESS: 8 + 64}  # a witness puts its time before the signature


class Signature(NamedTuple):
    """One signature line of a note.

    Attributes:
        name: The key's name.
        key_id: Four bytes that distinguish keys of one name.
        blob: The signature; for a witness, after the time.
    """

    name: str
    key_id: bytes
    blob: bytes

    def line(self) -> str:
        """Return the line, ended by a line feed."""
        return f"{_DASH}{self.name} {text64(self.key_id + self.blob)}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and kind; ``str`` is the text that people exchange.

    Attributes:
        name: The owner: a log's origin, or a witness's name.
        kind: ``LOG`` or ``WITNESS``.
        public: The 32 bytes.
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        """Check name, kind and length.

        Raises:
            NoteError: The name, the kind or the key is invalid.
        """
        check_name(self.name)
        if self.kind not in _SIGNATURE_BYTES:
            raise NoteError(f"unknown kind of key: expected 0x01 (log) or 0x04 (witness), got {self.kind:#04x}")
        if len(self.public) != 32:
            raise NoteError(f"invalid Ed25519 public key: expected 32 bytes, got {len(self.public)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``name+hash+base64``.

        Raises:
            NoteError: It is malformed, or the hash is not the key's.
        """
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = bytes64(encoded, "the verifier key")
        if not raw:
            raise NoteError("malformed verifier key: expected name+hash+base64, as `arx audit key` prints it")
        key = cls(name, raw[0], raw[1:])
        # People copy this text: the hash detects a character that was lost or changed.
        if key_id != key.key_id.hex():
            raise NoteError("wrong hash in the verifier key: it was mistyped or altered; copy it again")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the SHA-256 of name, kind and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.public).digest()[:_KEY_ID_BYTES]

    def owns(self, signature: Signature) -> bool:
        """Return whether a line claims to be signed by this key."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)

    def check(self, text: str, signature: Signature) -> int | None:
        """Verify one signature line.

        Args:
            text: The note's text.
            signature: The line.

        Returns:
            The time of a cosignature, in seconds since the epoch; None for a log's signature, which has none.

        Raises:
            TamperedError: It is not this key's signature of this text.
        """
        blob, at = signature.blob, None
        # A line of the wrong length must not reach the time below, which slices without a check.
        if not self.owns(signature) or len(blob) != _SIGNATURE_BYTES[self.kind]:
            raise TamperedError(f"the signature of {self.name} has the wrong key id or length")
        message = text.encode()
        if self.kind == WITNESS:
            at, blob = int.from_bytes(blob[:8], "big"), blob[8:]
            message = cosigned(message, at)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(blob, message)
        except (InvalidSignature, ValueError) as error:
            raise TamperedError(f"the signature of {self.name} does not verify") from error
        return at

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{text64(bytes((self.kind,)) + self.public)}"


class Signer:
    """A private key that signs notes.  ``repr`` shows its name.

    Attributes:
        key: The public key.
    """

    __slots__ = ("_private", "key")

    def __init__(self, name: str, private: Ed25519PrivateKey, kind: int = LOG) -> None:
        """Wrap a private key.

        Raises:
            NoteError: The name or the kind is invalid.
        """
        self._private = private
        self.key = VerifierKey(name, kind, private.public_key().public_bytes_raw())

    def sign(self, text: str, at: int | None = None) -> Signature:
        """Return the signature of a text.

        Args:
            text: The note's text, including its last line feed.
            at: The time in seconds since the epoch; required for a witness's key, and only for it.
        """
        if self.key.kind == LOG:
            assert at is None
            blob = self._private.sign(text.encode())
        else:
            assert at is not None
            blob = at.to_bytes(8, "big") + self._private.sign(cosigned(text.encode(), at))
        return Signature(self.key.name, self.key.key_id, blob)

    def __repr__(self) -> str:
        return f"<Signer {self.key.name}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Signer is a secret and is not pickled")


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, which are not verified before ``verified``.

    Attributes:
        text: The text, including its last line feed.
        signatures: The signature lines, in order.
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a note.

        Raises:
            NoteError: It is malformed.
        """
        # Before any work: a note comes from a log or a witness that is not trusted yet.
        if len(raw) > MAX_NOTE_BYTES:
            raise NoteError(
                f"the note is too long: expected at most {MAX_NOTE_BYTES // 1024} KiB, got {len(raw)} bytes"
            )
        try:
            whole = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoteError("malformed note: expected UTF-8 text") from error
        # A carriage return or an escape sequence could show a reader another text than the one that is signed.
        if any(character < " " and character != "\n" for character in whole):
            raise NoteError("malformed note: control characters are not allowed")
        # The text may contain empty lines: the last one separates it from the signatures.
        text, found, lines = whole.rpartition("\n\n")
        if not found or not text or not lines.endswith("\n"):
            raise NoteError("malformed note: expected a text, an empty line and signature lines")
        return cls(text + "\n", signature_lines(lines))

    def encode(self) -> bytes:
        """Return the note's bytes.

        Raises:
            NoteError: It has no signature.
        """
        if not self.signatures:
            raise NoteError("the note has no signature: sign it before encoding")
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    def signed(self, *signatures: Signature) -> Self:
        """Return the note with more signatures; a signature replaces an older one of the same key."""
        new = {(signature.name, signature.key_id) for signature in signatures}
        kept = (older for older in self.signatures if (older.name, older.key_id) not in new)
        return replace(self, signatures=(*kept, *signatures))

    def verified(self, keys: Iterable[VerifierKey]) -> "dict[VerifierKey, int | None]":
        """Verify the signatures of these keys.

        Args:
            keys: Trusted keys.  Signature lines of other keys are ignored.

        Returns:
            The keys that signed, each with the time of its cosignature, or None for a log's.

        Raises:
            TamperedError: A line of one of these keys does not verify, or none of them signed.
        """
        # One bad line of a trusted key makes the whole note invalid.
        signed = {key: key.check(self.text, line) for key in keys for line in self.signatures if key.owns(line)}
        if not signed:
            raise TamperedError("no trusted key has signed this note")
        return signed


def signature_lines(text: str) -> tuple[Signature, ...]:
    """Parse signature lines.

    Raises:
        NoteError: A line is malformed, or there are more than ``MAX_SIGNATURES``.
    """
    # Bounded, as each line of a trusted name costs a verification.
    lines = text.split("\n")[:-1]
    if not text.endswith("\n") or len(lines) > MAX_SIGNATURES:
        raise NoteError(f"malformed note: expected at most {MAX_SIGNATURES} signature lines, each ended by a line feed")
    return tuple(map(_signature, lines))


def cosigned(text: bytes, at: int) -> bytes:
    """Return the bytes that a witness signs: the time and the text.

    Args:
        text: The note's text, including its last line feed.
        at: The time in seconds since the epoch.
    """
    return b"cosignature/v1\ntime %d\n" % at + text


def check_name(name: str) -> None:
    """Check that a signature line and a verifier key can contain a name.

    Raises:
        NoteError: It is empty, longer than ``MAX_NAME_BYTES``, or has spaces, plus signs or control characters.
    """
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise NoteError(f"invalid key name: expected 1 to {MAX_NAME_BYTES} bytes")
    if "+" in name or any(character.isspace() or not character.isprintable() for character in name):
        raise NoteError("invalid key name: spaces, plus signs and control characters are not allowed")


def hashes64(lines: Sequence[str]) -> list[bytes]:
    """Parse SHA-256 hashes, one a line.

    Raises:
        NoteError: A line is not 32 bytes in base64.
    """
    hashes = [bytes64(line, "a hash") for line in lines]
    if any(len(hash_bytes) != 32 for hash_bytes in hashes):
        raise NoteError("malformed hash: expected 32 bytes in base64")
    return hashes


def text64(raw: bytes) -> str:
    """Return bytes as base64 (RFC 4648 4)."""
    return b64encode(raw).decode("ascii")


def bytes64(text: str, what: str) -> bytes:
    """Parse canonical base64.

    Args:
        text: The base64 text.
        what: Name of the value, for errors.

    Raises:
        NoteError: It is malformed or not canonical.
    """
    try:
        raw = a2b_base64(text.encode("ascii"), strict_mode=True)
    except (Base64Error, UnicodeEncodeError) as error:
        raise NoteError(f"{what} is not base64") from error
    # Decoders ignore bits after the last byte: without this check, one signature would have several spellings.
    if text64(raw) != text:
        raise NoteError(f"{what} is not canonical base64")
    return raw


def decimal(text: str, what: str) -> int:
    """Parse a number without leading zeros.

    Args:
        text: The decimal text.
        what: Name of the value, for errors.

    Raises:
        NoteError: It is malformed, or has more than 63 bits.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or str(int(text)) != text or int(text) >= 1 << 63:
        raise NoteError(f"{what} is not a canonical decimal number")
    return int(text)


def _signature(line: str) -> Signature:
    name, found, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not found:
        raise NoteError("malformed signature line: expected a dash, a name and base64")
    check_name(name)
    blob = bytes64(encoded, "a signature")
    if len(blob) <= _KEY_ID_BYTES:
        raise NoteError("malformed signature: it has no bytes after its key id")
    return Signature(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])
