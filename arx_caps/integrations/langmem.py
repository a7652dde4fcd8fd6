# SPDX-License-Identifier: Apache-2.0
"""LangMem: a memory manager whose store is stamped, and what it merges derived from all that it was shown.

``StampedManager(create_memory_store_manager(model, …), store, notes)``.  LangMem's tools for agents take a
``StampedStore`` as their store.
"""

import copy
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.store.base import BaseStore
from langmem.knowledge.extraction import MemoryStoreManager, MemoryStoreManagerInput  # type: ignore[import-untyped]

from arx_caps.integrations.langgraph import StampedStore
from arx_caps.memory import TaskMemory


class StampedManager(Runnable[MemoryStoreManagerInput, list[dict[str, Any]]]):
    """LangMem's manager of a store, for a task.

    It shows a model the entries that it finds, and writes, merges and deletes as the model says.  Only trusted ones are
    shown, and each is a source of what is written.

    Args:
        manager: What ``create_memory_store_manager`` returned; its own store is not used.
        store: The store, without stamps: each call stamps by itself.
        notes: The task's memory.
    """

    def __init__(self, manager: MemoryStoreManager, store: BaseStore, notes: TaskMemory) -> None:
        self._manager, self._store, self._notes = manager, store, notes
        self.namespace = manager.namespace  # a ``ReflectionExecutor`` asks for it

    def invoke(
        self,
        input: MemoryStoreManagerInput,  # noqa: A002 - as the framework names it
        config: RunnableConfig | None = None,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """Let the model form memories of messages, and return what was put."""
        put: list[dict[str, Any]] = self._of_one_call().invoke(input, config, **more)
        return put

    async def ainvoke(
        self,
        input: MemoryStoreManagerInput,  # noqa: A002 - as the framework names it
        config: RunnableConfig | None = None,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """As ``invoke``, in an event loop."""
        put: list[dict[str, Any]] = await self._of_one_call().ainvoke(input, config, **more)
        return put

    def _of_one_call(self) -> MemoryStoreManager:
        self._notes.stamp_all([])  # LangMem loses the reason of a refused write, and that it was refused
        manager = copy.copy(self._manager)
        manager._store = StampedStore(self._store, self._notes.tracked())  # noqa: SLF001 - it has no setter
        return manager
