# SPDX-License-Identifier: Apache-2.0
"""The console's application: its pages, its static files, and its headers.  CONTROL 6."""

import functools
import hashlib
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arx_caps.console import sign_in
from arx_caps.console.live import Live
from arx_caps.console.pages import (
    agents,
    approvals,
    budgets,
    decisions,
    find,
    keys,
    kills,
    notifications,
    now,
    policy,
    search,
    sessions,
    top,
    verifiers,
)
from arx_caps.console.visit import Page, answer_bug, answer_page, answer_unknown
from arx_caps.mint.api.access_log import note
from arx_caps.mint.runtime import MintRuntime

HOME: Final = "/console"
# The pages of each module, in the order of the menu.
PAGES: Final[tuple[Page, ...]] = (
    *sign_in.PAGES,
    *now.PAGES,
    *find.PAGES,
    *decisions.PAGES,
    *top.PAGES,
    *search.PAGES,
    *sessions.PAGES,
    *agents.PAGES,
    *budgets.PAGES,
    *approvals.PAGES,
    *kills.PAGES,
    *verifiers.PAGES,
    *keys.PAGES,
    *notifications.PAGES,
    *policy.PAGES,
)
# What a browser may do with a page: nothing from elsewhere, no script or style in the page itself, no frame.
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_OWN: Final = Path(__file__).parent / "static"
# A wheel has the vendored files beside the console's own.
_VENDORED: Final = Path(__file__).parents[2] / "vendor" / "htmx"
STATIC: Final = ("console.css", "favicon.svg", "feed.js", "find.js", "htmx.min.js", "hx-sse.min.js", "stale.js")


def compose(app: Starlette, mint: MintRuntime) -> Callable[[], None]:
    """Add the console to a mint's application.

    Args:
        app: The application.
        mint: The mint.

    Returns:
        Ends the console's open answers; to be called when the server begins to stop.
    """
    paths: dict[str, dict[str, Page]] = {}
    for page in PAGES:
        paths.setdefault(page.path.removeprefix(HOME), {})[page.method] = page
    routes = [Route(f"/static/{name}", functools.partial(_static, name)) for name in STATIC]
    routes += [Route(path, functools.partial(answer_page, pages), methods=[*pages]) for path, pages in paths.items()]
    console = Starlette(
        routes=routes,
        exception_handlers={HTTPException: answer_unknown, Exception: answer_bug},
    )
    # Around all of it: Starlette's own middleware would not reach the page of an unexpected error.
    console.middleware_stack = _Headers(console.build_middleware_stack())
    console.router.redirect_slashes = False
    live = Live()
    console.state.mint, console.state.live, console.state.login = mint, live, app.state.login
    console.state.reader = decisions.RecordReader(mint)
    app.router.routes += [Route(HOME, _lead_on), Route(f"{HOME}/", _lead_on), Mount(HOME, console)]
    return live.stop


async def _lead_on(_: Request) -> Response:
    return RedirectResponse(sign_in.HOME, 303, _HEADERS)


async def _static(name: str, request: Request) -> Response:
    note(request, route=f"{HOME}/static")
    content, tag = _file(name)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, media_type=mimetypes.guess_type(name)[0])


@functools.cache
def _file(name: str) -> tuple[bytes, str]:
    own = _OWN / name
    content = (own if own.exists() else _VENDORED / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


class _Headers:
    """Sets the headers of every answer.

    Args:
        app: The console.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, answer)
