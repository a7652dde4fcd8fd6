# SPDX-License-Identifier: Apache-2.0
"""What a verifier's records travel in: a batch, and the statement with which its service answers for it.  SPEC 18.

A batch says which run it is of, where it begins, and what before it is lost.  The statement names verifier, run, first
and last record and the tree hash over all of them, and is signed by the service's enrolled key: whoever stores a batch
can show later who sent it.  A replay says nothing new, so no statement is for one use.  Reading a journal is
``journaled``'s, sending ``ship``'s; storing and numbering are the mint's.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from joserfc.errors import JoseError

from arx_caps.audit.tables import MAX_NUMBER
from arx_caps.audit.tree import Frontier, leaf_hash
from arx_caps.keyfile import PublicKey, SigningKey
from arx_verifier.errors import ArxError, GrantError, RequestError, TokenError, shorten
from arx_verifier.journal.record import Sealed
from arx_verifier.token import wire

PATH: Final = "/v1/decisions"
HEADER: Final = "Arx-Batch"
SEEN_HEADER: Final = "Arx-Log"  # the size of the log that the sender saw last
MEDIA_TYPE: Final = "application/vnd.arx.decisions"
WIRE_VERSION: Final = 1
MAX_RECORDS: Final = 2_000  # in one batch
MAX_BYTES: Final = 4 * 1024 * 1024  # of one batch
MAX_KEPT: Final = 65_535  # an entry of the log says its length in two bytes
MAX_NAME: Final = 200  # characters of a verifier's id
MAX_BOOT: Final = 128
AGE_S: Final = 300  # how old a statement may be, or how far from the future: clocks differ, and a replay is harmless
BAD_BATCH: Final = "bad_batch"
_MAX_STATEMENT: Final = 4096
_TYP: Final = "arx-batch+jwt"
_SERVICE: Final = "service:"


class Batch(NamedTuple):
    """Some records of one run of one verifier, in order, none missing between them.

    Attributes:
        verifier: The verifier's id.
        audience: Its service.
        boot: The run.
        first: Sequence of the first record; of the next one that there will be, where there is none.
        lost_from: The first of the sequences before ``first`` that nobody will ever send, or None.
        records: The records; none in a batch that only asks how far the receiver is, or tells of an end or a loss.
        closed: Whether the run ended in order behind these records.
    """

    verifier: str
    audience: str
    boot: str
    first: int
    lost_from: int | None
    records: tuple[Sealed, ...]
    closed: bool

    @property
    def last(self) -> int:
        """Sequence of the last record; ``first - 1`` where there is none."""
        return self.first + len(self.records) - 1

    def encode(self) -> bytes:
        """Return the body of the request."""
        return _WRITE.encode((WIRE_VERSION, *self))

    @classmethod
    def decode(cls, raw: bytes) -> "Batch":
        """Read the body of a request.

        Raises:
            RequestError: Not a batch of this version, or one that no verifier makes.
        """
        try:
            version, *values = _READ.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestError(f"not a batch of decisions: {error}") from error
        batch = cls(*values)
        if version != WIRE_VERSION:
            raise RequestError(f"a batch of version {version}; this mint reads version {WIRE_VERSION}")
        names = (batch.verifier, batch.audience, batch.boot)
        if max(map(len, names)) > MAX_NAME or len(batch.boot) > MAX_BOOT or any("\0" in name for name in names):
            raise RequestError(f"a name has at most {MAX_NAME} characters, a run's {MAX_BOOT}, and no zero character")
        if batch.last > MAX_NUMBER:
            raise RequestError(f"a record's sequence is at most {MAX_NUMBER}")
        if len(raw) > MAX_BYTES or len(batch.records) > MAX_RECORDS:
            raise RequestError(f"a batch has at most {MAX_RECORDS} records and {MAX_BYTES} bytes")
        if batch.first < 1 or not (batch.lost_from is None or 1 <= batch.lost_from < batch.first):
            raise RequestError("a batch begins at 1 or later, and what is lost stands before it")
        if not all(0 < len(kept) <= MAX_KEPT for kept, _ in batch.records):
            raise RequestError(f"the kept part of a record has 1 to {MAX_KEPT} bytes")
        return batch

    def leaves(self) -> list[bytes]:
        """Return the hashes of the records' leaves in the log."""
        return [leaf_hash(kept) for kept, _ in self.records]

    @property
    def root(self) -> bytes:
        """The tree hash over the kept parts; that of the empty tree where there is none."""
        return Frontier.of(self.leaves()).root()


class LogWord(msgspec.Struct, frozen=True):
    """What the log says of itself to a sender that asks.

    Attributes:
        key: Its key text.
        checkpoint: Its last checkpoint, a note.
        consistency: The hashes that prove that it continues the size that was asked with, base64.
    """

    key: str
    checkpoint: str
    consistency: tuple[str, ...]


class Mark(msgspec.Struct, frozen=True):
    """The receiver's answer: how far it has a run, whatever was sent.

    Attributes:
        high_water: The last sequence that it has, or knows to be lost; the sender goes on behind it.
        verifier: The verifier.
        boot: The run.
        leaf: The hash of the log's record at the mark, hex, where it was asked how far it is; empty for none.
        log: The log's word, where it was asked for.
    """

    high_water: int
    verifier: str = ""
    boot: str = ""
    leaf: str = ""
    log: LogWord | None = None


