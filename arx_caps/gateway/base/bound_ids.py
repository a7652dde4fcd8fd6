# SPDX-License-Identifier: Apache-2.0
"""Bind an upstream's ids of MCP sessions, tasks and events to the ARx session, the agent and the delegations of them.

The id that a client gets is the upstream's with a code over it and its owner, so that a gateway keeps no table, and
another gateway of the same audience knows the id too.
"""

import functools
import hmac
from base64 import urlsafe_b64encode
from typing import Final

from arx_verifier.journal.record import ChainFacts
from arx_verifier.token.keyring import KeyRing

_LABEL: Final = "arx gateway: an MCP {}\0"  # no token's identifier begins so: the key signs tokens too
_SEPARATOR: Final = "~"
_LONGEST_KEPT: Final = 1024  # characters: a client may send an id as long as a message


class BoundIds:
    """Writes and reads ids of one kind; one of another kind is none.

    Args:
        keys: The audience keys.
        kind: ``session``, ``task`` or ``event``.
    """

    def __init__(self, keys: KeyRing, kind: str) -> None:
        self._keys, self._label = keys, _LABEL.format(kind)
        # Each event has an id of its own, which would take the place of a session's code.
        self._longest_kept = 0 if kind == "event" else _LONGEST_KEPT

    def bind(self, identity: str, owner: ChainFacts) -> str:
        """Return the id that a client gets.

        Args:
            identity: The upstream's id.
            owner: Who opened the session, began the task, or got the event.
        """
        if not owner.kid:
            return identity  # of a client without a token, which watch mode lets pass
        return _SEPARATOR.join((identity, owner.kid, self._code(identity, owner, owner.kid)))

    def read(self, bound: str, owner: ChainFacts) -> str | None:
        """Return the upstream's id; None if it is none of this owner.

        Args:
            bound: What the client sent.
            owner: Who sent it.
        """
        if not owner.kid:
            return bound
        identity, _, kid = bound.rpartition(_SEPARATOR)[0].rpartition(_SEPARATOR)
        code = bound.rpartition(_SEPARATOR)[2]
        if not identity or self._keys.get(kid) is None:
            return None
        expected = self._code(identity, owner, kid).encode()
        return identity if hmac.compare_digest(code.encode("utf-8", "surrogatepass"), expected) else None

    def _code(self, identity: str, owner: ChainFacts, kid: str) -> str:
        key = self._keys.get(kid)
        assert key is not None  # a token that it signed was just authenticated
        text = f"{self._label}{identity}\0{owner_of(owner)}"
        return (_kept_code_of if len(text) <= self._longest_kept else _code_of)(key.derived, text)


def _code_of(key: bytes, text: str) -> str:
    digest = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(digest[:18]).decode()


# Each message of a session needs the code of the session, for its request and for its answer.
_kept_code_of: Final = functools.lru_cache(maxsize=512)(_code_of)


def owner_of(facts: ChainFacts) -> str:
    """Return what is one for each holder: the ARx session with its person, the agent, and the agents delegated to."""
    person = "\1".join(facts.subject).replace("\0", "\1") if facts.subject else ""
    return "\0".join((facts.session, facts.agent, person, *facts.named))


def agent_of(owner: str) -> tuple[str, str]:
    """Return the agent that the mint proved, and the person that it acts for or an empty text.

    Args:
        owner: What ``owner_of`` returned.
    """
    _, agent, person, *_ = owner.split("\0")
    return agent, person
