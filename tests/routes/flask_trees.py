# SPDX-License-Identifier: Apache-2.0
"""Draw an application of Flask: nested blueprints with parameters, each converter, slashes, defaults, redirects."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Flask, request
from flask.views import MethodView
from werkzeug.routing import BaseConverter

from arx_verifier import Verifier
from arx_verifier.integrations.flask import guard
from tests.routes.wsgi_client import LITERALS, Line, Ran

CONVERTERS = {
    "text": ("", "", "string:", "string(minlength=1):"),
    "path": ("path:",),
    "int": ("int:", "int(min=0):"),
    "signed": ("int(signed=True):",),
    "padded": ("int(fixed_digits=3):",),
    "float": ("float:", "float(signed=True):"),
    "uuid": ("uuid:",),
    "lower": ("lower:",),
    "any": ("any(a, 'b.c'):",),
}
NAMES = ("id", "kind", "n")


class Lower(BaseConverter):
    """A converter whose values are text, but not the text that was sent."""

    def to_python(self, value: str) -> str:
        """Return the value of a text."""
        return value.lower()


class FlaskTree:
    """A drawn application.

    Args:
        seed: The same one draws the same application again.
        role: Of two applications of a seed, a name for each.

    Attributes:
        lines: Its endpoints.
        ran: What ran, in order.
    """

    def __init__(self, seed: int, role: str) -> None:
        self._random = random.Random(seed)
        self.lines: list[Line] = []
        self.ran: list[Ran] = []
        self._number = 0
        self._app = Flask(role, static_folder=None)
        self._app.url_map.converters["lower"] = Lower
        self._app.url_map.strict_slashes = self._random.random() < 0.7
        self._app.url_map.redirect_defaults = self._random.random() < 0.7
        self._fill(self._app, (), "", 3)

    def guard(self, verifier: Verifier, tools: Mapping[str, str]) -> None:
        """Guard the application."""
        guard(self._app, verifier, tools=tools)

    def call(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _fill(self, owner: Any, before: tuple[str, ...], dotted: str, deep: int) -> None:
        for at in range(self._random.randint(1, 3 if deep < 3 else 5)):
            if deep and self._random.random() < 0.4:
                inner = Blueprint(f"b{deep}{at}", __name__)
                free = [f"pre{deep}"]
                prefix, parts = self._rule(self._pick(free, []), 1) if self._random.random() < 0.8 else ("", ())
                self._fill(inner, (*before, *parts), f"{dotted}{inner.name}.", deep - 1)
                owner.register_blueprint(inner, url_prefix=prefix or None)
            else:
                self._endpoint(owner, before, dotted)

    def _rule(self, names: Any, most: int) -> tuple[str, tuple[str, ...]]:
        """Draw a rule, and the parts of a path that it matches."""
        written, parts, free = "", list[str](), [*names]
        for _ in range(self._random.randint(1, most)):
            written, parts = written + "/", [*parts, "/"]
            if free and self._random.random() < 0.55:
                name = free.pop(self._random.randrange(len(free)))
                kind = self._pick(*CONVERTERS)
                end = self._pick("", "", "", ".json")
                written += f"<{self._pick(*CONVERTERS[kind])}{name}>{end}"
                parts += [f"<{kind}", end]
            else:
                literal = self._pick(*LITERALS)
                written, parts = written + literal, [*parts, literal]
        return written, tuple(parts)

    def _endpoint(self, owner: Any, before: tuple[str, ...], dotted: str) -> None:
        number, self._number = self._number, self._number + 1
        name, methods = f"view{number}", self._pick(["GET"], ["GET"], ["POST"], ["GET", "POST"], ["GET", "OPTIONS"])

        def saw(**kwargs: Any) -> str:
            grant = request.environ.get("arx")
            body = request.get_json() if request.get_data() else {}
            self.ran.append(Ran(number, kwargs, request.args.to_dict(), body, grant and grant.tool, unnamed=False))
            return "done"

        class Saw(MethodView):
            def get(self, **kwargs: Any) -> str:
                return saw(**kwargs)

            post = get

        is_class = self._random.random() < 0.2
        options: dict[str, Any] = {"view_func": Saw.as_view(name) if is_class else saw, "endpoint": name}
        methods = ["GET", "POST"] if is_class else methods
        for at in range(self._pick(1, 1, 1, 2)):  # an endpoint may have several rules
            rule, parts = self._rule(NAMES, 3)
            if self._random.random() < 0.3:
                rule, parts = rule + "/", (*parts, "/")
            more: dict[str, Any] = {"strict_slashes": self._pick(None, None, True, False)}
            if self._random.random() < 0.2:
                name_of, value = self._pick(("kind", "fixed"), ("n", 5), ("id", 7.5), ("flag", True))
                # A default in the place of a parameter has that parameter ignored: its sent text is none of its value.
                more["defaults"] = {} if f"{name_of}>" in rule else {name_of: value}
            if at and self._random.random() < 0.2:
                more["redirect_to"] = "/orders"
            owner.add_url_rule(rule, methods=methods, **options, **more)
            served = [method for method in methods if method != "OPTIONS"]
            self.lines += [Line(method, dotted + name, number, (*before, *parts)) for method in served]
