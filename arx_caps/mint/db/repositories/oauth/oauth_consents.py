# SPDX-License-Identifier: Apache-2.0
"""What people were asked to consent to, and the authorization codes for it.  CONTROL 5.8."""

from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import OAUTH_CONSENTS, ConsentRow
from arx_verifier.clock import now_ms

CONSENT_ROWS: Final = RowReader(ConsentRow, OAUTH_CONSENTS)
KEEP_MS: Final = 24 * 3_600_000  # after its end, so that a replayed code is known as one
_T: Final = OAUTH_CONSENTS.c
_BY_CODE: Final = CompiledStatement(CONSENT_ROWS.select().where(_T.code == bindparam("digest")))
_ADD: Final = insert(OAUTH_CONSENTS)
_ITS: Final = _T.id == bindparam("which")
_ANSWER: Final = update(OAUTH_CONSENTS).where(_ITS, _T.code.is_(None), _T.until > bindparam("now"))
_DENY: Final = delete(OAUTH_CONSENTS).where(_ITS, _T.code.is_(None))
_USE: Final = update(OAUTH_CONSENTS).where(_ITS, _T.used_at.is_(None))
_BIND: Final = update(OAUTH_CONSENTS).where(_ITS).returning(_T.replayed_at)
_REPLAY: Final = update(OAUTH_CONSENTS).where(_ITS).returning(_T.session)
_OLD: Final = select(_T.id).where(_T.until < bindparam("before")).limit(100)
_PRUNE: Final = delete(OAUTH_CONSENTS).where(_T.id.in_(_OLD))
_NO_PERSON: Final = dict.fromkeys(("subject_issuer", "subject", "subject_claims", "subject_until")) | {"params": "{}"}


class OAuthConsentRepository(StructRepository[ConsentRow], reader=CONSENT_ROWS, key=_T.cookie):
    """The consents by the digest of the browser's cookie, each from the login to the use of its code."""

    def add(self, row: ConsentRow) -> None:
        """Store what a person is asked, and delete some old rows."""
        with self._database.write() as c:
            c.execute(_PRUNE, {"before": now_ms() - KEEP_MS})
            c.execute(_ADD, CONSENT_ROWS.values(row))

    def by_code(self, digest: str) -> ConsentRow | None:
        """Return the consent that a code is for, or None."""
        return self._database.first(CONSENT_ROWS, _BY_CODE, digest=digest)

    def give(self, row: ConsentRow, what: Event) -> bool:
        """Store the digest of a consent's code; return False if the person has answered before, or too late.

        Args:
            row: The consent with its ``code``, ``template``, ``params`` and ``until`` from now on.
            what: The event.
        """
        given = {"code": row.code, "template": row.template, "params": as_json(row.params), "until": row.until}
        return self._database.change_once(_ANSWER, {"which": row.id, "now": now_ms(), **given}, what)

    def deny(self, consent: str, what: Event) -> None:
        """Delete a consent that the person refused."""
        self._database.change(_DENY, {"which": consent}, what)

    def use(self, consent: str) -> bool:
        """Use a consent's code; return False if it was used before."""
        # The update decides, not a query before it: of two requests with one code, both would find it unused.
        return self._database.change(_USE, {"which": consent, "used_at": now_ms(), **_NO_PERSON}) == 1

    def bind(self, consent: str, session: str) -> bool:
        """Store which session a code gave; return False if the code was replayed in the meantime."""
        with self._database.write() as c:
            return c.execute(_BIND.values(session=session), {"which": consent}).scalar_one() is None

    def replay(self, consent: str) -> str | None:
        """Store that a code was replayed, and return the session that it gave, if it is known yet."""
        with self._database.write() as c:
            session: str | None = c.execute(_REPLAY.values(replayed_at=now_ms()), {"which": consent}).scalar_one()
            return session
