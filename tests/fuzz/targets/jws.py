# SPDX-License-Identifier: Apache-2.0
"""Assertions, DPoP proofs and access tokens: any text, and any claims that a known key has signed.

RFC 7523, RFC 9449; CONTROL 1, 5.2, 5.11.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from arx_caps.credentials.access_token import VerifyingKey, read_access_token
from arx_caps.credentials.jose import check_assertion, check_client_dpop, check_dpop, token_hash
from arx_caps.credentials.keyfile import SigningKey, client_key
from arx_verifier.errors import ArxError, GrantError, TokenError

MAX_BYTES = 4_096
AT: Final = 1_800_000_000_000
URL: Final = "https://mint.example/oauth/token"
ISSUER: Final = "https://mint.example"
KEY: Final = SigningKey(
    OKPKey.import_key(
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",  # RFC 8037 A.1
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }
    )
)
ES256: Final = VerifyingKey(
    "ES256",
    ECKey.import_key(
        {
            "kty": "EC",
            "crv": "P-256",
            "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",  # RFC 7515 A.3
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ),
)
CALL: Final[dict[str, Any]] = {"method": "POST", "url": URL, "now": AT}
READERS: Final[tuple[tuple[str, Callable[[str], object]], ...]] = (
    ("JWT", lambda text: check_assertion(text, lambda subject, kid: KEY.public, audience=ISSUER, now=AT)),
    ("dpop+jwt", lambda text: check_dpop(text, **CALL)),
    ("dpop+jwt", lambda text: check_client_dpop(text, **CALL, token="a.b.c")),
    ("at+jwt", lambda text: read_access_token(text, lambda kid: ES256, issuer=ISSUER, now=AT)),
)


def check(data: bytes) -> None:
    """Read the input as a text, as claims, and as a key."""
    for typ, reader in READERS:
        for text in (data.decode("latin-1"), _signed(typ, data)):
            with contextlib.suppress(GrantError, TokenError):
                reader(text)
    with contextlib.suppress(ValueError, RecursionError), contextlib.suppress(ArxError):
        client_key(json.loads(data))


def _signed(typ: str, payload: bytes) -> str:
    if typ == "at+jwt":
        header: dict[str, Any] = {"alg": "ES256", "kid": "k", "typ": typ}
        return str(jws.serialize_compact(header, payload, ES256.key, algorithms=["ES256"]))
    header = {"alg": "Ed25519", "typ": typ}
    header |= {"jwk": KEY.public.jwk} if typ == "dpop+jwt" else {"kid": KEY.kid}
    return str(jws.serialize_compact(header, payload, KEY._key, algorithms=["Ed25519"]))


def seeds() -> Iterator[bytes]:
    """Return claims that are accepted, and near misses."""
    at, jti = AT // 1000, "j" * 22
    assertion = {"iss": "agent:a", "sub": "agent:a", "aud": ISSUER, "iat": at, "exp": at + 60, "jti": jti}
    proof = {"htm": "POST", "htu": URL, "iat": at, "jti": jti}
    access = {"iss": ISSUER, "aud": "https://gw.example/mcp", "sub": "agent:a", "client_id": "c", "scope": "t"}
    access |= {"jti": jti, "sid": "s-1", "tid": "t-1"}
    yield from (
        json.dumps(claims).encode()
        for claims in (
            assertion,
            assertion | {"cnf": {"jkt": "k"}},
            assertion | {"exp": at + 10**6},
            proof,
            proof | {"ath": token_hash("a.b.c")},
            proof | {"htu": "HTTPS://mint.example:443/oauth/token"},
            proof | {"htu": "https://[/"},
            access | {"iat": at, "exp": at + 60},
            access | {"iat": at, "exp": at + 60, "act": {"sub": "agent:b", "act": {"sub": "agent:c"}}},
            access | {"iat": at, "exp": at + 60, "cnf": {"jkt": "k"}},
            KEY.public.jwk,
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        )
    )
    yield b"a.b.c"
    yield KEY.sign({"typ": "JWT", "kid": KEY.kid}, assertion).encode()
