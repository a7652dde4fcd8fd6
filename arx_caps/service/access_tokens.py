# SPDX-License-Identifier: Apache-2.0
"""What a gateway asks the mint about access tokens: the keys that sign them, and what one stands for.  CONTROL 5."""

from typing import Any, Final, NamedTuple

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from arx_caps.access_token import ALGORITHMS, VerifyingKey, read_verifying_key
from arx_caps.agent.bundle import Bundle
from arx_caps.agent.mint_client import MintClient
from arx_caps.jose import token_hash
from arx_caps.keyfile import SigningKey
from arx_caps.service.fetch import require_private
from arx_verifier.errors import ArxError, StoreError

SEAL_TYPE: Final = "arx-seal+jwt"


class OpenedHandle(NamedTuple):
    """What an access token stands for.

    Attributes:
        bundle: The task's token for the service, a secret.
        scopes: By scope that the client may ask for, the tools of the service that it allows.
        expires_at: When the access token expires, ms since the Unix epoch.
    """

    bundle: Bundle
    scopes: dict[str, tuple[str, ...]]
    expires_at: int

    def __repr__(self) -> str:
        return "<OpenedHandle>"


class _Opened(msgspec.Struct, frozen=True):
    sealed: str
    expires_at: int


class _Content(msgspec.Struct, frozen=True):
    bundle: str
    scopes: dict[str, tuple[str, ...]]


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


def read_signing_keys(answer: Any) -> dict[str, VerifyingKey]:
    """Return the keys of a JWK set that sign access tokens, by their ids.

    Args:
        answer: The JSON of ``/oauth/jwks``.

    Raises:
        StoreError: It is no JWK set.
    """
    keys = {}
    try:
        for jwk in msgspec.convert(answer, _Jwks).keys:
            # A key for another use, or of a kind that is unknown here, is of a newer mint.
            if jwk.get("use") == "sig" and jwk.get("alg") in ALGORITHMS:
                keys[str(jwk["kid"])] = read_verifying_key(jwk, jwk["alg"])
    except (msgspec.ValidationError, ArxError, KeyError) as error:
        raise StoreError(f"malformed answer: expected a JWK set ({type(error).__name__})") from None
    return keys


def open_access_token(mint: MintClient, key: SigningKey, token: str) -> OpenedHandle:
    """Return what an access token stands for.

    Args:
        mint: The mint.
        key: The service's own key.
        token: The access token, a secret.

    Raises:
        SettingsError: The way to the mint is not private.
        StoreError: The mint does not answer, or its answer is malformed.
        UnavailableError: The mint cannot answer now.
        TokenError: The access token is not active, or is for another service.
    """
    require_private(mint)
    own = OKPKey.generate_key("X25519", private=True)
    claims = {"ath": token_hash(token), "jwk": {"kty": "OKP", "crv": "X25519", "x": own.as_dict(private=False)["x"]}}
    body = {"handle": token, "seal": key.sign({"typ": SEAL_TYPE}, claims)}
    answer = mint.call("POST", "/v1/handles", key=key, body=body, repeats=False)  # a client waits, and asks again
    try:
        opened = msgspec.convert(answer, _Opened)
        plain = jwe.decrypt_compact(opened.sealed, own, algorithms=["ECDH-ES", "A256GCM"]).plaintext
        content = msgspec.json.decode(plain or b"", type=_Content)
        return OpenedHandle(Bundle.parse(content.bundle), content.scopes, opened.expires_at)
    except (msgspec.MsgspecError, JoseError, ArxError, ValueError) as error:
        # Not chained: the text of a parser could quote the bundle.
        raise StoreError(
            f"malformed answer of {mint.issuer}: expected a sealed bundle ({type(error).__name__})"
        ) from None
