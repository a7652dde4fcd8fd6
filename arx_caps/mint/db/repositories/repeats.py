# SPDX-License-Identifier: Apache-2.0
"""Calls with an idempotency key that were done: each once, at every mint of the realm.  SPEC 22.4."""

from typing import Final

import msgspec
from sqlalchemy import bindparam, select

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.idempotency import Claim, Made, claimed
from arx_caps.mint.db.tables import REPEATS
from arx_verifier.errors import GrantError

_FIND: Final = select(REPEATS).where(
    REPEATS.c.caller == bindparam("whose"), REPEATS.c.key == bindparam("which"), REPEATS.c.until > bindparam("now")
)


class Repeats:
    """The calls with a key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, claim: Claim) -> Made | None:
        """Return what a call made before, or None when it was not done yet.

        Raises:
            GrantError: ``idempotency_mismatch``: the key belongs to a call that asked for something else.
        """
        row = self._database.row(_FIND, whose=claim.caller, which=claim.key, now=claim.now)
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
        if claim is not None and self.find(claim) is not None:
            raise GrantError("this call was done meanwhile", code="conflict")
