# SPDX-License-Identifier: Apache-2.0
"""Calls that were done and may be repeated: what each of them made.  SPEC 22.4."""

import msgspec
from sqlalchemy import select

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.idempotency import Claim, Made, claimed
from arx_caps.mint.db.tables import REPEATS
from arx_verifier.errors import GrantError


class RepeatState(Database):
    """The calls with a key."""

    def made(self, claim: Claim) -> Made | None:
        """Return what a call made before, or None when it was not done yet.

        Raises:
            GrantError: ``idempotency_mismatch``: the key belongs to a call that asked for something else.
        """
        wanted = (REPEATS.c.caller == claim.caller, REPEATS.c.key == claim.key, REPEATS.c.until > claim.now)
        row = self.row(select(REPEATS).where(*wanted))
        if row is None:
            return None
        if row["digest"] != claim.digest:
            raise GrantError(
                "this Idempotency-Key was used for another call; take a fresh one for each thing",
                code="idempotency_mismatch",
            )
        recipe = None if row["recipe"] is None else msgspec.json.decode(row["recipe"])
        return Made(msgspec.json.decode(row["facts"]), recipe)

    def require_first(self) -> None:
        """Require that what this call asks for was not done meanwhile by another one with its key.

        For a step that a repeat must not take once the first call is done: it would end what that has given.

        Raises:
            GrantError: ``conflict``: it was.
        """
        claim = claimed()
        if claim is not None and self.made(claim) is not None:
            raise GrantError("this call was done meanwhile", code="conflict")
