# SPDX-License-Identifier: Apache-2.0
"""Signed notes: a text and the lines of those who signed it (c2sp.org/signed-note).  SPEC 17.2.

Two kinds of key: that of a log, which signs the text as it stands (0x01), and that of a witness, which signs it with
the time it saw it (0x04, c2sp.org/tlog-cosignature).  Signatures of unknown keys are ignored; one of a known key that
does not verify makes the whole note void.  What a text means is ``checkpoint``'s.
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

from arx_caps.audit.errors import NoteError, TamperedError

LOG: Final = 0x01
WITNESS: Final = 0x04
MAX_NOTE_BYTES: Final = 256 * 1024
MAX_SIGNATURES: Final = 64  # the format asks for 16 at least; each known one costs 0.1 ms
MAX_NAME_BYTES: Final = 255
_DASH: Final = "— "  # em dash, space
_KEY_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = {LOG: 64, WITNESS: 8 + 64}  # a witness puts its time before the signature


class Signature(NamedTuple):
    """One line below a note.

    Attributes:
        name: The key's name.
        key_id: The four bytes that tell keys of one name apart.
        blob: What that key's kind signs with.
    """

    name: str
    key_id: bytes
    blob: bytes

    def line(self) -> str:
        """Write the line, ended by a line feed."""
        return f"{_DASH}{self.name} {text64(self.key_id + self.blob)}\n"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and kind; ``str`` is the text that people exchange.

    Attributes:
        name: Whose it is: a log's origin, a witness's name.
        kind: ``LOG`` or ``WITNESS``.
        public: The 32 bytes.
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        """Refuse what could not be written as text, or what verifies nothing.

        Raises:
            NoteError: The name, the kind or the key cannot be one.
        """
        check_name(self.name)
        if self.kind not in _SIGNATURE_BYTES:
            raise NoteError(f"keys of kind {self.kind:#04x} are not known here")
        if len(self.public) != 32:
            raise NoteError("an Ed25519 public key has 32 bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``name+hash+base64``.

        Raises:
            NoteError: It is no verifier key, or its hash is not its own.
        """
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = bytes64(encoded, "the verifier key")
        if not raw:
            raise NoteError("a verifier key is name+hash+base64, as `arx audit key` prints it")
        key = cls(name, raw[0], raw[1:])
        if key_id != key.key_id.hex():
            raise NoteError("the verifier key's hash is not that of its name and key: it was mistyped, or altered")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the hash of name, kind and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.public).digest()[:_KEY_ID_BYTES]

    def owns(self, signature: Signature) -> bool:
        """Tell whether a line claims to be of this key."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)

    def check(self, text: str, signature: Signature) -> int | None:
        """Verify one line.

        Returns:
            The time of a cosignature, in seconds since the epoch; None of a log's signature, which has none.

        Raises:
            TamperedError: It is not this key's signature of this text.
        """
        blob, at = signature.blob, None
        if not self.owns(signature) or len(blob) != _SIGNATURE_BYTES[self.kind]:
            raise TamperedError(f"the signature of {self.name} is not one of its key")
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
        key: What others verify with.
    """

    __slots__ = ("_private", "key")

    def __init__(self, name: str, private: Ed25519PrivateKey, kind: int = LOG) -> None:
        """Hold a key.

        Raises:
            NoteError: It cannot have this name or kind.
        """
        self._private = private
        self.key = VerifierKey(name, kind, private.public_key().public_bytes_raw())

    def sign(self, text: str, at: int | None = None) -> Signature:
        """Sign a text.

        Args:
            text: The note's text, its last line feed included.
            at: The time in seconds since the epoch; for a witness's key, and for no other.
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
    """A text and its signatures, none of them believed until ``verified``.

    Attributes:
        text: The text, its last line feed included.
        signatures: The lines below it, in order.
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a note.

        Raises:
            NoteError: It is not one.
        """
        if len(raw) > MAX_NOTE_BYTES:
            raise NoteError(f"a note has at most {MAX_NOTE_BYTES // 1024} KiB")
        try:
            whole = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoteError("a note is UTF-8 text") from error
        if any(character < " " and character != "\n" for character in whole):
            raise NoteError("a note has no control characters")
        # The text may have empty lines of its own: the last one divides.
        text, found, lines = whole.rpartition("\n\n")
        if not found or not text or not lines.endswith("\n"):
            raise NoteError("a note is a text, an empty line, and signature lines")
        return cls(text + "\n", signature_lines(lines))

    def encode(self) -> bytes:
        """Write the note.

        Raises:
            NoteError: Nobody signed it.
        """
        if not self.signatures:
            raise NoteError("a note is signed")
        return (self.text + "\n" + "".join(each.line() for each in self.signatures)).encode()

    def signed(self, *signatures: Signature) -> Self:
        """Return the note with more signatures; one that is of the same key takes the former one's place."""
        new = {(each.name, each.key_id) for each in signatures}
        kept = (each for each in self.signatures if (each.name, each.key_id) not in new)
        return replace(self, signatures=(*kept, *signatures))

    def verified(self, keys: Iterable[VerifierKey]) -> "dict[VerifierKey, int | None]":
        """Say which of these keys signed the text.

        Returns:
            The keys that did, each with the time of its cosignature, or None for a log's.

        Raises:
            TamperedError: A line of one of these keys does not verify, or none of them signed.
        """
        found = {key: key.check(self.text, each) for key in keys for each in self.signatures if key.owns(each)}
        if not found:
            raise TamperedError("no key that is trusted has signed this")
        return found


