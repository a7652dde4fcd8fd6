# SPDX-License-Identifier: Apache-2.0
"""One request of an operator's browser: who asks, calls of the API in this process, and the answer.

A page is a function that gets a ``Visit`` and returns a response; it runs in a thread.
"""

import contextlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from arx_caps.console.live import Broadcast, Live, StreamEvent
from arx_caps.console.menu import Entry, entry_of, menu_for
from arx_caps.console.render import render
from arx_caps.mint.api.access_log import id_of, note
from arx_caps.mint.api.admission import count_unproven, require_admitted
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.api.browser import cookie_name, set_cookie
from arx_caps.mint.api.endpoint import Endpoint, RouteAnswer, RouteCall, call_endpoint
from arx_caps.mint.api.problems import find_code
from arx_caps.mint.api.request_runner import FORM_THREADS, URGENT_THREADS, RequestRunner, in_thread
from arx_caps.mint.api.routes.operations.console import OPEN_PATH
from arx_caps.mint.identity.authenticate import require_active_operator
from arx_caps.mint.identity.console_session import (
    SIGN_IN_AGAIN,
    ConsoleSession,
    authorize_console_call,
    find_console_session,
    find_link,
    keep_draft,
    note_console_use,
    read_secret,
)
from arx_caps.mint.identity.operator_role import actions_of_operator, may
from arx_caps.mint.login.issuer_client import derived
from arx_caps.mint.rate_limit import TooOftenError
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError, GrantError, RequestError, UnavailableError

MAX_FORM_BYTES: Final = 256 * 1024  # a policy is the largest text that is typed or pasted
MAX_OPEN_FORM_BYTES: Final = 8 * 1024  # of who is not signed in
MAX_QUERY_CHARS: Final = 4000
SIGN_IN: Final = "/console/sign-in"
COOKIE: Final = "arx-console"
TOKEN: Final = "token"  # noqa: S105 - the field's name
_PURPOSE: Final = "console-form"
_TITLES: Final = {403: "Not allowed", 404: "Not found", 503: "Not now"}  # of pages of errors, by status
_ENDPOINTS: Final[Mapping[Callable[..., Any], Endpoint]] = {each.handler: each for each in ENDPOINTS}
CONTINUE: Final = "/console/continue"
_Answer = TypeVar("_Answer", bound=RouteAnswer)


class SignInAgainError(Exception):
    """The operator signed in too long ago for an act; no page handles it as a refusal of its own."""


