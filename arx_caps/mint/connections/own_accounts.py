# SPDX-License-Identifier: Apache-2.0
"""A person's own accounts on a page: listed, connected ahead, ended.  CONTROL 9.2.

The login stays in the browser, sealed, for ten minutes: strangers fill no table.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.mint.connections.account_issuer import denied
from arx_caps.mint.connections.connect import make_link
from arx_caps.mint.connections.end import end_connection
from arx_caps.mint.context import MINT, Born, MintContext
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.mint.identity.issuer_token import IssuerToken
from arx_caps.mint.login.oidc import PAGE_MS
from arx_caps.mint.policy.issuers import Subject
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.token.targets import subject_target

_NAME: Final = "page/connections"  # what the seal of a login is bound to


class OwnPage(NamedTuple):
    """The login of a person who sees the page: who, until when (ms since the Unix epoch), and from which epoch on."""

    issuer: str
    name: str
    until: int
    born: Born

    @property
    def target(self) -> str:
        """The person's target."""
        return subject_target(self.issuer, self.name)


def start_page(mint: MintContext, born: Born, person: IssuerToken) -> str:
    """Return the cookie, a secret, of a person who has logged in."""
    page = OwnPage(person.issuer.url, person.subject, now_ms() + PAGE_MS, born)
    sealed = mint.root_keys.seal_secret(_NAME, msgspec.json.encode(page))
    return f"{sealed.nonce}.{sealed.sealed}"


def open_page(mint: MintContext, cookie: str) -> OwnPage | None:
    """Return the login in a cookie; None if it is over, or none.

    Raises:
        RevokedError: The person was killed or frozen meanwhile.
        UnavailableError: The kill epoch is unknown now.
    """
    nonce, _, sealed = cookie.partition(".")
    try:
        page = msgspec.json.decode(mint.root_keys.unseal(SealedRoot(_NAME, nonce, sealed)), type=OwnPage)
    except (ArxError, ValueError):
        return None
    if page.until <= now_ms():
        return None
    mint.require(page.born, ("realm", page.target))
    return page


def list_accounts(mint: MintContext, page: OwnPage) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Return the names of the connections that people make, each with the row of the person's newest one."""
    names = (name for name, terms in mint.realm.connection.items() if terms.through is None)
    return [(name, mint.db.connections.latest(page.target, name)) for name in names]


def change_account(mint: MintContext, page: OwnPage, answer: str) -> str | None:
    """Do what a person asks for on the page: ``connect NAME`` or ``end ID``.

    Returns:
        The link that the person opens next; None if all is done.

    Raises:
        GrantError: It is none of the person's, or no connection that people make.
        UnavailableError: The kill epoch is unknown now.
    """
    verb, _, which = answer.partition(" ")
    if verb == "connect" and which in mint.realm.connection:
        return make_link(mint, Subject(page.issuer, page.name, {}), which)
    row = mint.db.connections.find(which) if verb == "end" else None
    if row is None or row["subject"] != page.target:
        raise denied("the page has no such account of yours")
    end_connection(mint, row, MINT, "ended by the person", "person")
    return None
