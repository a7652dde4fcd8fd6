# SPDX-License-Identifier: Apache-2.0
"""Verify a token of another issuer: a workload's, or a subject's.  CONTROL 1, RFC 7519, RFC 8725.

Before the signature is verified, a token's claims choose an issuer of the policy and one of its keys, and nothing
else.  ``policy.issuers`` maps a verified token to an agent or a subject.  ``joserfc`` verifies signatures.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from msgspec import Meta

from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.policy.issuers import SPIFFE, Issuer
from arx_verifier.errors import ArxError, GrantError, MalformedTokenError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

MAX_TOKEN_CHARS: Final = 16 * 1024  # a token with many groups has some 8 000
MAX_NAME_CHARS: Final = 512  # of ``sub``; the bound of a token's ``subject``
AHEAD_S: Final = 30  # how far an issuer's clock may be ahead of the mint's
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # a larger one would only cost time

Kind = Literal["workload", "id_token", "access_token"]

# A token made for one purpose is good for no other: what ends a login, or proves a key, must not open a session.
_TYPES: Final[dict[str, frozenset[str]]] = {
    "workload": frozenset(["", "jwt", "jose", "at+jwt", "application/at+jwt"]),
    "id_token": frozenset(["", "jwt"]),
    "access_token": frozenset(["at+jwt", "application/at+jwt"]),
}
_CODES: Final = {"workload": "bad_workload_token"}
_KTY: Final = {"RS256": ("RSA", None), "PS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
_NAMED: Final = {"Ed25519": "EdDSA"}  # RFC 9864's name for the same signature
_MEMBERS: Final = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}


class Foreign(NamedTuple):
    """A checked token of an issuer.

    Attributes:
        issuer: The issuer, as the policy has it.
        subject: ``sub``: what the issuer calls them.
        claims: Everything that it says.
        expires_at: When its time is over, ms since the Unix epoch.
    """

    issuer: Issuer
    subject: str
    claims: Mapping[str, Any]
    expires_at: int


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a header may say.  No key, no address of one, no ``crit``: a token never chooses what it is checked with."""

    alg: str
    kid: Annotated[str, Meta(min_length=1, max_length=256)]
    typ: str = ""
    x5t: str = ""
    x5t_s256: str = msgspec.field(default="", name="x5t#S256")


_HEADER: Final = msgspec.json.Decoder(_Header)


class _Registry(jws.JWSRegistry):
    """joserfc's registry with one algorithm; it has the older name of EdDSA, and warns at it, for Ed448 as well."""

    max_header_length = 2048

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm])
        self._algorithm = algorithm

    def get_alg(self, name: str) -> Any:
        if _NAMED.get(name, name) != self._algorithm:
            raise MalformedTokenError("another algorithm than that of the header")
        return self.algorithms["Ed25519" if self._algorithm == "EdDSA" else self._algorithm]


def check_foreign(
    token: str, issuers: Mapping[str, Issuer], keys: KeySets, *, kind: Kind, now: int, session_kid: str
) -> Foreign:
    """Check a token of a trusted issuer.

    Args:
        token: What was presented.
        issuers: Those that the policy trusts.
        keys: Their keys.
        kind: What it is presented as.
        now: ms since the Unix epoch.
        session_kid: Thumbprint of the key that the new session is bound to.

    Raises:
        GrantError: ``bad_workload_token`` or ``bad_subject_token``, with what is wrong.
        UnavailableError: The issuer's keys cannot be had now.
    """
    code = _CODES.get(kind, "bad_subject_token")
    try:
        header, unverified = _read(token)
        issuer = _issuer_of(unverified, issuers)
        if header.typ.lower() not in _TYPES[kind]:
            raise _WrongError(f"the header's typ is not that of a token presented as {kind}")
        _prove(token, header, issuer, keys)
        claims = unverified  # from here on they are proven
        return _judge(issuer, claims, kind, now, session_kid)
    except _WrongError as error:
        whose = "workload's" if kind == "workload" else "subject's"
        raise GrantError(f"the {whose} token: {error}", code=code) from error


class _WrongError(ArxError):
    """What is wrong with a token; its code is the caller's."""


