# SPDX-License-Identifier: Apache-2.0
"""The memory of an agent's program: entries stamped when they are written, checked when they are read.  SPEC 18.

``arx_verifier.memory`` has the stamps.  Adapters of frameworks use ``TaskMemory``.
"""

from arx_caps.memory.task_memory import (
    STAMP_FIELD,
    MemoryEntry,
    TaskMemory,
    TrackedMemory,
    content_of,
    open_task_memory,
)

__all__ = ["STAMP_FIELD", "MemoryEntry", "TaskMemory", "TrackedMemory", "content_of", "open_task_memory"]
