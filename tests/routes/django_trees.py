# SPDX-License-Identifier: Apache-2.0
"""Draw a URLconf of Django: nested includes with parameters, regular expressions, namespaces, further arguments."""

import functools
import json
import logging
import random
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path, register_converter
from django.urls.converters import StringConverter
from django.views import View
from django.views.decorators.http import require_http_methods

from arx_verifier import Verifier
from arx_verifier.integrations.django import NAME, guard
from tests.routes.wsgi_client import LITERALS, Line, Ran

CONVERTERS = {"text": "", "slug": "slug:", "path": "path:", "int": "int:", "uuid": "uuid:", "lower": "lower:"}
NAMES = ("id", "kind", "n", "tenant")
METHODS = ("GET", "POST", "OPTIONS")
COMMON = "django.middleware.common.CommonMiddleware"  # redirects to the path with a slash (APPEND_SLASH)


class Lower(StringConverter):
    """A converter whose values are text, but not the text that was sent."""

    def to_python(self, value: str) -> str:
        """Return the value of a text."""
        return value.lower()


def set_up(**more: Any) -> None:
    """Configure Django once for this process, and set these settings."""
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["orders.example"], SECRET_KEY="x", LOGGING_CONFIG=None)
        django.setup()
        logging.getLogger("django").setLevel(logging.CRITICAL)  # it writes a line for each refusal
        register_converter(Lower, "lower")
    for name, value in more.items():  # a process has one project, and here several
        setattr(settings, name, value)


class DjangoTree:
    """A drawn project.

    Args:
        seed: The same one draws the same project again.
        role: Of two projects of a seed, a name for each.

    Attributes:
        lines: Its endpoints.
        ran: What ran, in order.
    """

    def __init__(self, seed: int, role: str) -> None:
        set_up()
        self._random = random.Random(seed)
        self.lines: list[Line] = []
        self.ran: list[Ran] = []
        self._number = 0
        module = ModuleType(f"tests.routes.django_tree_{seed}_{role}")
        module.urlpatterns = self._patterns((), "", 3)  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        self._settings = {"ROOT_URLCONF": module.__name__, "APPEND_SLASH": self._random.random() < 0.5}
        self._settings["MIDDLEWARE"] = self._pick([], [COMMON])
        self._use()
        self._app: Any = get_wsgi_application()

    def guard(self, verifier: Verifier, tools: Mapping[str, str]) -> None:
        """Guard the application."""
        self._settings["MIDDLEWARE"] = [*self._settings["MIDDLEWARE"], NAME]
        self._use()
        self._app = guard(get_wsgi_application(), verifier, tools=tools)

    def call(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        self._use()
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _use(self) -> None:
        set_up(**self._settings)

    def _pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _patterns(self, before: tuple[str, ...], namespace: str, deep: int) -> list[Any]:
        return [self._pattern(before, namespace, deep) for _ in range(self._random.randint(1, 3 if deep < 3 else 5))]

    def _pattern(self, before: tuple[str, ...], namespace: str, deep: int) -> Any:
        by_regex = self._random.random() < 0.3
        if deep and self._random.random() < 0.5:
            route, parts = self._route(by_regex, "/" if self._random.random() < 0.9 else "-", includes=True)
            own = self._pick("", "", f"ns{self._random.randint(0, 9)}")
            inner: Any = self._patterns((*before, *parts), f"{namespace}{own}:" if own else namespace, deep - 1)
            further = self._pick(None, None, None, {"kind": "inner"}, {"n": 7})
            included = include((inner, own)) if own else include(inner)
            return (re_path if by_regex else path)(route, included, further)
        route, parts = self._route(by_regex, self._pick("", "", "/", ".json"), includes=False)
        return self._endpoint(by_regex, route, (*before, *parts), namespace)

    def _route(self, by_regex: bool, end: str, includes: bool) -> tuple[str, tuple[str, ...]]:
        """Draw a route, and the parts of a path that it matches."""
        written, parts = "^" if by_regex and self._random.random() < 0.8 else "", list[str]()
        free = [*NAMES]
        for at in range(self._random.randint(1, 2)):
            if at:
                written, parts = written + "/", [*parts, "/"]
            if self._random.random() < 0.55:
                name = free.pop(self._random.randrange(len(free)))
                text, kind = self._regex(name) if by_regex else self._converter(name)
                written, parts = written + text, [*parts, f"<{kind}"]
            else:
                literal = self._pick(*LITERALS)
                written, parts = written + literal, [*parts, literal]
        written, parts = written + (end.replace(".", r"\.") if by_regex else end), [*parts, end]
        return written + ("$" if by_regex and not includes else ""), tuple(parts)

    def _converter(self, name: str) -> tuple[str, str]:
        kind = self._pick(*CONVERTERS)
        return f"<{CONVERTERS[kind]}{name}>", kind

    def _regex(self, name: str) -> tuple[str, str]:
        """Draw a group of a regular expression, whose values are not converted."""
        regex, kind = self._pick(("[0-9]+", "digits"), ("[^/]+", "text"), ("[a-z0-9-]+", "lower"), (".+", "path"))
        shape = self._pick("(?P<{0}>{1})", "(?P<{0}>{1})", "(?P<{0}>{1})?", "({1})", "(?:{1})")
        return shape.format(name, regex), kind

    def _endpoint(self, by_regex: bool, route: str, parts: tuple[str, ...], namespace: str) -> Any:
        number, self._number = self._number, self._number + 1
        name = f"{self._pick('view', 'a.b')}{number}"
        self.lines += [Line(method, namespace + name, number, parts) for method in METHODS]

        def saw(request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
            grant = getattr(request, "arx", None)
            body = json.loads(request.body) if request.body else {}
            query = {key: request.GET[key] for key in request.GET}
            self.ran.append(Ran(number, kwargs, query, body, grant and grant.tool, bool(args)))
            return HttpResponse("done")

        class Saw(View):
            def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                return saw(request, *args, **kwargs)

            post = get

        kind = self._random.random()
        view: Any = saw
        if kind < 0.25:
            view = Saw.as_view()
        elif kind < 0.4:
            view = functools.partial(saw)
        elif kind < 0.5:
            view = require_http_methods(["GET", "POST"])(saw)
        further = self._pick(None, None, None, None, {"kind": "fixed"}, {"n": 5}, {"flag": True})
        return (re_path if by_regex else path)(route, view, further, name=name)
