# SPDX-License-Identifier: Apache-2.0
"""A45.  Without memory for a record's number, every later record of the journal was unreadable.

The compiled twin wrote a record and then made the number that the journal goes on with.  Where there was no memory for
that, the next record had the same number, and none behind it had its checksum.
"""

from pathlib import Path

import pytest

from arx_verifier.compiled import COMPILED
from arx_verifier.decisions import ChainFacts, Decision
from arx_verifier.spool import Journal, read_journal

FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
T0 = 1_700_000_000_000


@pytest.mark.skipif(not COMPILED, reason="without memory msgspec, which the reference writes with, ends the process")
@pytest.mark.parametrize("code", ["ok", "expired"])
def test_whichever_allocation_fails_no_other_record_is_spoilt(tmp_path: Path, code: str) -> None:
    """Each in turn: what was acknowledged reads back, and nothing is damaged."""
    memory = pytest.importorskip("_testcapi")
    journal = Journal(tmp_path, "v1", "orders", segment_bytes=1 << 20, max_bytes=1 << 24)
    for _ in range(300):  # CPython has the numbers up to 256 at hand
        journal.append(Decision("ok", T0, FACTS, "x"))
    answered = {journal.append(Decision("expired", T0, FACTS, "x")): "x"}
    failed = 0
    for failing in range(40):
        decision = Decision(code, T0, FACTS, f"tool.{failing}", salt=b"s" * 16)
        memory.set_nomemory(failing, failing + 1)
        try:
            sequence = journal.append(decision)
        except MemoryError:
            sequence = 0
        finally:
            memory.remove_mem_hooks()
        failed += not sequence
        if sequence:
            answered[sequence] = decision.tool
        answered[journal.append(Decision("ok", T0, FACTS, f"after.{failing}"))] = f"after.{failing}"
    assert failed
    journal.close()
    read = {decision.sequence: decision.tool for decision in read_journal(tmp_path)}
    assert {sequence: read.get(sequence) for sequence in answered} == answered
