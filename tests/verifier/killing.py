# SPDX-License-Identifier: Apache-2.0
"""Kill a deciding process at any moment, count the answers without a record: ``python -m tests.verifier.killing``.

A child decides as fast as it can, in threads, and says each decision's place to its parent once the verifier answered;
after a random time it is killed with SIGKILL.  Then the parent reads what is left.  Two usual ways of keeping records
can be tried for comparison; they lose some.
"""

import argparse
import os
import queue
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import Journal
from tests.support import ANYTHING, AT, access, mint, verifier

_PLACE: Final = struct.Struct("<I")


class Lost(NamedTuple):
    """What some runs came to.

    Attributes:
        way: How records were kept.
        runs: How many processes were killed.
        answered: Decisions that they answered.
        missing: Answered decisions without a record.
        worst: The most of one run.
        bad_runs: Runs that lost any.
    """

    way: str
    runs: int
    answered: int
    missing: int
    worst: int
    bad_runs: int


class BufferedFile(InMemoryDecisions):
    """For comparison: records in a buffered file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        self._file, self._next, self._guard = (folder / "records").open("wb"), 0, threading.Lock()

    def append(self, decision: Decision) -> int:
        """Write its number where its bytes would stand."""
        record = decision.pack()
        with self._guard:
            self._next += 1
            decision.sequence = self._next
            self._file.write(_PLACE.pack(self._next) + record.ljust(508, b"\0")[:508])
        return decision.sequence


class QueueAndThread(BufferedFile):
    """For comparison: a queue, and a thread that writes each record to the file at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._queue: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def append(self, decision: Decision) -> int:
        """Hand it to the thread."""
        record = decision.pack()
        with self._guard:
            self._next += 1
            decision.sequence = self._next
            self._queue.put((self._next, record))
        return decision.sequence

    def _write(self) -> None:
        while True:
            number, record = self._queue.get()
            self._file.write(_PLACE.pack(number) + record.ljust(508, b"\0")[:508])
            self._file.flush()


def _journal(mode: str) -> Callable[[Path], Journal]:
    def make(folder: Path) -> Journal:
        return Journal(folder, "v1", "orders", segment_bytes=1 << 18, max_bytes=1 << 28, mode=mode)  # type: ignore[arg-type]

    return make


def _read_journal(folder: Path) -> set[int]:
    found = [decision.sequence for decision in read_journal(folder)]
    assert found == list(range(1, len(found) + 1)), "a record stands out of its place"
    return set(found)


def _read_file(folder: Path) -> set[int]:
    raw = (folder / "records").read_bytes()
    return {_PLACE.unpack_from(raw, at)[0] for at in range(0, len(raw) - 511, 512)}


WAYS: Final = {
    "strict": (_journal("strict"), _read_journal),
    "durable": (_journal("durable"), _read_journal),
    "best_effort": (_journal("best_effort"), _read_journal),
    "file": (BufferedFile, _read_file),
    "queue": (QueueAndThread, _read_file),
}


def _decide(folder: Path, way: str, pipe: int, threads: int) -> None:
    """Decide for ever; runs in the child."""
    checked = verifier(decisions=WAYS[way][0](folder))
    token, request = mint(ANYTHING).encode(), access(at=AT)

    def work() -> None:
        while True:
            os.write(pipe, _PLACE.pack(checked.decide(token, request).sequence))

    for _ in range(threads - 1):
        threading.Thread(target=work, daemon=True).start()
    work()


def _one(folder: Path, way: str, dice: random.Random) -> tuple[set[int], set[int]]:
    """Kill one process; return what it answered and what is left."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _decide(folder, way, writing, dice.choice((1, 1, 2, 4)))
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        reported = pipe.read(_PLACE.size)
        until = time.monotonic() + dice.uniform(0.0, 0.06)
        while time.monotonic() < until:
            reported += pipe.read(1 << 16)
        os.kill(child, signal.SIGKILL)
        while more := pipe.read(1 << 16):
            reported += more
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child ended by itself"
    whole = len(reported) // _PLACE.size * _PLACE.size
    return {place for (place,) in _PLACE.iter_unpack(reported[:whole])}, WAYS[way][1](folder)


def kill(way: str, runs: int, seed: int) -> Lost:
    """Kill ``runs`` processes, one after another, and count."""
    dice = random.Random(seed)
    answered, missing = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            answer, left = _one(Path(folder) / str(number), way, dice)
            answered += len(answer)
            missing.append(len(answer - left))
    return Lost(way, runs, answered, sum(missing), max(missing), sum(map(bool, missing)))


def main() -> None:
    """Kill as the arguments demand, print one line a way, and end with 1 if a journal lost anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="processes to kill, for each way")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("ways", nargs="*", default=["strict", "durable"], help=", ".join(WAYS))
    given = parser.parse_args()
    print(f"seed {given.seed}\n\n| way | killed | answered | missing | worst run | runs that lost |\n|{' --- |' * 6}")
    lost = [kill(way, given.runs, given.seed) for way in given.ways]
    for each in lost:
        print("| " + " | ".join(map(str, each)) + " |", flush=True)
    sys.exit(any(each.missing for each in lost if each.way in ("strict", "durable", "best_effort")))


if __name__ == "__main__":
    main()
