# SPDX-License-Identifier: Apache-2.0
"""Routes that a person's browser visits to connect an account, and to see and end the person's own.  CONTROL 9.2."""

import re
import secrets
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from arx_caps.mint.api.routes.oauth.authorize import (
    BrowserPage,
    ConsentVisit,
    Pages,
    describe_pages,
    page_routes,
    read_secret_cookie,
    tag_of,
)
from arx_caps.mint.api.routes.oauth.connections import ConnectionShown, show_connection
from arx_caps.mint.connections.account_issuer import CALLBACK, issuer_of
from arx_caps.mint.connections.connect import (
    CONNECT,
    begin,
    change_account,
    connect,
    decline,
    find_held,
    list_accounts,
    open_page,
    start_page,
    take_answer,
    uses_of,
)
from arx_caps.mint.connections.end import tokens_of
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.tables import ConnectionRow
from arx_caps.mint.html.render import load_templates
from arx_caps.mint.login.issuer_client import SECRET_BYTES, derived
from arx_caps.mint.login.oidc import CONNECT_COOKIE, CONNECT_LOGIN
from arx_caps.mint.oauth.consent_page import PAGE_FILTERS, headers_of
from arx_verifier.errors import GrantError
from arx_verifier.token import wire

ACCOUNT: Final = "/connect/account"
CONNECTIONS: Final = "/connections"
_LINK: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_ACCOUNT_COOKIE: Final = "arx-account"
_PURPOSE: Final = "account"
_OWN_COOKIE, _OWN_TAG, _OWN_PURPOSE = "arx-connections", "accounts", "connections"
_PAGES: Final = load_templates("arx_caps.mint.connections", "arx_caps.mint.oauth")
_PAGES.filters |= PAGE_FILTERS


class ConnectVisit(ConsentVisit):
    """One request of a browser that connects an account."""

    longest = 8000  # issuers of accounts have long codes


def open_link(visit: ConnectVisit) -> Response:
    """Send a person who opens a link to log in."""
    link = visit.request.path_params["link"]
    if _LINK.fullmatch(link) is None:
        raise GrantError("this is no link that the mint has made", code="connection_refused")
    return _send_to_login(visit, link)


def _send_to_login(visit: ConnectVisit, link: str) -> Response:
    """Send a person to log in; an empty link leads to the page of the person's own accounts."""
    secret = secrets.token_bytes(SECRET_BYTES)
    url = visit.login.url(secret, visit.mint.policy.subject_claims)
    cookie = visit.new_cookie(CONNECT_COOKIE, tag_of(derived(secret, "state")), f"{wire.text_of(secret)}.{link}")
    return visit.redirect(url, cookie)


def take_login(visit: ConnectVisit) -> Response:
    """Take a person back from the login, and on to the issuer of the accounts."""
    mint, login = visit.mint, visit.login
    name, cookie = visit.cookie(CONNECT_COOKIE, tag_of(visit.form.get("state", "")))
    text, _, link = cookie.partition(".")
    secret = read_secret_cookie(text)
    code, why = login.read_answer(secret, visit.form)
    if not code:
        raise GrantError(why, code="connection_refused")
    with mint.db.unit() as unit:
        # Before the login is verified: a kill that comes in between ends what it gives.
        born, person = mint.kills.born(), login.finish(unit, secret, code)
        if not link:
            own = visit.new_cookie(_OWN_COOKIE, _OWN_TAG, start_page(mint, born, person))
            return visit.redirect(CONNECTIONS, {name: ""} | own)
        page, url = begin(mint, link, person)
    tag = tag_of(derived(page, "state"))
    return visit.redirect(url, {name: ""} | visit.new_cookie(_ACCOUNT_COOKIE, tag, wire.text_of(page)))


def take_account(visit: ConnectVisit) -> Response:
    """Take a person back from the issuer of the accounts, and show whose account it is."""
    tag = tag_of(visit.form.get("state", ""))
    page = read_secret_cookie(visit.cookie(_ACCOUNT_COOKIE, tag)[1])
    take_answer(visit.mint, page, visit.request.path_params["name"], visit.form)
    return visit.redirect(f"{ACCOUNT}?{urlencode({'account': tag})}")


