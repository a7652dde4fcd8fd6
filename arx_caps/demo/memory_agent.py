# SPDX-License-Identifier: Apache-2.0
"""An agent that keeps notes in a file, stamped: ``memory.py`` runs several of them, each in a process.

``write`` adds notes, ``summarize`` adds a summary of what it reads, ``read`` makes prompts until they change,
``prompt`` makes one.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from arx_caps.agent import Agent
from arx_caps.demo.steps import report
from arx_caps.memory import MemoryEntry, TaskMemory, open_task_memory
from arx_verifier.errors import RevokedError

LOOP_S = 60.0  # without a kill the loop ends by itself


class Notes:
    """Notes in a file, one JSON array of text and stamp a line."""

    def __init__(self, file: Path, memory: TaskMemory) -> None:
        self.file, self.memory = file, memory

    def add(self, *texts: str, sources: Sequence[str] = ()) -> None:
        """Add notes, which were derived from sources."""
        with self.file.open("a") as notes:
            notes.writelines(
                json.dumps([text, stamp]) + "\n"
                for text, stamp in zip(texts, self.memory.stamp_all(texts, sources=sources), strict=True)
            )

    def trusted(self) -> list[MemoryEntry[str]]:
        """Return the notes that a model may see."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return self.memory.trusted(MemoryEntry(text, text, stamp) for text, stamp in map(json.loads, lines))

    def prompt(self) -> list[str]:
        """Return the texts that the agent's next prompt has."""
        return [note.entry for note in self.trusted()]


def write(notes: Notes, step: str, *texts: str) -> None:
    """Add notes."""
    notes.add(*texts)
    report(step, f"{len(texts)} notes")


def summarize(notes: Notes, step: str) -> None:
    """Add a summary of all notes, as a consolidation does."""
    read = notes.trusted()
    notes.add("summary: " + "; ".join(note.entry for note in read), sources=[note.stamp for note in read if note.stamp])
    report(step, f"a summary of {len(read)} notes")


def read(notes: Notes, step: str, session: str = "") -> None:
    """Make prompts until they change, and report the time of the last one before."""
    before = prompt = notes.prompt()
    report("reading", f"{len(before)} notes", session=session)
    at, until = 0.0, time.monotonic() + LOOP_S
    while prompt == before and time.monotonic() < until:
        at = time.time() * 1000
        prompt = notes.prompt()
    report(step, f"{len(prompt)} of {len(before)} notes", last=at)


def prompt(notes: Notes, step: str) -> None:
    """Make one prompt."""
    report(step, ", ".join(notes.prompt()) or "nothing")


def main() -> None:
    """Open a session and a task for the notes, and do the work."""
    work, service_file, key, file, *words = sys.argv[1:]
    works: dict[str, Callable[..., None]] = {"write": write, "summarize": summarize, "read": read, "prompt": prompt}
    with (
        Agent.from_key_file(Path(key)) as agent,
        agent.open_session(purpose="notes") as session,
        session.start_task("remember") as task,
        contextlib.closing(open_task_memory(service_file, task, "notes")) as memory,
    ):
        works[work](Notes(Path(file), memory), *words, **({"session": session.id} if work == "read" else {}))


if __name__ == "__main__":
    try:
        main()
    except RevokedError:
        report(sys.argv[5], "refused")
