# SPDX-License-Identifier: Apache-2.0
"""Operators who are signed in to the console: one row from the link of a sign-in to its end.  CONTROL 6."""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import CONSOLE_SESSIONS, ConsoleSessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms

CONSOLE_SESSION_ROWS: Final = RowReader(ConsoleSessionRow, CONSOLE_SESSIONS)
_T: Final = CONSOLE_SESSIONS.c
_ADD: Final = insert(CONSOLE_SESSIONS)
_SIGN_IN: Final = update(CONSOLE_SESSIONS).where(
    _T.secret == bindparam("link"), _T.signed_in_at.is_(None), _T.until > bindparam("now")
)
_USE: Final = update(CONSOLE_SESSIONS).where(_T.id == bindparam("which"))
_GET: Final = CompiledStatement(
    CONSOLE_SESSION_ROWS.select().where(_T.id == bindparam("which"), _T.signed_in_at.is_not(None))
)
_END: Final = delete(CONSOLE_SESSIONS).where(_T.id == bindparam("which"))
CONSOLE_ORDER: Final = Order((_T.created_at, _T.id), tuple[Time, Text], newest_first=True)
_END_ALL: Final = delete(CONSOLE_SESSIONS).where(_T.operator == bindparam("whose"))
_PRUNE: Final = delete(CONSOLE_SESSIONS).where(
    _T.id.in_(select(_T.id).where(_T.until < bindparam("before")).limit(100))
)


class ConsoleSessionRepository(StructRepository[ConsoleSessionRow], reader=CONSOLE_SESSION_ROWS, key=_T.secret):
    """The sign-ins to the console, by the digest of a link or a cookie."""

    def add(self, unit: UnitOfWork, row: ConsoleSessionRow, what: Event) -> None:
        """Store a sign-in whose link was not used yet, or one by a login; and delete some old rows."""
        with unit.change(what) as c:
            c.execute(_PRUNE, {"before": now_ms()})
            c.execute(_ADD, CONSOLE_SESSION_ROWS.values(row))

    def list(self, *, after: str | None = None, limit: int = PAGE) -> list[ConsoleSessionRow]:
        """Return the sessions that go on, the newest first."""
        statement = CONSOLE_SESSION_ROWS.select().where(_T.signed_in_at.is_not(None), _T.until > now_ms())
        return self._listed(statement, CONSOLE_ORDER, after, limit)

    def get(self, which: str) -> ConsoleSessionRow | None:
        """Return a session by its id, or None."""
        return self._database.first(CONSOLE_SESSION_ROWS, _GET, which=which)

    def keep_draft(self, which: str, draft: str | None) -> None:
        """Store the form that waits for another sign-in."""
        self._database.change(_USE, {"which": which, "draft": draft})

    def sign_in(self, link: str, row: dict[str, Any], what: Event) -> bool:
        """Use a link; return False if it was used before, or is too old.

        Args:
            link: Digest of the link's secret.
            row: The columns that it sets: ``secret``, the cookie's digest; ``signed_in_at``, ``used_at`` and ``until``.
            what: The event.
        """
        return self._database.change_once(_SIGN_IN, {"link": link, "now": now_ms(), **row}, what)

    def use(self, which: str, *, until: int) -> None:
        """Store that a session was used, and until when it now lives."""
        self._database.change(_USE, {"which": which, "used_at": now_ms(), "until": until})

    def end(self, which: str, what: Event) -> None:
        """Delete a session."""
        self._database.change(_END, {"which": which}, what)


def end_sign_ins(c: Connection, targets: Iterable[str]) -> None:
    """Delete, in an open transaction, the sign-ins and links of the operators that are among targets."""
    for target in targets:
        kind, _, operator = target.partition(":")
        if kind == "operator":
            c.execute(_END_ALL, {"whose": operator})
