# SPDX-License-Identifier: Apache-2.0
"""Ids of used proofs and assertions: each is accepted once in a realm. CONTROL 1."""

import hashlib
import threading
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, select

from arx_caps.mint.db.database import Database, Repository
from arx_caps.mint.db.statement import CompiledStatement, insert_rows
from arx_caps.mint.db.tables import USED_JTI
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

PRUNE_MS: Final = 10_000  # how often expired ids are deleted
KEEP_MS: Final = 60_000  # after a proof's expiry, in case a clock is set back
_FIND: Final = CompiledStatement(select(USED_JTI.c.digest).where(USED_JTI.c.digest == bindparam("which")))
# Skips rows that another mint has locked: two that delete the same rows in another order would deadlock.
_OLD: Final = select(USED_JTI.c.digest).where(USED_JTI.c.until < bindparam("before")).with_for_update(skip_locked=True)
_PRUNE: Final = delete(USED_JTI).where(USED_JTI.c.digest.in_(_OLD))


class Used(NamedTuple):
    """An id that is used now.

    Attributes:
        kind: What it belongs to, such as ``proof``.
        digest: SHA-256 of kind, key and id, in hex.
        until: When it expires, in ms since the Unix epoch.
    """

    kind: str
    digest: str
    until: int

    def row(self) -> dict[str, Any]:
        """Return its row in the table of used ids."""
        return {"digest": self.digest, "until": self.until}


class ProofRepository(Repository):
    """The used ids."""

    _pruned_ms = _looked_ms = 0

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._here: dict[str, int] = {}
        self._looking = threading.Lock()

    def spend(self, *used: Used) -> None:
        """Use ids in a transaction of their own.

        Raises:
            GrantError: ``replayed``: the id was used before.
        """
        try:
            with self._database.write() as c:
                # The insert decides, not a query before it: of two calls with one id at the same moment, both would
                # find nothing.
                insert_rows(c, [(USED_JTI, each.row()) for each in used])
        except GrantError as error:  # the unique key
            raise replayed(used[-1]) from error

    def is_used(self, used: Used) -> bool:
        """Return whether an id was used before."""
        return self._database.exists(_FIND, which=used.digest)

    def spend_here(self, kind: str, kid: str, jti: str, until: int) -> None:
        """Use an id in this process's memory, without a write to the database.

        Args:
            kind: What the id belongs to.
            kid: The key that signed it.
            jti: The id.
            until: When it expires, in ms since the Unix epoch.

        Raises:
            GrantError: ``replayed``: this process has seen the id.
        """
        # For calls that are idempotent, such as a batch of records: a replay at another mint changes nothing, and a
        # write for each would cost a second sync of the disk.
        used, now = used_id(kind, kid, jti, until), now_ms()
        with self._looking:
            if used.digest in self._here:
                raise replayed(used)
            self._here[used.digest] = until
            if abs(now - self._looked_ms) > PRUNE_MS:
                self._looked_ms = now
                self._here = {digest: end for digest, end in self._here.items() if end >= now - KEEP_MS}

    def prune(self) -> None:
        """Delete expired ids, at most every ``PRUNE_MS``."""
        now = now_ms()
        # ``abs``: after a clock that was set back, pruning must not pause until the old time.
        if abs(now - self._pruned_ms) > PRUNE_MS:
            self._pruned_ms = now
            self._database.change(_PRUNE, {"before": now - KEEP_MS})


def used_id(kind: str, kid: str, jti: str, until: int) -> Used:
    """Return the id of a proof as its digest; kind, key and id are not stored."""
    # NUL separates the parts: without it two different triples could have one text. A jti from JSON may hold lone
    # surrogates, which plain UTF-8 refuses with an exception.
    text = f"{kind}\0{kid}\0{jti}".encode("utf-8", "surrogatepass")
    return Used(kind, hashlib.sha256(text).hexdigest(), until)


def replayed(used: Used) -> GrantError:
    """Return the refusal of an id that was used before."""
    return GrantError(f"this {used.kind} was used before; sign anew", code="replayed")
