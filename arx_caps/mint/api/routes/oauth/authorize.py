# SPDX-License-Identifier: Apache-2.0
"""Routes that a person's browser visits: authorization request, login and consent.  CONTROL 5.8, RFC 6749 4.1."""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.browser import cookie_name, set_cookie
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.api.request_runner import RequestRunner
from arx_caps.mint.api.routes.oauth.oauth import read_parameters
from arx_caps.mint.context import HasRealm, MintContext
from arx_caps.mint.identity.console_session import read_secret
from arx_caps.mint.login.issuer_client import SECRET_BYTES, derived
from arx_caps.mint.login.oidc import (
    CALLBACK,
    CONNECT_COOKIE,
    CONNECT_LOGIN,
    CONSOLE_CALLBACK,
    CONSOLE_COOKIE,
    PAGE_MS,
    OidcLogin,
)
from arx_caps.mint.oauth.authorization_code import (
    Consent,
    ask,
    deny_consent,
    find_consent,
    find_redirect,
    give_consent,
    read_request,
)
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.client.redirects import answer_url
from arx_caps.mint.oauth.consent_page import PARAM, TASK, consent_page, error_page, headers_of, read_choice
from arx_caps.mint.oauth.errors import OAuthError, plain_description
from arx_caps.mint.oauth.metadata import AUTHORIZE
from arx_caps.mint.rate_limit import TooOftenError
from arx_caps.settings.realm import LOOPBACK
from arx_verifier.errors import ArxError, GrantError, RequestError, SettingsError, UnavailableError
from arx_verifier.token import wire

CONSENT: Final = "/oauth/consent"
MAX_QUERY_CHARS: Final = 3000  # a browser keeps a cookie of 4096 bytes
MAX_ATTEMPTS: Final = 4  # logins of one browser at once, each in a cookie of its own; a new one ends the oldest
MAX_COOKIE_CHARS: Final = 6200  # of all of them: proxies take a header of 8 KiB; two requests of full length fit
TAG_CHARS: Final = 8
_LOGIN_COOKIE: Final = "arx-login"
_CONSENT_COOKIE: Final = "arx-consent"
_PURPOSE: Final = "page"


