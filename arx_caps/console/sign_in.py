# SPDX-License-Identifier: Apache-2.0
"""Sign in and out: a login at the realm's issuer, or a link of one use that `arx console open` prints.  CONTROL 6.

The cookie of a login that has begun is sent when the issuer leads back; that of a session never from another site.
"""

import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

from starlette.responses import Response

from arx_caps.console.pages import sign_ins
from arx_caps.console.visit import CONTINUE, COOKIE, SIGN_IN, Page, Visit
from arx_caps.mint.api.browser import cookie_name
from arx_caps.mint.api.routes.operations.console import OPEN_PATH
from arx_caps.mint.identity.console_session import (
    BAD_LINK,
    SECRET_BYTES,
    begin_by_login,
    end_console_session,
    find_draft,
    find_link,
    read_secret,
    use_link,
)
from arx_caps.mint.identity.operator_login import log_operator_in
from arx_caps.mint.login.oidc import CONSOLE_CALLBACK, CONSOLE_COOKIE, PAGE_MS, OidcLogin, login_time
from arx_caps.settings.realm import is_safe_url
from arx_verifier.errors import GrantError
from arx_verifier.token import wire

HOME: Final = "/console/home"  # leads on
LOGIN: Final = "/console/login"
MAX_NEXT_CHARS: Final = 1500  # a browser keeps a cookie of 4096 bytes
AGAIN: Final = "1"


class Begun(NamedTuple):
    """A login that a browser has begun, as its cookie has it.

    Attributes:
        secret: Random bytes, from which state, nonce and verifier are derived.
        again: Whether the person has to log in now, whatever session the issuer has.
        before: The id of the session that the browser has; empty for none.
        next_page: The page that follows.
    """

    secret: bytes
    again: bool
    before: str
    next_page: str

    def encode(self) -> str:
        """Return the cookie's value."""
        again, page = AGAIN if self.again else "", quote(self.next_page, safe="/")
        return ".".join((wire.text_of(self.secret), again, self.before, page))

    @classmethod
    def read(cls, text: str) -> "Begun":
        """Read a cookie's value.

        Raises:
            GrantError: ``bad_link``: there is none, or another.
        """
        # The page is the last, since it may have dots; a cookie of another kind has fewer parts.
        secret, again, before, page, *_ = (*text.split(".", 3), "", "", "")
        raw = read_secret(secret)
        if not raw:
            text = "this browser has begun no sign-in, or too long ago: sign in again; are cookies allowed?"
            raise GrantError(text, code=BAD_LINK)
        return cls(raw, again == AGAIN, before, _own_path(unquote(page)))

    def __repr__(self) -> str:
        return "<Begun>"


def show_sign_in(visit: Visit) -> Response:
    """Show how an operator signs in."""
    again = visit.query.get("again") == AGAIN
    next_page = _own_path(visit.query.get("next", ""))
    if visit.session is not None and not again:
        return visit.redirect(next_page)
    login: OidcLogin | None = visit.request.app.state.login
    return visit.render(
        "sign_in.html",
        title="Sign in again" if again else "Sign in",
        again=again,
        issuer=urlsplit(login.issuer).netloc if login is not None else "",
        query=urlencode({"next": next_page, **({"again": AGAIN} if again else {})}),
    )


