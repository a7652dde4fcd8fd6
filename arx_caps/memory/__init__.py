# SPDX-License-Identifier: Apache-2.0
"""The memory of an agent's program: entries stamped when they are written, checked when they are read.  SPEC 18.

``arx_verifier.memory`` has the stamps.  Adapters of frameworks use ``TaskMemory``.
"""

from arx_caps.memory.task_memory import STAMP_FIELD as STAMP_FIELD
from arx_caps.memory.task_memory import MemoryEntry as MemoryEntry
from arx_caps.memory.task_memory import TaskMemory as TaskMemory
from arx_caps.memory.task_memory import TrackedMemory as TrackedMemory
from arx_caps.memory.task_memory import content_of as content_of
from arx_caps.memory.task_memory import open_task_memory as open_task_memory
