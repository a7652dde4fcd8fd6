# SPDX-License-Identifier: Apache-2.0
"""The address of a caller, and the cookies of the mint's pages.  CONTROL 5.8, 6.2."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from arx_caps.mint.context import HasLimits, HasRealm


def peer_of(mint: HasLimits, request: Request) -> str | None:
    """Return the caller's address; ``X-Forwarded-For`` counts only from trusted proxies."""
    peer = request.client.host if request.client is not None else None
    return mint.limits.peer_of(peer, request.headers.getlist("x-forwarded-for"))


def cookie_name(mint: HasRealm, name: str) -> str:
    """Return the name of a cookie as browsers send it."""
    # The prefix: no page of another host of the domain can set the cookie, and so begin a login in its own name.
    return f"__Host-{name}" if _is_https(mint) else name


def set_cookie(
    mint: HasRealm,
    response: Response,
    name: str,
    value: str,
    max_age_s: int | None,
    same_site: Literal["lax", "strict"],
) -> None:
    """Set a cookie that no script and no other site reads; an empty one is deleted.

    Args:
        mint: The mint.
        response: The answer that carries it.
        name: Its whole name, of ``cookie_name``.
        value: Its value.
        max_age_s: How long the browser keeps it, s; None until it is closed.
        same_site: Whether links of other sites send it (``lax``) or not.
    """
    response.set_cookie(
        name,
        value,
        max_age=max_age_s if value else 0,
        path="/",
        secure=_is_https(mint),
        httponly=True,
        samesite=same_site,
    )


def _is_https(mint: HasRealm) -> bool:
    return mint.realm.issuer.startswith("https:")
