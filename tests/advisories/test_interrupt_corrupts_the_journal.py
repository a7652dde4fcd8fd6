# SPDX-License-Identifier: Apache-2.0
"""A signal that interrupted a record made every later record of the journal unreadable.

A worker's time limit raises out of a signal handler, in whatever the main thread does at that moment.  The journal had
counted its record and not written it: all that it acknowledged from then on had another number than its checksum said,
and a reader took it for damage.
"""

import itertools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal

FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
T0 = 1_700_000_000_000


class TimeLimitError(Exception):
    """What a worker's signal handler raises."""


class Interrupting:
    """Raises at the n-th moment at which CPython would run a signal's handler: a function begun, one of C ended."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, _frame: FrameType, event: str, _arg: Any) -> None:
        if event in ("call", "c_return"):
            self._left -= 1
            if self._left == 0:
                sys.setprofile(None)
                raise TimeLimitError


def interrupted(journal: Journal, decision: Decision, after: int) -> bool:
    """Append a decision and be interrupted; return whether the call was over before that."""
    sys.setprofile(Interrupting(after))
    try:
        journal.append(decision)
    except TimeLimitError:
        return False
    finally:
        sys.setprofile(None)
    return True


@pytest.mark.parametrize("code", ["ok", "expired"])
@pytest.mark.parametrize("looking", [False, True], ids=["the short way", "looking after its file"])
def test_whatever_interrupts_a_record_spoils_no_other(tmp_path: Path, code: str, looking: bool) -> None:
    """Interrupted at each moment in turn: all that was acknowledged reads back, and nothing is damaged."""
    journal = Journal(tmp_path, "v1", "orders", segment_bytes=1 << 20, max_bytes=1 << 24)
    at, answered = T0, {journal.append(Decision("ok", T0, FACTS, "first")): "first"}
    assert journal.append(Decision("expired", T0, FACTS, "room for denials"))
    for after in range(1, 200):
        at += 1001 * looking
        # Long and short ones in turn, so that what is left of a longer one would stand behind a shorter one.
        over = interrupted(journal, Decision(code, at, FACTS, "interrupted" * (after % 3)), after)
        tool = f"tool.{after}"
        answered[journal.append(Decision("ok", at, FACTS, tool))] = tool
        if over:
            break
    else:
        raise AssertionError("the call never ended")
    assert after > 5
    journal.close()
    read = {decision.sequence: decision.tool for decision in read_journal(tmp_path)}
    assert {sequence: read.get(sequence) for sequence in answered} == answered


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a folder's unfinished listing
def test_an_interrupted_opening_is_tried_again(tmp_path: Path) -> None:
    """Interrupted while it opens its file, a journal opens it at the next decision, and not a second later."""
    over, after, clock = False, 0, itertools.count(T0)
    while not over:
        after += 1
        journal = Journal(
            tmp_path / str(after), "v1", "orders", segment_bytes=1 << 16, max_bytes=1 << 24, clock=lambda: next(clock)
        )
        over = interrupted(journal, Decision("ok", T0, FACTS, "x"), after)
        assert journal.append(Decision("ok", T0, FACTS, "y")) >= 1
        journal.close()
        assert [decision.tool for decision in read_journal(tmp_path / str(after))][-1:] == ["y"]
    assert after > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["strict", "durable"])
@pytest.mark.parametrize("closing", [False, True], ids=["beginning the next file", "closing"])
def test_an_interrupted_change_of_files_loses_no_file(tmp_path: Path, mode: Any, closing: bool) -> None:
    """Interrupted at each moment of closing a file, a journal goes on in another one, at once, and records no gap."""
    over, after, clock = False, 0, itertools.count(T0)
    while not over:
        after += 1
        folder = tmp_path / str(after)
        journal = Journal(
            folder, "v1", "orders", segment_bytes=1 << 16, max_bytes=1 << 24, mode=mode, clock=lambda: next(clock)
        )
        answered = {}
        while journal._segment is None or journal._segment.room > 12_000:
            decision = Decision("ok", T0, FACTS, "before", arguments=b"a" * 8000)
            journal.append(decision)
            answered[decision.id] = "before"
        if closing:
            over = interrupted_closing(journal, after)
        else:
            over = interrupted(journal, Decision("ok", T0, FACTS, "x", arguments=b"a" * 8000), after)
        for _ in range(3):
            decision = Decision("ok", T0, FACTS, "after")
            assert journal.append(decision) > 0
            answered[decision.id] = "after"
        journal.close()
        read = {decision.id: decision.tool for decision in read_journal(folder)}
        assert {each: read.get(each) for each in answered} == answered
        assert not [decision for decision in read_journal(folder) if decision.gap]
    assert after > 10


def interrupted_closing(journal: Journal, after: int) -> bool:
    sys.setprofile(Interrupting(after))
    try:
        journal.close()
    except TimeLimitError:
        return False
    finally:
        sys.setprofile(None)
    return True
