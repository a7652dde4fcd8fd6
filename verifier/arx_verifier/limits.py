# SPDX-License-Identifier: Apache-2.0
"""What one chain may cost in work and in memory.  SPEC 7.4, 14.

Whoever holds a token attenuates it as often and as widely as its text has room for, and every attenuated token is kept
once it was accepted.  So what is kept is charged by what it takes, and not by the length of its text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

MAX_WORK: Final = 1 << 24  # constraint tests times characters of arguments; above it the call is refused undone
FREE_TESTS: Final = 32  # below this many tests the arguments' size is not even looked at
MAX_TOOLS: Final = 64  # gathered tools of one chain; a rule `*` would otherwise let a holder fill memory with names
MAX_ONCE: Final = 8  # of a credential; each is remembered for a day
MAX_KEPT_FAILURES: Final = 4  # of the refusal of one tool that a chain keeps
MAX_TOOL_PARTS: Final = 2048  # rules and operands in all of these together

# Measured with tracemalloc, beside the text: rules, operands, networks and members take 230 to 430 bytes each.
_CHAIN_BYTES: Final = 3000
_PART_BYTES: Final = 400
_FREE_PARTS: Final = 32  # what the first number has room for
THIRD_PARTY_PARTS: Final = 8  # of a third party's caveat: it is kept as it is, and nothing of it is shared

_K = TypeVar("_K")
_V = TypeVar("_V")


class Kept(dict[_K, _V]):
    """What a process keeps for all tokens, whoever holds them: emptied when it would take more than it may.

    It has no lock, which a forked child could find taken: of two threads that keep something at once one may go
    uncounted, until all is forgotten the next time.

    Args:
        most: Parts that all entries may have together.
        each: Parts that an entry has beside those that are said of it, for its key and its place.
        made_of: What is made of its entries, and would hold them when they are forgotten here.
    """

    def __init__(self, most: int, each: int, made_of: "Kept[Any, Any] | None" = None) -> None:
        super().__init__()
        self._most, self._each, self._made_of, self.parts = most, each, made_of, 0

    def keep(self, key: _K, value: _V, parts: int) -> None:
        """Keep an entry that has so many parts."""
        parts += self._each
        if self.parts + parts > self._most:
            self.clear()
        self[key] = value
        self.parts += parts

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self.parts = 0
        if self._made_of is not None:
            self._made_of.clear()


def parts_of(packets: Sequence[object]) -> int:
    """Count what a chain is made of, from above: each rule, operand, network and member has a comma behind it."""
    return len(packets) + sum([packet.count(b",") for packet in packets if isinstance(packet, bytes)])


def cost_of(key: str, parts: int) -> int:
    """Return the bytes that a chain of so many parts takes in a cache, under the text that it is found by."""
    if parts <= _FREE_PARTS:
        return len(key) + _CHAIN_BYTES
    return len(key) + _CHAIN_BYTES + _PART_BYTES * (parts - _FREE_PARTS)


def tools_for(parts: int) -> int:
    """Return for how many tools a chain of so many parts may keep its rules gathered."""
    return max(1, min(MAX_TOOLS, MAX_TOOL_PARTS // max(1, parts)))


def size_of(args: Mapping[str, Any]) -> int:
    """Count the characters and items that constraints could have to look at."""
    total = 0
    for value in args.values():
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, list | tuple):
            total += sum(len(item) if isinstance(item, str) else 1 for item in value)
    return total + len(args)
