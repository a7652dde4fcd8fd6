# SPDX-License-Identifier: Apache-2.0
"""Calls with an idempotency key that were done: each once, at every mint of the realm.  CONTROL 4.4."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import REPEATS
from arx_verifier.errors import GrantError

KEPT_MS: Final = 24 * 3600 * 1000
_FIND: Final = select(REPEATS).where(
    REPEATS.c.caller == bindparam("whose"), REPEATS.c.key == bindparam("which"), REPEATS.c.until > bindparam("now")
)
_FORGET: Final = delete(REPEATS).where(REPEATS.c.until <= bindparam("now"))
_ADD: Final = insert(REPEATS)


class Claim(NamedTuple):
    """One call that is to be done once.

    Attributes:
        caller: Whose key it is; one caller's keys are nothing to another.
        key: What the caller chose.
        digest: SHA-256 of what is asked for, in hex.
        now: The time, ms.
        makes: The kind of the event with which it is done.
    """

    caller: str
    key: str
    digest: str
    now: int
    makes: str


class Made(NamedTuple):
    """What a call made, when it was done.

    Attributes:
        facts: The facts of its event, which name it.
        recipe: What its tokens say; None where it has none.
    """

    facts: dict[str, Any]
    recipe: dict[str, Any] | None


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

    def add(self, c: Connection, claim: Claim, what: Event, recipe: Mapping[str, Any] | None) -> None:
        """Write a call down in the transaction that makes its thing; a second one of that key fails it.

        Args:
            c: The transaction.
            claim: The call.
            what: The event of the thing.
            recipe: What its tokens say, if it has any.
        """
        c.execute(_FORGET, {"now": claim.now})
        row = {"caller": claim.caller, "key": claim.key, "digest": claim.digest, "until": claim.now + KEPT_MS}
        row |= {"facts": what.body().decode()}
        c.execute(_ADD, {**row, "recipe": None if recipe is None else msgspec.json.encode(recipe).decode()})
