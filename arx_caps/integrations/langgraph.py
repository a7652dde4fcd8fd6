# SPDX-License-Identifier: Apache-2.0
"""LangGraph's long-term memory: ``StampedStore(store, notes)`` in place of the store.

Each value is stamped when it is put, and checked before it is returned; what is not trusted is withheld and recorded.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, Result

from arx_caps.memory import STAMP_FIELD, MemoryEntry, TaskMemory


class StampedStore(BaseStore):
    """A store whose values are stamped for a task, and checked when the task reads them.

    A search may return fewer items than its limit.  Namespaces have no stamps: show a model no list of them.

    Args:
        store: The store, which keeps each stamp in the value's member ``arx_stamp``.
        notes: The memory of the task; with ``notes.tracked()`` everything that was read through this store is a source
            of everything that is put after it.
    """

    def __init__(self, store: BaseStore, notes: TaskMemory) -> None:
        self._store, self._notes = store, notes
        self.supports_ttl, self.ttl_config = store.supports_ttl, store.ttl_config
        # Of the fields that the store embeds, "$" is the whole value, with the stamp.
        config = getattr(store, "index_config", None) or {}
        self._embeds_all = "$" in (config.get("fields") or ["$"])

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do the operations of one batch; see ``BaseStore``."""
        asked = list(ops)
        replaced = self._store.batch(_replaced(asked))
        return self._checked(asked, self._store.batch(self._stamped(asked, replaced)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As ``batch``, without blocking the event loop."""
        asked = list(ops)
        replaced = await self._store.abatch(_replaced(asked))
        found = await self._store.abatch(await asyncio.to_thread(self._stamped, asked, replaced))
        return await asyncio.to_thread(self._checked, asked, found)

    def _stamped(self, ops: Sequence[Op], replaced: Sequence[Result]) -> list[Op]:
        """Return the operations with a stamp in each value; a trusted value that it replaces is its source."""
        if any(isinstance(op, PutOp) and op.value is None for op in ops):
            self._notes.stamp_all([])  # a deletion is a write
        before = iter(replaced)
        return [self._stamp(op, next(before)) if _puts(op) else op for op in ops]

    def _stamp(self, op: Any, before: Any) -> Any:
        trusted = before is not None and self._notes.is_trusted(_entry(before))
        sources = [before.value[STAMP_FIELD]] if trusted else []
        value = {name: member for name, member in op.value.items() if name != STAMP_FIELD}
        stamp = self._notes.stamp(_content(op.namespace, op.key, value), sources=sources)
        index = [*value] if op.index is None and self._embeds_all else op.index
        return op._replace(value={**value, STAMP_FIELD: stamp}, index=index)

    def _checked(self, ops: Sequence[Op], results: list[Result]) -> list[Result]:
        """Return the results with the trusted items alone, without their stamps."""
        if all(isinstance(op, PutOp) for op in ops):
            return results
        trusted = {id(each.entry) for each in self._notes.trusted(map(_entry, _items(results)))}

        def shown(result: Any) -> Any:
            if isinstance(result, Item):
                return _plain(result) if id(result) in trusted else None
            if isinstance(result, list) and result and isinstance(result[0], Item):
                return [_plain(item) for item in result if id(item) in trusted]
            return result  # namespaces, or nothing

        return [shown(result) for result in results]


def _puts(op: Op) -> bool:
    return isinstance(op, PutOp) and op.value is not None


def _replaced(ops: Iterable[Op]) -> list[GetOp]:
    # Without `refresh_ttl`: this look is no use of the entry.
    return [GetOp(op.namespace, op.key, False) for op in ops if isinstance(op, PutOp) and op.value is not None]


def _items(results: Iterable[Result]) -> Iterator[Item]:
    for result in results:
        found = result if isinstance(result, list) else [result]
        yield from (item for item in found if isinstance(item, Item))


def _entry(item: Item) -> MemoryEntry[Item]:
    return MemoryEntry(item, _content(item.namespace, item.key, _plain(item).value), item.value.get(STAMP_FIELD))


def _content(namespace: Sequence[str], key: str, value: dict[str, Any]) -> list[Any]:
    # With its place: an entry that was moved to another namespace is another one.
    return [[*namespace], key, value]


def _plain(item: Item) -> Item:
    plain = copy(item)
    plain.value = {name: member for name, member in item.value.items() if name != STAMP_FIELD}
    return plain
