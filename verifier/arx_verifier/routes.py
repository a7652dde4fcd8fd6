# SPDX-License-Identifier: Apache-2.0
"""Which tool an HTTP request means, and with which arguments.  SPEC 8.4.

The map is the service's configuration, in the shape of its own routes.  A request that could mean two things to two
readers is refused here; one that means no tool is for the verifier to refuse, once the token is proven.

So is an argument in another place than the application's: a tool that looks for it in the body, and does not find it,
takes a default that no rule saw, whatever the query said.
"""

import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from arx_verifier.access import read_json_object
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.names import is_tool

Scope: TypeAlias = MutableMapping[str, Any]
Meaning: TypeAlias = tuple[str, Mapping[str, Any]]
Tools: TypeAlias = Mapping[str, str] | Callable[[Scope, bytes], Meaning | None]
"""``{"GET /orders/{order_id}": "orders.get"}``, or a function of the ASGI scope and the whole body."""
_Places: TypeAlias = frozenset[str] | None

MAX_QUERY_FIELDS: Final = 256
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FIELD: Final = re.compile(r"\{([A-Za-z0-9_.\[\]-]+)\}")
_BODILESS: Final = frozenset(("GET", "HEAD"))  # RFC 9110 9.3.1: what stands in their bodies has no meaning
# What frameworks and proxies resolve in different ways: control characters, backslash, empty and dot segments; and in
# the raw path path parameters and an escaped slash, backslash, dot, NUL or per cent sign, which some decode before they
# split and some after.
_UNCLEAN_PATH: Final = re.compile(r"[\x00-\x1f\x7f\\]|//|(?:\A|/)\.{1,2}(?:/|\Z)")
_UNCLEAN_RAW: Final = re.compile(rb"%(?:2[ef5]|5c|00)|;", re.IGNORECASE)
_ESCAPE_CUT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_JSON_TYPE: Final = re.compile(r"application/(?:json|[a-z0-9.!#$&^_-]+\+json)", re.IGNORECASE)
_PLAIN_JSON: Final = [b"application/json"]
_UTF_8: Final = re.compile(r'[ \t]*charset=("?)utf-?8\1[ \t]*', re.IGNORECASE)


class _Route:
    __slots__ = ("query", "segments", "template", "tool")

    def __init__(self, template: str, segments: tuple[str, ...], query: _Places, tool: str) -> None:
        self.template, self.segments, self.query, self.tool = template, segments, query, tool

    def match(self, segments: list[str]) -> dict[str, str] | None:
        found: dict[str, str] = {}
        for mine, theirs in zip(self.segments, segments, strict=True):
            if mine.startswith("{"):
                if not theirs:
                    return None
                found[mine[1:-1]] = theirs
            elif mine != theirs:
                return None
        return found

    def hold_places(self, query: Mapping[str, str], body: Mapping[str, Any]) -> None:
        """Refuse an argument that stands where this route's application does not look for it.

        Raises:
            RequestError: There is one.
        """
        if self.query is None:
            return
        for name in query.keys() - self.query:
            raise RequestError(
                f"argument {name!r:.80} stands in the query, where the route {self.template} has none such"
            )
        for name in self.query & body.keys():
            raise RequestError(
                f"argument {name!r:.80} stands in the body: the route {self.template} has it in the query"
            )

    @property
    def shape(self) -> tuple[str, ...]:
        return tuple("{}" if segment.startswith("{") else segment for segment in self.segments)


class RouteMap:
    """A table from ``METHOD /path/{parameter}`` to tool.  Literal segments win over parameters, the leftmost first.

    A ``HEAD`` without a route of its own means what ``GET`` means, as it does to frameworks.

    An argument counts only where the application looks for it.  ``GET`` and ``HEAD`` have theirs in path and query, and
    no body.  All other methods have theirs in path and body, and in the query those that the route names:
    ``POST /orders/{order_id}/refund?{dry_run}&{note}``.  A ``GET`` that names some has no others.

    Args:
        tools: The table.

    Raises:
        SettingsError: A route that cannot be read, or two for the same requests.
    """

    def __init__(self, tools: Mapping[str, str]) -> None:
        self._routes: dict[tuple[str, int], list[_Route]] = {}
        for text, tool in tools.items():
            method, segments, query = _read_template(text)
            if not is_tool(tool):
                raise SettingsError(f"route {text!r:.100} names {tool!r:.100}, which is no tool")
            beside = self._routes.setdefault((method, len(segments)), [])
            route = _Route(text, segments, query, tool)
            for other in beside:
                if other.shape == route.shape:
                    raise SettingsError(f"routes {other.template!r:.100} and {text!r:.100} are for the same requests")
            beside.append(route)
        for beside in self._routes.values():
            beside.sort(key=lambda route: [segment.startswith("{") for segment in route.segments])

    def __call__(self, scope: Scope, body: bytes) -> Meaning | None:
        """Say what a request means.

        Args:
            scope: The ASGI ``http`` scope.
            body: The whole body.

        Returns:
            Tool and arguments: those of the path and the query as text, those of a JSON body as JSON has them; or None
            when no route matches.

        Raises:
            RequestError: The request has no single meaning.
        """
        path = _clean_path(scope)
        method, segments = scope["method"], path.split("/")[1:]
        found = self.find(method, segments)
        if found is None:
            return None
        route, parameters = found
        if body and method in _BODILESS:
            raise RequestError(f"a {method} has its arguments in path and query: it takes no body here")
        query, members = read_query(scope["query_string"]), read_body(scope, body)
        route.hold_places(query, members)
        return route.tool, _merge(parameters, query, members)

    def find(self, method: str, segments: list[str]) -> tuple[_Route, dict[str, str]] | None:
        """Return the route that a request is judged by, with what stands in the path; or None."""
        for name in (method, "GET") if method == "HEAD" else (method,):
            for route in self._routes.get((name, len(segments)), ()):
                parameters = route.match(segments)
                if parameters is not None:
                    return route, parameters
        return None

    @property
    def methods(self) -> frozenset[str]:
        """Every method that a request can come in with."""
        named = frozenset(method for method, _ in self._routes)
        return named | {"HEAD"} if "GET" in named else named


