# SPDX-License-Identifier: Apache-2.0
"""Verify tokens of external issuers: of workloads, of subjects, and ID tokens.  CONTROL 1, RFC 7519, RFC 8725.

Which issuers are trusted, and which agent or subject a verified token stands for, is in ``policy.issuers``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from msgspec import Meta

from arx_caps.credentials.keyfile import AlgorithmRegistry
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.policy.issuers import SPIFFE, Issuer
from arx_verifier.errors import ArxError, GrantError, MalformedTokenError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

MAX_TOKEN_CHARS: Final = 16 * 1024  # twice a token with many groups, which has about 8 000
MAX_NAME_CHARS: Final = 512  # of ``sub``; the bound of a token's ``subject``
AHEAD_S: Final = 30  # how far an issuer's clock may be ahead of the mint's
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # verifying with a larger key costs CPU time and adds no security

Kind = Literal["workload", "id_token", "access_token", "id_jag"]

# RFC 8725 3.11: a token made for another purpose, such as a logout token or a DPoP proof, must not open a session.
_TYPES: Final[dict[str, frozenset[str]]] = {
    "workload": frozenset(["", "jwt", "jose", "at+jwt", "application/at+jwt"]),
    "id_token": frozenset(["", "jwt"]),
    "access_token": frozenset(["at+jwt", "application/at+jwt"]),
    "id_jag": frozenset(["oauth-id-jag+jwt", "application/oauth-id-jag+jwt"]),
}
_CODES: Final = {"workload": "bad_workload_token"}
_KTY: Final = {"RS256": ("RSA", None), "PS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
_NAMED: Final = {"Ed25519": "EdDSA"}  # RFC 9864's name for the same signature
_MAX_HEADER_BYTES: Final = 2048  # an issuer may add certificates' hashes
_MEMBERS: Final = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}


class IssuerToken(NamedTuple):
    """A verified token of an issuer.

    Attributes:
        issuer: The issuer, as in the policy.
        subject: ``sub``: the issuer's name of the subject.
        claims: All claims of the token.
        expires_at: When the token expires, ms since the Unix epoch.
    """

    issuer: Issuer
    subject: str
    claims: Mapping[str, Any]
    expires_at: int


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header members that are accepted."""

    # No key, no URL of one and no ``crit``: a token must not choose what it is verified with (RFC 8725 3.5).
    alg: str
    kid: Annotated[str, Meta(min_length=1, max_length=256)]
    typ: str = ""
    x5t: str = ""
    x5t_s256: str = msgspec.field(default="", name="x5t#S256")


_HEADER: Final = msgspec.json.Decoder(_Header)


def verify_issuer_token(
    token: str, issuers: Mapping[str, Issuer], keys: KeySets, *, kind: Kind, now: int, session_kid: str
) -> IssuerToken:
    """Verify a token of an issuer that the policy trusts.

    Args:
        token: The presented token, a compact JWS.
        issuers: The issuers that the policy trusts, by name.
        keys: Their public keys.
        kind: The kind of token that it is presented as.
        now: ms since the Unix epoch.
        session_kid: Thumbprint of the new session's key, for a token that is bound to a key (``cnf``).

    Returns:
        The verified token.

    Raises:
        GrantError: ``bad_workload_token`` or ``bad_subject_token``; the text names the claim, and never its value.
        UnavailableError: The issuer's keys cannot be fetched now.
    """
    code = _CODES.get(kind, "bad_subject_token")
    try:
        header, unverified = _read(token)
        issuer = _issuer_of(unverified, issuers)
        if header.typ.lower() not in _TYPES[kind]:
            raise _WrongError(f"typ: expected that of a token presented as {kind}, got another")
        # Until here the claims only chose an issuer and one of its keys; from here on they are authentic.
        _verify_signature(token, header, issuer, keys)
        return _verify_claims(issuer, unverified, kind, now, session_kid)
    except _WrongError as error:
        noun = "workload" if kind == "workload" else "subject"
        raise GrantError(f"invalid {noun} token: {error}", code=code) from error


def is_identity_assertion(token: str) -> bool:
    """Return whether a token says that it is an ID-JAG; nothing of it is verified.

    Args:
        token: The presented token, a compact JWS.
    """
    try:
        header, _ = _read(token)
    except _WrongError:
        return False
    return header.typ.lower() in _TYPES["id_jag"]


class _WrongError(ArxError):
    """A flaw of a token; ``verify_issuer_token`` gives it the code of the token's kind."""


