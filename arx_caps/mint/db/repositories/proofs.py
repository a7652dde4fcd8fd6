# SPDX-License-Identifier: Apache-2.0
"""Ids of used proofs and assertions: each once, at every mint of the realm.  CONTROL 1."""

import hashlib
import threading
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Database, now_ms
from arx_caps.mint.db.tables import USED_JTI
from arx_verifier.errors import GrantError

PRUNE_MS: Final = 10_000  # how often used proofs are looked through
KEEP_MS: Final = 60_000  # beyond a proof's end, for a clock that is set back
_FIND: Final = select(USED_JTI.c.digest).where(USED_JTI.c.digest == bindparam("which"))
_ADD: Final = insert(USED_JTI)
# What another mint is at is passed over: two that wait for each other's rows would both fail.
_OLD: Final = select(USED_JTI.c.digest).where(USED_JTI.c.until < bindparam("before")).with_for_update(skip_locked=True)
_PRUNE: Final = delete(USED_JTI).where(USED_JTI.c.digest.in_(_OLD))


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


class Proofs:
    """The used ids."""

    _pruned_ms = _looked_ms = 0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._here: dict[str, int] = {}
        self._looking = threading.Lock()

    def spend(self, used: Used) -> None:
        """Use an id in a transaction of its own.

        Raises:
            GrantError: ``replayed``.
        """
        try:
            with self._database.write() as c:
                self.add(c, used)
        except GrantError as error:  # the unique key
            raise replayed(used) from error

    def add(self, c: Connection, used: Used) -> None:
        """Use an id in a transaction that is open, which fails where it was used before."""
        c.execute(_ADD, {"digest": used.digest, "until": used.until})

    def is_used(self, used: Used) -> bool:
        """Tell whether an id was used before."""
        return self._database.row(_FIND, which=used.digest) is not None

    def spend_here(self, kind: str, kid: str, jti: str, until: int) -> None:
        """Use an id, once for this process and without a write: for what may come again and then does nothing new.

        Args:
            kind: What it belongs to.
            kid: The key that signed it.
            jti: The id.
            until: From when on it would be refused as too old, ms.

        Raises:
            GrantError: ``replayed``.
        """
        used, now = used_id(kind, kid, jti, until), now_ms()
        with self._looking:
            if used.digest in self._here:
                raise replayed(used)
            self._here[used.digest] = until
            if abs(now - self._looked_ms) > PRUNE_MS:
                self._looked_ms = now
                self._here = {digest: end for digest, end in self._here.items() if end >= now - KEEP_MS}

    def prune(self) -> None:
        """Forget, now and then, the ids of what would be refused as too old."""
        now = now_ms()
        if abs(now - self._pruned_ms) > PRUNE_MS:
            self._pruned_ms = now
            with self._database.write() as c:
                c.execute(_PRUNE, {"before": now - KEEP_MS})


def used_id(kind: str, kid: str, jti: str, until: int) -> Used:
    """Name an id that is used; its parts are kept nowhere."""
    text = f"{kind}\0{kid}\0{jti}".encode("utf-8", "surrogatepass")
    return Used(kind, hashlib.sha256(text).hexdigest(), until)


def replayed(used: Used) -> GrantError:
    """Make the refusal of an id that was used before."""
    return GrantError(f"this {used.kind} was used before; sign anew", code="replayed")
