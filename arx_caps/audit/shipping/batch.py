# SPDX-License-Identifier: Apache-2.0
"""Batches of a verifier's records, and the statements that services sign for them.  LOG 2.

``journal_runs`` reads the records, ``shipper`` sends batches, ``store`` appends them.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from joserfc.errors import JoseError

from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.credentials.keyfile import PublicKey, SigningKey
from arx_verifier.errors import ArxError, GrantError, RequestError, TokenError, shorten
from arx_verifier.journal.record import Sealed
from arx_verifier.token import wire

PATH: Final = "/v1/decisions"
HEADER: Final = "Arx-Batch"
SEEN_HEADER: Final = "Arx-Log"  # the size of the last checkpoint that the sender verified
MEDIA_TYPE: Final = "application/vnd.arx.decisions"
WIRE_VERSION: Final = 1
MAX_NUMBER: Final = 2**53 - 1  # of a sequence or a time; JSON numbers above it are not exact
MAX_RECORDS: Final = 2_000  # the mint appends a batch in one transaction
MAX_BYTES: Final = 4 * 1024 * 1024  # the mint holds a batch in memory
MAX_KEPT: Final = 65_535  # the log's bundles store a record's length in two bytes
MAX_NAME: Final = 200  # characters of a verifier's id
MAX_BOOT: Final = 128
AGE_S: Final = 300  # how far a statement's time may be from the mint's: clocks differ, and a replay is harmless
BAD_BATCH: Final = "bad_batch"
_MAX_STATEMENT: Final = 4096
_TYP: Final = "arx-batch+jwt"
_SERVICE: Final = "service:"


class Batch(NamedTuple):
    """Consecutive records of one run of one verifier.

    Attributes:
        verifier: The verifier's id.
        audience: Its service.
        boot: The run.
        first: Sequence of the first record; without records, of the next one.
        lost_from: First of the lost sequences before ``first``, or None.
        records: The records; empty in a batch that asks for the mark, or declares an end or a loss.
        closed: Whether the run ended in order after these records.
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
        """Sequence of the last record; ``first - 1`` without records."""
        return self.first + len(self.records) - 1

    def encode(self) -> bytes:
        """Return the body of the request."""
        return _WRITE.encode((WIRE_VERSION, *self))

    @classmethod
    def decode(cls, raw: bytes) -> "Batch":
        """Parse the body of a request.

        Raises:
            RequestError: It is not a batch of this version, or exceeds a limit.
        """
        try:
            wire = _READ.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestError(f"not a batch of decisions: {error}") from error
        version, batch = wire[0], cls(*wire[1:])
        if version != WIRE_VERSION:
            raise RequestError(f"unknown batch: expected version {WIRE_VERSION}, got version {version}")
        names = (batch.verifier, batch.audience, batch.boot)
        if max(map(len, names)) > MAX_NAME or len(batch.boot) > MAX_BOOT or any("\0" in name for name in names):
            limits = f"at most {MAX_NAME} characters, a run's {MAX_BOOT}, and no zero character"
            raise RequestError(f"invalid name in the batch: expected {limits}")
        if batch.last > MAX_NUMBER:
            raise RequestError(f"invalid sequence: expected at most {MAX_NUMBER}, got {batch.last}")
        if len(raw) > MAX_BYTES or len(batch.records) > MAX_RECORDS:
            limits, size = f"{MAX_RECORDS} records and {MAX_BYTES} bytes", len(batch.records)
            raise RequestError(f"the batch is too large: expected at most {limits}, got {size} and {len(raw)}")
        if batch.first < 1 or not (batch.lost_from is None or 1 <= batch.lost_from < batch.first):
            raise RequestError("invalid batch: it must begin at 1 or later, and lost records must come before it")
        if not all(0 < len(kept) <= MAX_KEPT for kept, _ in batch.records):
            raise RequestError(f"invalid record in the batch: its kept part must have 1 to {MAX_KEPT} bytes")
        return batch

    def leaves(self) -> list[bytes]:
        """Return the hashes of the records' leaves in the log."""
        return [leaf_hash(kept) for kept, _ in self.records]

    @property
    def root(self) -> bytes:
        """The Merkle root over the kept parts; without records, that of the empty tree."""
        return Frontier.of(self.leaves()).root()