def read_query(raw: bytes) -> dict[str, str]:
    """Read a query string; each name may stand once.

    Raises:
        RequestError: A name twice, a broken escape, text that is not UTF-8, or more fields than 256.
    """
    fields = [field for field in raw.split(b"&") if field]
    if len(fields) > MAX_QUERY_FIELDS:
        raise RequestError(f"the query has more than {MAX_QUERY_FIELDS} fields")
    values: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition(b"=")
        key = _unescape(name)
        if key in values:
            raise RequestError(f"{key!r:.80} stands twice in the query")
        values[key] = _unescape(value)
    return values


def read_body(scope: Scope, body: bytes) -> dict[str, Any]:
    """Read a JSON body's members; an empty body has none.

    Raises:
        RequestError: Not JSON by its type or its bytes: arguments in another form would go unseen.
    """
    types: list[bytes] = []
    encoded = False
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"content-type":
            types.append(value)
        elif lower == b"content-encoding":
            encoded = encoded or value.strip().lower() not in (b"", b"identity")
    if types == _PLAIN_JSON and body and not encoded:  # what nearly every body is
        return read_json_object(body)
    kinds = [value.decode("latin-1") for value in types]
    parameters = [part for kind in kinds for part in kind.split(";") if "charset" in part.lower()]
    if not all(map(_UTF_8.fullmatch, parameters)):
        # Some frameworks decode body and query with it: what is one text in UTF-8 is two arguments in UTF-7.
        raise RequestError("the charset is not UTF-8")
    if not body:
        return {}
    if encoded:
        raise RequestError("the body has a Content-Encoding: what was checked must be what the application reads")
    media = kinds[0].partition(";")[0].strip() if len(kinds) == 1 else ""
    if not _JSON_TYPE.fullmatch(media):
        raise RequestError("the body is not of one JSON type (Content-Type: application/json)")
    return read_json_object(body)


def _clean_path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]  # as frameworks do, so that both see the same route
    if path[:1] not in ("", "/") or _UNCLEAN_PATH.search(path) or _UNCLEAN_RAW.search(scope.get("raw_path") or b""):
        raise RequestError("the path can be read in more than one way")
    return path


def _merge(*places: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for place in places:
        if not merged:
            merged.update(place)
            continue
        for name, value in place.items():
            if name in merged:
                raise RequestError(f"argument {name!r:.80} stands in two places")
            merged[name] = value
    return merged


def _unescape(raw: bytes) -> str:
    try:
        text = raw.decode("ascii")
        if _ESCAPE_CUT.search(text):
            raise RequestError("the query has a broken escape")
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the query is not UTF-8") from None


def _read_template(text: str) -> tuple[str, tuple[str, ...], _Places]:
    method, _, target = text.partition(" ")
    path, asks, fields = target.partition("?")
    segments = tuple(path.split("/")[1:])
    names = [found.group(1) for segment in segments if (found := _PARAMETER.fullmatch(segment))]
    plain = "".join(segment for segment in segments if not _PARAMETER.fullmatch(segment))
    query = (
        [found.group(1) if (found := _FIELD.fullmatch(field)) else "" for field in fields.split("&")] if asks else []
    )
    if (
        not _METHOD.fullmatch(method)
        or not path.startswith("/")
        or _UNCLEAN_PATH.search(path)
        or re.search(r"[{}?#%; ]", plain)
        or "" in query
        or len({*names, *query}) != len(names) + len(query)
    ):
        raise SettingsError(
            f"{text!r:.100} is not a route: write it as 'GET /orders/{{order_id}}', each parameter one segment of the "
            "path; what stands in the query of another method as 'POST /orders?{full}'"
        )
    return method, segments, None if method in _BODILESS and not asks else frozenset(query)