def begin_login(visit: Visit) -> Response:
    """Send the browser to the realm's issuer."""
    login = _login(visit)
    if visit.request.headers.get("sec-fetch-site") not in (None, "none", "same-origin"):
        # Another site must not make people log in without their will.
        return visit.redirect(SIGN_IN)
    again, terms = visit.query.get("again") == AGAIN, visit.mint.realm.console
    next_page = _own_path(visit.query.get("next", ""))
    before = visit.session.id if visit.session is not None else ""
    begun = Begun(
        secrets.token_bytes(SECRET_BYTES), again, before, next_page if len(next_page) <= MAX_NEXT_CHARS else HOME
    )
    max_age_ms = terms.fresh_ms if again else terms.life_ms
    claims = visit.mint.policy.operator_claims
    response = visit.redirect(login.url(begun.secret, claims, max_age_s=max_age_ms // 1000, again=again))
    # Lax, since the issuer leads back here; all that it proves is that this browser has begun the login.
    visit.set_cookie(response, CONSOLE_COOKIE, begun.encode(), PAGE_MS // 1000, same_site="lax")
    return response


def finish_login(visit: Visit) -> Response:
    """Sign in the person whom the issuer leads back."""
    mint, login = visit.mint, _login(visit)
    begun = Begun.read(visit.request.cookies.get(cookie_name(mint, CONSOLE_COOKIE), ""))
    code, why = login.read_answer(begun.secret, visit.query)
    if not code:
        raise GrantError(why, code="bad_subject_token")
    max_age_s = mint.realm.console.fresh_ms // 1000 if begun.again else None
    with mint.db.unit() as unit:
        token = login.finish(unit, begun.secret, code, max_age_s=max_age_s)
        operator = log_operator_in(mint, unit, token, peer=visit.peer)
        cookie = begin_by_login(mint, unit, operator, login_time(token), begun.before)
    response = visit.go_on(begun.next_page)
    visit.set_cookie(response, COOKIE, wire.text_of(cookie), mint.realm.console.life_ms // 1000)
    visit.set_cookie(response, CONSOLE_COOKIE, "", same_site="lax")
    return response


def show_draft(visit: Visit) -> Response:
    """Show the form that an operator sent before signing in again, to go on with it."""
    draft = find_draft(visit.mint, visit.operator)
    if draft is None:
        return visit.redirect(HOME)
    # The page has it now. Kept, it would be offered at the next sign-in as well, long after it was sent.
    visit.mint.db.console_sessions.keep_draft(visit.operator.id, None)
    return visit.render("continue.html", title="Go on", path=draft[0], fields=[*draft[1].items()])


def _login(visit: Visit) -> OidcLogin:
    login: OidcLogin | None = visit.request.app.state.login
    visit.mint.limits.count_unproven(visit.peer)
    if login is None:
        raise GrantError("this mint has no login for people: run `arx console open`", code="not_found")
    _require_safe(visit)
    return login


def _require_safe(visit: Visit) -> None:
    # Its cookie would go over the network in plain text.
    if not is_safe_url(visit.mint.realm.issuer):
        raise GrantError("the console needs https: beyond this machine", code="conflict")


def show_link(visit: Visit) -> Response:
    """Show whom a link signs in; a form uses it, as programs that look at links must not."""
    return visit.render(
        "open.html",
        title="Open the console",
        operator=find_link(visit.mint, _secret(visit.query)),
        link=visit.query["link"],
    )


def use(visit: Visit) -> Response:
    """Use a link, and sign the browser in."""
    _require_safe(visit)
    before = visit.session
    waits = before is not None and find_draft(visit.mint, before) is not None
    cookie = use_link(visit.mint, _secret(visit.form), before)
    response = visit.redirect(CONTINUE if waits else HOME)
    visit.set_cookie(response, COOKIE, wire.text_of(cookie), visit.mint.realm.console.life_ms // 1000)
    return response


def show_home(visit: Visit) -> Response:
    """Lead to the first page that the operator's role may read."""
    menu = visit.menu
    return visit.redirect(menu[0][1][0].path) if menu else visit.render("empty.html", title="Console")


def sign_out(visit: Visit) -> Response:
    """End the session."""
    end_console_session(visit.mint, visit.operator)
    response = visit.redirect(SIGN_IN)
    visit.set_cookie(response, COOKIE, "")
    return response


def _own_path(path: str) -> str:
    """Return a path of the console, and that of its first page instead of any other."""
    # Such a path has neither a scheme nor a host.  A browser takes a backslash for a slash.
    own = path.startswith("/console/") and "\\" not in path and path.isprintable()
    return path if own and not path.startswith((SIGN_IN, LOGIN)) else HOME


def _secret(members: Mapping[str, str]) -> bytes:
    secret = read_secret(members.get("link", ""))
    if not secret:
        raise GrantError("this is no link of the console: run `arx console open`", code=BAD_LINK)
    return secret


PAGES: Final = (
    Page("GET", SIGN_IN, show_sign_in, open=True),
    Page("GET", LOGIN, begin_login, open=True),
    Page("GET", CONSOLE_CALLBACK, finish_login, open=True),
    Page("GET", CONTINUE, show_draft),
    Page("GET", OPEN_PATH, show_link, open=True),
    Page("POST", OPEN_PATH, use, open=True),
    Page("GET", HOME, show_home),
    Page("POST", "/console/sign-out", sign_out),
    *sign_ins.PAGES,
)