def _read(token: str) -> tuple[_Header, dict[str, Any]]:
    """Parse header and claims; both are unverified."""
    if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2:
        raise _WrongError(f"expected a compact JWS of at most {MAX_TOKEN_CHARS} characters")
    header, payload, _ = token.split(".")
    try:
        return _HEADER.decode(wire.bytes_of(header)), read_json_object(wire.bytes_of(payload))
    except (ArxError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _WrongError("header or claims: expected alg, kid and typ alone, and one JSON object") from error


def _issuer_of(unverified: Mapping[str, Any], issuers: Mapping[str, Issuer]) -> Issuer:
    """Return the issuer with the token's ``iss``, or with the trust domain of its SPIFFE ID."""
    url, subject = unverified.get("iss"), unverified.get("sub")
    for issuer in issuers.values():
        if issuer.url == url:
            return issuer
    # A JWT-SVID need not have ``iss`` (SPIFFE JWT-SVID 3).
    if isinstance(subject, str) and subject.startswith(SPIFFE):
        domain = SPIFFE + subject.removeprefix(SPIFFE).partition("/")[0]
        for issuer in issuers.values():
            if issuer.url == domain:
                return issuer
    raise _WrongError("the policy trusts no issuer with its iss or trust domain")


def _verify_signature(token: str, header: _Header, issuer: Issuer, keys: KeySets) -> None:
    algorithm = _NAMED.get(header.alg, header.alg)
    if algorithm not in issuer.algorithms:
        raise _WrongError(f"algorithm: expected {' or '.join(issuer.algorithms)}, as the policy says, got another")
    # The key's type must be the algorithm's, so that no key is used with an algorithm it was not made for.
    kty, crv = _KTY[algorithm]
    fitting = [
        key
        for key in keys.find(issuer.jwks, header.kid)
        if (key.get("kty"), key.get("crv")) == (kty, crv) and key.get("alg") in (None, algorithm, header.alg)
    ]
    if len(fitting) != 1:
        raise _WrongError("its key (kid) is not exactly one of the issuer's keys for this algorithm")
    try:
        jws.deserialize_compact(
            token, _import(fitting[0]), registry=AlgorithmRegistry(algorithm, max_header_bytes=_MAX_HEADER_BYTES)
        )
    except (JoseError, ArxError, ValueError, TypeError) as error:
        raise _WrongError("the signature does not verify") from error


def _import(jwk: Mapping[str, Any]) -> RSAKey | ECKey | OKPKey:
    kty = jwk["kty"]
    # Only the key's own members: a certificate or a URL beside them must not be followed.
    bare = {name: jwk[name] for name in _MEMBERS[kty] if isinstance(jwk.get(name), str)}
    if kty == "EC":
        return ECKey.import_key(bare)
    if kty == "OKP":
        return OKPKey.import_key(bare)
    if not MIN_RSA_BITS <= int.from_bytes(wire.bytes_of(bare.get("n", ""))).bit_length() <= MAX_RSA_BITS:
        raise MalformedTokenError(f"invalid RSA key: expected {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    return RSAKey.import_key(bare)


def _verify_claims(issuer: Issuer, claims: Mapping[str, Any], kind: Kind, now: int, session_kid: str) -> IssuerToken:
    """Return the token if its authentic claims are valid now and for this mint."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_NAME_CHARS or not subject.isprintable():
        raise _WrongError(f"sub is missing, or not 1 to {MAX_NAME_CHARS} printable characters")
    # Without this, one trust domain could issue tokens in the name of another.
    if issuer.url.startswith(SPIFFE) and not _is_below(issuer.url, subject):
        raise _WrongError(f"sub: expected a SPIFFE ID of {issuer.url}, got another subject")
    _require_audience(issuer, claims, kind)
    # An issuer may sign logout tokens with the same key and for the same audience.
    if "events" in claims:
        raise _WrongError("a security event token (RFC 8417) opens no session")
    # Only the holder of its key may use a bound token; other bindings, such as a certificate, cannot be checked here.
    if "cnf" in claims and claims["cnf"] != {"jkt": session_kid}:
        raise _WrongError("it is bound (cnf) to another key than this session's")
    return IssuerToken(issuer, subject, claims, _require_time(issuer, claims, now))


def _is_below(domain: str, subject: str) -> bool:
    """Return whether this is a SPIFFE ID with a path in a trust domain (SPIFFE-ID 2)."""
    path = subject.removeprefix(domain + "/")
    segments = path.split("/")
    letters = path.replace("/", "").replace(".", "").replace("_", "").replace("-", "")
    valid_characters = letters.isascii() and letters.isalnum()
    return path != subject and valid_characters and not any(segment in ("", ".", "..") for segment in segments)


def _require_audience(issuer: Issuer, claims: Mapping[str, Any], kind: Kind) -> None:
    claim = claims.get("aud")
    audiences = [claim] if isinstance(claim, str) else claim
    if not isinstance(audiences, list) or not any(audience in issuer.audience for audience in audiences):
        raise _WrongError("audience (aud): expected one that the policy lists for this issuer, got another")
    # OpenID Connect Core 3.1.3.7: one of several audiences may use an ID token only if it was issued to it.
    if kind == "id_token" and len(audiences) > 1 and claims.get("azp") not in issuer.audience:
        raise _WrongError("azp: expected an audience of this mint, because aud lists several")


def _require_time(issuer: Issuer, claims: Mapping[str, Any], now: int) -> int:
    expires = _seconds(claims, "exp")
    if expires is None:
        raise _WrongError("exp is missing")
    if now >= expires * 1000:
        raise _WrongError("it has expired (exp)")
    issued, from_s = _seconds(claims, "iat"), _seconds(claims, "nbf")
    if now < (max(issued or 0, from_s or 0) - AHEAD_S) * 1000:
        raise _WrongError("it is not valid yet (iat, nbf); check the clocks of issuer and mint")
    # Without ``iat`` its age is unknown: the time that is left must fit into ``max_ttl``.
    began_ms = issued * 1000 if issued is not None else now
    if expires * 1000 - began_ms > issuer.max_ttl_ms:
        raise _WrongError("it lives longer than max_ttl of the policy allows for this issuer")
    return expires * 1000


def _seconds(claims: Mapping[str, Any], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int or value < 0:
        raise _WrongError(f"{name}: expected a whole number of seconds")
    return value
