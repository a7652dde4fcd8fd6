# SPDX-License-Identifier: Apache-2.0
"""Memory: stamps of entries that agents write, and the check of a stamp against kills and taints.  SPEC 18."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.memory.file_keys import FileMemoryKeys, open_memory
    from arx_verifier.memory.memory import MAX_SOURCES, MEMORY_AUDIENCE, TRUSTED, Memory, Withheld
    from arx_verifier.memory.stamp import (
        KINDS,
        MAX_STAMP_CHARS,
        STAMP_PREFIX,
        Kind,
        MemoryKeys,
        Stamp,
        Verdict,
        parse_stamp,
    )
    from arx_verifier.memory.taints import LATEST_MS, TaintWindow, change_taints, read_window
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "file_keys": "FileMemoryKeys open_memory",
            "memory": "MAX_SOURCES MEMORY_AUDIENCE Memory TRUSTED Withheld",
            "stamp": "KINDS Kind MAX_STAMP_CHARS MemoryKeys STAMP_PREFIX Stamp Verdict parse_stamp",
            "taints": "LATEST_MS TaintWindow change_taints read_window",
        },
    )

__all__ = [
    "KINDS",
    "LATEST_MS",
    "MAX_SOURCES",
    "MAX_STAMP_CHARS",
    "MEMORY_AUDIENCE",
    "STAMP_PREFIX",
    "TRUSTED",
    "FileMemoryKeys",
    "Kind",
    "Memory",
    "MemoryKeys",
    "Stamp",
    "TaintWindow",
    "Verdict",
    "Withheld",
    "change_taints",
    "open_memory",
    "parse_stamp",
    "read_window",
]
