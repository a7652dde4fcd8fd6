# SPDX-License-Identifier: Apache-2.0
"""End people's accounts at upstreams: delete the tokens here, and revoke them at their issuer.  CONTROL 9.4."""

import contextlib
import logging
import threading

from arx_caps.mint.connections.account_issuer import issuer_of
from arx_caps.mint.connections.vault import HeldTokens, PersonKey, SealError, open_key, open_tokens
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.connections import AccountRow
from arx_caps.mint.db.tables import ConnectionRow, StoredKey
from arx_caps.revocation.report import KillReport
from arx_verifier.errors import GrantError, SettingsError

_log = logging.getLogger(__name__)


def end_connection(
    mint: MintContext, row: ConnectionRow, by: str, reason: str, why: str = "operator"
) -> tuple[KillReport, bool]:
    """End a connection: its target is killed, its tokens are deleted here and revoked at the issuer.

    Args:
        mint: The mint.
        row: The connection's row.
        by: The actor.
        reason: The reason, for the record.
        why: Whose it was: ``operator``, or ``person``, who does not wait until each verifier has confirmed the kill.

    Returns:
        How verifiers confirmed the kill, and whether the issuer confirmed that it revoked the tokens.

    Raises:
        GrantError: ``conflict``: this mint cannot open the person's key; the connection is killed.
    """
    # The kill first: what fails after it leaves a connection that lends nothing, and that the same call ends.
    wait = why == "operator"
    report = mint.revoker.end("kill", [f"connection:{row.id}"], reason=reason, by=by, wait=wait)
    tokens = tokens_of(mint, row)
    facts = {"connection": row.id, "name": row.name, "subject": row.subject, "why": why}
    is_ended = mint.db.connections.end(row.id, why, Event.of("connection.ended", by, **facts, reason=reason))
    return report, is_ended and revoke_tokens(mint, row, tokens)


def end_accounts(mint: MintContext, subject: str, by: str, reason: str) -> None:
    """End all connections of a person who is erased, and those that wait for the person's word.

    Args:
        mint: The mint.
        subject: The person's target.
        by: The actor.
        reason: The reason, for the record.

    Raises:
        GrantError: ``conflict``: this mint cannot open the person's key; nothing was changed.
    """
    key, rows = mint.db.erasures.take_accounts(subject, by, reason, lambda stored: _opened(mint, stored))
    for row in rows:
        revoke_tokens(mint, row, tokens_of(mint, row, key))


def drop_abandoned(mint: MintContext) -> None:
    """Delete links and ended connections that are over, and revoke the accounts that no person has confirmed."""
    several = []
    for row in mint.db.connections.sweep():
        with contextlib.suppress(GrantError):  # without its key, the link stays until another mint revokes its tokens
            tokens = None if row.sealed is None else tokens_of(mint, row)
            if mint.db.connections.remove_link(row) and tokens is not None:
                several.append((row, tokens))

    def revoke() -> None:
        for row, tokens in several:
            if not revoke_tokens(mint, row, tokens):
                _log.warning("connection %s: an account that no person confirmed is not revoked", row.name)

    if several:  # in a thread of its own: the caller has more to do than to wait for an issuer
        threading.Thread(target=revoke, name="arx-mint-revoke", daemon=True).start()


def revoke_tokens(mint: MintContext, row: AccountRow, tokens: HeldTokens) -> bool:
    """Revoke tokens at their issuer.

    Args:
        mint: The mint.
        row: The row of their connection, or of its link.
        tokens: The tokens.

    Returns:
        Whether the issuer confirmed it.
    """
    terms = mint.realm.connection.get(row.name)
    # The issuer that the settings name now may be another one, which must not learn them.
    if terms is None or terms.issuer != row.issuer:
        return False
    # The access tokens too: not each issuer ends those of a grant with its refresh token (RFC 7009 2.1).
    several = [*filter(None, [tokens.refresh]), *(each.token for each in tokens.access.values())]
    confirmed = list(map(issuer_of(mint, row.name).revoke, several))
    return bool(confirmed) and (confirmed[0] if tokens.refresh else all(confirmed))


def tokens_of(mint: MintContext, row: AccountRow, key: PersonKey | None = None) -> HeldTokens:
    """Return the tokens in the row of a connection or a link, to revoke them; none if the person's key opens none.

    Args:
        mint: The mint.
        row: The row.
        key: The person's key; None for that of the database.

    Raises:
        GrantError: ``conflict``: this mint cannot open the key.
    """
    try:
        return open_tokens(mint, row, key or _opened(mint, mint.db.connections.person_key(row.subject)))
    except SealError:  # what does not open is of no use to anyone
        return HeldTokens()


def _opened(mint: MintContext, stored: StoredKey | None) -> PersonKey:
    # A mint with the seals of before a reseal must not delete what another one can still revoke.
    try:
        return open_key(mint, stored)
    except SealError:
        raise
    except SettingsError:
        text = "this mint cannot open the person's key: start it again after `arx key reseal`, and repeat"
        raise GrantError(text, code="conflict") from None
