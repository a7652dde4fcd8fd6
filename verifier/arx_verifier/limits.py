# SPDX-License-Identifier: Apache-2.0
"""Limits on the work and the memory that one chain may cost.  SPEC 7.4, 14."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

# A holder attenuates a token as often and as widely as its text has room for, and the verifier caches every token that
# it accepted.  So caches are charged by the memory that an entry takes, not by the length of its text.

# Constraint tests times characters of arguments.
MAX_WORK: Final = 1 << 24  # bounds the work of a call; one above it is refused untested
MAX_NESTING: Final = 4  # such as an order, its lines, a line, its product
MAX_EACH: Final = 1024  # every test inside visits each of them
FREE_TESTS: Final = 32  # with no more tests, the arguments' size is not measured
MAX_TOOLS: Final = 64  # cached tools of one chain; with a rule `*` a holder could otherwise fill memory with names
# Of a credential: of the token and its discharges.
MAX_ONCE: Final = 8  # each is remembered for a day
MAX_POOLS: Final = 8  # each is read and written by every call
MAX_ROWS: Final = 32  # about marks; each that names the tool is read by its call
MAX_KEPT_FAILURES: Final = 4  # cached failures of one tool's refusal
MAX_TOOL_PARTS: Final = 2048  # rules and operands of a chain's cached tools together

# Measured with tracemalloc, beside the text: rules, operands, networks and members take 230 to 430 bytes each.
_CHAIN_BYTES: Final = 3000
_PART_BYTES: Final = 400
_LEVEL_PARTS: Final = 3  # a level of `fields` or `each` takes about 1 kB
_FREE_PARTS: Final = 32  # included in _CHAIN_BYTES
THIRD_PARTY_PARTS: Final = 8  # of a third-party caveat, which is cached whole and shares nothing

_K = TypeVar("_K")
_V = TypeVar("_V")


class Kept(dict[_K, _V]):
    """A process-wide cache with a bound on its size; it is emptied when an entry would exceed the bound.

    Args:
        most: Parts that all entries may have together.
        each: Parts that are counted for the key and slot of each entry, in addition to those of its value.
        made_of: A cache whose values refer to this one's; it is emptied together with this one.
    """

    # No lock, because a forked child could find it taken.  If two threads add an entry at once, one may stay uncounted
    # until the cache is emptied the next time.
    def __init__(self, most: int, each: int, made_of: "Kept[Any, Any] | None" = None) -> None:
        super().__init__()
        self._most, self._each, self._made_of, self.parts = most, each, made_of, 0

    def keep(self, key: _K, value: _V, parts: int) -> None:
        """Add an entry.

        Args:
            key: The key.
            value: The value.
            parts: The number of its parts.
        """
        parts += self._each
        if self.parts + parts > self._most:
            self.clear()
        self[key] = value
        self.parts += parts

    def clear(self) -> None:
        """Remove all entries."""
        super().clear()
        self.parts = 0
        if self._made_of is not None:
            self._made_of.clear()


def parts_of(packets: Sequence[object]) -> int:
    """Return an upper bound of the number of a chain's parts: rules, operands, networks and members."""
    return sum([parts_in(packet) if isinstance(packet, bytes) else 1 for packet in packets])


def parts_in(packet: bytes) -> int:
    """Return an upper bound of the number of a caveat's parts."""
    return 1 + packet.count(b",") + nested_parts(packet)  # each part is followed by a comma


def nested_parts(written: bytes) -> int:
    """Return how many parts the levels of ``fields`` and ``each`` count for, which no comma may follow."""
    return _LEVEL_PARTS * (written.count(b'"fields":') + written.count(b'"each":'))


def cost_of(key: str, parts: int) -> int:
    """Return the memory that a cached chain takes, bytes.

    Args:
        key: The text that is its key in the cache.
        parts: The number of its parts.
    """
    if parts <= _FREE_PARTS:
        return len(key) + _CHAIN_BYTES
    return len(key) + _CHAIN_BYTES + _PART_BYTES * (parts - _FREE_PARTS)


def tools_for(parts: int) -> int:
    """Return the number of tools for which a chain may cache its rules.

    Args:
        parts: The number of the chain's parts.
    """
    return max(1, min(MAX_TOOLS, MAX_TOOL_PARTS // max(1, parts)))


def size_of(args: Mapping[str, Any]) -> int:
    """Return how many characters and items the constraints of a call may have to read, from above."""
    total = 0
    level: list[Any] = [args]
    while level:  # no recursion: a caller chooses how deep arguments nest
        inner: list[Any] = []
        for container in level:
            total += len(container)
            for value in container.values() if isinstance(container, Mapping) else container:
                if isinstance(value, str):
                    total += len(value)
                elif isinstance(value, list | tuple | dict):
                    inner.append(value)
        level = inner
    return total
