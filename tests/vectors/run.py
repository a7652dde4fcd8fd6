# SPDX-License-Identifier: Apache-2.0
"""Run the vectors against any implementation: ``python -m tests.vectors.run [OPTIONS] COMMAND…``.

COMMAND reads questions on its standard input and answers on its standard output, a line of JSON each, in order.
``docs/spec/README.md`` describes lines and levels.  An implementation that ends, hangs or answers out of form is
reported at that vector, and started again for the next ones, a few times.
"""

import argparse
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tests.vectors.families import ABOVE_BEARER, LEVELS, Vector, judge, load

START_S: Final = 120.0  # for the first answer of a process: a loaded machine takes long to start one
MAX_FAULTS: Final = 3  # then the rest is not asked: each fault can take a whole timeout
MAX_LINE: Final = 1 << 20  # bytes of an answer
_SHOWN: Final = 20  # wrong answers in the text


class FaultError(Exception):
    """The implementation ended, hung or answered out of form, so that its next lines mean nothing."""


class Outcome(NamedTuple):
    """What came of one vector.

    Attributes:
        vector: What was asked.
        why: Why the answer was wrong; None if it was right.
        unsupported: The level that the implementation does not have, if it answered so.
    """

    vector: Vector
    why: str | None
    unsupported: str | None = None


class LevelResult(NamedTuple):
    """What came of one level: ``passed``, ``failed``, ``unsupported``, ``not asked`` or ``part``; and the counts."""

    result: str
    right: int
    wrong: int
    unsupported: int


