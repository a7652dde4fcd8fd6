# SPDX-License-Identifier: Apache-2.0
"""How a mint lends a service an access token of a person's account: request, answer, token.  CONTROL 9.3."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from arx_caps.credentials.secret_source import SecretStruct
from arx_verifier.token.wire import MAX_CREDENTIAL_CHARS


class AskedToken(SecretStruct, frozen=True):
    """The token of a call, the connection that it needs, its tool, and the key that the answer is sealed to.

    ``tool`` is empty for a message that calls none. ``refused`` is the SHA-256 of a token that the upstream has just
    refused. ``seal`` is as for access tokens (CONTROL 5.4).
    """

    token: Annotated[str, Meta(min_length=1, max_length=MAX_CREDENTIAL_CHARS)]
    connection: Annotated[str, Meta(min_length=1, max_length=32)]
    seal: Annotated[str, Meta(min_length=1, max_length=4096)]
    tool: Annotated[str, Meta(max_length=200)] = ""
    refused: Annotated[str, Meta(max_length=64)] = ""


class TokenAnswer(SecretStruct, frozen=True):
    """What a call gets: ``state`` is ``lent``, ``busy`` or the code of a refusal; ``sealed`` has the token as a JWE.

    ``person`` is the person's name at the login, ``connect_url`` the link for the person. ``wanted`` are the scopes of
    the call, ``have`` those of the connection.
    """

    state: str
    person: str
    wanted: tuple[str, ...]
    have: tuple[str, ...]
    connect_url: str | UnsetType = UNSET
    sealed: str | UnsetType = UNSET


class LentToken(SecretStruct, frozen=True):
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
