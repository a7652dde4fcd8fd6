# SPDX-License-Identifier: Apache-2.0
"""Spend a call's proof in the transaction that does what it asks for: one write to the disk, not two.  SPEC 16.

A proof is spent before its call is answered, whatever the answer.  Where a call changes nothing but the database, and
that in one transaction, the two can be one: a second call with that proof fails it.  What is left at the end, because
the call was refused before, is spent by itself.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final, NamedTuple

from sqlalchemy import insert
from sqlalchemy.engine import Connection

from arx_caps.mint.db.tables import USED_JTI


class Used(NamedTuple):
    """An id that is used now.

    Attributes:
        kind: What it belongs to.
        digest: Names it.
        until: From when on it would be refused as too old, ms.
    """

    kind: str
    digest: str
    until: int


_PENDING: Final[ContextVar[list[Used] | None]] = ContextVar("pending", default=None)


@contextlib.contextmanager
def spending_together(spend: Callable[[Used], None]) -> Iterator[None]:
    """Have the ids that are used meanwhile, in this thread, spent with the change that is made, and at the latest now.

    Args:
        spend: Spends one that no change took along; what it raises is the answer.
    """
    pending: list[Used] = []
    token = _PENDING.set(pending)
    try:
        yield
    finally:
        _PENDING.reset(token)
        for used in pending:
            spend(used)


def put_off(used: Used) -> bool:
    """Leave an id to the change that is to come; False when none is."""
    pending = _PENDING.get()
    if pending is None:
        return False
    pending.append(used)
    return True


def spend_in(c: Connection) -> None:
    """Spend what was put off, in the transaction that makes the change; one that was used before fails it."""
    for used in _PENDING.get() or ():
        c.execute(insert(USED_JTI).values(digest=used.digest, until=used.until))


def spent() -> None:
    """Note that the change was made."""
    pending = _PENDING.get()
    if pending:
        pending.clear()