class Process:
    """A running implementation, which is asked one question after the other.

    Args:
        command: Its words.
        timeout: The longest time that an answer may take, seconds; the first may take longer.

    Raises:
        OSError: The command cannot be started.
    """

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        pipe = subprocess.PIPE
        # In a group of its own, so that what it starts ends with it.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)  # it may not read: a write must not wait for ever
        self._timeout, self._patience = timeout, max(timeout, START_S)
        self._received = b""

    def ask(self, vector: Vector) -> dict[str, Any]:
        """Return the answer to a vector, without its name.

        Raises:
            FaultError: There is none in time, or none in form.
        """
        if self._received:
            raise FaultError(f"a line that no question asked for: {_shown(self._received)}")
        line = self._exchange(json.dumps(vector.question()).encode() + b"\n")
        self._patience = self._timeout
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise FaultError(f"expected a JSON object on one line, got {_shown(line)}")
        named = f"{answer.pop('family', None)}/{answer.pop('name', None)}"
        if named != vector.path:
            raise FaultError(f"expected the answer to {vector.path}, got one to {json.dumps(named[:100])}")
        return answer

    def _exchange(self, unsent: bytes) -> bytes:
        """Write a line and read one; both at once, as either pipe may be full."""
        deadline = time.monotonic() + self._patience
        with selectors.DefaultSelector() as ready:
            ready.register(self._out, selectors.EVENT_READ)
            ready.register(self._in, selectors.EVENT_WRITE)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                events = ready.select(max(left, 0))
                if not events and left <= 0:
                    raise FaultError(f"no answer within {self._patience:g} s")
                for key, _ in events:
                    if key.fd == self._out:
                        self._receive()
                    elif unsent:
                        unsent = unsent[self._send(unsent) :]
                    else:
                        ready.unregister(self._in)
        if unsent:
            raise FaultError("an answer before the question was read")
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _send(self, data: bytes) -> int:
        try:
            return os.write(self._in, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise FaultError(self._end()) from None

    def _receive(self) -> None:
        chunk = os.read(self._out, 1 << 16)
        if not chunk:
            raise FaultError(self._end())
        self._received += chunk
        if len(self._received) > MAX_LINE:
            raise FaultError(f"expected at most {MAX_LINE} bytes for an answer, got more")

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the implementation ended with code {self._process.wait(2)}"
        return "the implementation closed its output"

    def close(self) -> None:
        """End the process, and all that it started; a process whose input ends may end by itself first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


def ask_all(command: Sequence[str], vectors: Sequence[Vector], timeout: float) -> list[Outcome]:
    """Ask an implementation every vector.

    Args:
        command: Its words.
        vectors: The vectors, in the order in which they are asked.
        timeout: The longest time that an answer may take, seconds.

    Returns:
        The outcome of each vector, in that order.

    Raises:
        OSError: The command cannot be started.
    """
    outcomes: list[Outcome] = []
    process, faults = Process(command, timeout), 0
    try:
        for vector in vectors:
            if faults == MAX_FAULTS:
                outcomes.append(Outcome(vector, f"not asked after {MAX_FAULTS} faults"))
                continue
            try:
                answer = process.ask(vector)
            except FaultError as fault:
                outcomes.append(Outcome(vector, str(fault)))
                faults += 1
                process.close()
                if faults < MAX_FAULTS:
                    process = Process(command, timeout)
                continue
            try:
                why = judge(vector, answer)
            except RecursionError:
                why = "the answer is nested too deeply to be compared"
            outcomes.append(Outcome(vector, why, answer.get("unsupported") if why is None else None))
    finally:
        process.close()
    return _whole(outcomes)


def _whole(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes, where a level that is answered in part makes its unsupported answers wrong."""
    right = [each for each in outcomes if each.why is None and each.unsupported is None]
    answered = {each.vector.levels[-1] for each in right}
    return [
        each._replace(why=f"{each.unsupported} is answered in part, so expected an answer", unsupported=None)
        if each.unsupported in answered
        else each
        for each in outcomes
    ]


def results(outcomes: Sequence[Outcome], *, part: bool = False) -> dict[str, LevelResult]:
    """Return what came of each level.

    Args:
        outcomes: The outcomes of all vectors.
        part: Whether only a part of the vectors was asked, which passes no level.
    """
    found: dict[str, LevelResult] = {}
    for level in LEVELS:
        asked = [each for each in outcomes if level in each.vector.levels]
        own = [each for each in asked if each.unsupported in (None, level)]  # else a lower level is missing
        lacks = sum(each.unsupported == level for each in own)
        wrong = sum(each.why is not None for each in own)
        right = len(own) - lacks - wrong
        if not asked:
            result = "not asked"
        elif wrong:
            result = "failed"
        elif not right or lacks:
            result = "unsupported"
        elif level in ABOVE_BEARER and found["bearer"].result not in ("passed", "part"):
            result = "failed"
        else:
            result = "part" if part else "passed"
        found[level] = LevelResult(result, right, wrong, lacks)
    return found


def select(levels: Sequence[str], text: str) -> list[Vector]:
    """Return the vectors that levels need, and that have a text in their names.

    Args:
        levels: Levels; none for all.
        text: A part of names such as ``tokens/aud-other``.
    """
    needed = {*levels, "bearer"} if {*levels} - {"holder"} else {*(levels or LEVELS)}
    return [vector for vector in load() if needed.issuperset(vector.levels) and text in vector.path]


def report(outcomes: Sequence[Outcome], found: dict[str, LevelResult]) -> str:
    """Return the outcome as text for people."""
    lines = [f"{'level':<9} {'result':<12} {'right':>6} {'wrong':>6} {'unsupported':>12}"]
    for level, row in found.items():
        lines.append(f"{level:<9} {row.result:<12} {row.right:>6} {row.wrong:>6} {row.unsupported:>12}")
    wrong = [each for each in outcomes if each.why is not None]
    lines += [f"{each.vector.path} ({each.vector.about}): {each.why}" for each in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"… and {len(wrong) - _SHOWN} more; --json lists all")
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], found: dict[str, LevelResult]) -> str:
    """Return the outcome as JSON for programs."""
    wrong = [
        {"vector": each.vector.path, "levels": each.vector.levels, "about": each.vector.about, "why": each.why}
        for each in outcomes
        if each.why is not None
    ]
    levels = {level: row._asdict() for level, row in found.items()}
    return json.dumps({"asked": len(outcomes), "levels": levels, "wrong": wrong}, indent=1)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if no answer is wrong, and each level that was named, or any, is passed; 1 if not; 2 if nothing was asked.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.vectors.run", description="Run the vectors against COMMAND.", allow_abbrev=False
    )
    parser.add_argument("--level", action="append", choices=LEVELS, default=[], help="require this level [any]")
    parser.add_argument("-k", metavar="TEXT", default="", help="ask only vectors with TEXT in their names [all]")
    parser.add_argument("--timeout", type=float, default=10.0, help="longest time for an answer, seconds [10]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="the implementation and its words")
    given = parser.parse_args(words)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    vectors = select(given.level, given.k)
    if not command:
        parser.error("expected a COMMAND that answers; try: python -m tests.vectors.subject")
    if not vectors:
        parser.error(f"expected a part of a vector's name for -k, got {given.k!r}; see the files of tests/vectors")
    try:
        outcomes = ask_all(command, vectors, given.timeout)
    except OSError as error:
        parser.error(f"expected a COMMAND that can be started, got {command[0]}: {error.strerror}")
    found = results(outcomes, part=bool(given.k))
    print(as_json(outcomes, found) if given.json else report(outcomes, found))
    wrong = any(each.why is not None for each in outcomes)
    reached = {level for level, row in found.items() if row.result == "passed" or (given.k and row.result == "part")}
    return int(wrong or not reached.issuperset(given.level) or not reached)


def _shown(line: bytes) -> str:
    return repr(line[:100].decode("utf-8", "replace"))


if __name__ == "__main__":
    sys.exit(main())
