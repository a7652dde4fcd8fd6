# SPDX-License-Identifier: Apache-2.0
"""Connect a person's account: a link for the person, the login, the issuer's answer, the person's word.  CONTROL 9.2.

The issuer's tokens wait, sealed, until the person has seen whose account it is.  On a page of their own, people see
their accounts, connect them ahead, and end them: its login stays in the browser, sealed, so that strangers fill no
table.
"""

import secrets
from base64 import b32encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from arx_caps.mint.connections.account_issuer import AccountIssuer, IssuedTokens, denied, issuer_of
from arx_caps.mint.connections.end import end_connection, revoke_tokens, tokens_of
from arx_caps.mint.connections.vault import HeldTokens, TokenSeal, new_key, open_tokens
from arx_caps.mint.context import MINT, Born, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.mint.db.tables import ConnectionRow, LinkRow
from arx_caps.mint.identity.issuer_token import IssuerToken
from arx_caps.mint.login.issuer_client import SECRET_BYTES, digest_of
from arx_caps.mint.login.oidc import PAGE_MS
from arx_caps.mint.policy.issuers import Subject
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.token import wire
from arx_verifier.token.targets import subject_target

CONNECT: Final = "/connect/"
_OWN_PAGE: Final = "page/connections"  # what the seal of its login is bound to


def make_link(mint: MintContext, subject: Subject, name: str) -> str:
    """Return the URL of a new link, by which a person connects an account within ten minutes, once.

    Args:
        mint: The mint.
        subject: The person, for whom alone it is.
        name: The connection; the link is for the one that it goes through.

    Raises:
        UnavailableError: The kill epoch is unknown now.
    """
    name = issuer_of(mint, name).terms.through or name
    home = issuer_of(mint, name)
    born, token = mint.kills.born(), wire.text_of(secrets.token_bytes(SECRET_BYTES))
    target, scopes, until = subject_target(subject.issuer, subject.name), home.terms.scopes, now_ms() + PAGE_MS
    row = LinkRow(
        digest=digest_of(token),
        name=name,
        subject=target,
        person=subject.name,
        scopes=scopes,
        until=until,
        incarnation=born.incarnation,
        born=born.seq,
    )
    mint.db.connections.add_link(row, new_key(mint, target, now_ms())[1])
    return f"{mint.realm.issuer}{CONNECT}{token}"


def begin(mint: MintContext, link: str, person: IssuerToken) -> tuple[bytes, str]:
    """Use a link up for a person who has logged in.

    Args:
        mint: The mint.
        link: The link's secret.
        person: The person's verified login.

    Returns:
        A secret for the person's browser, and the URL of the issuer of the accounts.

    Raises:
        GrantError: The link is over, or for another person.
        UnavailableError: The issuer does not answer.
    """
    row = mint.db.connections.link(digest_of(link))
    if row is None or row.cookie is not None or row.until <= now_ms():
        raise denied("this link was used, or is over: call the tool again to get another one")
    if subject_target(person.issuer.url, person.subject) != row.subject:
        raise denied(f"this link is for {row.person}, and you are logged in as {person.subject}")
    _require_live(mint, row)
    page = secrets.token_bytes(SECRET_BYTES)
    url = issuer_of(mint, row.name).login_url(page)
    if not mint.db.connections.begin(row.digest, digest_of(page)):
        raise denied("this link was used: call the tool again to get another one")
    return page, url


