# SPDX-License-Identifier: Apache-2.0
"""The access token of the OAuth front: a signed handle that names a task and grants nothing.  RFC 9068, CONTROL 5.

The mint signs it, and mint and gateways verify it.  What it stands for is at the mint: ``mint.oauth.handles``.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from msgspec import Meta

from arx_verifier.errors import ArxError, MalformedTokenError, refusal
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

ALGORITHMS: Final = ("ES256", "RS256")
LIFE_MS: Final = 5 * 60_000  # the longest; a stolen one can be replayed that long
MAX_CHARS: Final = 4096  # an honest one has about 700
AHEAD_S: Final = 30  # how far the mint's clock may be ahead of a gateway's
SEAL_TYPE: Final = "arx-seal+jwt"  # of the JWS by which a gateway names the key that an answer is sealed to
_TYPE: Final = "at+jwt"
_TEXT: Final = re.compile(rb"[\w.-]+")  # of a JWT in a header: a credential after its scheme, or the value of a cookie

Algorithm: TypeAlias = Literal["ES256", "RS256"]
Key: TypeAlias = ECKey | RSAKey
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=512)]


class VerifyingKey(NamedTuple):
    """A key that signs access tokens, and the one algorithm that it is for."""

    algorithm: Algorithm
    key: Key


class Actor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Who acts for the agent that ``sub`` names.  RFC 8693 4.1.

    Attributes:
        sub: The agent, as ``agent:<path>``.
        act: Who delegated to it, if that was not ``sub`` of the token.
    """

    sub: Text
    act: "Actor | None" = None


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that an access token is bound to.  RFC 9449 6.1.

    Attributes:
        jkt: Its RFC 7638 thumbprint.
    """

    jkt: Text


class AccessToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The claims of an access token.  Times are in s since the Unix epoch.

    Attributes:
        iss: The mint.
        aud: The resource: the gateway's URL of an upstream.
        sub: The agent, as ``agent:<path>``.
        client_id: The client that it was issued to.
        scope: The task's template.
        iat: When it was issued.
        exp: When it expires.
        jti: Its id.
        sid: The session.
        tid: The task.
        act: The agent to which the task was delegated; None if it was not.
        cnf: The client's key, which each call must prove; None if the token is a bearer token.
    """

    iss: Text
    aud: Text
    sub: Text
    client_id: Text
    scope: Text
    iat: Annotated[int, Meta(ge=0)]
    exp: Annotated[int, Meta(ge=0)]
    jti: Text
    sid: Text
    tid: Text
    act: Actor | None = None
    cnf: Confirmation | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # No key, no URL of one and no ``crit``: a token must not choose what it is verified with (RFC 8725 3.5).
    alg: Algorithm
    kid: Text
    typ: str


_HEADER: Final = msgspec.json.Decoder(_Header)


def is_access_token(text: str) -> bool:
    """Return whether a credential has the form of an access token, and not of an ARx token."""
    return text.count(".") == 2 and not text.startswith(wire.TOKEN_PREFIX)


def has_own_jwt(value: bytes) -> bool:
    """Return whether a header may have a JWT that was made for ARx: by a mint, or by an enrolled key for a mint.

    Args:
        value: The header's value.
    """
    return any(_is_own_jwt(text.decode()) for text in _TEXT.findall(value))


def _is_own_jwt(text: str) -> bool:
    if not is_access_token(text):
        return False
    first, second, _ = text.split(".")
    try:
        if "alg" not in msgspec.json.decode(wire.bytes_of(first), type=dict[str, Any]):
            return False
    except (ArxError, msgspec.MsgspecError, ValueError, RecursionError):
        return False  # ARx writes headers that can be read: this is a credential of another form
    try:
        claims = read_json_object(wire.bytes_of(second))
    except (ArxError, ValueError, RecursionError):
        return True
    subject = claims.get("sub")
    # The issuer of an assertion is its subject (RFC 7523 3); a proof has no subject.
    return type(subject) is not str or subject.startswith("agent:") or subject == claims.get("iss")


def sign_access_token(claims: AccessToken, kid: str, key: VerifyingKey) -> str:
    """Return the access token, a secret.

    Args:
        claims: Its claims.
        kid: The key's id.
        key: The private key.
    """
    return sign_jwt(msgspec.to_builtins(claims), kid, key, _TYPE)


def sign_jwt(claims: Mapping[str, Any], kid: str, key: VerifyingKey, kind: str) -> str:
    """Return a signed JWT.

    Args:
        claims: Its claims.
        kid: The key's id.
        key: The private key.
        kind: The header ``typ``.
    """
    header = {"alg": key.algorithm, "kid": kid, "typ": kind}
    payload = json.dumps(claims, separators=(",", ":"))
    return str(jws.serialize_compact(header, payload, key.key, algorithms=[key.algorithm]))


def read_access_token(
    token: str, find_key: Callable[[str], VerifyingKey | None], *, issuer: str, now: int
) -> AccessToken:
    """Verify signature, issuer and times of an access token; the caller compares ``aud``.

    Args:
        token: The presented text, a secret.
        find_key: Returns the issuer's key of an id, or None.
        issuer: The mint that must have issued it.
        now: ms since the Unix epoch.

    Raises:
        TokenError: ``malformed``, ``unknown_key``, ``bad_signature``, ``not_yet_valid`` or ``expired``.
    """
    if len(token) > MAX_CHARS or not is_access_token(token):
        raise MalformedTokenError("an access token is a compact JWS")
    first, second, _ = token.split(".")
    try:
        header = _HEADER.decode(wire.bytes_of(first))
        payload = read_json_object(wire.bytes_of(second))
        claims = msgspec.convert(payload, AccessToken)
    except (ArxError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedTokenError(f"an access token has other claims ({type(error).__name__})") from None
    if header.typ != _TYPE:
        # An assertion or a proof by a key of the mint must not pass for an access token (RFC 8725 3.11).
        raise MalformedTokenError(f"typ must be {_TYPE}")
    found = find_key(header.kid)
    if found is None:
        raise refusal("unknown_key")
    # The key decides the algorithm, and the header only says the same (RFC 8725 3.1).
    if header.alg != found.algorithm:
        raise refusal("bad_signature")
    try:
        jws.deserialize_compact(token, found.key, algorithms=[found.algorithm])
    except (JoseError, ValueError):
        raise refusal("bad_signature") from None
    if claims.iss != issuer or not 0 < claims.exp - claims.iat <= LIFE_MS // 1000:
        raise MalformedTokenError("the access token is of another mint, or lives too long")
    if now < (claims.iat - AHEAD_S) * 1000:
        raise refusal("not_yet_valid")
    if now >= claims.exp * 1000:
        raise refusal("expired")
    return claims


def read_verifying_key(jwk: dict[str, Any], algorithm: Algorithm) -> VerifyingKey:
    """Return a key of a JWK, private or public.

    Raises:
        MalformedTokenError: It is no key for this algorithm.
    """
    try:
        kind: Any = ECKey if algorithm == "ES256" else RSAKey
        key = kind.import_key(jwk)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise MalformedTokenError(f"not a key for {algorithm} ({type(error).__name__})") from None
    if algorithm == "ES256" and key.curve_name != "P-256":
        raise MalformedTokenError("ES256 needs a key of P-256")
    return VerifyingKey(algorithm, key)
