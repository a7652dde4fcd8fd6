# SPDX-License-Identifier: Apache-2.0
"""What a gateway asks the mint about people's accounts: an access token for one live call.  CONTROL 9.3."""

from hashlib import sha256

import msgspec
from joserfc.errors import JoseError
from msgspec import UNSET

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.credentials.lending import AskedToken, LentToken, TokenAnswer
from arx_caps.service.access_tokens import make_seal, open_seal
from arx_caps.service.fetch import require_private
from arx_verifier.errors import StoreError


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
    try:
        found = msgspec.convert(answer, TokenAnswer)
        if found.sealed is UNSET:
            return found, None
        return found, msgspec.json.decode(open_seal(found.sealed, own), type=LentToken)
    except (msgspec.MsgspecError, JoseError, ValueError) as error:
        # Not chained: the text of a parser could quote the token.
        raise StoreError(f"malformed answer of {mint.issuer} about a connection ({type(error).__name__})") from None


def link_digest(link: str) -> str:
    """Return the digest by which the mint knows a link.

    Args:
        link: Its URL.
    """
    return sha256(link.rpartition("/")[2].encode()).hexdigest()


def is_connected(mint: MintClient, key: SigningKey, link: str) -> bool:
    """Return whether a person has connected an account by a link.

    Args:
        mint: The mint.
        key: The service's own key.
        link: The link's digest.

    Raises:
        ArxError: The mint does not answer, or refuses.
    """
    return mint.call("GET", f"/v1/connections/links/{link}", key=key).get("connected") is True
