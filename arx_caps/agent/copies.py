# SPDX-License-Identifier: Apache-2.0
"""A base for objects that stay one however often they are copied: unchangeable, or holding connections or keys."""

from typing import Any, Self


class Shared:
    """A base whose copies are the object itself.

    Agent frameworks copy the context that they are given, deeply and for each step; a task in it stays that task.
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
