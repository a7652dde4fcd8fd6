# SPDX-License-Identifier: Apache-2.0
"""Routes that a person's browser visits to connect an account, and to see and end the person's own.  CONTROL 9.2."""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.api.routes.oauth.authorize import ConsentVisit, read_secret_cookie, tag_of
from arx_caps.mint.api.routes.oauth.connections import show_connection
from arx_caps.mint.api.routes.oauth.oauth import read_parameters
from arx_caps.mint.connections.account_issuer import CALLBACK, issuer_of
from arx_caps.mint.connections.connect import (
    CONNECT,
    SECRET_BYTES,
    begin,
    connect,
    decline,
    find_held,
    take_answer,
)
from arx_caps.mint.connections.own_accounts import change_account, list_accounts, open_page, start_page
from arx_caps.mint.context import MintContext
from arx_caps.mint.html.render import load_templates
from arx_caps.mint.login.oidc import CONNECT_COOKIE, CONNECT_LOGIN, code_in, derived
from arx_caps.mint.oauth.consent_page import PAGE_FILTERS, headers_of
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.token import wire

ACCOUNT: Final = "/connect/account"
CONNECTIONS: Final = "/connections"
MAX_QUERY_CHARS: Final = 8000
_LINK: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_ACCOUNT_COOKIE: Final = "arx-account"
_PURPOSE: Final = "account"
_OWN_COOKIE, _OWN_TAG, _OWN_PURPOSE = "arx-connections", "accounts", "connections"
_PAGES: Final = load_templates("arx_caps.mint.connections", "arx_caps.mint.oauth")
_PAGES.filters |= PAGE_FILTERS


class ConnectVisit(ConsentVisit):
    """One request of a browser that connects an account.

    Args:
        mint: The mint.
        request: The request.
        route: Its path, with the names of its parameters.
    """

    def __init__(self, mint: MintContext, request: Request, route: str) -> None:
        super().__init__(mint, request)
        self.route = route

    def respond(self, raw: bytes) -> Response:
        """Return the page of the request's path, or a redirect."""
        method = "GET" if self.request.method == "HEAD" else self.request.method
        _ = self.login  # without one there is none of these pages
        try:
            # Not of ``request.url``, which ends the path at a `?` that was written as %3F.
            text = (raw if method == "POST" else self.request.scope["query_string"]).decode("ascii")
            if len(text) > MAX_QUERY_CHARS:
                raise RequestError(f"expected at most {MAX_QUERY_CHARS} characters")
            self.form = read_parameters(text)
            return _VISITS[method, self.route](self)
        except ValueError:
            raise RequestError("the request is malformed") from None


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
    login.require_answer(secret, visit.form)
    code, why = code_in(visit.form)
    if not code:
        raise GrantError(why, code="connection_refused")
    with mint.db.unit() as unit:
        # Before the login is verified: a kill that comes in between ends what it gives.
        born, person = mint.born(), login.finish(unit, secret, code)
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
    held = find_held(visit.mint, page)
    html = _PAGES.get_template("connection.html").render(
        title="Is this your account?",
        held=held,
        name=held.row["name"],
        issuer=issuer_of(visit.mint, held.row["name"]).terms.issuer,
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
    _require_page(visit, tag + derived(page, _PURPOSE))
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
        accounts=list_accounts(visit.mint, page, show_connection),
        action=CONNECTIONS,
        token=derived(cookie.encode(), _OWN_PURPOSE),
    )
    # The answer to its form may redirect to the login.
    return HTMLResponse(html, 200, headers_of(dict.fromkeys((urlsplit(visit.login.issuer).scheme, "https"))))


def answer_own(visit: ConnectVisit) -> Response:
    """Connect an account of a person ahead, or end one."""
    cookie = visit.cookie(_OWN_COOKIE, _OWN_TAG)[1]
    page = open_page(visit.mint, cookie)
    _require_page(visit, "" if page is None else derived(cookie.encode(), _OWN_PURPOSE))
    assert page is not None
    return visit.redirect(change_account(visit.mint, page, visit.form.get("answer", "")) or CONNECTIONS)


def _require_page(visit: ConnectVisit, token: str) -> None:
    """Require that a form was sent by the page that has a token; an empty one is none.

    Raises:
        GrantError: It was not.
    """
    origin, sent = visit.request.headers.get("origin", visit.mint.realm.issuer), visit.form.get("token", "")
    if not token or origin != visit.mint.realm.issuer or not hmac.compare_digest(sent.encode(), token.encode()):
        raise GrantError("the answer is not from the page that asked, or too late", code="connection_refused")


_VISITS: Final[Mapping[tuple[str, str], Callable[[ConnectVisit], Response]]] = {
    ("GET", f"{CALLBACK}{{name}}"): take_account,
    ("GET", CONNECT_LOGIN): take_login,
    ("GET", ACCOUNT): show_account,
    ("POST", ACCOUNT): answer_account,
    ("GET", f"{CONNECT}{{link}}"): open_link,
    ("GET", CONNECTIONS): show_own,
    ("POST", CONNECTIONS): answer_own,
}


async def answer_connecting(route: str, request: Request) -> Response:
    """Answer a browser that connects an account.

    Args:
        route: The path, with the names of its parameters: a path itself may have a link, and is a stranger's text.
        request: The request.
    """
    note(request, route=route, caller="browser")
    return await ConnectVisit(request.app.state.mint, request, route).run()


_ISSUERS: Final = {"state": "That of the attempt.", "code": "The issuer's code.", "iss": "The issuer (RFC 9207)."}
_QUERIES: Final[Mapping[str, Mapping[str, str]]] = {
    f"{CALLBACK}{{name}}": _ISSUERS,
    CONNECT_LOGIN: _ISSUERS,
    ACCOUNT: {"account": "Which of the browser's accounts."},
}
_ANSWERS: Final = {ACCOUNT: "`allow` or `deny`.", CONNECTIONS: "`connect NAME` or `end ID`."}
_STATUSES: Final = {("GET", ACCOUNT): (200,), ("POST", ACCOUNT): (200,), ("GET", CONNECTIONS): (200, 303)}


def _describe_visit(method: str, path: str) -> OpenRoute:
    answers: dict[int, Any] = dict.fromkeys((*_STATUSES.get((method, path), (303,)), 400, 429, 503))
    summary = (_VISITS[method, path].__doc__ or "").partition("\n")[0]
    form = {"token": "From the page.", "answer": _ANSWERS[path]} if method == "POST" else {}
    return OpenRoute(path, summary, answers, (), method, form, {} if form else _QUERIES.get(path, {}), "text/html")


OPEN: Final = tuple(_describe_visit(*place) for place in _VISITS)


def routes() -> list[Route]:
    """Return the routes, those of fixed paths first."""
    methods: dict[str, list[str]] = {}
    for method, path in _VISITS:
        methods.setdefault(path, []).append(method)
    return [Route(path, partial(answer_connecting, path), methods=listed) for path, listed in methods.items()]
