# SPDX-License-Identifier: Apache-2.0
"""Calls with an idempotency key: each is done once, at all mints of a realm. CONTROL 4.4."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, insert
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import REPEATS
from arx_verifier.errors import GrantError


class _RepeatRow(msgspec.Struct, frozen=True):
    digest: str
    facts: dict[str, Any]
    recipe: dict[str, Any] | None


_ROWS: Final = RowReader(_RepeatRow, REPEATS)
KEPT_MS: Final = 24 * 3600 * 1000
_FIND: Final = CompiledStatement(
    _ROWS.select().where(
        REPEATS.c.caller == bindparam("whose"), REPEATS.c.key == bindparam("which"), REPEATS.c.until > bindparam("now")
    )
)
_FORGET: Final = CompiledStatement(delete(REPEATS).where(REPEATS.c.until <= bindparam("now")))
_ADD: Final = CompiledStatement(insert(REPEATS))


class Claim(NamedTuple):
    """A call with an idempotency key.

    Attributes:
        caller: The caller. Keys of different callers are independent.
        key: The idempotency key, which the caller chose.
        digest: SHA-256 of the request, in hex.
        now: The time, in ms since the Unix epoch.
        makes: The kind of the event with which the call is done.
    """

    caller: str
    key: str
    digest: str
    now: int
    makes: str


class Made(NamedTuple):
    """What a call with an idempotency key made.

    Attributes:
        facts: The facts of its event, which name the thing.
        recipe: The content of its tokens, unsigned; None if it has none.
    """

    facts: dict[str, Any]
    recipe: dict[str, Any] | None


class RepeatRepository(Repository):
    """The calls with an idempotency key."""

    def find(self, claim: Claim) -> Made | None:
        """Return what a call made before, or None if it was not done yet.

        Raises:
            GrantError: ``idempotency_mismatch``: the caller used the key for another request.
        """
        row = self._database.first(_ROWS, _FIND, whose=claim.caller, which=claim.key, now=claim.now)
        if row is None:
            return None
        # An answer to another request would look like success.
        if row.digest != claim.digest:
            raise GrantError(
                "this Idempotency-Key was used for another request: use a new one for each request",
                code="idempotency_mismatch",
            )
        return Made(row.facts, row.recipe)

    def add(self, c: Connection, claim: Claim, what: Event, recipe: Mapping[str, Any] | None) -> None:
        """Store a key in the transaction that makes its thing, which fails if the key is stored.

        Args:
            c: The transaction.
            claim: The call.
            what: The event of the thing.
            recipe: The content of its tokens, or None.
        """
        # First: an expired row of the same key would fail the insert.
        _FORGET.run(c, {"now": claim.now})
        row = {"caller": claim.caller, "key": claim.key, "digest": claim.digest, "until": claim.now + KEPT_MS}
        row |= {"facts": what.body().decode()}
        _ADD.run(c, {**row, "recipe": None if recipe is None else msgspec.json.encode(recipe).decode()})
