# SPDX-License-Identifier: Apache-2.0
"""Memory: stamps of entries that agents write, and the check of a stamp against kills and taints.  SPEC 18."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.memory.file_keys import open_memory as open_memory
    from arx_verifier.memory.memory import Memory as Memory
    from arx_verifier.memory.memory import Withheld as Withheld
    from arx_verifier.memory.stamp import Stamp as Stamp
    from arx_verifier.memory.stamp import Verdict as Verdict
else:
    open_door(__name__)
