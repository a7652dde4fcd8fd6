# SPDX-License-Identifier: Apache-2.0
"""What the processes of mint and gateway share."""

import subprocess
import sys

# A process of its own, as what is frozen stays so.
COLLECTED = """
import gc, time
import arx_caps.gateway.serve
from arx_caps.http.process import GARBAGE_AT, collect_rarely
collect_rarely()
print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000, gc.get_threshold()[0] == GARBAGE_AT)
"""


def test_a_server_does_not_search_loaded_modules_for_garbage() -> None:
    """A search of them took tens of milliseconds, in which a gateway answers no call."""
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