def take_answer(mint: MintContext, page: bytes, name: str, answer: Mapping[str, str]) -> None:
    """Take the answer of an issuer, once, and hold its tokens for the person's word.

    Args:
        mint: The mint.
        page: The secret of the person's browser.
        name: The connection to which the answer came.
        answer: Its parameters.

    Raises:
        GrantError: It is not for this browser, of another issuer, refused, or was taken before.
        UnavailableError: The issuer does not answer.
    """
    row = _row_of(mint, page)
    # The path is of one connection alone: the answer of another issuer would be redeemed there with a wrong secret.
    if row.name != name:
        raise denied("the answer is for another connection")
    issuer = issuer_of(mint, name)
    code, why = issuer.read_answer(page, answer)
    if not mint.db.connections.redeem(digest_of(page)):
        raise denied("this answer was taken before, or too late")
    if not code:
        raise denied(why)
    tokens = issuer.redeem(page, code)
    try:
        if not _hold(mint, issuer, row, page, tokens):
            raise denied("this browser has begun no connection, or too long ago")
    except BaseException:  # no row has them
        issuer.revoke(tokens.refresh_token or tokens.access_token)
        raise


def _hold(mint: MintContext, issuer: AccountIssuer, row: LinkRow, page: bytes, tokens: IssuedTokens) -> bool:
    """Hold tokens for the word of a person; return False if the link is over."""
    account, shown = issuer.account(page, tokens)
    # An issuer that grants more than was asked for is not believed: no call gets more than the realm's settings name.
    given = tokens.held(row.scopes)
    granted = [scope for scope in row.scopes if scope in given.scopes]
    access = {" ".join(sorted(granted)): given}
    held = HeldTokens(refresh=tokens.refresh_token, access=access, account=account, shown=shown)
    if issuer.terms.account == "digest":
        account = _digest_account(mint, issuer.terms.issuer, account)
    given_by = {"scopes": granted, "issuer": issuer.terms.issuer}
    waits = msgspec.structs.replace(row, cookie=digest_of(page), account=account, granted=given_by)
    return mint.db.connections.hold(waits, TokenSeal(mint, waits, held))


def find_held(mint: MintContext, page: bytes) -> tuple[LinkRow, HeldTokens, tuple[str, ...]]:
    """Return the account that waits for the word of a person.

    Returns:
        Its link's row; its tokens, secrets, with its name; and the scopes that the issuer has granted.

    Raises:
        GrantError: None waits for this browser.
    """
    row = _row_of(mint, page)
    if row.sealed is None or row.granted is None:
        raise denied("this browser has connected nothing")
    return row, open_tokens(mint, row), tuple(row.granted["scopes"])


def uses_of(mint: MintContext, connection: str) -> dict[str, tuple[str, ...]]:
    """Return the templates whose calls may use a connection, or go through it, with the scopes that they may have."""
    names = [name for name, terms in mint.realm.connection.items() if connection in (name, terms.through)]
    scopes = {
        name: tuple(dict.fromkeys(scope for each in names for scope in template.scopes_at(each, "")))
        for name, template in mint.policy.templates.items()
    }
    return {name: listed for name, listed in scopes.items() if listed}


def connect(mint: MintContext, page: bytes) -> str:
    """Store the account that a person has confirmed, and return the connection's id.

    Raises:
        GrantError: None waits, or another person has connected the account.
        RevokedError: The person was killed or frozen meanwhile.
    """
    row, tokens, scopes = find_held(mint, page)
    _require_live(mint, row)
    which, terms, issuer, account = connection_of(row.digest), issuer_of(mint, row.name).terms, row.issuer, row.account
    if issuer != terms.issuer or account is None:
        raise denied("the settings of this connection have changed: call the tool again to get another link")
    made = ConnectionRow(
        id=which,
        name=row.name,
        subject=row.subject,
        person=row.person,
        issuer=issuer,
        account=account,
        scopes=scopes,
        status="open",
        created_at=now_ms(),
        incarnation=row.incarnation,
        born=row.born,
    )
    seal = TokenSeal(mint, made, tokens)
    facts = {"connection": which, "name": row.name, "account": account, "scopes": scopes}
    what = Event.of("connection.connected", MINT, subject=row.subject, **facts)
    # A connection from before a change of the setting has the account in the other form.
    accounts = {account, tokens.account, _digest_account(mint, issuer, tokens.account)}
    former = mint.db.connections.add(digest_of(page), made, seal, what, accounts, shared=terms.shared)
    if former:
        # A gateway may hold a token of the account before.
        targets = [f"connection:{each.id}" for each in former]
        mint.revoker.change(lambda: mint.store.kill(targets, "another account was connected", MINT))
    for each in former:
        # Not of the same account: an issuer may end all grants of an account with one, and so the new one.
        if each.account not in accounts:
            revoke_tokens(mint, each, tokens_of(mint, each, seal.key))
    return which