def signature_lines(text: str) -> tuple[Signature, ...]:
    """Read signature lines.

    Raises:
        NoteError: A line is not one, or there are too many.
    """
    lines = text.split("\n")[:-1]
    if not text.endswith("\n") or len(lines) > MAX_SIGNATURES:
        raise NoteError(f"a note has at most {MAX_SIGNATURES} signature lines, each ended by a line feed")
    return tuple(map(_signature, lines))


def cosigned(text: bytes, at: int) -> bytes:
    """Return what a witness signs: the time, and the text without signatures."""
    return b"cosignature/v1\ntime %d\n" % at + text


def check_name(name: str) -> None:
    """Refuse a name that a signature line or a verifier key could not hold.

    Raises:
        NoteError: It is empty, too long, or has spaces, plus signs or control characters.
    """
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise NoteError(f"a key's name has 1 to {MAX_NAME_BYTES} bytes")
    if "+" in name or any(character.isspace() or not character.isprintable() for character in name):
        raise NoteError("a key's name has no spaces, plus signs or control characters")


def hashes64(lines: Sequence[str]) -> list[bytes]:
    """Read SHA-256 hashes, one a line.

    Raises:
        NoteError: A line is not 32 bytes in base64.
    """
    hashes = [bytes64(line, "a hash") for line in lines]
    if any(len(each) != 32 for each in hashes):
        raise NoteError("a hash is 32 bytes in base64")
    return hashes


def text64(raw: bytes) -> str:
    """Write base64 (RFC 4648 4)."""
    return b64encode(raw).decode("ascii")


def bytes64(text: str, what: str) -> bytes:
    """Read base64 in its one spelling.

    Raises:
        NoteError: It is something else.
    """
    try:
        raw = a2b_base64(text.encode("ascii"), strict_mode=True)
    except (Base64Error, UnicodeEncodeError) as error:
        raise NoteError(f"{what} is not base64") from error
    # Two spellings of one signature would be two notes: bits after the last byte are ignored by decoders.
    if text64(raw) != text:
        raise NoteError(f"{what} is not base64 in its one spelling")
    return raw


def decimal(text: str, what: str) -> int:
    """Read a number without leading zeros.

    Raises:
        NoteError: It is something else, or has more than 63 bits.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or str(int(text)) != text or int(text) >= 1 << 63:
        raise NoteError(f"{what} is not a number in its one spelling")
    return int(text)


def _signature(line: str) -> Signature:
    name, found, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not found:
        raise NoteError("a signature line is a dash, a name and base64")
    check_name(name)
    blob = bytes64(encoded, "a signature")
    if len(blob) <= _KEY_ID_BYTES:
        raise NoteError("a signature is longer than its key's id")
    return Signature(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])
