# SPDX-License-Identifier: Apache-2.0
"""Events: one for each change of the mint's state, as it is recorded and as it is read back.

Decisions of verifiers are no events: they are in the journals of services.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import msgspec


# An event has ids and settings. Tokens and keys never go in: the audit log keeps its records for years, and many people
# read them.
class Event(NamedTuple):
    """An event before it is recorded; make it with ``of``.

    Attributes:
        kind: What happened, such as ``session.opened``.
        by: The actor: ``operator:<id>``, ``agent:<path>``, ``service:<audience>`` or ``mint``.
        facts: Ids and settings; no secret.
    """

    kind: str
    by: str
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, by: str, /, **facts: Any) -> Self:
        """Return an event with its kind, actor and facts."""
        return cls(kind, by, facts)

    def body(self) -> bytes:
        """Return the facts as JSON, with sorted keys."""
        return msgspec.json.encode(self.facts, order="sorted")


class Recorded(NamedTuple):
    """An event as the database has it.

    Attributes:
        id: Its number. Numbers rise, with gaps.
        at_ms: When it was recorded, in ms since the Unix epoch.
        mint: The process that recorded it.
        kind: What happened.
        by: The actor.
        body: The facts as JSON.
        owner: Session, agent and subject of the session that it concerns; empty if it concerns none.
    """

    id: int
    at_ms: int
    mint: str
    kind: str
    by: str
    body: bytes
    owner: Mapping[str, Any] = MappingProxyType({})

    @property
    def facts(self) -> dict[str, Any]:
        """The facts, parsed from ``body``."""
        return msgspec.json.decode(self.body, type=dict[str, Any])
