# SPDX-License-Identifier: Apache-2.0
"""Sign operators in to the console, and authorize what they do there.  CONTROL 6.

A link of one use comes from a call that the operator's key signed, a login from the realm's issuer; the browser gets a
cookie.  A call of the console is authorized like one that the operator's key signs: the operator must be active and the
role allow the action, and the decision is recorded.  What grants rights needs a recent sign-in.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.mint.context import HasDatabase, MintContext, StoredParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import ConsoleSessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import (
    NEEDS_LIVE_VIEW,
    AuthenticatedCaller,
    describe_caller,
    record_outcome,
    require_active_operator,
)
from arx_caps.mint.policy.roles import APPROVE
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, StoreError
from arx_verifier.request import AccessRequest
from arx_verifier.token import wire

SECRET_BYTES: Final = 32
LINK_MS: Final = 2 * 60_000  # from the command to the browser
TOUCH_MS: Final = 30_000  # how often the use of a session is stored
BY_KEY: Final = "console"  # assurance of records: a cookie, which a link gave that the operator's key has asked for
BY_LOGIN: Final = "console-login"  # a cookie, which a login at the realm's issuer gave
SIGN_IN_AGAIN: Final = "sign_in_again"
BAD_LINK: Final = "bad_link"


class ConsoleSession(NamedTuple):
    """An operator who is signed in to the console.

    Attributes:
        id: Its id, for lists and records; no secret.
        operator: The operator's id.
        key: Thumbprint of the key that asked for the link; None for a login.
        signed_in_at: When, ms since the Unix epoch.
        expires_at: When it ends at last, ms since the Unix epoch; unused, it ends sooner.
        fresh_until: Until when acts that grant rights are let through, ms since the Unix epoch.
        used_at: The last use that is stored, ms since the Unix epoch.
    """

    id: str
    operator: str
    key: str | None
    signed_in_at: int
    expires_at: int
    fresh_until: int
    used_at: int

    @property
    def actor(self) -> str:
        """The operator's name in records."""
        return f"operator:{self.operator}"

    @property
    def fresh(self) -> bool:
        """Whether the operator signed in so lately that acts that grant are possible."""
        return now_ms() < self.fresh_until

    @property
    def assurance(self) -> str:
        """How the operator signed in, for records."""
        return BY_LOGIN if self.key is None else BY_KEY


def make_link(mint: HasDatabase, unit: UnitOfWork, caller: AuthenticatedCaller) -> tuple[bytes, int]:
    """Return the secret of a one-use link for an operator, and when it expires, ms since the Unix epoch."""
    secret, now = secrets.token_bytes(SECRET_BYTES), now_ms()
    name, until = f"c-{secrets.token_hex(8)}", now + LINK_MS
    row = ConsoleSessionRow(
        id=name,
        secret=digest_of(secret),
        operator=caller.name,
        created_at=now,
        used_at=now,
        until=until,
        key=caller.key,
    )
    what = Event.of("console.link_made", caller.actor, console=name, key=caller.key, expires_at=until)
    mint.db.console_sessions.add(unit, row, what)
    return secret, until


def find_link(mint: HasDatabase, secret: bytes) -> str:
    """Return the operator whom a link signs in, without using it.

    Raises:
        GrantError: ``bad_link``: it is unknown, used or too old.
    """
    row = mint.db.console_sessions.find(digest_of(secret))
    if row is None or row.signed_in_at is not None or row.until <= now_ms():
        raise _bad_link()
    return row.operator


def use_link(mint: StoredParts, secret: bytes, before: ConsoleSession | None) -> bytes:
    """Use a link, and return the secret for the browser's cookie.

    Args:
        mint: The mint.
        secret: The link's secret.
        before: The session that the browser has; it ends.

    Raises:
        GrantError: ``bad_link``: it is unknown, used or too old.
    """
    row = mint.db.console_sessions.find(digest_of(secret))
    if row is None:
        raise _bad_link()
    # Another secret than the link's: what the browser's history has opens nothing.
    cookie, now = secrets.token_bytes(SECRET_BYTES), now_ms()
    changes = {"secret": digest_of(cookie), "signed_in_at": now, "used_at": now}
    changes |= {"until": now + mint.realm.console.idle_ms, "fresh_until": now + mint.realm.console.fresh_ms}
    what = Event.of("console.signed_in", f"operator:{row.operator}", console=row.id, key=row.key)
    if not mint.db.console_sessions.sign_in(digest_of(secret), changes, what):
        raise _bad_link()
    _replace(mint, before.id if before is not None else "", row.id, row.operator)
    return cookie


def begin_by_login(mint: StoredParts, unit: UnitOfWork, operator: str, logged_in_at: int, before: str) -> bytes:
    """Begin the session of an operator who logged in at the issuer, and return the secret for the browser's cookie.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        operator: The operator's id.
        logged_in_at: When the issuer saw the person log in, ms since the Unix epoch; 0 if it does not say.
        before: The id of the session that the browser had; it ends.  Empty for none.
    """
    cookie, now, terms = secrets.token_bytes(SECRET_BYTES), now_ms(), mint.realm.console
    row = ConsoleSessionRow(
        id=f"c-{secrets.token_hex(8)}",
        secret=digest_of(cookie),
        operator=operator,
        created_at=now,
        used_at=now,
        until=now + terms.idle_ms,
        fresh_until=logged_in_at + terms.fresh_ms if logged_in_at else 0,
        signed_in_at=now,
    )
    what = Event.of("console.signed_in", f"operator:{operator}", console=row.id, logged_in_at=logged_in_at)
    mint.db.console_sessions.add(unit, row, what)
    _replace(mint, before, row.id, operator)
    return cookie