def show_account(visit: ConnectVisit) -> Response:
    """Show a person the account that agents are to use."""
    page = read_secret_cookie(visit.cookie(_ACCOUNT_COOKIE, tag_of(visit.form.get("account", "")))[1])
    row, tokens, scopes = find_held(visit.mint, page)
    html = _PAGES.get_template("connection.html").render(
        title="Is this your account?",
        row=row,
        shown=tokens.shown,
        account=tokens.account,
        scopes=scopes,
        uses=uses_of(visit.mint, row.name),
        issuer=issuer_of(visit.mint, row.name).terms.issuer,
        action=ACCOUNT,
        # Its first characters name the cookie; the rest is on this page alone, which no other site reads.
        token=tag_of(derived(page, "state")) + derived(page, _PURPOSE),
    )
    return HTMLResponse(html, 200, headers_of())


def answer_account(visit: ConnectVisit) -> Response:
    """Take a person's word on an account."""
    mint, token = visit.mint, visit.form.get("token", "")
    tag = tag_of(token)
    name, cookie = visit.cookie(_ACCOUNT_COOKIE, tag)
    page = read_secret_cookie(cookie)
    visit.require_page(tag + derived(page, _PURPOSE))
    if visit.form.get("answer") == "allow":
        connect(mint, page)
        title, text = "Connected", "Agents that act for you can use this account now"
    else:
        decline(mint, page)
        title, text = "Nothing was connected", "The account is not used"
    html = _PAGES.get_template("done.html").render(title=title, text=text)
    return visit.with_cookies(HTMLResponse(html, 200, headers_of()), {name: ""})


def show_own(visit: ConnectVisit) -> Response:
    """Show a person's own accounts, after a login."""
    cookie = visit.cookie(_OWN_COOKIE, _OWN_TAG)[1]
    page = open_page(visit.mint, cookie)
    if page is None:
        return _send_to_login(visit, "")
    html = _PAGES.get_template("own.html").render(
        title="Your accounts",
        person=page.name,
        accounts=[
            (name, row and _show_own(visit.mint, row), uses_of(visit.mint, name))
            for name, row in list_accounts(visit.mint, page)
        ],
        action=CONNECTIONS,
        token=derived(cookie.encode(), _OWN_PURPOSE),
    )
    # The answer to its form may redirect to the login.
    return HTMLResponse(html, 200, headers_of(dict.fromkeys((urlsplit(visit.login.issuer).scheme, "https"))))


def _show_own(mint: MintContext, row: ConnectionRow) -> ConnectionShown:
    """Return a connection with its account's name, which the row may have as a digest."""
    shown = show_connection(mint, row)
    return msgspec.structs.replace(shown, account=tokens_of(mint, row).account or shown.account)


def answer_own(visit: ConnectVisit) -> Response:
    """Connect an account of a person ahead, or end one."""
    cookie = visit.cookie(_OWN_COOKIE, _OWN_TAG)[1]
    page = open_page(visit.mint, cookie)
    visit.require_page("" if page is None else derived(cookie.encode(), _OWN_PURPOSE))
    assert page is not None
    return visit.redirect(change_account(visit.mint, page, visit.form.get("answer", "")) or CONNECTIONS)


_ISSUERS: Final = {"state": "That of the attempt.", "code": "The issuer's code.", "iss": "The issuer (RFC 9207)."}
_FORM: Final = {"token": "From the page."}
_ANSWERS: Final[Pages] = {
    ("GET", f"{CALLBACK}{{name}}"): BrowserPage(take_account, _ISSUERS),
    ("GET", CONNECT_LOGIN): BrowserPage(take_login, _ISSUERS),
    ("GET", ACCOUNT): BrowserPage(show_account, {"account": "Which of the browser's accounts."}, (200,)),
    ("POST", ACCOUNT): BrowserPage(answer_account, _FORM | {"answer": "`allow` or `deny`."}, (200,)),
    ("GET", f"{CONNECT}{{link}}"): BrowserPage(open_link),  # after those of fixed paths
    ("GET", CONNECTIONS): BrowserPage(show_own, statuses=(200, 303)),
    ("POST", CONNECTIONS): BrowserPage(answer_own, _FORM | {"answer": "`connect NAME` or `end ID`."}),
}
OPEN: Final = describe_pages(_ANSWERS)


def routes() -> list[Route]:
    """Return the routes."""
    return page_routes(_ANSWERS, ConnectVisit)
