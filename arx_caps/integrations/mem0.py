# SPDX-License-Identifier: Apache-2.0
"""mem0: memories that are stamped when they are written and checked before a model or the agent sees them.

``StampedMem0(Memory.from_config(…), notes)``, for ``Memory`` and ``AsyncMemory``.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mem0 import AsyncMemory, Memory  # type: ignore[import-untyped]

from arx_caps.memory import STAMP_FIELD, MemoryEntry, TaskMemory
from arx_verifier.memory.stamp import STAMP_PREFIX

# What mem0 derives from an entry; some of its stores return the times in another form.
_DERIVED: Final = frozenset((STAMP_FIELD, "hash", "text_lemmatized", "created_at", "updated_at"))


class StampedMem0:
    """The calls of mem0's ``Memory`` or ``AsyncMemory`` that read or write memories, for a task.

    In ``add``, mem0 shows a model the nearest memories and the last messages of the same user, agent and run, and
    writes what the model makes of them.  Only trusted ones are shown, and each is a source of what is written.

    Args:
        memory: mem0's object, which is not changed: for what only an operator does (``reset``, ``history``).
        notes: The task's memory.
    """

    def __init__(self, memory: Memory | AsyncMemory, notes: TaskMemory) -> None:
        _ = memory.entity_store  # made once, by the real store: names of things, by which mem0 only ranks
        self._memory, self._notes = memory, notes

    def add(self, *args: Any, **more: Any) -> Any:
        """Add what mem0's model extracts from messages, or the messages themselves, as ``Memory.add``."""
        return self._writing().add(*args, **more)

    def update(self, *args: Any, **more: Any) -> Any:
        """Change a trusted memory, as ``Memory.update``; it stays derived from what it was."""
        return self._writing().update(*args, **more)

    def delete(self, *args: Any, **more: Any) -> Any:
        """Delete a trusted memory, as ``Memory.delete``."""
        return self._writing().delete(*args, **more)

    def delete_all(self, *args: Any, **more: Any) -> Any:
        """Delete the trusted memories of a user, agent or run, as ``Memory.delete_all``."""
        return self._writing().delete_all(*args, **more)

    def get(self, *args: Any, **more: Any) -> Any:
        """Return a trusted memory, or None, as ``Memory.get``."""
        return self._reading().get(*args, **more)

    def get_all(self, *args: Any, **more: Any) -> Any:
        """Return the trusted memories of a user, agent or run, as ``Memory.get_all``."""
        return self._reading().get_all(*args, **more)

    def search(self, *args: Any, **more: Any) -> Any:
        """Return the trusted memories that are nearest to a text, as ``Memory.search``."""
        return self._reading().search(*args, **more)

    def _writing(self) -> Any:
        self._notes.stamp_all([])  # before a model is asked: mem0 replaces the reason of a later refusal
        return self._reading()

    def _reading(self) -> Any:
        """Return mem0's object for one call, in which what is read is a source of what is written."""
        memory, notes = copy.copy(self._memory), self._notes.tracked()
        memory.vector_store = _Entries(self._memory.vector_store, notes)
        memory.db = _Messages(self._memory.db, self._notes, notes)
        return memory


class _Entries:
    """A vector store of memories that has these methods alone: mem0 reads nothing by another one."""

    def __init__(self, store: Any, notes: TaskMemory) -> None:
        self._store, self._notes = store, notes

    def insert(self, vectors: Sequence[Any], payloads: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> None:
        stamps = self._notes.stamp_all([_content(payload) for payload in payloads])
        stamped = [{**payload, STAMP_FIELD: stamp} for payload, stamp in zip(payloads, stamps, strict=True)]
        self._store.insert(vectors=vectors, payloads=stamped, ids=ids)

    def update(self, vector_id: str, vector: Any, payload: Mapping[str, Any]) -> None:
        stamp = self._notes.stamp(_content(payload))
        self._store.update(vector_id=vector_id, vector=vector, payload={**payload, STAMP_FIELD: stamp})

    def delete(self, vector_id: str) -> None:
        self._store.delete(vector_id=vector_id)

    def get(self, vector_id: str) -> Any:
        found = self._store.get(vector_id=vector_id)
        return next(iter(self._trusted([found])), None) if found else None

    def list(self, filters: Any = None, top_k: int | None = None) -> list[Any]:
        found = self._store.list(filters=filters, top_k=top_k)
        rows = found[0] if found and isinstance(found[0], list | tuple) else found
        return [self._trusted(rows or ())]

    def search(self, query: str, vectors: Any, top_k: int = 5, filters: Any = None) -> Any:
        return self._trusted(self._store.search(query=query, vectors=vectors, top_k=top_k, filters=filters))

    def keyword_search(self, query: str, top_k: int = 5, filters: Any = None) -> Any:
        found = self._store.keyword_search(query=query, top_k=top_k, filters=filters)
        return None if found is None else self._trusted(found)

    def _trusted(self, rows: Any) -> Any:
        found = [MemoryEntry(row, _content(row.payload or {}), _stamp_of(row.payload or {})) for row in rows]
        return [_without_stamp(entry.entry) for entry in self._notes.trusted(found)]


class _Messages:
    """mem0's table of the last messages; a message has no metadata, so its stamp stands before its text."""

    def __init__(self, db: Any, notes: TaskMemory, tracked: TaskMemory) -> None:
        self._db, self._notes, self._tracked = db, notes, tracked
        self.add_history, self.batch_add_history = db.add_history, db.batch_add_history  # for operators

    def save_messages(self, messages: Sequence[Mapping[str, Any]], session_scope: str) -> None:
        # They came with the call, and are not derived from what was read in it.
        stamps = self._notes.stamp_all([_message(each, str(each["content"]), session_scope) for each in messages])
        stamped = [
            {**each, "content": f"{stamp} {each['content']}"} for each, stamp in zip(messages, stamps, strict=True)
        ]
        self._db.save_messages(stamped, session_scope)

    def get_last_messages(self, session_scope: str, limit: int = 10) -> list[dict[str, Any]]:
        found = []
        for row in self._db.get_last_messages(session_scope, limit=limit):
            stamp, _, text = (row["content"] or "").partition(" ")
            entry = {**row, "content": text}
            stamped = stamp if stamp.startswith(STAMP_PREFIX) else None
            found.append(MemoryEntry(entry, _message(row, text, session_scope), stamped))
        return [entry.entry for entry in self._tracked.trusted(found)]


def _content(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a memory's stamp is over: its text, whose it is, and its metadata."""
    return {name: value for name, value in payload.items() if name not in _DERIVED}


def _stamp_of(payload: Mapping[str, Any]) -> str | None:
    stamp = payload.get(STAMP_FIELD)
    return stamp if isinstance(stamp, str) else None


def _without_stamp(row: Any) -> Any:
    row = copy.copy(row)
    row.payload = {name: value for name, value in row.payload.items() if name != STAMP_FIELD}
    return row


def _message(row: Mapping[str, Any], text: str, session_scope: str) -> list[Any]:
    return [session_scope, row.get("role"), row.get("name"), text]
