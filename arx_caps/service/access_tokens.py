# SPDX-License-Identifier: Apache-2.0
"""What a gateway asks the mint about access tokens, and about tokens of people's accounts.  CONTROL 5, 9.3."""

import contextlib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from msgspec import UNSET

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.access_token import ALGORITHMS, SEAL_TYPE, VerifyingKey, read_verifying_key
from arx_caps.credentials.account_token import AskedToken, LentToken, TokenAnswer
from arx_caps.credentials.jose import token_hash
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.service.fetch import require_private
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.token.macaroon import Macaroon


class OpenedHandle(SecretStruct, frozen=True):
    """What an access token stands for.

    Attributes:
        bundle: The task's token for the service, a secret.
        scopes: By scope that the client may ask for, the tools of the service that it allows.
        expires_at: When the access token expires, ms since the Unix epoch.
    """

    bundle: Bundle
    scopes: dict[str, tuple[str, ...]]
    expires_at: int


class HandleApproval(msgspec.Struct, frozen=True):
    """An approval of a call with an access token; times are ms since the Unix epoch.

    Attributes:
        id: Its id.
        state: As the mint has it, such as ``waiting``.
        tool: The tool.
        args: Its arguments.
        asked_at: When it was asked for.
        expires_at: When the task ends while it waits, then when the approval does.
    """

    id: str
    state: str
    tool: str
    args: dict[str, Any]
    asked_at: int
    expires_at: int


class TakenApproval(SecretStruct, frozen=True):
    """How an approval stands, and what its call is made with.

    Attributes:
        about: The approval.
        taken: Whether it was taken before.
        bundle: The task's token for the service, a secret; None unless it was taken now.
        discharge: What answers the third-party caveat, a secret; None unless it was taken now.
    """

    about: HandleApproval
    taken: bool
    bundle: Bundle | None
    discharge: Macaroon | None


class _Asked(msgspec.Struct, frozen=True):
    approval: HandleApproval


class _Taken(msgspec.Struct, frozen=True):
    approval: HandleApproval
    taken: bool
    sealed: str | None = None


class _Discharge(msgspec.Struct, frozen=True):
    bundle: str
    discharge: str


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
    own, body = _sealed_request(key, token)
    answer = mint.call("POST", "/v1/handles", key=key, body=body, repeats=False)  # a client waits, and asks again
    with _reading(mint):
        opened = msgspec.convert(answer, _Opened)
        content = msgspec.json.decode(open_seal(opened.sealed, own), type=_Content)
        return OpenedHandle(Bundle.parse(content.bundle), content.scopes, opened.expires_at)


def ask_approval(
    mint: MintClient, key: SigningKey, token: str, caveat: str, tool: str, args: Mapping[str, Any]
) -> HandleApproval:
    """Ask operators for an approval of a call with an access token, or find the one that was asked for.

    Args:
        mint: The mint.
        key: The service's own key.
        token: The access token, a secret.
        caveat: The third-party caveat of the task's token.
        tool: The tool.
        args: Its arguments.

    Raises:
        ArxError: As ``open_access_token``; ``GrantError``: no such approval can be asked for.
    """
    require_private(mint)
    body = {"handle": token, "caveat": caveat, "tool": tool, "args": dict(args)}
    answer = mint.call("POST", "/v1/handles/approvals", key=key, body=body, repeats=False)
    with _reading(mint):
        return msgspec.convert(answer, _Asked).approval


def take_approval(mint: MintClient, key: SigningKey, token: str, name: str, *, withdraw: bool = False) -> TakenApproval:
    """Return how an approval stands and, the first time after it is given, what the call is made with.

    Args:
        mint: The mint.
        key: The service's own key.
        token: An access token of the client, a secret.
        name: The approval's id, as the mint gave it.
        withdraw: Whether to take back a request that waits.

    Raises:
        ArxError: As ``open_access_token``; ``GrantError``: it was denied, withdrawn or is over.
    """
    require_private(mint)
    own, body = _sealed_request(key, token)
    path = f"/v1/handles/approvals/{quote(name, safe='')}"
    answer = mint.call("POST", path, key=key, body=body | {"withdraw": withdraw}, repeats=False)
    with _reading(mint):
        found = msgspec.convert(answer, _Taken)
        if found.sealed is None:
            return TakenApproval(found.approval, found.taken, None, None)
        content = msgspec.json.decode(open_seal(found.sealed, own), type=_Discharge)
        return TakenApproval(found.approval, False, Bundle.parse(content.bundle), Macaroon.parse(content.discharge))


def ask_connection_token(
    mint: MintClient, key: SigningKey, token: str, connection: str, tool: str, refused: str = ""
) -> tuple[TokenAnswer, LentToken | None]:
    """Ask for an access token of the person on whose behalf a call is made.

    Args:
        mint: The mint.
        key: The service's own key.
        token: The token of the call, a secret.
        connection: The connection's name.
        tool: The tool of the call; empty for a message that calls none.
        refused: SHA-256 of the token that the upstream has refused, in hex; empty for none.

    Returns:
        The answer, and what was lent; None if nothing was.

    Raises:
        SettingsError: The way to the mint is not private.
        StoreError: The mint does not answer, or its answer is malformed.
        UnavailableError: The mint cannot answer now.
        TokenError: The call's token is invalid, or its task does not live.
        GrantError: The service may have no such token.
    """
    require_private(mint)
    own, seal = make_seal(key, token)
    body = msgspec.structs.asdict(AskedToken(token, connection, seal, tool, refused))
    answer = mint.call("POST", "/v1/connections/token", key=key, body=body, repeats=False)
    with _reading(mint):
        found = msgspec.convert(answer, TokenAnswer)
        if found.sealed is UNSET:
            return found, None
        return found, msgspec.json.decode(open_seal(found.sealed, own), type=LentToken)


def link_digest(link: str) -> str:
    """Return the digest by which the mint knows a link.

    Args:
        link: Its URL.
    """
    return sha256(link.rpartition("/")[2].encode()).hexdigest()


def _sealed_request(key: SigningKey, token: str) -> tuple[OKPKey, dict[str, Any]]:
    """Return a fresh key, and the body of a request whose answer is sealed to it."""
    own, seal = make_seal(key, token)
    return own, {"handle": token, "seal": seal}


def make_seal(key: SigningKey, token: str) -> tuple[OKPKey, str]:
    """Return a fresh key, and what asks the mint to seal its answer to that key.

    Args:
        key: The service's own key.
        token: The token that the request is about, a secret.
    """
    own = OKPKey.generate_key("X25519", private=True)
    claims = {"ath": token_hash(token), "jwk": {"kty": "OKP", "crv": "X25519", "x": own.as_dict(private=False)["x"]}}
    return own, key.sign({"typ": SEAL_TYPE}, claims)


def open_seal(sealed: str, own: OKPKey) -> bytes:
    """Return what the mint has sealed to a key.

    Args:
        sealed: The JWE.
        own: The key of ``make_seal``.

    Raises:
        JoseError: It is not sealed to it.
    """
    return jwe.decrypt_compact(sealed, own, algorithms=["ECDH-ES", "A256GCM"]).plaintext or b""


@contextlib.contextmanager
def _reading(mint: MintClient) -> Iterator[None]:
    """Raise ``StoreError`` for a malformed answer of the mint."""
    try:
        yield
    except (msgspec.MsgspecError, JoseError, ArxError, ValueError) as error:
        # Not chained: the text of a parser could quote a bundle or a token.
        text = f"malformed answer of {mint.issuer}: expected what was asked for ({type(error).__name__})"
        raise StoreError(text) from None
