# SPDX-License-Identifier: Apache-2.0
"""The memory of an agent's program, with a verifier in memory.  SPEC 18."""

import os
import time
from typing import Any

import pytest

from arx_caps.agent import Task
from arx_caps.memory import MemoryEntry, TaskMemory, content_of
from arx_verifier.clock import now_ms
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AccessError, ProofError, SettingsError, StoreError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import MemoryKeys
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.agent.holding import bundle, token
from tests.support import INCARNATION, verifier


def memory_of(task: Task, start: int) -> TaskMemory:
    """The memory of a task, at a service that began then."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    judge = verifier(audience="memory", epochs=epochs, nonces=MemoryNonces(now_ms=start))
    return TaskMemory(Memory(MemoryKeys({"memory.1": os.urandom(32)}), epochs), judge, task, "notes")


def deep() -> list[Any]:
    """A list in a list, and so on."""
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.spec("8.3")
def test_a_call_from_before_the_service_started_is_signed_anew_once() -> None:
    """
    A program that opens its memory and writes at once is not refused; one whose clock is behind is.
    """
    start = time.time_ns() // 1_000_000
    held = token("memory", Rule(tool="memory.*", open=True), iat=start - 9_000, exp=start + 60_000)
    signed = [start - 1, start, start - 1, start - 1]
    task = Task(bundle({"memory": held}), now=lambda: signed.pop(0))
    notes = memory_of(task, start)
    stamp = notes.stamp("x")
    assert signed == [start - 1] * 2
    assert notes.is_trusted(MemoryEntry("x", "x", stamp))
    with pytest.raises(ProofError):
        notes.stamp("x")
    assert signed == []


@pytest.mark.spec("18.5")
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(
    ("content", "stamp"),
    [(object(), None), ({1: object()}, "arxm1_"), ({"a": "\ud800"}, None), ("x", []), ("x", {"a": 1}), (deep(), None)],
    ids=["no JSON", "no text as name", "half a character", "list as stamp", "object as stamp", "too deep"],
)
def test_an_entry_that_cannot_be_read_is_withheld_alone(content: Any, stamp: Any, tracked: bool) -> None:
    """
    An entry that another client put into the store itself hides no other.
    """
    at = time.time_ns() // 1_000_000
    held = token("memory", Rule(tool="memory.*", open=True), iat=at - 9_000, exp=at + 60_000)
    notes = memory_of(Task(bundle({"memory": held})), at - 9_000)
    read = notes.tracked() if tracked else notes
    good = MemoryEntry("good", "x", notes.stamp("x"))
    entry: MemoryEntry[str] = MemoryEntry("strange", content, stamp)
    assert read.trusted([entry, good]) == read.trusted([entry, good]) == [good]
    assert not read.is_trusted(entry)


@pytest.mark.spec("18.2")
@pytest.mark.parametrize(
    "content", [object(), {"a": "\ud800"}, deep()], ids=["no JSON", "half a character", "too deep"]
)
def test_what_is_no_json_value_is_not_stamped(content: Any) -> None:
    """
    Its reader could not compare it.
    """
    with pytest.raises(SettingsError, match="expected a JSON value"):
        content_of(content)


@pytest.mark.spec("21.3")
@pytest.mark.parametrize("entry", ["own", "user", "tool", "derived", "source", "agent", "subject"])
def test_a_retrieval_of_what_others_may_have_written_sets_a_warning(entry: str) -> None:
    """
    Of each kind and writer but the reader's own; the next call that the warning names is refused.
    """
    realm = UnsafeTestRealm("memory")
    memory = Memory(MemoryKeys({"memory.1": os.urandom(32)}), realm.epochs, marks=["untrusted", "absent"])
    rows = {"after": [[["untrusted"], ["mail.send"]]]}
    reader = realm.caller(Rule(tool="*"), marks=rows, subject=("idp", "ann"))

    def granted(caller: UnsafeCaller, tool: str = "memory.read") -> Grant:
        return realm.verifier.verify(caller.token(tool), AccessRequest(tool, {}, now_ms()))

    writer = granted(reader)
    if entry == "agent":
        writer = granted(reader.delegate("test/other"))
    elif entry == "subject":
        writer = granted(realm.caller(Rule(tool="*"), subject=("idp", "bob")))
    kind: Any = {"user": "user", "tool": "tool", "derived": "derived"}.get(entry, "agent")
    sources = [memory.stamp(writer, "y", kind="user")] if entry == "source" else []
    found = [("x", memory.stamp(writer, "x", kind=kind, sources=sources), "x")]
    assert memory.trusted([("forged", "arxm1_", "x")], granted(reader)) == []
    granted(reader, "mail.send")
    assert memory.trusted(found, granted(reader)) == ["x"]
    if entry in ("own", "user"):
        granted(reader, "mail.send")
        return
    with pytest.raises(AccessError) as error:
        granted(reader, "mail.send")
    assert error.value.code == "after_mark"
    assert memory.trusted(found, granted(realm.caller(Rule(tool="*")))) == ["x"]  # whose token has no row


@pytest.mark.spec("21.3")
def test_without_a_ledger_nothing_of_others_is_returned() -> None:
    """
    A warning that is not set forbids nothing.
    """
    realm = UnsafeTestRealm("memory")
    memory = Memory(MemoryKeys({"memory.1": os.urandom(32)}), realm.epochs, marks=["untrusted"])
    caller = realm.caller(Rule(tool="*"), marks={"after": [[["untrusted"], ["mail.send"]]]})
    bare = Verifier(audience="memory", keys=realm.verifier.keys, epochs=realm.epochs, decisions=InMemoryDecisions())
    grant = bare.verify(caller.token("memory.read"), AccessRequest("memory.read", {}, now_ms()))
    found = [("x", memory.stamp(grant, "x", kind="tool"), "x")]
    with pytest.raises(StoreError):
        memory.trusted(found, grant)
