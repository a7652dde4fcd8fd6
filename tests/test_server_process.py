# SPDX-License-Identifier: Apache-2.0
"""What the processes of mint and gateway share."""

import subprocess
import sys

import pytest

from arx_caps.http.process import open_listener
from arx_verifier.errors import SettingsError

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


def test_an_address_in_use_has_a_hint() -> None:
    """A second server at one address ends with what to do; another failure has no such hint."""
    with open_listener("mint", "127.0.0.1", 0, 1) as first:
        with pytest.raises(SettingsError, match="the mint cannot listen at 127") as refused:
            open_listener("mint", "127.0.0.1", first.getsockname()[1], 1)
        assert refused.value.hint == "stop the program that listens there, or choose another port"
    with pytest.raises(SettingsError) as refused:
        open_listener("mint", "192.0.2.1", 0, 1)
    assert refused.value.hint is None
