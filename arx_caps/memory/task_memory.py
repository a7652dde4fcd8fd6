# SPDX-License-Identifier: Apache-2.0
"""Stamp and check the entries of a memory for a task, in the program that runs the agent.  SPEC 18.

``arx_verifier.memory`` judges them, and withholds what is tainted.  The program is the memory service: it has the
memory keys.  A model, and a tool that it calls, has none.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from arx_caps.agent import Task
from arx_caps.agent.tasks.request_signer import BEFORE_START
from arx_verifier.clock import now_ms
from arx_verifier.errors import ProofError, SettingsError
from arx_verifier.memory.file_keys import open_memory
from arx_verifier.memory.memory import MAX_SOURCES, TRUSTED, Memory
from arx_verifier.memory.stamp import Kind
from arx_verifier.request import AccessRequest
from arx_verifier.service import open_verifier
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier

STAMP_FIELD: Final = "arx_stamp"  # in an entry's metadata
WRITE: Final = "memory.write"
READ: Final = "memory.read"
_NO_STAMP: Final = ""  # in place of a stamp that is not a text, or whose content has no form to be stamped in
_E = TypeVar("_E")
_JSON: Final = msgspec.json.Encoder(order="deterministic")


class MemoryEntry(NamedTuple, Generic[_E]):
    """An entry as its memory has it.

    Attributes:
        entry: The memory's own object.
        content: Its content, as it was stamped: a text, bytes, or a JSON value.
        stamp: Its stamp, or None.
    """

    entry: _E
    content: Any
    stamp: str | None


class TaskMemory:
    """Stamps and checks entries for a task.

    Each write and each retrieval is a call of the tool ``memory.write`` or ``memory.read`` that the task must allow for
    the verifier's audience, with the memory's name as the argument ``memory``; it is decided and recorded here.

    Args:
        memory: Stamps and checks.
        verifier: Decides; its view of the epoch is that of ``memory``.
        task: The task; or a function that returns the current one.
        name: The memory's name in the task's rules and in the records.
    """

    def __init__(self, memory: Memory, verifier: Verifier, task: Task | Callable[[], Task], name: str) -> None:
        self._memory, self._verifier, self._task, self.name = memory, verifier, task, name

    def tracked(self) -> "TrackedMemory":
        """Return the same memory for one run, in which what was read is a source of all that is written after."""
        return TrackedMemory(self._memory, self._verifier, self._task, self.name)

    def stamp(self, content: Any, *, sources: Sequence[str] = (), kind: Kind | None = None) -> str:
        """Return the stamp of an entry that the task writes.

        Args:
            content: The content, as it will be read: a text, bytes, or a JSON value.
            sources: Stamps of the entries that it was derived from, or that it replaces, as ``trusted`` returned them.
            kind: ``user``, ``tool``, ``agent`` or ``derived``; it is lowered to that of the weakest source.

        Raises:
            TokenError: The task's token is revoked or expired.
            AccessError: The task does not allow the write; or ``withheld``: a source has no authentic stamp.
            UnavailableError: No decision is possible now.
        """
        return self.stamp_all([content], sources=sources, kind=kind)[0]

    def stamp_all(self, contents: Iterable[Any], *, sources: Sequence[str] = (), kind: Kind | None = None) -> list[str]:
        """Return the stamps of entries that the task writes at once, by one decision; see ``stamp``."""
        grant = self._grant(WRITE)
        return [self._memory.stamp(grant, content_of(each), sources=sources, kind=kind) for each in contents]

    def trusted(self, entries: Iterable[MemoryEntry[_E]]) -> list[MemoryEntry[_E]]:
        """Return the entries that the task's agent may read; what was withheld is recorded.

        Args:
            entries: The entries of one retrieval, in the order of the memory.

        Raises:
            TokenError: The task's token is revoked or expired.
            AccessError: The task does not allow the retrieval.
            UnavailableError: No decision is possible now.
        """
        found = list(entries)
        grant = self._grant(READ)
        return self._memory.trusted([(entry, *_as_checked(entry)) for entry in found], grant)

    def trusted_turns(self, entries: Iterable[MemoryEntry[_E]], begins: Callable[[_E], bool]) -> list[MemoryEntry[_E]]:
        """Return the entries of those turns of a conversation that the task's agent may read whole.

        A call of a tool and its answer belong together, so no entry is withheld alone.

        Args:
            entries: As of ``trusted``.
            begins: Whether the memory's own object is the first one of a turn.

        Raises:
            ArxError: As ``trusted``.
        """
        found = list(entries)
        trusted = {id(entry) for entry in self.trusted(found)}
        turns: list[list[MemoryEntry[_E]]] = []
        for entry in found:
            if not turns or begins(entry.entry):
                turns.append([])
            turns[-1].append(entry)
        return [entry for turn in turns if all(id(entry) in trusted for entry in turn) for entry in turn]

    def is_trusted(self, entry: MemoryEntry[Any]) -> bool:
        """Return whether an entry is trusted, without a decision and without a record; for programs, not for a model.

        Args:
            entry: The entry.
        """
        return self._memory.check(*_as_checked(entry)).status == TRUSTED

    def close(self) -> None:
        """Stop following kills, and close the journal; every later call is refused."""
        self._verifier.close()

    def _grant(self, tool: str) -> Grant:
        task = self._task if isinstance(self._task, Task) else self._task()
        try:
            return self._decide(task, tool)
        except ProofError as error:
            if [failure[:2] for failure in error.failures] != [BEFORE_START]:
                raise
            return self._decide(task, tool)  # signed anew, once: SPEC 8.3

    def _decide(self, task: Task, tool: str) -> Grant:
        args = {"memory": self.name}
        token = task.call_token(self._verifier.audience, tool, args)
        return self._verifier.verify(token, AccessRequest(tool, args, now_ms()))

    def __repr__(self) -> str:
        return f"<TaskMemory {self.name}>"


class TrackedMemory(TaskMemory):
    """A task's memory in one run: everything that was read is a source of everything that is written after.

    A library that shows entries to a model and writes what the model makes of them does not say which of them it used.
    So the weakest of them counts, and an entry is never stronger than what the model saw.  Thread-safe.
    """

    def __init__(self, memory: Memory, verifier: Verifier, task: Task | Callable[[], Task], name: str) -> None:
        super().__init__(memory, verifier, task, name)
        self._read: dict[str, None] = {}
        self._withheld: set[tuple[str | None, str | bytes]] = set()  # and recorded

    def stamp_all(self, contents: Iterable[Any], *, sources: Sequence[str] = (), kind: Kind | None = None) -> list[str]:
        """Return the stamps of entries that the task writes at once; what was read is a source of each."""
        found = list(dict.fromkeys([*list(self._read), *sources]))
        while len(found) > MAX_SOURCES:  # a stamp over nothing stands for the stamps that it was derived from
            parts = [found[at : at + MAX_SOURCES] for at in range(0, len(found), MAX_SOURCES)]
            found = [TaskMemory.stamp_all(self, [""], sources=part)[0] for part in parts]
        return super().stamp_all(contents, sources=found, kind=kind)

    def trusted(self, entries: Iterable[MemoryEntry[_E]]) -> list[MemoryEntry[_E]]:
        """Return the entries that the task's agent may read; each that is withheld is recorded once."""
        found = [entry for entry in entries if _as_checked(entry) not in self._withheld or self.is_trusted(entry)]
        good = super().trusted(found)
        self._read.update((entry.stamp, None) for entry in good if entry.stamp is not None)
        self._withheld.update({_as_checked(entry) for entry in found} - {_as_checked(entry) for entry in good})
        return good


