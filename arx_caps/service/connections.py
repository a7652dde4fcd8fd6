# SPDX-License-Identifier: Apache-2.0
"""What a gateway asks the mint about people's accounts: an access token for one live call.  CONTROL 9.3."""

from hashlib import sha256

import msgspec
from joserfc.errors import JoseError

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.service.access_tokens import make_seal, open_seal
from arx_caps.service.fetch import require_private
from arx_verifier.errors import StoreError


class LentToken(msgspec.Struct, frozen=True):
    """A person's access token.

    Attributes:
        token: The access token, a secret.
        until: Until when it may be used, ms since the Unix epoch.
        connection: The connection's id.
        account: The account at the upstream.
        scopes: Its scopes.
        born: Incarnation and sequence of the kill epoch at which it was lent.
    """

    token: str
    until: int
    connection: str
    account: str
    scopes: tuple[str, ...]
    born: tuple[str, int]

    def __repr__(self) -> str:
        return f"<LentToken of {self.connection}>"


class TokenAnswer(msgspec.Struct, frozen=True):
    """The mint's answer.

    Attributes:
        state: ``lent``, ``busy`` while another call refreshes, or the code of a refusal.
        person: The person's name at the login.
        wanted: The scopes of the call.
        have: The scopes of the connection.
        connect_url: A link for the person, or None.
        sealed: The token, sealed.
    """

    state: str
    person: str = ""
    wanted: tuple[str, ...] = ()
    have: tuple[str, ...] = ()
    connect_url: str | None = None
    sealed: str | None = None

    def __repr__(self) -> str:
        return f"<TokenAnswer {self.state}>"


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
    body = {"token": token, "connection": connection, "seal": seal, "tool": tool, "refused": refused}
    answer = mint.call("POST", "/v1/connections/token", key=key, body=body, repeats=False)
    try:
        found = msgspec.convert(answer, TokenAnswer)
        if found.sealed is None:
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
