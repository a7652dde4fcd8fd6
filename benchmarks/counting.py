# SPDX-License-Identifier: Apache-2.0
"""Count work instead of timing it: what the interpreter executes is the same on a busy machine and on a quiet one.

Counted are bytecodes and calls of functions written in C.  What such a function does inside is seen by what it is
given: of methods of text and bytes that may look at each character, the length of their object is counted as well.
"""

import contextlib
import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

# Others, such as `startswith` and `append`, take what their argument takes.
_LOOK_AT_ALL: Final = (str.count, str.encode, str.find, str.isascii, str.join, str.lower, str.partition, str.replace)
_LOOK_BACK: Final = (str.rfind, str.rpartition, str.rstrip, str.split, str.strip, str.translate, bytes.decode)
_NAMES: Final = frozenset(method.__name__ for method in (*_LOOK_AT_ALL, *_LOOK_BACK))


class Count(NamedTuple):
    """What some work took.

    Attributes:
        bytecodes: Instructions of the interpreter.
        calls: Calls of functions written in C.
        characters: Of text and bytes that methods looked at.
    """

    bytecodes: int
    calls: int
    characters: int

    @property
    def work(self) -> int:
        """All in one number: a call is about ten bytecodes, a bytecode about twenty characters."""
        return self.bytecodes + 10 * self.calls + self.characters // 20


def count(work: Callable[[], Any]) -> Count:
    """Do some work and count it.

    Args:
        work: What to do; what it does the first time only should have been done.

    Returns:
        The counts, the same each time for the same work.
    """
    calls = characters = 0

    def profile(_: FrameType, event: str, called: Any) -> None:
        nonlocal calls, characters
        if event == "c_call":
            calls += 1
            on = getattr(called, "__self__", None)
            if isinstance(on, str | bytes) and called.__name__ in _NAMES:
                characters += len(on)

    # The collector would run finalizers of what others left, and they would be counted.
    collects = gc.isenabled()
    gc.disable()
    try:
        with _bytecodes() as counted:
            before = sys.getprofile()
            sys.setprofile(profile)
            try:
                work()
            finally:
                sys.setprofile(before)
    finally:
        if collects:
            gc.enable()
    return Count(sum(counted.values()), calls, characters)


def count_by_file(work: Callable[[], Any]) -> dict[str, int]:
    """Do some work, and return the bytecodes that it takes, by the file of their code."""
    with _bytecodes() as counted:
        work()
    return dict(counted)


@contextlib.contextmanager
def _bytecodes() -> Iterator[dict[str, int]]:
    """Count executed bytecodes by the file of their code."""
    counted: defaultdict[str, int] = defaultdict(int)
    if sys.version_info >= (3, 12):  # there tracing sees those of frames alone that were begun before
        watch, tool = sys.monitoring, sys.monitoring.OPTIMIZER_ID
        watch.use_tool_id(tool, "arx")

        def note(code: CodeType, _: int) -> None:
            counted[code.co_filename] += 1

        watch.register_callback(tool, watch.events.INSTRUCTION, note)
        watch.set_events(tool, watch.events.INSTRUCTION)
        try:
            yield counted
        finally:
            watch.set_events(tool, 0)
            watch.free_tool_id(tool)
        return

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            counted[frame.f_code.co_filename] += 1
        else:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield counted
    finally:
        sys.settrace(before)
