# SPDX-License-Identifier: Apache-2.0
"""The memory of an agent's program, with a verifier in memory.  SPEC 18."""

import os
import time

import pytest

from arx_caps.agent import Task
from arx_caps.memory import MemoryEntry, TaskMemory
from arx_verifier.constraints import Rule
from arx_verifier.errors import ProofError
from arx_verifier.memory import Memory, MemoryKeys
from arx_verifier.revocation import UnsafeLocalEpochs
from arx_verifier.verification import MemoryNonces
from tests.agent.holding import bundle, token
from tests.support import INCARNATION, verifier


@pytest.mark.spec("8.3")
def test_a_call_from_before_the_service_started_is_signed_anew_once() -> None:
    """
    A program that opens its memory and writes at once is not refused; one whose clock is behind is.
    """
    start = time.time_ns() // 1_000_000
    held = token("memory", Rule(tool="memory.*", open=True), iat=start - 9_000, exp=start + 60_000)
    signed = [start - 1, start, start - 1, start - 1]
    task = Task(bundle({"memory": held}), now=lambda: signed.pop(0))
    epochs = UnsafeLocalEpochs(INCARNATION)
    judge = verifier(audience="memory", epochs=epochs, nonces=MemoryNonces(now_ms=start))
    notes = TaskMemory(Memory(MemoryKeys({"memory.1": os.urandom(32)}), epochs), judge, task, "notes")
    stamp = notes.stamp("x")
    assert signed == [start - 1] * 2
    assert notes.is_trusted(MemoryEntry("x", "x", stamp))
    with pytest.raises(ProofError):
        notes.stamp("x")
    assert signed == []