class Visit(RequestRunner):
    """One request of a browser.

    Attributes:
        live: The streams of the console.
        session: The operator's session; None without a sign-in, or before it is looked up.
        query: The query, once it is read.
        form: The form of a POST, once it is read.

    Args:
        request: The request.
        page: The page; None for one that does not exist.
    """

    def __init__(self, request: Request, page: "Page | None" = None) -> None:
        super().__init__(request.app.state.mint, request)
        self.live: Live = request.app.state.live
        self.query: Mapping[str, str] = {}
        self.form: Mapping[str, str] = {}
        self.session: ConsoleSession | None = None
        self._page = page
        self._secret = read_secret(request.cookies.get(cookie_name(self.mint, COOKIE), ""))
        self._actions: tuple[str, ...] | None = None
        self._calls: list[tuple[str, Mapping[str, Any]]] = []
        self.limit = MAX_FORM_BYTES if self._secret else MAX_OPEN_FORM_BYTES
        self.threads = URGENT_THREADS if page is not None and page.urgent else FORM_THREADS

    async def admit(self) -> None:
        """Require that the browser's address is below its limit, or that the mint knows its sign-in or link."""
        await require_admitted(self.mint, self.request, self._caller_finder())

    def _caller_finder(self) -> Callable[[], str | None] | None:
        """Return what finds the id of the sign-in of the request's cookie or link; None if it has neither."""
        mint, request, secret = self.mint, self.request, self._secret
        link = read_secret(request.query_params.get("link", "")) if request.url.path == OPEN_PATH else b""
        if not secret and not link:
            return None

        def find() -> str | None:
            session = find_console_session(mint, secret) if secret else None
            if session is not None:
                return session.id
            try:
                return f"link of {find_link(mint, link)}" if link else None
            except GrantError:
                return None

        return find

    def finish(self, raw: bytes) -> Response:
        """Return the answer, or charge and refuse; note that the sign-in was used."""
        response = super().finish(raw)
        if self.session is not None:
            note_console_use(self.mint, self.session)
        return response

    def respond(self, raw: bytes) -> Response:
        """Return the page, or lead to the sign-in."""
        page = self._page
        assert page is not None
        self.query = _read(self.request.url.query, MAX_QUERY_CHARS)
        self.find_session()
        if not page.open and self.session is None:
            return self._lead_to_sign_in()
        # Parsed only now: a stranger must not make the mint work on a long form.
        longest = MAX_FORM_BYTES if self.session is not None else MAX_OPEN_FORM_BYTES
        try:
            self.form = _read(raw.decode("ascii"), longest) if raw else {}
        except UnicodeDecodeError:
            raise RequestError("the form is malformed") from None
        if page.method == "POST":
            _require_own_page(self)
        try:
            return page.answer(self)
        except SignInAgainError:
            return _ask_again(self)

    def find_session(self) -> None:
        """Look up the session of the cookie."""
        self.session = find_console_session(self.mint, self._secret) if self._secret else None

    def _lead_to_sign_in(self) -> Response:
        if _is_led_here(self):
            return self.go_on(self.link())
        count_unproven(self.mint, self.request)
        is_form = self.request.method == "POST"
        if self._secret or is_form:
            note(self.request, code="missing_token")
        # A form is typed again after the sign-in: a POST cannot be repeated by a redirect.
        return self.redirect(SIGN_IN, **({} if is_form else {"next": self.link()}))

    def refuse(self, error: ArxError) -> Response:
        """Return the page of a refusal: what is wrong, its code, and what to do."""
        note(self.request, code=error.code)
        known = find_code(error.code)
        status = known.status if known is not None else 500
        hint = error.hint or (known.do if known is not None else "")
        values = {"text": str(error), "code": error.code, "hint": hint, "request_id": id_of(self.request)}
        listed = entry_of(self.menu, self.request.url.path) if self.session is not None else None
        title = _TITLES.get(status, "That did not work")
        response = self.render("error.html", status, title=title, listed=listed, **values)
        if isinstance(error, TooOftenError):
            response.headers["Retry-After"] = str(error.wait_s)
        elif isinstance(error, UnavailableError):
            response.headers["Retry-After"] = "1"
        return response

    def charge(self, error: ArxError) -> None:
        """Charge the address of a browser without a sign-in for a refusal, but not for an outage."""
        if self.session is None and isinstance(error, GrantError | RequestError):
            count_unproven(self.mint, self.request, error)

    @property
    def operator(self) -> ConsoleSession:
        """The operator who is signed in.

        Raises:
            GrantError: ``missing_token``: there is no sign-in.
        """
        if self.session is None:
            raise GrantError("sign in first", code="missing_token")
        return self.session

    @property
    def token(self) -> str:
        """What a form must send as ``token``, to prove that it is on a page of this session."""
        return derived(self._secret, _PURPOSE)

    def call(
        self,
        handler: Callable[[RouteCall], _Answer],
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
    ) -> _Answer:
        """Call an endpoint of the API as the operator: same role, same checks, same record of the decision.

        Args:
            handler: The endpoint's handler, of ``arx_caps.mint.api.routes``.
            path: The parameters of its path.
            query: The members of its query; those that are None or empty are left out.
            body: The members of its body, or a body that is not JSON.

        Returns:
            The endpoint's answer.

        Raises:
            ArxError: A refusal of the endpoint.
            SignInAgainError: The act needs a recent sign-in: the operator signs in, and goes on with this form.
        """
        endpoint, session = _ENDPOINTS[handler], self.operator

        def authorize(action: str, args: Mapping[str, Any]) -> Any:
            self._calls.append((action, args))
            try:
                return authorize_console_call(self.mint, session, action, args, peer=self.peer, about=endpoint.about)
            except GrantError as error:
                if error.code == SIGN_IN_AGAIN:
                    raise SignInAgainError from error
                raise

        # As text, which the same call would have over HTTP: the rules of a role judge its arguments.
        asked = {name: str(value) for name, value in (query or {}).items() if value not in (None, "")}
        answer: Any = call_endpoint(
            endpoint, self.mint, authorize, path=path or {}, query=asked, body=body or {}, peer=self.peer
        )
        return answer  # type: ignore[no-any-return]

    def may(self, action: str) -> bool:
        """Return whether the operator's role has an action, for what a page offers; each call is checked anyway."""
        return may(self.actions, action)

    @property
    def actions(self) -> tuple[str, ...]:
        """The patterns of actions that the operator's role has now."""
        if self._actions is None:
            # Without a role, as without one for a page, the menu is empty; each call is refused with its reason.
            self._actions = ()
            with contextlib.suppress(ArxError):
                self._actions = actions_of_operator(self.mint, self.operator.operator)
        return self._actions

    @property
    def menu(self) -> list[tuple[str, list[Entry]]]:
        """The pages that the menu offers to this operator, in groups."""
        return menu_for(self.actions)

    def still(self, *actions: str) -> bool:
        """Return whether the operator is still signed in and may still do what this visit began with, for a stream.

        Args:
            *actions: Further actions, without arguments.
        """
        try:
            # A page that is left open does not keep its operator signed in.
            session = find_console_session(self.mint, self._secret)
            if session is None:
                return False
            # As each call was judged at its beginning, with freezes and the arguments of rules.
            for action, args in [*self._calls, *((action, {}) for action in actions)]:
                require_active_operator(self.mint, session.operator, action, args)
        except ArxError:
            return False
        return True

    def render(self, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
        """Return a page.

        Args:
            template: A template's file name.
            status_code: The HTTP status.
            **values: What the template shows; ``command`` is the ``arx`` command that shows or does the same.
        """
        return HTMLResponse(render(template, visit=self, **values), status_code, {"Cache-Control": "no-store"})

    def fragment(self, template: str, **values: Any) -> str:
        """Return the HTML of a part of a page, for a stream or a swap."""
        return render(template, visit=self, **values)

    def redirect(self, path: str, **query: str) -> Response:
        """Return a redirect to a page of the console."""
        return RedirectResponse(f"{path}?{urlencode(query)}" if query else path, 303, {"Cache-Control": "no-store"})

    def go_on(self, path: str) -> HTMLResponse:
        """Return a page that leads to another one of the console at once.

        A redirect would still be the other site's request, with which no browser sends a strict cookie.
        """
        return self.render("go_on.html", title="One moment", path=path)

    def link(self, **changes: str | int | None) -> str:
        """Return the address of this page with other members of the query; None removes one."""
        query = {name: str(value) for name, value in {**self.query, **changes}.items() if value not in (None, "")}
        path = self.request.url.path
        return f"{path}?{urlencode(query)}" if query else path

    def stream(
        self,
        broadcast: Broadcast,
        show: Callable[[Any, int], StreamEvent | None],
        first: Callable[[], Iterable[StreamEvent]] = tuple,
    ) -> Response:
        """Return the answer that streams a broadcast to this operator, as ``Live.answer`` does.

        Raises:
            GrantError: ``rate_limited``: the operator has too many open pages.
        """
        _ = self.actions  # read here, in a thread: what a stream shows must not ask the database in the server's loop
        operator = self.operator
        return self.live.answer(operator.operator, broadcast, show, self.still, first, browser=operator.id)

    def set_cookie(
        self,
        response: Response,
        name: str,
        value: str,
        max_age_s: int | None = None,
        same_site: Literal["lax", "strict"] = "strict",
    ) -> None:
        """Set a cookie that no script and no other site reads; an empty one is deleted."""
        set_cookie(self.mint, response, cookie_name(self.mint, name), value, max_age_s, same_site)


class Page(NamedTuple):
    """A page, or the target of a form.

    Attributes:
        method: The HTTP method.
        path: The path, in Starlette's form.
        answer: Answers a visit, in a thread.
        open: Whether it needs no signed-in operator.
        urgent: Whether it is answered by threads and connections that no other page can take.
    """

    method: str
    path: str
    answer: Callable[[Visit], Response]
    open: bool = False
    urgent: bool = False


async def answer_page(pages: Mapping[str, Page], request: Request) -> Response:
    """Answer a browser.

    Args:
        pages: The pages of this path, by method.
        request: The request.
    """
    page = pages["GET" if request.method == "HEAD" else request.method]
    note(request, route=page.path, caller="console")
    return await Visit(request, page).run()


def _is_led_here(visit: Visit) -> bool:
    """Return whether a link of another site, such as a chat, led a browser here: it then sends no strict cookie."""
    headers = visit.request.headers
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    return visit.request.method == "GET" and site in ("cross-site", "same-site") and mode == "navigate"


def _ask_again(visit: Visit) -> Response:
    """Lead to the sign-in, and from there back to this page, or on with this form."""
    if visit.request.method != "POST":
        return visit.redirect(SIGN_IN, again="1", next=visit.link())
    fields = {name: value for name, value in visit.form.items() if name != TOKEN}
    keep_draft(visit.mint, visit.operator, visit.link(), fields)
    return visit.redirect(SIGN_IN, again="1", next=CONTINUE)


def _require_own_page(visit: Visit) -> None:
    """Require that a form was on a page of this console, and of this session if there is one."""
    origin, site = visit.request.headers.get("origin"), visit.request.headers.get("sec-fetch-site")
    if (origin is not None and origin != origin_of(visit.mint.realm)) or site not in (None, "same-origin"):
        raise GrantError("this form is not from a page of this console: open the page again", code="wrong_form")
    if visit.session is not None and not hmac.compare_digest(visit.form.get(TOKEN, "").encode(), visit.token.encode()):
        raise GrantError("this form is of another sign-in: open the page again", code="wrong_form")


async def answer_unknown(request: Request, error: Exception) -> Response:
    """Answer a request for a page that does not exist, or with a wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        hint = "check the address, or start at the first page"
        unknown = GrantError("there is no such page", code="not_found", hint=hint)
    else:
        unknown = GrantError("this page is not asked that way", code="method_not_allowed")

    def show() -> Response:
        visit = Visit(request)
        with contextlib.suppress(ArxError):  # without a database the page has no menu
            visit.find_session()
        return visit.refuse(unknown)

    return await in_thread(FORM_THREADS, show)


async def answer_bug(request: Request, error: Exception) -> Response:
    """Answer after an unexpected error, which the mint's log has."""
    del error  # its text could quote a secret
    bug = GrantError("the mint failed", code="internal")
    return await in_thread(FORM_THREADS, Visit(request).refuse, bug)


def origin_of(realm: Realm) -> str:
    """Return the origin of the mint's pages (RFC 6454)."""
    parts = urlsplit(realm.issuer)
    return f"{parts.scheme}://{parts.netloc}"


def _read(text: str, longest: int) -> dict[str, str]:
    if len(text) > longest:
        raise RequestError(f"expected at most {longest} characters")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise RequestError("the form is malformed") from None
    return dict(pairs)
