# SPDX-License-Identifier: Apache-2.0
"""End people's accounts at upstreams: delete the tokens here, and revoke them at their issuer.  CONTROL 9.4."""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from arx_caps.mint.connections.account_issuer import issuer_of
from arx_caps.mint.connections.vault import HeldTokens, PersonKey, open_tokens
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.connections import StoredKey
from arx_verifier.errors import ArxError

_log = logging.getLogger(__name__)


def end_connection(mint: MintContext, row: Mapping[str, Any], by: str, reason: str, why: str = "operator") -> bool:
    """End a connection: its tokens are deleted here and revoked at the issuer; the caller kills its target.

    Args:
        mint: The mint.
        row: The connection's row.
        by: The actor.
        reason: The reason, for the record.
        why: Whose it was: ``operator`` or ``person``.

    Returns:
        Whether the issuer confirmed it.
    """
    tokens = tokens_of(mint, row)
    facts = {"connection": row["id"], "name": row["name"], "subject": row["subject"], "why": why}
    if not mint.db.connections.end(row["id"], why, Event.of("connection.ended", by, **facts, reason=reason)):
        return False
    return revoke_tokens(mint, row, tokens)


def end_accounts(mint: MintContext, subject: str, by: str, reason: str) -> None:
    """End all connections of a person who is erased, and those that wait for the person's word.

    Args:
        mint: The mint.
        subject: The person's target.
        by: The actor.
        reason: The reason, for the record.
    """
    stored, rows = mint.db.erasures.take_accounts(subject, by, reason)
    for row in rows:
        revoke_tokens(mint, row, tokens_of(mint, row, stored))


def drop_abandoned(mint: MintContext) -> None:
    """Delete links and ended connections that are over, and revoke the accounts that no person has confirmed."""
    rows = mint.db.connections.take_over()
    several = [(row, tokens_of(mint, row)) for row in rows]

    def revoke() -> None:
        for row, tokens in several:
            try:
                revoke_tokens(mint, row, tokens)
            except ArxError as error:
                _log.warning(
                    "connection %s: an account that no person confirmed is not revoked: %s", row["name"], error
                )

    if several:  # in a thread of its own: the caller has more to do than to wait for an issuer
        threading.Thread(target=revoke, name="arx-mint-revoke", daemon=True).start()


def revoke_tokens(mint: MintContext, row: Mapping[str, Any], tokens: HeldTokens) -> bool:
    """Revoke tokens at their issuer.

    Args:
        mint: The mint.
        row: The row of their connection, or of its link.
        tokens: The tokens.

    Returns:
        Whether the issuer confirmed it.
    """
    terms = mint.realm.connection.get(str(row["name"]))
    # The issuer that the settings name now may be another one, which must not learn them.
    if terms is None or terms.issuer != issuer_in(row):
        return False
    # The access tokens too: not each issuer ends those of a grant with its refresh token (RFC 7009 2.1).
    several = [*filter(None, [tokens.refresh]), *(each.token for each in tokens.access.values())]
    confirmed = list(map(issuer_of(mint, row["name"]).revoke, several))
    return bool(confirmed) and (confirmed[0] if tokens.refresh else all(confirmed))


def issuer_in(row: Mapping[str, Any]) -> str:
    """Return the issuer of the account in the row of a connection or a link; empty if a link has none."""
    granted = row.get("granted") or "{}"
    return str(row["issuer"] if "issuer" in row else msgspec.json.decode(granted).get("issuer", ""))


def tokens_of(mint: MintContext, row: Mapping[str, Any], key: PersonKey | StoredKey | None = None) -> HeldTokens:
    """Return the tokens in the row of a connection or a link, to revoke them; none if they do not open.

    Args:
        mint: The mint.
        row: The row.
        key: The person's key; None for that of the database.
    """
    try:
        return open_tokens(mint, row, key)
    except ArxError:  # what does not open is of no use to anyone
        return HeldTokens()
