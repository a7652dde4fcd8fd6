# SPDX-License-Identifier: Apache-2.0
"""Ids of proofs and assertions that were used: each is good once, at every mint of the realm.  SPEC 16."""

import hashlib
from typing import Final

from sqlalchemy import delete, insert, select

from arx_caps.mint.database import Database, now_ms
from arx_caps.mint.tables import USED_JTI
from arx_verifier.errors import GrantError

PRUNE_MS: Final = 10_000  # how often used proofs are looked through
KEEP_MS: Final = 60_000  # beyond a proof's end, for a clock that is set back


class ProofState(Database):
    """The used ids."""

    _pruned_ms = 0

    def spend(self, kind: str, kid: str, jti: str, until: int) -> None:
        """Use a proof's or an assertion's id, once.

        Args:
            kind: What it belongs to.
            kid: The key that signed it: nobody can use up another's ids.
            jti: The id.
            until: From when on it would be refused as too old, ms.

        Raises:
            GrantError: ``replayed``.
        """
        digest = hashlib.sha256(f"{kind}\0{kid}\0{jti}".encode("utf-8", "surrogatepass")).hexdigest()
        now = now_ms()
        try:
            with self.write() as c:
                c.execute(insert(USED_JTI).values(digest=digest, until=until))
                if abs(now - self._pruned_ms) > PRUNE_MS:
                    # What another mint is at is passed over: two that wait for each other's rows would both fail.
                    old = select(USED_JTI.c.digest).where(USED_JTI.c.until < now - KEEP_MS)
                    c.execute(delete(USED_JTI).where(USED_JTI.c.digest.in_(old.with_for_update(skip_locked=True))))
                    self._pruned_ms = now
        except GrantError as error:  # the unique key
            raise GrantError(f"this {kind} was used before; sign anew", code="replayed") from error
