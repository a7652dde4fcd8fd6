# SPDX-License-Identifier: Apache-2.0
"""Memory: stamps of entries that agents write, and the check of a stamp against kills and taints.  SPEC 18."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.memory.file_keys import FileMemoryKeys as FileMemoryKeys
    from arx_verifier.memory.file_keys import open_memory as open_memory
    from arx_verifier.memory.memory import MAX_SOURCES as MAX_SOURCES
    from arx_verifier.memory.memory import MEMORY_AUDIENCE as MEMORY_AUDIENCE
    from arx_verifier.memory.memory import TRUSTED as TRUSTED
    from arx_verifier.memory.memory import Memory as Memory
    from arx_verifier.memory.memory import Withheld as Withheld
    from arx_verifier.memory.stamp import KINDS as KINDS
    from arx_verifier.memory.stamp import MAX_STAMP_CHARS as MAX_STAMP_CHARS
    from arx_verifier.memory.stamp import STAMP_PREFIX as STAMP_PREFIX
    from arx_verifier.memory.stamp import Kind as Kind
    from arx_verifier.memory.stamp import MemoryKeys as MemoryKeys
    from arx_verifier.memory.stamp import Stamp as Stamp
    from arx_verifier.memory.stamp import Verdict as Verdict
    from arx_verifier.memory.stamp import parse_stamp as parse_stamp
    from arx_verifier.memory.taints import LATEST_MS as LATEST_MS
    from arx_verifier.memory.taints import TaintWindow as TaintWindow
    from arx_verifier.memory.taints import change_taints as change_taints
    from arx_verifier.memory.taints import read_window as read_window
else:
    open_door(__name__)
