# SPDX-License-Identifier: Apache-2.0
"""Sign in and out: a link of one use that `arx console open` prints, and the choice of a theme.  CONTROL 6."""

from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response

from arx_caps.console.visit import COOKIE, SIGN_IN, THEME_COOKIE, THEMES, Page, Visit
from arx_caps.mint.identity.console_session import (
    BAD_LINK,
    LIFE_MS,
    SECRET_BYTES,
    end_console_session,
    find_link,
    use_link,
)
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.token import wire

HOME: Final = "/console/home"  # leads on
THEME_S: Final = 365 * 86_400


def show_sign_in(visit: Visit) -> Response:
    """Show how an operator signs in."""
    if visit.session is not None:
        return visit.redirect(_own_path(visit.query.get("next", "")))
    return visit.render("sign_in.html", title="Sign in", next=_own_path(visit.query.get("next", "")))


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
    visit.mint.limits.count_unproven(visit.peer)
    cookie = use_link(visit.mint, _secret(visit.form))
    response = visit.redirect(HOME)
    visit.set_cookie(response, COOKIE, wire.text_of(cookie), LIFE_MS // 1000)
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


def choose_theme(visit: Visit) -> Response:
    """Keep the theme that the user chose, in the browser."""
    theme = visit.form.get("theme", "")
    response = visit.redirect(_own_path(visit.form.get("next", "")))
    response.set_cookie(
        THEME_COOKIE,
        theme if theme in THEMES else "",
        max_age=THEME_S if theme in THEMES else 0,
        httponly=True,
        samesite="lax",
    )
    return response


def _own_path(path: str) -> str:
    """Return a path of the console, and that of its first page instead of any other."""
    parts = urlsplit(path)
    # A browser takes a backslash for a slash, and what follows two of them for a host.
    own = (
        not parts.scheme
        and not parts.netloc
        and path.startswith("/console/")
        and "\\" not in path
        and path.isprintable()
    )
    return path if own and not path.startswith(SIGN_IN) else HOME


def _secret(members: dict[str, str] | object) -> bytes:
    text = members.get("link", "") if isinstance(members, dict) else ""
    try:
        secret = wire.bytes_of(text)
    except (ArxError, ValueError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise GrantError("this is no link of the console: run `arx console open`", code=BAD_LINK)
    return secret


PAGES: Final = (
    Page("GET", SIGN_IN, show_sign_in, open=True),
    Page("GET", "/console/open", show_link, open=True),
    Page("POST", "/console/open", use, open=True),
    Page("GET", HOME, show_home),
    Page("POST", "/console/sign-out", sign_out),
    Page("POST", "/console/theme", choose_theme, open=True),
)
