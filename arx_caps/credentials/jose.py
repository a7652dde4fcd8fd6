# SPDX-License-Identifier: Apache-2.0
"""Make and verify assertions (RFC 7523) and proofs of possession (RFC 9449).  CONTROL 1.

An assertion authenticates a caller of the mint once.  A proof binds one HTTP call to a key.  Both are Ed25519
signatures by ``joserfc``; an OAuth client's proof may be ES256.  A check here covers signature, times, address and
form, but not replay: the caller looks up the ``jti`` among the used ones.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from joserfc.errors import JoseError
from msgspec import Meta

from arx_caps.credentials.keyfile import ClientKey, KeyFile, PublicKey, SigningKey, client_key, public_key
from arx_verifier.addresses import split_url
from arx_verifier.errors import ArxError, GrantError, RequestError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

__all__ = [
    "CLIENT_ALGORITHMS",
    "Assertion",
    "ClientProof",
    "KeyFile",
    "Proof",
    "PublicKey",
    "SigningKey",
    "check_assertion",
    "check_client_dpop",
    "check_dpop",
    "make_assertion",
    "make_dpop",
    "token_hash",
]

ASSERTION_S: Final = 60  # the longest life of an assertion; also how long its jti is remembered, about
AHEAD_S: Final = 30  # how far a caller's clock may be ahead of the mint's
PROOF_S: Final = 30  # how old a proof may be
CLIENT_ALGORITHMS: Final = ("ES256", "EdDSA", "Ed25519")  # of an OAuth client's proofs and assertions
MAX_JWT_CHARS: Final = 4096  # an honest one has about 500; nothing longer is decoded
BAD_ASSERTION: Final = "bad_assertion"
BAD_PROOF: Final = "bad_proof"
_Key = TypeVar("_Key", bound=PublicKey | ClientKey)


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members that a JWS header may have."""

    # `jku` and `x5u` would let a caller choose the key, and `crit` would demand features that are not here: all three
    # are unknown fields, and refused.

    # The kind of the key decides which one it may be.
    alg: Literal["EdDSA", "Ed25519", "ES256"]
    typ: str
    kid: Annotated[str, Meta(max_length=64)] | None = None
    jwk: dict[str, Any] | None = None


_HEADER: Final = msgspec.json.Decoder(_Header)


class Assertion(NamedTuple):
    """A verified assertion.

    Attributes:
        subject: The caller.
        kid: The enrolled key that signed it.
        jti: Its id, to be used once for this key.
        until: How long the jti must be remembered, ms since the Unix epoch.
        bound_to: RFC 7638 thumbprint of the key of the session that it opens, or None.
    """

    subject: str
    kid: str
    jti: str
    until: int
    bound_to: str | None


class Proof(NamedTuple):
    """A verified proof of possession.

    Attributes:
        key: The key that signed it, which the proof itself names.
        jti: Its id, to be used once for this key.
        until: How long the jti must be remembered, ms since the Unix epoch.
    """

    key: PublicKey
    jti: str
    until: int


class ClientProof(NamedTuple):
    """A verified proof of an OAuth client.

    Attributes:
        jkt: RFC 7638 thumbprint of the key that signed it, which the proof itself names.
        jti: Its id, to be used once for this key.
        issued_at: When the client made it, ms since the Unix epoch.
        until: How long the jti must be remembered, ms since the Unix epoch.
    """

    jkt: str
    jti: str
    issued_at: int
    until: int


def make_assertion(key: KeyFile, *, audience: str, now: int, session_key: PublicKey | None = None) -> str:
    """Return a signed assertion of the caller.  RFC 7523 3.

    Args:
        key: The enrolled key.
        audience: The mint's issuer URL.
        now: ms since the Unix epoch.
        session_key: Public key of the session that an agent opens with it; a thief of the assertion without this key
            opens none.

    Returns:
        A compact JWS, valid for ``ASSERTION_S`` seconds.
    """
    at = now // 1000
    claims: dict[str, Any] = {"iss": key.subject, "sub": key.subject, "aud": audience}
    claims |= {"iat": at, "exp": at + ASSERTION_S}
    if session_key is not None:
        claims["cnf"] = {"jkt": session_key.kid}
    return key.key.sign({"typ": "JWT", "kid": key.key.kid}, {**claims, "jti": secrets.token_urlsafe(16)})


