# SPDX-License-Identifier: Apache-2.0
"""A base for objects that stay one however often they are copied: unchangeable, or holding connections or keys."""

from typing import Any, Self


class Shared:
    """A base whose copies are the object itself, and which is not pickled."""

    __slots__ = ()

    # Agent frameworks copy their context for each step, deeply.  A copy would hold a second set of keys and
    # connections, and its renewals would be unknown to the original.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    # A pickle would be a copy of what it holds, secrets included.
    def __reduce__(self) -> tuple[object, ...]:
        name = type(self).__name__
        raise TypeError(f"{name}: not pickled, for it holds secrets; pass on the encode() of a task or an approval")
