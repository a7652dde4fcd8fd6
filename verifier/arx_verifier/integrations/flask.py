# SPDX-License-Identifier: Apache-2.0
"""Guard an application of Flask at the view that it matched.  SPEC 8.4.

``guard`` wraps the application's WSGI side and decides before the first hook of the request; ``request.environ["arx"]``
is then the grant.  Flask routes.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from flask import Flask, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import FloatConverter, IntegerConverter

from arx_verifier.enforcement.base.routes import converted_argument
from arx_verifier.enforcement.wsgi.views import EmptyForm, Matched, Views, require_other
from arx_verifier.enforcement.wsgi.wsgi import GuardedWSGI
from arx_verifier.enforcement.wsgi.wsgi_call import CALL_KEY, WSGICall
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.verification.verifier import Verifier

_WITHOUT_A_TOOL: Final = {"HEAD", "OPTIONS"}  # HEAD has the tool of GET; Flask answers OPTIONS itself


def guard(
    app: Flask, verifier: Verifier, *, tools: Mapping[str, str], public: Iterable[str] = (), **options: Any
) -> None:
    """Guard an application in place, after its views and blueprints are registered.

    Args:
        app: The application.
        verifier: The verifier; it starts with the first call of each process.
        tools: The tool of each guarded view, by endpoint: ``{"refund": "orders.refund"}``.  Write ``POST order`` for an
            endpoint with several methods, and ``POST refund?{dry_run}`` for an argument in the query.
        public: The endpoints that need no token, such as ``static``.
        options: ``max_body``, ``trusted_proxies``, ``recheck_ms``, ``limits``, ``effects``, ``mode`` and ``until`` of
            ``ArxWSGI``, and so on.

    Raises:
        SettingsError: A name is of no endpoint, or of one with several methods; an endpoint cannot be guarded; or the
            application's ``wsgi_app`` passes calls to other applications.
    """
    methods: dict[str, frozenset[str]] = {}
    for rule in app.url_map.iter_rules():
        # Parameters of the host are no part of the path, which is compared with the values that the view gets.
        if "<" in (rule.host or "") + (rule.subdomain or ""):
            raise SettingsError(f"endpoint {rule.endpoint!r:.100}: expected no parameter in its host or subdomain")
        own = frozenset(rule.methods or ()) - _WITHOUT_A_TOOL
        methods[rule.endpoint] = methods.get(rule.endpoint, frozenset()) | own
    _Guard(app, Views(tools, public, methods)).install(verifier, options)


class _Guard:
    def __init__(self, app: Flask, views: Views) -> None:
        self._app, self._views = app, views
        self._preprocess, self._dispatch = app.preprocess_request, app.dispatch_request

    def install(self, verifier: Verifier, options: dict[str, Any]) -> None:
        app: Any = self._app
        inner = app.wsgi_app
        while inner is not None:
            # An application beside this one would run for a caller with any token, before its answer is withheld.
            if isinstance(inner, DispatcherMiddleware):
                raise SettingsError(
                    "wsgi_app has a DispatcherMiddleware, whose other applications have no guard: expected it around "
                    "guarded applications; call guard() first"
                )
            inner = getattr(inner, "app", None)
        app.wsgi_app = GuardedWSGI(app.wsgi_app, verifier=verifier, may_be_public=self._may_be_public, **options)
        app.preprocess_request, app.dispatch_request = self._judge_first, self._dispatch_judged

    def _may_be_public(self, call: WSGICall) -> bool:
        try:
            adapter = self._app.create_url_adapter(self._app.request_class(call.environ))
            endpoint = adapter.match()[0] if adapter is not None else ""
        except HTTPException:  # no route, or a redirect
            return False
        return self._views.is_public(endpoint, call.scope["method"])

    def _judge_first(self, *context: Any) -> ResponseReturnValue | None:
        """Decide before the first hook of the application; a refusal's answer is that of ``GuardedWSGI``."""
        current: Any = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - of Flask's docs
        call: WSGICall | None = current.environ.get(CALL_KEY)
        if call is None:
            return "this application is guarded: call it through its wsgi_app", 403
        rule = current.url_rule
        # Without a rule Flask answers with a 404, a 405 or a redirect.  The caller gets a refusal instead.
        if rule is None:
            return self._preprocess(*context) if call.judge(lambda: None) else ("", 403)
        read = functools.partial(_parameters, current)
        matched = Matched(rule.endpoint, current.method, current.path, current.query_string, current.get_data, read)
        if not self._views.judge(call, matched):
            return "", 403
        call.matched = rule.endpoint, dict(current.view_args or {})
        if call.members:
            _require_kind(call, current)
        return self._preprocess(*context)

    def _dispatch_judged(self, *context: Any) -> ResponseReturnValue:
        """Run the view, if it gets what was judged."""
        call: WSGICall = request.environ[CALL_KEY]
        rule = request.url_rule
        if rule is None or call.matched != (rule.endpoint, request.view_args or {}):
            call.withdraw(RequestError("a hook of the application has changed the view or its parameters"))
            if call.problem is not None:
                return "", 403
        return self._dispatch(*context)


class _EmptyCopy(EmptyForm, MultiDict[str, str]):  # type: ignore[misc]  # takes what any mapping takes
    def copy(self) -> Any:
        copied = super().copy()
        copied.call = self.call
        return copied


class _EmptyForm(EmptyForm, ImmutableMultiDict[str, str]):  # type: ignore[misc]
    def copy(self) -> Any:
        return _EmptyCopy.of(self.call)


def _require_kind(call: WSGICall, current: Any) -> None:
    """Refuse the call once its view reads the body as one of another kind than was judged."""
    if current.mimetype != "multipart/form-data":
        current.form, current.files = _EmptyForm.of(call), ImmutableMultiDict()
        return
    get_json = current.get_json

    def refuse(*args: Any, **options: Any) -> Any:
        require_other(call, "the body: expected JSON, got a form")
        return get_json(*args, **options)

    current.get_json = refuse


def _parameters(current: Any) -> dict[str, Any]:
    """Return the parameters of the path of a request as they are judged: numbers of Flask's own converters, and texts.

    Raises:
        RequestError: One was sent in another spelling than that of its value: ``007`` for 7.
    """
    rule, values = current.url_rule, current.view_args or {}
    converters = rule._converters  # noqa: SLF001 - nothing public says which parameter has which
    built = rule.build(values, append_unknown=False)
    expected = None if built is None else unquote(built[1])
    path = current.path
    # A rule that takes both forms has one meaning for both.
    if expected is not None and rule.strict_slashes is False and expected.removesuffix("/") == path.removesuffix("/"):
        path = expected
    if expected != path:
        raise RequestError(f"the path: expected {expected!r:.200}, the spelling of its values")
    # A default of the rule is no part of the path, but the caller chooses it by the path.  The text of another
    # converter, such as a hexadecimal one, is not that of its number.
    return {
        name: converted_argument(name, value)
        if name not in converters or type(converters[name]) in (IntegerConverter, FloatConverter)
        else unquote(converters[name].to_url(value))
        for name, value in values.items()
    }