def open_task_memory(
    path: str | os.PathLike[str], task: Task | Callable[[], Task], name: str, marks: Sequence[str] = ()
) -> TaskMemory:
    """Return the memory of a service file, for a task.

    Args:
        path: The service file of the audience ``memory``.
        task: The task; or a function that returns the current one.
        name: The memory's name in the task's rules and in the records.
        marks: Warnings that a retrieval sets which returns what others may have written.  SPEC 21.3.

    Raises:
        SettingsError: The file is unusable, or has no memory key.
    """
    verifier = open_verifier(path)
    return TaskMemory(open_memory(path, verifier, marks), verifier, task, name)


def _as_checked(entry: MemoryEntry[Any]) -> tuple[str | None, str | bytes]:
    """Return an entry's stamp and content as they are checked; what can be read as neither is forged."""
    # No error: a writer of the memory could otherwise stop every retrieval with one such entry.
    try:
        content = content_of(entry.content)
    except SettingsError:
        return (None if entry.stamp is None else _NO_STAMP), b""
    return (entry.stamp if entry.stamp is None or isinstance(entry.stamp, str) else _NO_STAMP), content


def content_of(content: Any) -> str | bytes:
    """Return the content that a stamp is over: texts and bytes as they are, a JSON value as JSON with sorted members.

    Args:
        content: The content.

    Raises:
        SettingsError: It is no JSON value.
    """
    if isinstance(content, str | bytes):
        return content
    try:
        return _JSON.encode(content)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"the content of a memory's entry: expected a JSON value, got {type(content).__name__}"
        ) from error