def make_dpop(key: SigningKey, *, method: str, url: str, now: int, token: str | None = None) -> str:
    """Return a signed proof for one HTTP call.  RFC 9449 4.2.

    Args:
        key: The key that the token is bound to.
        method: The HTTP method.
        url: Scheme, host and path; a query or fragment is removed.
        now: ms since the Unix epoch.
        token: The token sent along.

    Returns:
        A compact JWS for the ``DPoP`` header.
    """
    target = url.partition("#")[0].partition("?")[0]
    claims = {"htm": method, "htu": target, "jti": secrets.token_urlsafe(16), "iat": now // 1000}
    if token is not None:
        claims["ath"] = token_hash(token)
    return key.sign({"typ": "dpop+jwt", "jwk": key.public.jwk}, claims)


def check_assertion(
    token: str, find_key: Callable[[str, str], PublicKey | None], *, audience: str, now: int
) -> Assertion:
    """Verify an assertion, except that its jti is unused.  RFC 7523 3.

    Args:
        token: The presented assertion.
        find_key: Returns the key that a subject enrolled under a thumbprint, or None.
        audience: The mint's issuer URL.
        now: ms since the Unix epoch.

    Returns:
        The facts of the assertion.

    Raises:
        GrantError: ``bad_assertion``, with the reason.
    """
    header, claims = _read(token, "JWT", BAD_ASSERTION)
    subject = claims.get("sub")
    if not isinstance(subject, str) or claims.get("iss") != subject:
        raise GrantError("invalid assertion: iss and sub must both name the caller", code=BAD_ASSERTION)
    # Until the signature holds, subject and kid choose a key and nothing else.
    key = find_key(subject, header.kid or "")
    if key is None:
        raise GrantError("this key is not enrolled for this caller", code=BAD_ASSERTION)
    _prove(token, key, BAD_ASSERTION)
    if claims.get("aud") != audience:
        raise GrantError(f"the assertion is for another mint; this one is {audience}", code=BAD_ASSERTION)
    issued, expires = _seconds(claims, "iat", BAD_ASSERTION), _seconds(claims, "exp", BAD_ASSERTION)
    if not 0 < expires - issued <= ASSERTION_S:
        raise GrantError(f"an assertion lives at most {ASSERTION_S} seconds", code=BAD_ASSERTION)
    if now >= expires * 1000:
        raise GrantError(f"the assertion has expired: it was {_made(issued, now)}", code=BAD_ASSERTION)
    if now < (issued - AHEAD_S) * 1000:
        raise GrantError(f"the assertion is from the future: it was {_made(issued, now)}", code=BAD_ASSERTION)
    bound = claims.get("cnf", {"jkt": None})
    if not isinstance(bound, dict) or set(bound) != {"jkt"}:
        raise GrantError("invalid cnf: expected jkt alone, the thumbprint of a key", code=BAD_ASSERTION)
    return Assertion(subject, key.kid, _jti(claims, BAD_ASSERTION), expires * 1000, bound["jkt"])


def check_dpop(proof: str, *, method: str, url: str, now: int, token: str | None = None) -> Proof:
    """Verify a proof of possession, except that its jti is unused and its key the right one.  RFC 9449 4.3.

    Args:
        proof: The ``DPoP`` header.
        method: The request's method.
        url: The request's URL as clients know it, without query.
        now: ms since the Unix epoch.
        token: The token that came along; None if none is expected.

    Returns:
        The facts of the proof.

    Raises:
        GrantError: ``bad_proof``, with the reason.
    """
    key, claims = _open_dpop(proof, public_key)
    if claims.get("htu") != url:
        raise GrantError(f"the proof is for another address than {url}", code=BAD_PROOF)
    issued = _call(claims, method, token, now, AHEAD_S)
    return Proof(key, _jti(claims, BAD_PROOF), (issued + PROOF_S) * 1000)


def check_client_dpop(
    proof: str, *, method: str, url: str, now: int, token: str | None = None, ahead_s: int = AHEAD_S
) -> ClientProof:
    """Verify an OAuth client's proof, except that its jti is unused and its key the right one.  RFC 9449 4.3.

    Args:
        proof: The ``DPoP`` header.
        method: The request's method.
        url: The request's URL as clients know it, without query.
        now: ms since the Unix epoch.
        token: The access token that came along; None at the token endpoint.
        ahead_s: How far the client's clock may be ahead, s.

    Returns:
        The facts of the proof.

    Raises:
        GrantError: ``bad_proof``, with the reason.
    """
    key, claims = _open_dpop(proof, client_key)
    place = _place(claims.get("htu"))
    if place is None or place != _place(url):
        raise GrantError(f"the proof is for another address than {url}", code=BAD_PROOF)
    issued = _call(claims, method, token, now, ahead_s)
    return ClientProof(key.kid, _jti(claims, BAD_PROOF), issued * 1000, (issued + PROOF_S) * 1000)


def _open_dpop(proof: str, key_of: Callable[[Any], _Key]) -> tuple[_Key, dict[str, Any]]:
    """Return the key that a proof carries, once its signature is verified, and the claims."""
    header, claims = _read(proof, "dpop+jwt", BAD_PROOF)
    try:
        key = key_of(header.jwk)
    except RequestError as error:
        raise GrantError(f"the proof's jwk: {error}", code=BAD_PROOF) from error
    _prove(proof, key, BAD_PROOF)
    return key, claims


def _call(claims: dict[str, Any], method: str, token: str | None, now: int, ahead_s: int) -> int:
    """Require that a proof is for this method and token, and of this time; return when it was made, s."""
    if claims.get("htm") != method:
        raise GrantError(f"the proof is for another method than {method}", code=BAD_PROOF)
    if claims.get("ath") != (None if token is None else token_hash(token)):
        raise GrantError("the proof is for another token: its ath is not the hash of the token", code=BAD_PROOF)
    issued = _seconds(claims, "iat", BAD_PROOF)
    if not (issued - ahead_s) * 1000 <= now < (issued + PROOF_S) * 1000:
        expected = f"less than {PROOF_S} s old and at most {ahead_s} s ahead"
        raise GrantError(f"the proof's time: expected {expected}, got one {_made(issued, now)}", code=BAD_PROOF)
    return issued


def _place(url: object) -> tuple[object, ...] | None:
    """Return what two spellings of one URL have in common: case of scheme and host, and the default port."""
    # RFC 9449 4.3: a client's library writes the URL in its own way.  Neither query nor fragment may be in ``htu``.
    parts = split_url(url) if isinstance(url, str) else None
    if parts is None or parts.query or parts.fragment or parts.username:
        return None
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port, parts.path or "/"


def token_hash(token: str) -> str:
    """Return the claim ``ath``: SHA-256 of the token's text as base64url.  RFC 9449 4.2."""
    return wire.text_of(hashlib.sha256(token.encode()).digest())


def _read(token: str, typ: str, code: str) -> tuple[_Header, dict[str, Any]]:
    """Parse header and claims without verifying the signature."""
    if len(token) > MAX_JWT_CHARS or token.count(".") != 2:
        raise GrantError("not a compact JWS", code=code)
    first, second, _ = token.split(".")
    try:
        header = _HEADER.decode(wire.bytes_of(first))
        claims = read_json_object(wire.bytes_of(second))
    except (ArxError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise GrantError(
            "invalid JWS: unexpected header or claims; the algorithm is EdDSA or ES256", code=code
        ) from error
    if header.typ != typ:
        raise GrantError(f"invalid header: typ must be {typ}", code=code)
    return header, claims


def _prove(token: str, key: PublicKey | ClientKey, code: str) -> None:
    try:
        key.open(token)
    except (JoseError, ArxError, ValueError) as error:
        raise GrantError("invalid signature: the key did not sign this token", code=code) from error


def _made(issued_s: int, now: int) -> str:
    """Return when a token was made by this server's clock, with a hint to set the caller's clock."""
    # The time at a server is no secret, and a caller needs the distance to see that its clock is wrong.
    off_s = now // 1000 - issued_s
    distance = f"{off_s} s ago" if off_s >= 0 else f"{-off_s} s ahead"
    return f"made {distance} by the server's clock; set the caller's clock by NTP"


def _seconds(claims: dict[str, Any], name: str, code: str) -> int:
    value = claims.get(name)
    if type(value) is not int or value < 0:
        raise GrantError(f"invalid {name}: expected a whole number of seconds", code=code)
    return value


def _jti(claims: dict[str, Any], code: str) -> str:
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 16 <= len(jti) <= 128:
        raise GrantError("invalid jti: expected 16 to 128 characters", code=code)
    return jti
