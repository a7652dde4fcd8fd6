# SPDX-License-Identifier: Apache-2.0
"""Test the members of an object and the items of a list.  SPEC 7.2.

``constraint`` compiles the tests of each member and item; here they are applied to a value.
"""

from collections.abc import Sequence
from typing import Any

from arx_verifier.constraints.scalars import ABSENT, Predicate, Test
from arx_verifier.limits import MAX_EACH


def is_object(value: Any) -> bool:
    """Return whether *value* is a JSON object."""
    return type(value) is dict


def is_list(value: Any) -> bool:
    """Return whether *value* is a list."""
    return type(value) is list


def is_short_list(value: Any) -> bool:
    """Return whether *value* is a list that ``each`` takes: each of its items costs more than an item of ``subset``."""
    return type(value) is list and len(value) <= MAX_EACH


def has_members(tests: Sequence[tuple[str, Predicate]], *, closed: bool) -> Test:
    """Return the test: the value is an object whose members pass their tests.

    Args:
        tests: A predicate for each member; an absent member is tested as ``ABSENT``.
        closed: Whether other members are refused.
    """
    names = frozenset([name for name, _ in tests])

    def holds(value: Any) -> bool:
        if type(value) is not dict or (closed and not value.keys() <= names):
            return False
        return all(member_holds(value.get(name, ABSENT)) for name, member_holds in tests)

    return is_object, holds


def each_holds(test: Predicate) -> Test:
    """Return the test: the value is a list, and every item passes one test; an empty list does."""
    return is_short_list, lambda value: is_short_list(value) and all(map(test, value))


def items_hold(tests: Sequence[Predicate]) -> Test:
    """Return the test: the value is a list of as many items as there are tests, and each item passes its own."""
    wanted = len(tests)

    def holds(value: Any) -> bool:
        if type(value) is not list or len(value) != wanted:
            return False
        return all(test(item) for test, item in zip(tests, value, strict=True))

    return is_list, holds
