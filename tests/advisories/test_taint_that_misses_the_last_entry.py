# SPDX-License-Identifier: Apache-2.0
"""A taint without an end missed an entry that was written just before it, and those while its reason was typed.

Its end was the millisecond in which ``arx memory taint`` began, and a taint has no entry of its end.
"""

from pathlib import Path

import pytest

from arx_caps.cli.commands import memory as commands
from arx_verifier import Verifier
from arx_verifier.clock import now_ms
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import parse_stamp
from tests.cli.live import Live
from tests.cli.test_memory_live import WORDS, Agent, memory, ok, up, verifier
from tests.servers import until

__all__ = ["memory", "up", "verifier"]  # fixtures
pytestmark = [pytest.mark.servers, pytest.mark.spec("18.4")]


@pytest.mark.slow
def test_an_entry_of_the_same_millisecond_is_tainted(
    up: Live, memory: Memory, verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent writes later is trusted."""
    one = Agent(up, memory, verifier, tmp_path, "acme/last")
    entry = one.write("x")
    written = parse_stamp(str(entry.stamp)).first
    with monkeypatch.context() as patch:
        patch.setattr(commands, "now_ms", lambda: written)
        ok(up, "memory", "taint", "agent:acme/last", *WORDS)
    until(lambda: one.notes.trusted([entry]) == [])
    until(lambda: now_ms() > written + 2)
    new = one.write("y")
    assert one.notes.trusted([new]) == [new]
