# SPDX-License-Identifier: Apache-2.0
"""The mint's OAuth metadata at the gateway's origin, for clients that ignore RFC 9728.  CONTROL 5.5, RFC 8414.

The document is the mint's: its ``issuer`` and its endpoints.  A client that compares the issuer (RFC 8414 3.3) refuses
it here, and follows RFC 9728 to the mint.  No endpoint is served here: the secrets of clients never pass the gateway.
"""

import json
from typing import Final

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.gateway.access_tokens.kept_answer import KeptAnswer
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.errors import StoreError

PATHS: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
KEPT_S: Final = 300.0
LONGEST: Final = 64 * 1024  # bytes


class ServerMetadata:
    """The metadata of the mint, kept for five minutes.

    Args:
        mint: The mint.
        own: The service's own key, which signs the proof of the request.

    Attributes:
        issuer: The mint's public base URL.
    """

    def __init__(self, mint: MintClient, own: ServiceIdentity) -> None:
        self.issuer, self._kept = mint.issuer, KeptAnswer(mint, own, PATHS[0], KEPT_S)

    async def document(self) -> bytes:
        """Return the document.

        Raises:
            ArxError: The mint does not answer, or not with metadata of its own.
        """
        found = await self._kept.get()
        document = json.dumps(found).encode()
        if found.get("issuer") != self.issuer or len(document) > LONGEST:
            raise StoreError(f"malformed answer of {self.issuer}: expected its own metadata")
        return document