class ConsentVisit(RequestRunner):
    """One request of a browser.

    Args:
        mint: The mint.
        request: The request.
        answer: Returns its answer.

    Attributes:
        form: Its query or form, once it is read.
        longest: The longest query, in characters.
    """

    form: Mapping[str, str] = MappingProxyType({})
    longest = MAX_QUERY_CHARS

    def __init__(self, mint: MintContext, request: Request, answer: Callable[[Any], Response]) -> None:
        super().__init__(mint, request)
        self._answer = answer

    @property
    def login(self) -> OidcLogin:
        """The realm's login.

        Raises:
            OAuthError: ``invalid_request``: there is none.
        """
        login: OidcLogin | None = self.request.app.state.login
        if login is None:
            raise OAuthError("invalid_request", "this mint has no login for people")
        return login

    async def admit(self) -> None:
        """Require that the address may send another request, and count this one."""
        self.mint.limits.require_address(self.peer)
        # Each visit counts: none has proved who it is.
        self.mint.limits.count_unproven(self.peer)

    def respond(self, raw: bytes) -> Response:
        """Return the page of the request's path, or a redirect."""
        _ = self.login  # without one there is none of these pages
        try:
            # Not of ``request.url``, which ends the path at a `?` that was written as %3F.
            query = self.request.scope["query_string"].decode("ascii")
            if len(query) > self.longest:
                raise OAuthError("invalid_request", f"expected a query of at most {self.longest} characters")
            self.form = read_parameters(raw.decode("ascii") if self.request.method == "POST" else query)
            return self._answer(self)
        except ValueError:
            raise RequestError("the request is malformed") from None

    def refuse(self, error: ArxError) -> Response:
        """Return the page of an error."""
        headers, status, text = headers_of(), 400, str(error)
        if isinstance(error, TooOftenError):
            status, headers["Retry-After"] = 429, str(error.wait_s)
        elif isinstance(error, UnavailableError):
            status, headers["Retry-After"] = 503, "1"
            text = "the mint or the login does not answer now; try again later"
        elif isinstance(error, SettingsError):
            # Its text has paths of the mint's machine.
            status, text = 503, "the mint's login has wrong settings: its operator finds them with `arx doctor`"
        note(self.request, code=error.code)
        return HTMLResponse(error_page(text), status, headers)

    def require_page(self, token: str) -> None:
        """Require that a form was sent by the page that has a token; an empty one is none.

        Raises:
            OAuthError: ``access_denied``: it was not.
        """
        # The token is on the page alone, which no other site reads; the origin is a second defence.
        own, sent = self.mint.realm.issuer, self.form.get("token", "")
        origin = self.request.headers.get("origin", own)
        if not token or origin != own or not hmac.compare_digest(sent.encode(), token.encode()):
            raise OAuthError("access_denied", "the answer is not from the page that asked, or too late")

    def cookie(self, kind: str, tag: str) -> tuple[str, str]:
        """Return name and value of one of the mint's cookies; the value is empty without it.

        Args:
            kind: What it is for.
            tag: Which login or page of the browser it belongs to.
        """
        name = _name(self.mint, kind) + tag
        return name, self.request.cookies.get(name, "")

    def new_cookie(self, kind: str, tag: str, value: str) -> dict[str, str]:
        """Return a new cookie, and those to delete because a browser has too many of its kind."""
        prefix, room, changes = _name(self.mint, kind), MAX_COOKIE_CHARS - len(value), dict[str, str]()
        # Browsers send the oldest first (RFC 6265 5.4).
        # Others than the mint's own are no names for a cookie, perhaps: a stranger wrote them.
        own = re.compile(rf"{prefix}[A-Za-z0-9_-]{{{TAG_CHARS}}}")
        others = [(name, text) for name, text in self.request.cookies.items() if own.fullmatch(name)]
        for number, (name, text) in enumerate(reversed(others), 2):
            room -= len(text)
            if number > MAX_ATTEMPTS or room < 0:
                changes[name] = ""
        return changes | {prefix + tag: value}

    def redirect(self, url: str, cookies: Mapping[str, str] | None = None) -> Response:
        """Return a redirect to a checked URL, with cookies by name; an empty one is deleted."""
        return self.with_cookies(RedirectResponse(url, 303, headers_of()), cookies)

    def with_cookies(self, response: Response, cookies: Mapping[str, str] | None = None) -> Response:
        """Return a response with cookies by name; an empty one is deleted."""
        for name, value in (cookies or {}).items():
            # Lax, since the browser comes back from the issuer by a link.
            set_cookie(self.mint, response, name, value, PAGE_MS // 1000, "lax")
        return response

    def client_url(self, redirect: str, **answer: str | None) -> str:
        """Return the URL that takes an answer to the client, with the issuer (RFC 9207)."""
        return answer_url(redirect, answer | {"iss": self.mint.realm.issuer})


def authorize(visit: ConsentVisit) -> Response:
    """Send a person to log in, for the authorization request of a client."""
    client, redirect = find_redirect(visit.mint, visit.form)
    try:
        read_request(visit.mint, client, visit.form)
        secret = secrets.token_bytes(SECRET_BYTES)
        url = visit.login.url(secret, visit.mint.policy.subject_claims)
    except ArxError as error:
        return _refuse_client(visit, client, redirect, error)
    # The request waits in the browser, and is judged again when it comes back: strangers fill no table.
    text = f"{wire.text_of(secret)}.{urlencode(visit.form)}"
    return visit.redirect(url, visit.new_cookie(_LOGIN_COOKIE, tag_of(derived(secret, "state")), text))


def callback(visit: ConsentVisit) -> Response:
    """Take a person back from the login, to consent."""
    mint, login = visit.mint, visit.login
    tag = tag_of(visit.form.get("state", ""))
    name, cookie = visit.cookie(_LOGIN_COOKIE, tag)
    if not cookie and visit.cookie(CONNECT_COOKIE, tag)[1]:
        return visit.redirect(f"{CONNECT_LOGIN}?{urlencode(visit.form)}")
    if not cookie and _name(mint, CONSOLE_COOKIE).removesuffix("-") in visit.request.cookies:
        # The issuer knows one redirect URI.  The console judges the answer by its own cookie.
        return visit.redirect(f"{CONSOLE_CALLBACK}?{urlencode(visit.form)}")
    text, _, query = cookie.partition(".")
    form, secret = dict(parse_qsl(query, keep_blank_values=True)), read_secret_cookie(text)
    code, why = login.read_answer(secret, visit.form)
    client, redirect = find_redirect(mint, form)
    over = {name: ""}
    try:
        if not code:
            raise OAuthError("access_denied", why)
        with mint.db.unit() as unit:
            # Before the login is verified: a kill that comes in between ends what it gives.
            born = mint.kills.born()
            token = login.finish(unit, secret, code)
            page = ask(mint, born, token, form)
    except OAuthError as error:
        return _refuse_client(visit, client, redirect, error, form.get("state"), over)
    tag = tag_of(derived(page, _PURPOSE))
    return visit.redirect(f"{CONSENT}?consent={tag}", over | visit.new_cookie(_CONSENT_COOKIE, tag, wire.text_of(page)))


def show_consent(visit: ConsentVisit) -> Response:
    """Show a person the task that a client asks for."""
    secret = read_secret_cookie(visit.cookie(_CONSENT_COOKIE, tag_of(visit.form.get("consent", "")))[1])
    return _ask(find_consent(visit.mint, secret), secret, {})


def answer_consent(visit: ConsentVisit) -> Response:
    """Take a person's answer, and send the browser back to the client."""
    mint, form = visit.mint, visit.form
    name, cookie = visit.cookie(_CONSENT_COOKIE, tag_of(form.get("token", "")))
    secret = read_secret_cookie(cookie)
    consent = find_consent(mint, secret)
    visit.require_page(derived(secret, _PURPOSE))
    redirect, state, over = consent.row.redirect, consent.row.state, {name: ""}
    if form.get("answer") != "allow":
        deny_consent(mint, consent)
        refused = {"error": "access_denied", "error_description": "the person refused"}
        return visit.redirect(visit.client_url(redirect, state=state, **refused), over)
    try:
        code = give_consent(mint, consent, *read_choice(consent, form))
    except OAuthError:
        raise
    except GrantError as error:
        return _ask(consent, secret, form, str(error))
    return visit.redirect(visit.client_url(redirect, code=code, state=state), over)


def _ask(consent: Consent, secret: bytes, form: Mapping[str, str], wrong: str = "") -> Response:
    html = consent_page(consent, CONSENT, derived(secret, _PURPOSE), typed=form, wrong=wrong)
    # A client on the web may redirect on.
    schemes = dict.fromkeys([urlsplit(consent.row.redirect).scheme, "https"])
    return HTMLResponse(html, 400 if wrong else 200, headers_of(schemes))


def _refuse_client(
    visit: ConsentVisit,
    client: OAuthClient,
    redirect: str,
    error: ArxError,
    state: str | None = None,
    cookies: Mapping[str, str] | None = None,
) -> Response:
    note(visit.request, code=error.code)
    name = "temporarily_unavailable"
    if isinstance(error, OAuthError):
        name = error.error
    elif not isinstance(error, UnavailableError):
        name = "server_error"
    text = str(error) if isinstance(error, OAuthError) else "the mint cannot do this now"
    state = visit.form.get("state") if state is None else state
    url = visit.client_url(redirect, error=name, error_description=plain_description(text), state=state)
    if client.self_registered and urlsplit(redirect).hostname not in LOOPBACK:
        # RFC 9700 4.11.2: else a link to this server would lead people to any place that a stranger has registered.
        return visit.with_cookies(HTMLResponse(error_page(text, url), 400, headers_of()), cookies)
    return visit.redirect(url, cookies)


_REQUEST: Final = {
    "client_id": "The client.",
    "redirect_uri": "One of its redirect URIs; the port of a loopback address may differ.",
    "response_type": "`code`.",
    "code_challenge": "The challenge of RFC 7636.",
    "code_challenge_method": "`S256`.",
    "dpop_jkt": "Thumbprint of the key that must prove the use of the code (RFC 9449 10).",
    "resource": "The URL of the service to call (RFC 8707).",
    "scope": "Templates of the policy, with a space between; the person chooses of those that the client may have.",
    "state": "Comes back with the answer.",
    "authorization_details": "Parameters of the template: one object of type `arx_task` (RFC 9396).",
}
_ANSWER: Final = {
    "token": "From the page.",
    "answer": "`allow` or `deny`.",
    f"{TASK}TEMPLATE": "Any text, for a template that the person chose of several.",
    f"{PARAM}NAME": "A parameter that the client left to the person; with several templates `TEMPLATE.NAME`.",
}


class BrowserPage(NamedTuple):
    """A page at one path, for one method.

    Attributes:
        answer: Returns its answer; the summary is that of the operation.
        members: Of the query, or of the form of a POST: what each is.
        statuses: Of its answers, beside refusals.
    """

    answer: Callable[[Any], Response]
    members: Mapping[str, str] = MappingProxyType({})
    statuses: tuple[int, ...] = (303,)


Pages: TypeAlias = Mapping[tuple[str, str], BrowserPage]
_ISSUERS: Final = {"state": "That of the login.", "code": "The issuer's code.", "iss": "The issuer (RFC 9207)."}
_PAGES: Final[Pages] = {
    ("GET", AUTHORIZE): BrowserPage(authorize, _REQUEST),
    ("GET", CALLBACK): BrowserPage(callback, _ISSUERS),
    ("GET", CONSENT): BrowserPage(show_consent, {"consent": "Which of the browser's pages."}, (200,)),
    ("POST", CONSENT): BrowserPage(answer_consent, _ANSWER),
}


def describe_pages(pages: Pages) -> tuple[OpenRoute, ...]:
    """Return what the API's document has of pages."""
    return tuple(
        OpenRoute(
            path,
            (page.answer.__doc__ or "").partition("\n")[0],
            dict.fromkeys((*page.statuses, 400, 429, 503)),
            method=method,
            form=page.members if method == "POST" else {},
            query=page.members if method == "GET" else {},
            media="text/html",
        )
        for (method, path), page in pages.items()
    )


def page_routes(pages: Pages, kind: type[ConsentVisit]) -> list[Route]:
    """Return the routes of pages, in their order.

    Args:
        pages: The pages.
        kind: What answers their requests.
    """

    async def answer_visit(route: str, request: Request) -> Response:
        # The path with the names of its parameters: a path itself may have a link, and is a stranger's text.
        note(request, route=route, caller="browser")
        page = pages["POST" if request.method == "POST" else "GET", route]
        return await kind(request.app.state.mint, request, page.answer).run()

    methods: dict[str, list[str]] = {}
    for method, path in pages:
        methods.setdefault(path, []).append(method)
    return [Route(path, partial(answer_visit, path), methods=listed) for path, listed in methods.items()]


OPEN: Final = describe_pages(_PAGES)


def routes() -> list[Route]:
    """Return the routes."""
    return page_routes(_PAGES, ConsentVisit)


def _name(mint: HasRealm, kind: str) -> str:
    """Return what the names of all cookies of one kind begin with."""
    return cookie_name(mint, f"{kind}-")


def tag_of(derived_text: str) -> str:
    """Return the end of a cookie's name, another one for each login and page.

    Args:
        derived_text: Text that is derived from the browser's secret.
    """
    return derived_text[:TAG_CHARS]


def read_secret_cookie(text: str) -> bytes:
    """Return the browser's secret.

    Args:
        text: The secret as the cookie has it, in base64url.

    Raises:
        OAuthError: The cookie has no such secret.
    """
    secret = read_secret(text)
    if not secret:
        raise OAuthError("invalid_request", "this browser has begun no login, or too long ago; are cookies allowed?")
    return secret
