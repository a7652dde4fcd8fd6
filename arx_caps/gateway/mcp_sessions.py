# SPDX-License-Identifier: Apache-2.0
"""Bind an MCP session of an upstream to the ARx session, the agent and the delegations that opened it.

The id that a client gets is the upstream's with a code over it and its owner, so that a gateway keeps no table, and
another gateway of the same audience knows the session too.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from typing import Final

from arx_verifier.journal import ChainFacts
from arx_verifier.token import KeyRing

_LABEL: Final = b"arx gateway: an MCP session\0"  # no token's identifier begins so: the key signs tokens too
_SEPARATOR: Final = "~"


class McpSessions:
    """Writes and reads the ids of sessions.

    Args:
        keys: The audience keys.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def bind(self, session: str, owner: ChainFacts) -> str:
        """Return the id that a client gets.

        Args:
            session: The upstream's id.
            owner: Who opened the session.
        """
        return _SEPARATOR.join((session, owner.kid, self._code(session, owner, owner.kid)))

    def read(self, bound: str, owner: ChainFacts) -> str | None:
        """Return the upstream's id; None if it is no session of this owner.

        Args:
            bound: What the client sent.
            owner: Who sent it.
        """
        session, _, rest = bound.rpartition(_SEPARATOR)[0].rpartition(_SEPARATOR)
        code = bound.rpartition(_SEPARATOR)[2]
        if not session or self._keys.get(rest) is None:
            return None
        return session if hmac.compare_digest(code.encode(), self._code(session, owner, rest).encode()) else None

    def _code(self, session: str, owner: ChainFacts, kid: str) -> str:
        key = self._keys.get(kid)
        assert key is not None  # a token that it signed was just authenticated
        text = f"{session}\0{owner_of(owner)}".encode("utf-8", "surrogatepass")
        return urlsafe_b64encode(hmac.new(key.derived, _LABEL + text, hashlib.sha256).digest()[:18]).decode()


def owner_of(facts: ChainFacts) -> str:
    """Return what is one for each holder: the ARx session, the agent, and the agents delegated to."""
    return "\0".join((facts.session, facts.agent, *facts.named))


def agent_of(owner: str) -> str:
    """Return the agent that the mint proved, of what ``owner_of`` returned."""
    return owner.split("\0")[1]