def _read(token: str) -> tuple[_Header, dict[str, Any]]:
    """Read header and claims; nothing is proven by it."""
    if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2:
        raise _WrongError("not a compact JWS")
    first, second, _ = token.split(".")
    try:
        return _HEADER.decode(wire.bytes_of(first)), read_json_object(wire.bytes_of(second))
    except (ArxError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _WrongError("header or claims are not what is expected: alg, kid and typ, and a JSON object") from error


def _issuer_of(unverified: Mapping[str, Any], issuers: Mapping[str, Issuer]) -> Issuer:
    """Choose the issuer: by ``iss``, or for a SPIFFE ID, whose tokens need not have one, by its trust domain."""
    said, subject = unverified.get("iss"), unverified.get("sub")
    for issuer in issuers.values():
        if issuer.url == said:
            return issuer
    if isinstance(subject, str) and subject.startswith(SPIFFE):
        domain = SPIFFE + subject.removeprefix(SPIFFE).partition("/")[0]
        for issuer in issuers.values():
            if issuer.url == domain:
                return issuer
    raise _WrongError("it is of no issuer that the policy trusts")


def _prove(token: str, header: _Header, issuer: Issuer, keys: KeySets) -> None:
    algorithm = _NAMED.get(header.alg, header.alg)
    if algorithm not in issuer.algorithms:
        raise _WrongError(
            f"its algorithm is none that the policy expects of this issuer: {', '.join(issuer.algorithms)}"
        )
    kty, crv = _KTY[algorithm]
    fitting = [
        key
        for key in keys.find(issuer.jwks, header.kid)
        if (key.get("kty"), key.get("crv")) == (kty, crv) and key.get("alg") in (None, algorithm, header.alg)
    ]
    if len(fitting) != 1:
        raise _WrongError("its key is not among the issuer's keys for this algorithm")
    try:
        jws.deserialize_compact(token, _import(fitting[0]), registry=_Registry(algorithm))
    except (JoseError, ArxError, ValueError, TypeError) as error:
        raise _WrongError("the signature does not hold") from error


def _import(jwk: Mapping[str, Any]) -> RSAKey | ECKey | OKPKey:
    kty = jwk["kty"]
    # Only what makes the key: a certificate or an address beside it is nobody's business.
    bare = {name: jwk[name] for name in _MEMBERS[kty] if isinstance(jwk.get(name), str)}
    if kty == "EC":
        return ECKey.import_key(bare)
    if kty == "OKP":
        return OKPKey.import_key(bare)
    if not MIN_RSA_BITS <= int.from_bytes(wire.bytes_of(bare.get("n", ""))).bit_length() <= MAX_RSA_BITS:
        raise MalformedTokenError(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    return RSAKey.import_key(bare)


def _judge(issuer: Issuer, claims: Mapping[str, Any], kind: Kind, now: int, session_kid: str) -> Foreign:
    """Hold proven claims to what any token must be."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_NAME_CHARS or not subject.isprintable():
        raise _WrongError(f"sub is missing, or not 1 to {MAX_NAME_CHARS} printable characters")
    if issuer.url.startswith(SPIFFE) and not _is_below(issuer.url, subject):
        raise _WrongError(f"sub is no SPIFFE ID of {issuer.url}")
    _require_audience(issuer, claims, kind)
    if "events" in claims:
        raise _WrongError("it tells of an event (RFC 8417) and lets nobody in")
    # A token bound to a key is good in that key's hands alone; other bindings cannot be checked here.
    if "cnf" in claims and claims["cnf"] != {"jkt": session_kid}:
        raise _WrongError("it is bound (cnf) to another key than that of this session")
    return Foreign(issuer, subject, claims, _require_time(issuer, claims, now))


def _is_below(domain: str, subject: str) -> bool:
    """Tell whether this is a SPIFFE ID with a path in a trust domain (SPIFFE-ID 2)."""
    path = subject.removeprefix(domain + "/")
    pieces = path.split("/")
    letters = path.replace("/", "").replace(".", "").replace("_", "").replace("-", "")
    spelt = letters.isascii() and letters.isalnum()
    return path != subject and spelt and not any(piece in ("", ".", "..") for piece in pieces)


def _require_audience(issuer: Issuer, claims: Mapping[str, Any], kind: Kind) -> None:
    said = claims.get("aud")
    audiences = [said] if isinstance(said, str) else said
    if not isinstance(audiences, list) or not any(audience in issuer.audience for audience in audiences):
        raise _WrongError("its audience (aud) is none that the policy expects")
    # OpenID Connect Core 3.1.3.7: who is named beside others must also be the one that it was made for.
    if kind == "id_token" and len(audiences) > 1 and claims.get("azp") not in issuer.audience:
        raise _WrongError("it is for several audiences, and made for another (azp)")


def _require_time(issuer: Issuer, claims: Mapping[str, Any], now: int) -> int:
    expires = _seconds(claims, "exp")
    if expires is None:
        raise _WrongError("exp is missing")
    if now >= expires * 1000:
        raise _WrongError("its time is over")
    issued, from_s = _seconds(claims, "iat"), _seconds(claims, "nbf")
    if now < (max(issued or 0, from_s or 0) - AHEAD_S) * 1000:
        raise _WrongError("its time has not begun; check the clocks")
    began_ms = issued * 1000 if issued is not None else now
    if expires * 1000 - began_ms > issuer.max_ttl_ms:
        raise _WrongError("it lives longer than the policy lets this issuer's tokens live (max_ttl)")
    return expires * 1000


def _seconds(claims: Mapping[str, Any], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int or value < 0:
        raise _WrongError(f"{name} is not a whole number of seconds")
    return value
