# SPDX-License-Identifier: Apache-2.0
"""Guard an application of Django at the view that it matched.  SPEC 8.4.

``guard`` wraps the WSGI application, and ``ArxDjangoMiddleware``, the last of ``MIDDLEWARE``, decides before the view.
The view finds the grant as ``request.arx``.  Django routes.  Either without the other refuses every call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler, get_path_info
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.request import RawPostDataException
from django.urls import Resolver404, URLPattern, URLResolver, get_resolver
from django.urls.converters import IntConverter
from django.utils.datastructures import MultiValueDict

from arx_verifier.enforcement.base.routes import converted_argument
from arx_verifier.enforcement.wsgi.views import EmptyForm, Matched, Views
from arx_verifier.enforcement.wsgi.wsgi import GuardedWSGI
from arx_verifier.enforcement.wsgi.wsgi_call import CALL_KEY, WSGICall
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.verification.verifier import Verifier

NAME: Final = "arx_verifier.integrations.django.ArxDjangoMiddleware"
_VIEWS: Final = "arx.views"


def guard(
    application: WSGIHandler,
    verifier: Verifier,
    *,
    tools: Mapping[str, str],
    public: Iterable[str] = (),
    **options: Any,
) -> GuardedWSGI:
    """Return the guarded application: ``application = guard(get_wsgi_application(), verifier, tools={…})``.

    Args:
        application: Of ``get_wsgi_application``.
        verifier: The verifier; it starts with the first call of each process.
        tools: The tool of each view and method, by the name of its route: ``{"GET order": "orders.get"}``, in a
            namespace ``POST desk:refund?{dry_run}``.
        public: The views that need no token: ``["GET healthz"]``.
        options: ``max_body``, ``trusted_proxies``, ``recheck_ms``, ``limits``, ``effects``, ``mode`` and ``until`` of
            ``ArxWSGI``, and so on.

    Raises:
        SettingsError: ``ArxDjangoMiddleware`` is not the last of ``MIDDLEWARE``; or a line has no method, names no
            route, or names routes of several views.
    """
    # A middleware behind it could change what the view gets, or lead to another view.
    if list(settings.MIDDLEWARE)[-1:] != [NAME]:
        raise SettingsError(f"MIDDLEWARE: expected {NAME} as the last one")
    found: dict[str, Any] = {}
    lines = {text.partition("?")[0].rpartition(" ")[2] for text in (*tools, *public)}
    for name, view in _routes(get_resolver().url_patterns, ""):
        if found.setdefault(name, view) is not view and name in lines:
            raise SettingsError(f"{name!r:.100} names routes of several views: expected one view for each name")
    # A view of Django takes every method, and may do another thing by each: a line always has one.
    views = Views(tools, public, dict.fromkeys(found, frozenset()))

    def run(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[_VIEWS] = views, found
        return application(environ, start_response)

    def may_be_public(call: WSGICall) -> bool:
        try:
            match = get_resolver().resolve(get_path_info(call.environ))
        except Resolver404:
            return False
        return views.is_public(match.view_name, call.scope["method"])

    return GuardedWSGI(run, verifier=verifier, may_be_public=may_be_public, **options)


class _EmptyForm(EmptyForm, QueryDict):  # type: ignore[misc]  # takes what any mapping takes
    def __deepcopy__(self, memo: Any) -> Any:
        copied = super().__deepcopy__(memo)
        copied.call = self.call
        return copied


class ArxDjangoMiddleware:
    """Decides on the view that Django matched; the last of ``MIDDLEWARE``."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on."""
        return self._get_response(request)

    def process_view(self, request: Any, view: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return None to run the view with the arguments that were judged, else an answer.

        ``GuardedWSGI`` replaces that answer by the refusal.
        """
        call, match = request.META.get(CALL_KEY), request.resolver_match
        if call is None or _VIEWS not in request.META:
            return HttpResponse("this application is guarded: call it through the result of guard()", status=403)

        def read() -> dict[str, Any]:
            if args or match.func is not view:
                raise RequestError("the path: expected parameters with names")
            return _parameters(match, kwargs, request.path_info)

        views, known = request.META[_VIEWS]
        # A middleware may route by another urlconf, such as one for each host, with other views of these names.
        name = match.view_name if known.get(match.view_name) is match.func else ""
        query = request.META["QUERY_STRING"].encode("latin-1")
        matched = Matched(name, request.method, request.path_info, query, lambda: _body(request), read)
        if not views.judge(call, matched):
            return HttpResponse(status=403)
        request.arx = request.META.get("arx")
        if call.members and request.content_type != "multipart/form-data":
            request._post, request._files = _EmptyForm.of(call), MultiValueDict()  # noqa: SLF001 - as Django fills them
        return None


def _routes(patterns: Iterable[Any], namespace: str) -> Iterator[tuple[str, Any]]:
    """Yield the name of each route, as ``ResolverMatch.view_name`` has it, and its view."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from _routes(pattern.url_patterns, inner)
        elif isinstance(pattern, URLPattern):
            yield f"{namespace}{pattern.name or pattern.lookup_str}", pattern.callback


def _body(request: HttpRequest) -> bytes:
    try:
        return request.body
    except RawPostDataException:  # a middleware has read it, and the view would read another one
        raise RequestError("the body was read before the decision") from None


def _parameters(match: Any, kwargs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the parameters of the path, and of all patterns that include its view, as they are judged.

    Raises:
        RequestError: One was sent in another spelling than that of its value, ``007`` for 7; or the view gets others.
    """
    texts: dict[str, tuple[str | None, Any]] = {}  # None for a further argument, which is no part of the path
    rest = path.removeprefix("/")
    for part in match.tried[-1]:  # the patterns that led to the view, the outermost first
        pattern = part.pattern
        if pattern.converters:
            found = pattern.regex.search(rest)
            rest, written = rest[found.end() :], found.groupdict()
        else:  # one by a regular expression, whose parameters are not converted
            rest, _, written = pattern.match(rest)
        texts |= {name: (text, pattern.converters.get(name)) for name, text in written.items()}
        texts |= dict.fromkeys(
            part.default_kwargs if isinstance(part, URLResolver) else part.default_args, (None, None)
        )
    if texts.keys() != kwargs.keys():
        raise RequestError(f"the path: expected the parameters {', '.join(texts)}, got {', '.join(kwargs)}")
    return {name: _argument(name, value, *texts[name]) for name, value in kwargs.items()}


def _argument(name: str, value: Any, sent: str | None, converter: Any) -> Any:
    """Return a parameter, which must have been sent in its one spelling: an integer, or that text."""
    if sent is None:  # the caller chooses it by the path
        return converted_argument(name, value)
    expected = value if converter is None else converter.to_url(value)
    if expected != sent:
        raise RequestError(f"the path: parameter {name!r:.80}: expected {expected!r:.80}, got {sent!r:.80}")
    # The text of a converter of the project, such as a hexadecimal one, is not that of its number.
    return converted_argument(name, value) if type(converter) is IntConverter else sent
