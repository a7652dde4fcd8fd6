# SPDX-License-Identifier: Apache-2.0
"""What happened at the mint, as it is recorded: one event for each change of state.

``UnitOfWork.change`` and ``Database.write`` write an event in the transaction that makes the change: there is no change
without its record, and no record of a change that was undone.  ``mint.audit.feeds.EventFeed`` puts it into the log.
Ids go in, tokens and keys never do.  The decisions of verifiers are in their journals.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import msgspec


class Event(NamedTuple):
    """Something that happened; ``of`` makes one.

    Attributes:
        kind: What, such as ``session.opened``.
        by: Who did it: ``operator:<id>``, ``agent:<path>`` or ``mint``.
        facts: Ids and settings; no secret.
    """

    kind: str
    by: str
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, by: str, /, **facts: Any) -> Self:
        """Name what happened, who did it, and its facts."""
        return cls(kind, by, facts)

    def body(self) -> bytes:
        """Write the facts as JSON."""
        return msgspec.json.encode(self.facts, order="sorted")


class Recorded(NamedTuple):
    """An event as it is kept.

    Attributes:
        id: Its number; numbers rise, and some may be left out.
        at_ms: When it was recorded, ms.
        mint: The process that recorded it.
        kind: What happened.
        by: Who did it.
        body: Its facts as JSON.
        owner: Session, agent and subject of the session that it is about; empty where it is about none.
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
        """The facts, read back."""
        return msgspec.json.decode(self.body, type=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """Show it in one object: what every event has, then its own facts."""
        own = {"id": self.id, "at_ms": self.at_ms, "mint": self.mint, "kind": self.kind, "by": self.by}
        return self.facts | own