class LogWord(msgspec.Struct, frozen=True):
    """The log's answer to a sender that names a size.

    Attributes:
        key: Its key text.
        checkpoint: Its last checkpoint, a note.
        consistency: The proof that it continues that size, hashes in base64.
        changes: The proof files of changes of its key from that size on.
    """

    key: str
    checkpoint: str
    consistency: tuple[str, ...]
    changes: list[str] = msgspec.field(default_factory=list)  # of a tuple the schema would have no JSON value


class Mark(msgspec.Struct, frozen=True):
    """The mint's answer to a batch: how far it has the run.

    Attributes:
        high_water: The last sequence that it has, or that was lost; the sender continues after it.
        verifier: The verifier.
        boot: The run.
        leaf: Hash of the log's record at the mark, hex, in the answer to a batch that asks for the mark; else empty.
        log: The log's last checkpoint, if the sender asked for it.
    """

    high_water: int
    verifier: str = ""
    boot: str = ""
    leaf: str = ""
    log: LogWord | None = None


def sign_batch(key: SigningKey, batch: Batch, body: bytes, *, realm: str, issuer: str, now: int) -> str:
    """Return the service's signed statement for a batch.  LOG 2.2.

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
    """A service's statement for a batch, with a verified signature.

    Attributes:
        text: The ``Arx-Batch`` header.
        audience: The service that signed it.
        key: The key that signed it.
        claims: Its claims.
    """

    text: str
    audience: str
    key: PublicKey
    claims: dict[str, Any]


def open_statement(text: str, find_key: Callable[[str, str], PublicKey | None], *, now: int) -> Statement:
    """Verify a statement's signature and age.  LOG 2.2.

    Args:
        text: The ``Arx-Batch`` header.
        find_key: Returns the key that a holder (``service:<audience>``) enrolled under a thumbprint, or None.
        now: ms since the Unix epoch.

    Returns:
        The statement; ``hold_statement`` compares it with the batch.

    Raises:
        GrantError: ``bad_batch``, with the reason.
    """
    # The batch is not needed here: the mint authenticates a sender before it reads the sender's body.
    statement = read_statement(text, find_key)
    issued = statement.claims.pop("iat", None)
    if type(issued) is not int or abs(now // 1000 - issued) > AGE_S:
        raise GrantError(f"the batch was signed more than {AGE_S} seconds from now; check the clocks", code=BAD_BATCH)
    return statement


def read_statement(text: str, find_key: Callable[[str, str], PublicKey | None]) -> Statement:
    """Verify a statement's signature, of any age; as ``open_statement``."""
    kid, issuer = _unverified(text)
    key = find_key(issuer, kid) if issuer.startswith(_SERVICE) else None
    if key is None:
        named = shorten(issuer.removeprefix(_SERVICE))
        raise GrantError(f"this key is not enrolled for the service {named}", code=BAD_BATCH)
    try:
        claims = msgspec.json.decode(key.open(text), type=dict[str, Any])
    except (JoseError, ArxError, ValueError, RecursionError) as error:
        raise GrantError("invalid signature of the batch: the key did not sign it", code=BAD_BATCH) from error
    return Statement(text, issuer.removeprefix(_SERVICE), key, claims)


def hold_statement(statement: Statement, batch: Batch, body: bytes, *, realm: str, issuer: str) -> list[bytes]:
    """Require that a statement is about this batch.  LOG 2.2.

    Args:
        statement: From ``open_statement``.
        batch: The batch in ``body``.
        body: The request's body.
        realm: The realm's name.
        issuer: The mint's issuer URL.

    Returns:
        The hashes of the records' leaves, which this computes.

    Raises:
        GrantError: ``bad_batch``, with the claim that differs.
    """
    # The signature binds service, run, range and content: the mint can show later who sent a batch.  It is not for one
    # use, because a replay adds no record.
    leaves = batch.leaves()
    for name, value in _claims(batch, body, Frontier.of(leaves).root(), realm, issuer).items():
        if statement.claims.get(name) != value:
            raise GrantError(f"the batch was signed with another {name}", code=BAD_BATCH)
    return leaves


def read_mark(raw: bytes) -> Mark:
    """Parse the mint's answer.

    Raises:
        TokenError: It is malformed.
    """
    try:
        return _MARK.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:  # also of brackets without end
        raise TokenError("malformed answer: expected a high-water mark", code="malformed") from error


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
    """Return the key id and the issuer that an unverified statement names."""
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
