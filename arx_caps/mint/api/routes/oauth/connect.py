# SPDX-License-Identifier: Apache-2.0
"""Routes that a person's browser visits to connect an account: link, login, answer, page.  CONTROL 9.2."""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.api.routes.oauth.authorize import ConsentVisit, read_secret_cookie, tag_of
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
from arx_caps.mint.context import MintContext
from arx_caps.mint.html.render import load_templates
from arx_caps.mint.login.oidc import CONNECT_COOKIE, CONNECT_LOGIN, code_in, derived
from arx_caps.mint.oauth.consent_page import PAGE_FILTERS, headers_of
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.token import wire

ACCOUNT: Final = "/connect/account"
MAX_QUERY_CHARS: Final = 8000
_LINK: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_ACCOUNT_COOKIE: Final = "arx-account"
_PURPOSE: Final = "account"
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
        page, url = begin(mint, link, login.finish(unit, secret, code))
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
    origin = visit.request.headers.get("origin", mint.realm.issuer)
    if origin != mint.realm.issuer or not hmac.compare_digest(token.encode(), (tag + derived(page, _PURPOSE)).encode()):
        raise GrantError("the answer is not from the page that asked", code="connection_refused")
    if visit.form.get("answer") == "allow":
        connect(mint, page)
        title, text = "Connected", "Agents that act for you can use this account now"
    else:
        decline(mint, page)
        title, text = "Nothing was connected", "The account is not used"
    html = _PAGES.get_template("done.html").render(title=title, text=text)
    return visit.with_cookies(HTMLResponse(html, 200, headers_of()), {name: ""})


_VISITS: Final[Mapping[tuple[str, str], Callable[[ConnectVisit], Response]]] = {
    ("GET", f"{CALLBACK}{{name}}"): take_account,
    ("GET", CONNECT_LOGIN): take_login,
    ("GET", ACCOUNT): show_account,
    ("POST", ACCOUNT): answer_account,
    ("GET", f"{CONNECT}{{link}}"): open_link,
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
_ANSWER: Final = {"token": "From the page.", "answer": "`allow` or `deny`."}


def _describe_visit(method: str, path: str) -> OpenRoute:
    answers: dict[int, Any] = dict.fromkeys((200 if path == ACCOUNT else 303, 400, 429, 503))
    summary = (_VISITS[method, path].__doc__ or "").partition("\n")[0]
    form = _ANSWER if method == "POST" else {}
    return OpenRoute(path, summary, answers, (), method, form, {} if form else _QUERIES.get(path, {}), "text/html")


OPEN: Final = tuple(_describe_visit(*place) for place in _VISITS)


def routes() -> list[Route]:
    """Return the routes, those of fixed paths first."""
    methods: dict[str, list[str]] = {}
    for method, path in _VISITS:
        methods.setdefault(path, []).append(method)
    return [Route(path, partial(answer_connecting, path), methods=listed) for path, listed in methods.items()]