def _replace(mint: HasDatabase, before: str, after: str, operator: str) -> None:
    """End a browser's earlier session, and keep the form that waits for the same operator."""
    row = mint.db.console_sessions.get(before) if before else None
    if row is None or row.operator != operator:
        return
    if row.draft is not None:
        mint.db.console_sessions.keep_draft(after, row.draft)
    mint.db.console_sessions.end(before, Event.of("console.replaced", f"operator:{operator}", console=before, by=after))


def find_console_session(mint: StoredParts, secret: bytes) -> ConsoleSession | None:
    """Return the session of a cookie; None if there is none or it has ended.

    Args:
        mint: The mint.
        secret: The cookie's secret.
    """
    row, now = mint.db.console_sessions.find(digest_of(secret)), now_ms()
    if row is None or row.signed_in_at is None or row.until <= now:
        return None
    # The key may have been removed since: what it began ends with it.
    if row.key is not None and mint.db.holder_keys.key_of(f"operator:{row.operator}", row.key) is None:
        return None
    end = row.signed_in_at + mint.realm.console.life_ms
    if now >= end:
        return None
    return ConsoleSession(row.id, row.operator, row.key, row.signed_in_at, end, row.fresh_until, row.used_at)


def note_console_use(mint: StoredParts, session: ConsoleSession) -> None:
    """Store that the operator has done something, so that the session lives on.

    Args:
        mint: The mint.
        session: The session.
    """
    # After the act, which may be a kill, and never an error: a session whose use is not stored only ends sooner.
    now = now_ms()
    if now - session.used_at > TOUCH_MS:
        with contextlib.suppress(StoreError):
            mint.db.console_sessions.use(session.id, until=min(now + mint.realm.console.idle_ms, session.expires_at))


def keep_draft(mint: HasDatabase, session: ConsoleSession, path: str, fields: Mapping[str, str]) -> None:
    """Store the form that waits until its operator has signed in again."""
    draft = msgspec.json.encode({"path": path, "fields": fields}).decode()
    mint.db.console_sessions.keep_draft(session.id, draft)


def find_draft(mint: HasDatabase, session: ConsoleSession) -> tuple[str, dict[str, str]] | None:
    """Return the path and the fields of the form that waits, or None."""
    row = mint.db.console_sessions.get(session.id)
    if row is None or row.draft is None:
        return None
    draft = msgspec.json.decode(row.draft, type=dict[str, Any])
    return str(draft["path"]), dict(draft["fields"])


def end_console_session(mint: HasDatabase, session: ConsoleSession) -> None:
    """Sign an operator out."""
    what = Event.of("console.signed_out", session.actor, console=session.id)
    mint.db.console_sessions.end(session.id, what)


def authorize_console_call(
    mint: MintContext,
    session: ConsoleSession,
    action: str,
    args: Mapping[str, Any],
    *,
    peer: str | None,
    about: Callable[[MintContext, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> AuthenticatedCaller:
    """Authorize what an operator does in the console, and record the decision.

    Args:
        mint: The mint.
        session: The operator's session.
        action: The action, such as ``arx.kill``.
        args: The action's arguments.
        peer: The browser's address, or None.
        about: Returns further arguments.

    Returns:
        The caller.

    Raises:
        AccessError: The operator's role does not allow this action.
        RevokedError: The operator was frozen or removed.
        GrantError: ``sign_in_again``: the sign-in is too long ago for this act.
        AuditError: The call cannot be recorded.
    """
    request = AccessRequest(action, {**args, **(about(mint, args) if about is not None else {})}, now_ms(), peer)
    facts = describe_caller(mint, session.actor, kid=session.key or "", token=session.id, assurance=session.assurance)
    with record_outcome(mint, facts, request, (ArxError,)):
        require_active_operator(mint, session.operator, action, request.args)
        if not session.fresh and needs_fresh(action, request.args):
            raise GrantError("this act needs a recent sign-in: sign in again", code=SIGN_IN_AGAIN)
    return AuthenticatedCaller("operator", session.operator, None, None, session.expires_at, session.key or "")


def needs_fresh(action: str, args: Mapping[str, Any]) -> bool:
    """Return whether an act needs a recent sign-in: it grants rights, lifts a freeze, or ends a whole realm.

    Args:
        action: The action.
        args: Its arguments.
    """
    if action == APPROVE:
        return args.get("outcome") == "approve"  # a denial, or a withdrawal, grants nothing
    # A browser that was left alone must not grant rights.  To end something has to wait for nothing, but a whole realm.
    ends_realm = action == "arx.kill" and any(str(each).startswith("realm") for each in args.get("targets", ()))
    return ends_realm or action in NEEDS_LIVE_VIEW or action.endswith(".write")


def read_secret(text: str) -> bytes:
    """Return the secret that a link or a cookie has as text; empty if it has none."""
    try:
        secret = wire.bytes_of(text)
    except (ArxError, ValueError):
        return b""
    return secret if len(secret) == SECRET_BYTES else b""


def digest_of(secret: bytes) -> str:
    """Return the digest by which the database knows a link's or a cookie's secret."""
    return wire.text_of(hashlib.sha256(secret).digest())


def _bad_link() -> GrantError:
    return GrantError("this link was used, is too old or was never made: run `arx console open` again", code=BAD_LINK)