def sign_batch(key: SigningKey, batch: Batch, body: bytes, *, realm: str, issuer: str, now: int) -> str:
    """Answer for a batch.

    Args:
        key: The service's enrolled key.
        batch: The batch.
        body: Its bytes, as they are sent.
        realm: The realm's name.
        issuer: The mint's issuer URL.
        now: ms since the Unix epoch.

    Returns:
        The ``Arx-Batch`` header, a compact JWS.
    """
    claims = _claims(batch, body, batch.root, realm, issuer) | {"iat": now // 1000}
    return key.sign({"typ": _TYP, "kid": key.kid}, claims)


class Statement(NamedTuple):
    """What a service says of a batch, its signature checked.

    Attributes:
        text: The ``Arx-Batch`` header.
        audience: The service that signed it.
        key: With which key.
        claims: What it says.
    """

    text: str
    audience: str
    key: PublicKey
    claims: dict[str, Any]


def open_statement(text: str, find_key: Callable[[str, str], PublicKey | None], *, now: int) -> Statement:
    """Check whose statement it is; this needs no batch, so that nobody has to read one of a stranger.

    Args:
        text: The ``Arx-Batch`` header.
        find_key: Returns the key that a holder (``service:<audience>``) enrolled under a thumbprint, or None.
        now: ms since the Unix epoch.

    Raises:
        GrantError: ``bad_batch``, with what is wrong.
    """
    statement = read_statement(text, find_key)
    issued = statement.claims.pop("iat", None)
    if type(issued) is not int or abs(now // 1000 - issued) > AGE_S:
        raise GrantError(f"the batch was signed more than {AGE_S} seconds from now; check the clocks", code=BAD_BATCH)
    return statement


def read_statement(text: str, find_key: Callable[[str, str], PublicKey | None]) -> Statement:
    """Check whose statement it is, whenever it was made; as ``open_statement``."""
    kid, issuer = _unverified(text)
    key = find_key(issuer, kid) if issuer.startswith(_SERVICE) else None
    if key is None:
        named = shorten(issuer.removeprefix(_SERVICE))
        raise GrantError(f"this key is not enrolled for the service {named}", code=BAD_BATCH)
    try:
        said = msgspec.json.decode(key.open(text), type=dict[str, Any])
    except (JoseError, ArxError, ValueError, RecursionError) as error:
        raise GrantError("the batch's signature does not hold", code=BAD_BATCH) from error
    return Statement(text, issuer.removeprefix(_SERVICE), key, said)


def hold_statement(statement: Statement, batch: Batch, body: bytes, *, realm: str, issuer: str) -> list[bytes]:
    """Hold a statement to the batch that came with it.

    Args:
        statement: From ``open_statement``.
        batch: What ``body`` says.
        body: The request's body.
        realm: The realm's name.
        issuer: The mint's issuer URL.

    Returns:
        The hashes of the records' leaves, which it had to make.

    Raises:
        GrantError: ``bad_batch``, with what is wrong.
    """
    leaves = batch.leaves()
    for name, value in _claims(batch, body, Frontier.of(leaves).root(), realm, issuer).items():
        if statement.claims.get(name) != value:
            raise GrantError(f"the batch was signed with another {name}", code=BAD_BATCH)
    return leaves


def read_mark(raw: bytes) -> Mark:
    """Read the receiver's answer.

    Raises:
        TokenError: It is none.
    """
    try:
        return _MARK.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TokenError("the answer says no high-water mark", code="malformed") from error


_Wire = tuple[int, str, str, str, int, int | None, tuple[Sealed, ...], bool]
_WRITE: Final = msgspec.msgpack.Encoder()
_READ: Final = msgspec.msgpack.Decoder(_Wire)
_MARK: Final = msgspec.json.Decoder(Mark)


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    typ: str
    kid: str
    alg: str


class _Issuer(msgspec.Struct, frozen=True):
    iss: str


_HEADER: Final = msgspec.json.Decoder(_Header)
_ISSUER: Final = msgspec.json.Decoder(_Issuer)


def _claims(batch: Batch, body: bytes, root: bytes, realm: str, issuer: str) -> dict[str, Any]:
    service = f"service:{batch.audience}"
    return {
        "iss": service,
        "sub": service,
        "aud": issuer,
        "realm": realm,
        "verifier": batch.verifier,
        "boot": batch.boot,
        "first": batch.first,
        "last": batch.last,
        "root": wire.text_of(root),
        "sha256": wire.text_of(hashlib.sha256(body).digest()),
    }


def _unverified(statement: str) -> tuple[str, str]:
    """Read whose key and whose statement it says it is; nothing is proven by it."""
    try:
        if len(statement) > _MAX_STATEMENT:
            raise ValueError
        first, second, _ = statement.split(".")
        header = _HEADER.decode(wire.bytes_of(first))
        issuer = _ISSUER.decode(wire.bytes_of(second)).iss
    except (ArxError, msgspec.MsgspecError, ValueError) as error:
        raise GrantError(f"{HEADER} is not a compact JWS of typ {_TYP}", code=BAD_BATCH) from error
    if header.typ != _TYP:
        raise GrantError(f"{HEADER} is not of typ {_TYP}", code=BAD_BATCH)
    return header.kid, issuer
