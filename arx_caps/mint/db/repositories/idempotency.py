# SPDX-License-Identifier: Apache-2.0
"""Calls with an idempotency key, and ids of used proofs: each once, at every mint of the realm.  SPEC 16, 22.4."""

import hashlib
import threading
from typing import Final

import msgspec
from sqlalchemy import delete, insert, select

from arx_caps.mint.db.database import Database, now_ms
from arx_caps.mint.db.idempotency import Claim, Made, Used, claimed, put_off
from arx_caps.mint.db.tables import REPEATS, USED_JTI
from arx_verifier.errors import GrantError

PRUNE_MS: Final = 10_000  # how often used proofs are looked through
KEEP_MS: Final = 60_000  # beyond a proof's end, for a clock that is set back


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


class ProofState(Database):
    """The used ids."""

    _pruned_ms = _looked_ms = 0

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        super().__init__(url, writer=writer)
        self._here: dict[str, int] = {}
        self._looking = threading.Lock()

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
        used = _used(kind, kid, jti, until)
        if not put_off(used):
            self.spend_now(used)
        elif self.row(select(USED_JTI.c.digest).where(USED_JTI.c.digest == used.digest)) is not None:
            raise _replayed(used)  # told at once, before anything is done for who asks; else the change would tell
        self._prune()

    def spend_now(self, used: Used) -> None:
        """Use an id in a transaction of its own.

        Raises:
            GrantError: ``replayed``.
        """
        try:
            with self.write() as c:
                c.execute(insert(USED_JTI).values(digest=used.digest, until=used.until))
        except GrantError as error:  # the unique key
            raise _replayed(used) from error

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
        used, now = _used(kind, kid, jti, until), now_ms()
        with self._looking:
            if used.digest in self._here:
                raise _replayed(used)
            self._here[used.digest] = until
            if abs(now - self._looked_ms) > PRUNE_MS:
                self._looked_ms = now
                self._here = {digest: end for digest, end in self._here.items() if end >= now - KEEP_MS}

    def _prune(self) -> None:
        now = now_ms()
        if abs(now - self._pruned_ms) > PRUNE_MS:
            self._pruned_ms = now
            # What another mint is at is passed over: two that wait for each other's rows would both fail.
            old = select(USED_JTI.c.digest).where(USED_JTI.c.until < now - KEEP_MS)
            with self.write() as c:
                c.execute(delete(USED_JTI).where(USED_JTI.c.digest.in_(old.with_for_update(skip_locked=True))))


def _used(kind: str, kid: str, jti: str, until: int) -> Used:
    text = f"{kind}\0{kid}\0{jti}".encode("utf-8", "surrogatepass")
    return Used(kind, hashlib.sha256(text).hexdigest(), until)


def _replayed(used: Used) -> GrantError:
    return GrantError(f"this {used.kind} was used before; sign anew", code="replayed")