def decline(mint: MintContext, page: bytes) -> None:
    """Forget an account that a person does not want to connect, and revoke its tokens at the issuer."""
    row = _row_of(mint, page)
    tokens = tokens_of(mint, row)
    facts = {"name": row.name, "account": row.account, "subject": row.subject}
    if mint.db.connections.drop(digest_of(page), Event.of("connection.declined", MINT, **facts)):
        revoke_tokens(mint, row, tokens)


def connection_of(digest: str) -> str:
    """Return the id of the connection that a link makes.

    Args:
        digest: The link's digest.
    """
    return "c-" + b32encode(sha256(f"connection\0{digest}".encode()).digest()[:10]).decode().lower()


def _digest_account(mint: MintContext, issuer: str, account: str) -> str:
    return "account:" + digest_of(f"{mint.realm.name}\0{issuer}\0{account}")[:32]


def _row_of(mint: MintContext, page: bytes) -> LinkRow:
    row = mint.db.connections.link_of(digest_of(page))
    if row is None or row.until <= now_ms():
        raise denied("this browser has begun no connection, or too long ago; are cookies allowed?")
    return row


def _require_live(mint: MintContext, row: LinkRow) -> None:
    mint.kills.require(Born(row.incarnation, row.born), ("realm", row.subject))


class OwnPage(NamedTuple):
    """The login of a person who sees the page: ``until`` is ms since the Unix epoch, ``born`` the kill epoch."""

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
    sealed = mint.root_keys.seal_secret(_OWN_PAGE, msgspec.json.encode(page))
    return f"{sealed.nonce}.{sealed.sealed}"


def open_page(mint: MintContext, cookie: str) -> OwnPage | None:
    """Return the login in a cookie; None if it has expired or the cookie is malformed.

    Raises:
        RevokedError: The person was killed or frozen meanwhile.
        UnavailableError: The kill epoch is unknown now.
    """
    nonce, _, sealed = cookie.partition(".")
    try:
        page = msgspec.json.decode(mint.root_keys.unseal(SealedRoot(_OWN_PAGE, nonce, sealed)), type=OwnPage)
    except (ArxError, ValueError):
        return None
    if page.until <= now_ms():
        return None
    mint.kills.require(page.born, ("realm", page.target))
    return page


def list_accounts(mint: MintContext, page: OwnPage) -> list[tuple[str, ConnectionRow | None]]:
    """Return the names of the connections that people make, each with the row of the person's newest one."""
    names = (name for name, terms in mint.realm.connection.items() if terms.through is None)
    return [(name, mint.db.connections.latest(page.target, name)) for name in names]


def change_account(mint: MintContext, page: OwnPage, answer: str) -> str | None:
    """Do what a person asks for on the page: ``connect NAME`` or ``end ID``.

    Returns:
        The link that the person opens next; None if all is done.

    Raises:
        GrantError: The account is another person's, or the realm has no such connection.
        UnavailableError: The kill epoch is unknown now.
    """
    verb, _, which = answer.partition(" ")
    if verb == "connect" and which in mint.realm.connection:
        return make_link(mint, Subject(page.issuer, page.name, {}), which)
    row = mint.db.connections.find(which) if verb == "end" else None
    if row is None or row.subject != page.target:
        raise denied("the page has no such account of yours")
    end_connection(mint, row, MINT, "ended by the person", "person")
    return None
