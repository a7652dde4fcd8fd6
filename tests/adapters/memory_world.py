# SPDX-License-Identifier: Apache-2.0
"""A world for adapters of memories: a real mint and store, a memory service, and agents with tasks that use it."""

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arx_caps.agent import Agent
from arx_caps.embedded import EmbeddedValkey
from arx_caps.memory import TaskMemory
from arx_verifier import Verifier
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.memory.file_keys import open_memory
from arx_verifier.memory.memory import Memory
from tests.agent.live import LiveMint, live_mint
from tests.house.pages import ROOT, blocks
from tests.servers import LONG_LEASE_MS, begun_store, free_ports, until

PAGE: Final = blocks((ROOT / "docs" / "memory.md").read_text(encoding="utf-8"))
SESSION: Final = '[session]\nagents = ["acme/**"]\nttl = "1h"\n'
POLICY: Final = SESSION + next(block.text for block in PAGE if block.language == "toml")
BAD, GOOD = "acme/bad", "acme/good"
DIMENSIONS: Final = 64


class MemoryWorld:
    """The mint, the memory service, and the operator.

    Attributes:
        decisions: What the memory service recorded.
    """

    def __init__(self, mint: LiveMint, verifier: Verifier, memory: Memory, decisions: InMemoryDecisions) -> None:
        self._mint, self._verifier, self._memory, self.decisions = mint, verifier, memory, decisions
        self._open, self._keys, self._killed = contextlib.ExitStack(), dict[str, Path](), list[str]()

    def notes(self, path: str, *tools: str) -> TaskMemory:
        """Return the memory of an agent with a new session and a new task, which may have these tools alone."""
        if path not in self._keys:
            self._keys[path] = self._mint.enrol(path)
        agent = self._open.enter_context(Agent.from_key_file(self._keys[path]))
        session = self._open.enter_context(agent.open_session(purpose="a test"))
        task = self._open.enter_context(session.start_task("remember"))
        held = task.attenuate(tools=tools) if tools else task
        return TaskMemory(self._memory, self._verifier, held, "notes")

    def kill(self, target: str) -> None:
        """End what is named, until the memory service has confirmed it."""
        body = {"targets": [target], "reason": "a test"}
        self._killed.append(target)
        until(lambda: self._mint.operator("POST", "/v1/kills", body)["status"] == "confirmed")

    def thaw(self, target: str) -> None:
        """Let what was killed work again; what it wrote before stays tainted."""
        self._mint.operator("POST", "/v1/freezes/thaw", {"targets": [target], "reason": "a test"})

    def forget(self) -> None:
        """Thaw what a test killed, as one that failed left it too, and forget what was recorded."""
        while self._killed:
            self.thaw(self._killed.pop())
        self.decisions.decisions.clear()

    def withheld(self) -> list[str]:
        """Return what the records say that was withheld, without ids: ``2 tainted by agent:acme/bad``."""
        records: list[Decision] = [each for each in self.decisions.decisions if each.code == "withheld"]
        found = [str(failure) for record in records for failure in record.failures]
        return [re.sub(r".*got (\d+ \w+(?: by \S*\w)?).*", r"\1", each) for each in found]

    def close(self) -> None:
        """Close the agents' tasks and sessions."""
        with contextlib.suppress(Exception):  # a killed session is not ended in order
            self._open.close()


@contextlib.contextmanager
def memory_world(folder: Path) -> Iterator[MemoryWorld]:
    """Run all of it.

    Args:
        folder: For the realm and for files.
    """
    decisions, (port,) = InMemoryDecisions(), free_ports(1)
    with (
        EmbeddedValkey(folder / "store") as store,
        begun_store(store.url, "desk", lease_ms=LONG_LEASE_MS),
        live_mint(folder, store_url=store.url, name="desk", port=port, policy=POLICY) as mint,
        mint.service("memory", decisions=decisions) as verifier,
    ):
        (file,) = folder.glob("memory-*.json")
        world = MemoryWorld(mint, verifier, open_memory(file, verifier), decisions)
        with contextlib.closing(world):
            yield world


def page_block() -> str:
    """Return the program of docs/adapters/mem0.md."""
    page = blocks((ROOT / "docs" / "adapters" / "mem0.md").read_text(encoding="utf-8"))
    return next(block.text for block in page if "arx_caps.integrations.mem0 import" in block.text)


def embed(text: str) -> list[float]:
    """Return a vector of a text in which texts with the same words are near to each other."""
    found = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        found[hashlib.sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    size = math.hypot(*found) or 1.0
    return [value / size for value in found] if any(found) else [1.0, *found[1:]]
