# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK: ``Runner.run(…, session=StampedSession(session, notes))``.

Each item of a conversation is stamped when it is added, and checked before a model gets it.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from agents.items import TResponseInputItem
from agents.memory import Session, SessionABC

from arx_caps.memory import STAMP_FIELD, MemoryEntry, TaskMemory


class StampedSession(SessionABC):
    """A session whose items are stamped for a task, and checked when the task reads them.

    A turn from which an item is withheld is withheld as a whole: a call of a tool and its answer belong together.
    What was read through this object is a source of all that is added after it.

    Args:
        session: The session; it must keep further members of an item, as those in databases do.
        notes: The memory of the task.
    """

    def __init__(self, session: Session, notes: TaskMemory) -> None:
        self._session, self._notes = session, notes.tracked()
        self.session_id, self.session_settings = session.session_id, session.session_settings

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the trusted items, the oldest first; see ``Session``."""
        items = await asyncio.to_thread(self._trusted, await self._session.get_items())
        return items if limit is None else items[max(0, len(items) - limit) :]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items with their stamps."""
        plain = [_plain(item) for item in items]
        if not plain:
            return
        contents = [self._content(item) for item in plain]
        stamps = await asyncio.to_thread(self._notes.stamp_all, contents, kind="agent")
        stored: list[Any] = [{**item, STAMP_FIELD: stamp} for item, stamp in zip(plain, stamps, strict=True)]
        await self._session.add_items(stored)

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove and return the newest trusted item; those that are withheld after it are removed as well."""
        await asyncio.to_thread(self._notes.stamp_all, [])  # a removal is a write
        while (item := await self._session.pop_item()) is not None:
            if await asyncio.to_thread(self._notes.trusted, [self._entry(item)]):
                plain: TResponseInputItem = _plain(item)
                return plain
        return None

    async def clear_session(self) -> None:
        """Remove all items."""
        await asyncio.to_thread(self._notes.stamp_all, [])
        await self._session.clear_session()

    def _trusted(self, items: Iterable[Any]) -> list[Any]:
        whole = self._notes.trusted_turns(map(self._entry, items), lambda item: item.get("role") == "user")
        return [_plain(entry.entry) for entry in whole]

    def _entry(self, item: Any) -> MemoryEntry[Any]:
        return MemoryEntry(item, self._content(_plain(item)), item.get(STAMP_FIELD))

    def _content(self, item: Any) -> Any:
        return [self.session_id, item]  # an item that was copied into another conversation is another one


def _plain(item: Any) -> Any:
    return {name: value for name, value in item.items() if name != STAMP_FIELD}
