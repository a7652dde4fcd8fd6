# SPDX-License-Identifier: Apache-2.0
"""The arguments of an HTTP request, and its tool for an application that shows no routes.  SPEC 8.4.

A request that two parsers could read differently is refused.  ``RouteMap`` is the service's own table of its routes.
Applications of Starlette and FastAPI need none: see ``endpoints``.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec

from arx_verifier.enforcement.base.uploads import read_multipart
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.jcs import MAX_INTEGER
from arx_verifier.jcs import number as number_text
from arx_verifier.names import is_tool
from arx_verifier.request import read_json_object

Scope: TypeAlias = MutableMapping[str, Any]
Meaning: TypeAlias = tuple[str, Mapping[str, Any]]
Tools: TypeAlias = Mapping[str, str] | Callable[[Scope, bytes], Meaning | None]
"""``{"GET /orders/{order_id}": "orders.get"}``, or a function of the ASGI scope and the whole body."""
Places: TypeAlias = frozenset[str] | None
"""The arguments that a route has in the query; None for a route with all of its arguments there, and no body."""
Headers: TypeAlias = Mapping[bytes, bytes]
"""The value of each header by its name in lower case; several values of one header are joined with a ``LINE_BREAK``."""

PUBLIC: Final = "*public"  # in the place of a tool, of which it cannot be the name: the route needs no token
MAX_QUERY_FIELDS: Final = 256  # bounds the work of reading a query
LINE_BREAK: Final = ord("\n")  # between several values of one header; RFC 9110 5.5 allows none in a single one
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
_SEGMENT: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::(?:int|number))?\}")
_REST: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*:path\}")
_FIELD: Final = re.compile(r"\{([A-Za-z0-9_.\[\]-]+)(?::(int|number|list))?\}")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?")
_LONG_INTEGER: Final = re.compile(r"-?[1-9][0-9]{15,}")  # every integer beyond 2^53-1 is one
_CONVERTED: Final[Mapping[type, str]] = {int: "int", float: "number"}
_MAX_NUMBER_CHARS: Final = 32  # more than the one spelling of any number has
WEBSOCKET: Final = "WEBSOCKET"  # in the place of a method: the handshake of a WebSocket, which is a GET
_BODILESS: Final = frozenset(("GET", "HEAD", WEBSOCKET))  # RFC 9110 9.3.1: their bodies have no meaning
# Frameworks and proxies resolve these in different ways: control characters, backslash, empty and dot segments; and in
# the raw path, path parameters and an escaped slash, backslash, dot, NUL or per cent sign, which some decode before
# they split the path and some after.
_UNCLEAN_PATH: Final = re.compile(r"[\x00-\x1f\x7f\\]|//|(?:\A|/)\.{1,2}(?:/|\Z)")
_UNCLEAN_RAW: Final = re.compile(rb"%(?:2[ef5]|5c|00)|;", re.IGNORECASE)
_PERCENT, _SEMICOLON = b"%;"
_ESCAPE_CUT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 9110 5.6.3: of other white space, such as a no-break space, Werkzeug sees a part of the type, and no JSON.
_JSON_TYPE: Final = re.compile(r"[ \t]*application/(?:json|[a-z0-9.!#$&^_-]+\+json)[ \t]*", re.IGNORECASE)
_UTF_8: Final = re.compile(r'[ \t]*charset=("?)utf-?8\1[ \t]*', re.IGNORECASE)


class Key(msgspec.Struct, frozen=True):
    """One line of ``tools`` or ``public``.

    Attributes:
        text: The line as written.
        method: The method; empty for a route that is named by its name alone.
        path: The path's template, or the route's name.
        query: The arguments in the query.
        tool: The tool; ``PUBLIC`` for a line of ``public``.
        kinds: The kind of arguments in path and query that are no text: ``int``, ``number`` or ``list``.
    """

    text: str
    method: str
    path: str
    query: Places
    tool: str
    kinds: Mapping[str, str] = MappingProxyType({})

    def of(self, method: str, declared: Mapping[str, str]) -> "Key":
        """Return the line of one method of a route that is named by its name.

        Args:
            method: The method.
            declared: The kind of each argument that the endpoint declares in its query; empty for text.
        """
        places, kinds = self.query, self.kinds
        if places is None:
            places = _places(method, frozenset(declared) if declared and method not in _BODILESS else None)
            kinds = {name: kind for name, kind in declared.items() if kind}
        return msgspec.structs.replace(self, method=method, query=places, kinds=kinds)

    def read_query(self, raw: bytes) -> dict[str, Any]:
        """Parse a query string: texts, and a list of texts for an argument that is declared as one.

        Args:
            raw: The query without its question mark.

        Raises:
            RequestError: As ``read_query``.
        """
        return read_query(raw, [name for name, kind in self.kinds.items() if kind == "list"] if self.kinds else ())

    def typed(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a query with numbers in the place of their texts.

        Args:
            query: ``read_query``.

        Raises:
            RequestError: The text is not the one spelling of a number.
        """
        if not self.kinds:
            return query
        return {
            name: _number(name, value, self.kinds[name], "query") if self.kinds.get(name, "list") != "list" else value
            for name, value in query.items()
        }


class _Route:
    __slots__ = ("_literals", "_parameters", "key", "segments", "takes_rest")

    def __init__(self, key: Key) -> None:
        *before, last = key.path.split("/")[1:]
        self.key, self.takes_rest = key, _REST.fullmatch(last) is not None
        self.segments = (*before, last.replace(":path}", "}") if self.takes_rest else last)
        placed = list(enumerate(self.segments))
        self._literals = [(place, segment) for place, segment in placed if not segment.startswith("{")]
        names = [(place, segment[1:-1].partition(":")[0]) for place, segment in placed if segment.startswith("{")]
        self._parameters = [(place, name, key.kinds.get(name, "")) for place, name in names]

    def match(self, segments: list[str]) -> dict[str, Any] | None:
        """Return the parameters of a path with these segments; None for a path of another route.

        Raises:
            RequestError: As ``path_argument``.
        """
        if self.takes_rest:
            before = len(self.segments) - 1
            if len(segments) <= before:
                return None
            segments = [*segments[:before], "/".join(segments[before:])]
        for place, literal in self._literals:
            if segments[place] != literal:
                return None
        if not all(segments[place] for place, _, _ in self._parameters):
            return None
        return {name: path_argument(name, segments[place], kind) for place, name, kind in self._parameters}

    @property
    def shape(self) -> tuple[str, ...]:
        return tuple("{}" if segment.startswith("{") else segment for segment in self.segments)


class RouteMap:
    """A table from ``METHOD /path/{parameter}`` to tool.  A literal segment takes precedence over a parameter.

    The last parameter may take the rest of the path: ``GET /files/{name:path}``.  A route of single segments, and one
    with more of them before its rest, takes precedence over it.  A ``HEAD`` without a route of its own has the meaning
    of ``GET``, as in frameworks.

    Args:
        tools: The table.
        public: The routes that need no token; see ``read_keys``.

    Raises:
        SettingsError: A route is malformed, or two routes match the same requests.
    """

    def __init__(self, tools: Mapping[str, str], public: Iterable[str] = ()) -> None:
        self._routes: dict[tuple[str, int], list[_Route]] = {}
        self._rest: dict[str, list[_Route]] = {}
        for key in read_keys(tools, public):
            text = key.text
            if not key.path.startswith("/"):
                raise SettingsError(f"{text!r:.100} is not a route: the application shows no names of routes")
            route = _Route(key)
            if not all(_SEGMENT.fullmatch(segment) or "{" not in segment for segment in route.segments) or "//" in text:
                raise SettingsError(
                    f"{text!r:.100} is not a route: expected each parameter to be one segment, as {{id}}, {{id:int}} "
                    "or {price:number}, and only the last one as {rest:path}"
                )
            if route.takes_rest:
                self._rest.setdefault(key.method, []).append(route)
            else:
                self._routes.setdefault((key.method, len(route.segments)), []).append(route)
        for beside in self._routes.values():
            _require_one_meaning(beside)
            beside.sort(key=lambda route: [segment.startswith("{") for segment in route.segments])
        for method, rest in self._rest.items():
            single_segments = [one for (name, _), routes in self._routes.items() if name == method for one in routes]
            _require_precedence(rest, single_segments)
            rest.sort(key=lambda route: (-len(route.segments), *("{" in segment for segment in route.segments)))

    def __call__(self, scope: Scope, body: bytes) -> Meaning | None:
        """Return the tool and the arguments of a request.

        Args:
            scope: The ASGI ``http`` scope.
            body: The whole body.

        Returns:
            Tool and arguments, or None if no route matches; ``PUBLIC`` for a public route.  Arguments of path and query
            are text or what the route declares, those of the body JSON values.  Parameters that an outer framework
            matched (``path_params``) are arguments too.

        Raises:
            RequestError: The request has no single meaning.
        """
        require_clean_path(scope)
        method = WEBSOCKET if scope.get("type") == "websocket" else scope["method"]
        if method == WEBSOCKET and "method" in scope:  # a caller may send any word as its method
            return None
        found = self._find(method, _path_of(scope).split("/")[1:])
        if found is None:
            return None
        route, parameters = found
        if route.key.tool is PUBLIC:
            return PUBLIC, {}
        if outer := scope.get("path_params"):
            parameters = merge({name: converted_argument(name, value) for name, value in outer.items()}, parameters)
        key, raw = route.key, scope["query_string"]
        query = key.typed(key.read_query(raw)) if raw else {}
        members = read_body(collect_headers(scope["headers"]), body)
        return key.tool, join_arguments(key, method, parameters, query, members, has_body=bool(body))

    def is_public(self, scope: Scope) -> bool:
        """Return whether a request is for a public route.

        Args:
            scope: The ASGI ``http`` scope.
        """
        try:
            require_clean_path(scope)
            found = self._find(scope["method"], _path_of(scope).split("/")[1:])
        except RequestError:
            return False
        return found is not None and found[0].key.tool is PUBLIC

    def _find(self, method: str, segments: list[str]) -> tuple[_Route, dict[str, Any]] | None:
        for name in (method, "GET") if method == "HEAD" else (method,):
            for route in chain(self._routes.get((name, len(segments)), ()), self._rest.get(name, ())):
                parameters = route.match(segments)
                if parameters is not None:
                    return route, parameters
        return None


def _require_one_meaning(routes: list[_Route]) -> None:
    """Raise for two routes that match one request, unless a third route is exactly for those requests."""
    shapes = {route.shape for route in routes}
    for number, route in enumerate(routes):
        for other in routes[:number]:
            pairs = list(zip(route.shape, other.shape, strict=True))
            if any(a != b and "{}" not in (a, b) for a, b in pairs):
                continue
            both = tuple(b if a == "{}" else a for a, b in pairs)
            if route.shape == other.shape or both not in shapes:
                raise SettingsError(
                    f"{other.key.text!r:.100} and {route.key.text!r:.100} are for the same requests, such as "
                    f"'/{'/'.join(both).replace('{}', 'x')}': name that one too, or take one out"
                )


def _require_precedence(rest: list[_Route], single: list[_Route]) -> None:
    """Raise for a route with a rest and another one that match one request, unless one is more specific."""
    for number, route in enumerate(rest):
        for other in (*rest[:number], *single):
            general, specific = sorted((route, other), key=lambda one: (one in single, len(one.segments)))
            pairs = list(zip(general.shape[:-1], specific.shape, strict=False))
            if len(specific.shape) < len(general.shape) or any(a != b and "{}" not in (a, b) for a, b in pairs):
                continue
            same = len(general.shape) == len(specific.shape) and other in rest
            if same or not all(a in ("{}", b) for a, b in pairs):
                raise SettingsError(
                    f"{other.key.text!r:.100} and {route.key.text!r:.100} are for the same requests: take one out"
                )


def join_arguments(
    key: Key,
    method: str,
    parameters: Mapping[str, Any],
    query: Mapping[str, Any],
    members: Mapping[str, Any],
    has_body: bool,
) -> dict[str, Any]:
    """Return a call's arguments: of the path, of the query, and of a JSON body.

    ``GET`` and ``HEAD`` have arguments in path and query, and no body.  All other methods have them in path and body,
    and in the query those that the route names: ``POST /orders/{order_id}/refund?{dry_run}&{note}``.  A ``GET`` that
    names some has no others.  An argument in the query is text, or what its route declares: ``?{limit:int}``,
    ``?{price:number}``, ``?{tag:list}``.

    Args:
        key: The route.
        method: The request's method.
        parameters: The parameters of the path.
        query: ``read_query`` of the query.
        members: ``read_body`` of the body.
        has_body: Whether there is a body.

    Raises:
        RequestError: An argument is in a place where the route does not have it, or in two places.
    """
    if has_body and method in _BODILESS:
        raise RequestError(f"a {method} has its arguments in path and query: it takes no body here")
    # A tool that does not find an argument where it expects it takes its default, to which no rule was applied.
    if key.query is not None and (query or key.query):
        for name in query.keys() - key.query:
            raise RequestError(f"argument {name!r:.80}: the route {key.text} has none of this name in the query")
        for name in key.query & members.keys():
            raise RequestError(f"argument {name!r:.80}: expected in the query of {key.text}, got in the body")
    return merge(parameters, query, members) if parameters or query else dict(members)


def collect_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers as ``Headers`` describes them.

    Args:
        headers: Names and values, as ASGI has them.
    """
    pairs = [*headers]
    found = dict(pairs)
    if len(found) == len(pairs) and b"".join(found).islower():  # the fast path of nearly every request
        return found
    values: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        values.setdefault(name.lower(), []).append(value)
    return {name: b",\n".join(each) for name, each in values.items()}


def parameter_text(name: str, value: Any) -> str:
    """Return the one spelling of a parameter that a framework has converted.

    Args:
        name: The parameter's name, for the error.
        value: Its value.

    Raises:
        RequestError: Values of its class have no single spelling.
    """
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind in (int, float, UUID):
        return repr(value).removesuffix(".0") if kind is float else str(value)
    raise RequestError(
        f"parameter {name!r:.80} of the path is a {kind.__name__}: expected text, a number, a boolean or a UUID"
    )


def path_argument(name: str, text: str, kind: str) -> Any:
    """Return a parameter of the path as it is judged.  SPEC 8.4.

    Args:
        name: The parameter's name, for the error.
        text: The text that was sent, or the one spelling of the value that the application gets.
        kind: ``int`` or ``number``, as which the application gets it; empty for text.

    Returns:
        The number, or the text; also that of an integer beyond 2^53-1, which no number of JSON has exactly.

    Raises:
        RequestError: The text is not the one spelling of a number.
    """
    if not kind or (_LONG_INTEGER.fullmatch(text) and (len(text) > _MAX_NUMBER_CHARS or abs(int(text)) > MAX_INTEGER)):
        return text
    return _number(name, text, kind, "path")


def converted_argument(name: str, value: Any) -> Any:
    """Return a parameter that a framework has converted as it is judged: an integer or a float as its number.

    Args:
        name: The parameter's name, for the error.
        value: Its value.

    Raises:
        RequestError: As ``parameter_text`` and ``path_argument``.
    """
    # The exact types: what a subclass is to the application cannot be known.
    return path_argument(name, parameter_text(name, value), _CONVERTED.get(type(value), ""))


def read_query(raw: bytes, lists: Container[str] = ()) -> dict[str, Any]:
    """Parse a query string; each name may occur once, but for lists.

    Args:
        raw: The query without its question mark.
        lists: The names whose values are lists, also of one item.

    Raises:
        RequestError: A name twice, a broken escape, text that is not UTF-8, or more fields than 256.
    """
    fields = [field for field in raw.split(b"&") if field]
    if len(fields) > MAX_QUERY_FIELDS:
        raise RequestError(f"the query has more than {MAX_QUERY_FIELDS} fields")
    values: dict[str, Any] = {}
    for field in fields:
        name, _, value = field.partition(b"=")
        key = _unescape(name)
        if key in lists:
            values.setdefault(key, []).append(_unescape(value))
            continue
        if key in values:
            # Frameworks differ: some take the first value, some the last, some a list.
            raise RequestError(f"the query has {key!r:.80} twice, and its route does not declare it as a list")
        values[key] = _unescape(value)
    return values


def _number(name: str, text: str, kind: str, place: str) -> int | float:
    """Return the number of a text in path or query, in its one spelling (RFC 8785)."""
    found = _NUMBER.fullmatch(text) if len(text) <= _MAX_NUMBER_CHARS else None
    if found is not None:
        if found.lastindex is None:
            whole = int(text)
            if str(whole) == text and abs(whole) <= MAX_INTEGER:
                return whole
        elif kind == "number" and abs(number := float(text)) <= MAX_INTEGER and number_text(number) == text:
            return number
    example = "such as 7, and not 007 or 7.0" if kind == "int" else "such as 7 or 0.5, and not 7.0 or .5"
    raise RequestError(f"argument {name!r:.80} in the {place}: expected {kind}, {example}, got {text!r:.80}")


def read_body(headers: Headers, body: bytes) -> dict[str, Any]:
    """Parse the members of a JSON body, or the fields and files of a multipart body; an empty body has none.

    Args:
        headers: The request's headers.
        body: The whole body.

    Raises:
        RequestError: Not JSON by its type or by its bytes, another charset than UTF-8, or a content encoding.
    """
    kind, encoding = headers.get(b"content-type", b""), headers.get(b"content-encoding")
    if encoding is None:  # the fast paths of nearly every call
        if kind == b"application/json" and body:
            return read_json_object(body)
        if not kind and not body:
            return {}
    media, *parameters = kind.decode("latin-1").split(";")
    if not all(_UTF_8.fullmatch(part) for part in parameters if "charset" in part.lower()):
        # Some frameworks decode body and query with it: one argument in UTF-8 can be two arguments in UTF-7.
        raise RequestError("the charset is not UTF-8")
    if not body:
        return {}
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise RequestError("the body has a Content-Encoding: what was checked must be what the application reads")
    if media.strip().lower() == "multipart/form-data":
        return read_multipart(kind, body)
    if LINE_BREAK in kind or not _JSON_TYPE.fullmatch(media):
        # The application would read arguments, such as those of a form, to which no rule was applied.
        raise RequestError("the body is not of one JSON type (Content-Type: application/json), nor multipart/form-data")
    return read_json_object(body)


def require_clean_path(scope: Scope) -> None:
    """Raise for a path that two parsers may resolve differently.

    Args:
        scope: The ASGI ``http`` scope.

    Raises:
        RequestError: Both could read another path.
    """
    path, raw = scope["path"], scope.get("raw_path") or b""
    # Cheap tests first: nearly every path is clean and needs no regular expression.
    if (
        ("//" in path or "/." in path or "\\" in path or not path.isprintable() or not path.startswith("/"))
        and (_UNCLEAN_PATH.search(path) or path[:1] not in ("", "/"))
    ) or ((_PERCENT in raw or _SEMICOLON in raw) and _UNCLEAN_RAW.search(raw)):
        raise RequestError("the path can be read in more than one way")


def _path_of(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root.endswith("/"):  # frameworks then differ in the rest of the path
        raise RequestError(f"the path can be read in more than one way: root_path {root!r:.80} ends in a slash")
    return path[len(root) :] if root and (path == root or path.startswith(root + "/")) else path


def merge(*places: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of several places together.

    Args:
        places: The arguments of each place.

    Raises:
        RequestError: Two places have the same name.
    """
    merged: dict[str, Any] = {}
    for place in places:
        if place:
            if merged and not merged.keys().isdisjoint(place):
                name = min(merged.keys() & place.keys())
                # The endpoint would read one of both values, and the rules may have seen the other one.
                raise RequestError(f"argument {name!r:.80}: expected in one place, got in two")
            merged.update(place)
    return merged


def _unescape(raw: bytes) -> str:
    try:
        text = raw.decode("ascii")
        if _ESCAPE_CUT.search(text):
            raise RequestError("the query has a broken escape")
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the query is not UTF-8") from None


def read_keys(tools: Mapping[str, str], public: Iterable[str]) -> list[Key]:
    """Parse the lines of ``tools`` and ``public``.

    Args:
        tools: ``POST /orders/{order_id}/refund?{dry_run}``, or the name of a route, and its tool.
        public: ``GET /healthz``, ``/docs`` for ``GET /docs``, or the name of a route.

    Raises:
        SettingsError: A line is malformed, or ``public`` names a WebSocket.
    """
    if isinstance(public, str):
        raise SettingsError(f"`public`: expected a list of routes, got {public!r:.100}")
    keys = [read_key(text, tool) for text, tool in tools.items()]
    for text, tool in tools.items():
        if not is_tool(tool):
            raise SettingsError(f"route {text!r:.100} names {tool!r:.100}, which is no tool")
    open_keys = [read_key(f"GET {text}" if text.startswith("/") else text, PUBLIC) for text in public]
    for key in open_keys:
        if key.method == WEBSOCKET:
            raise SettingsError(f"`public` names {key.text!r:.100}: a WebSocket needs a token")
    return keys + open_keys


def read_key(text: str, tool: str) -> Key:
    """Parse one line of ``tools`` or ``public``.

    Args:
        text: ``POST /orders/{order_id:int}/refund?{dry_run}&{limit:int}``, or the name of a route.
        tool: The tool's name.

    Raises:
        SettingsError: The line is not a route.
    """
    method, _, target = text.rpartition(" ")
    path, asks, fields = target.partition("?")
    parameters = _PARAMETER.findall(path)
    names = [name for name, _ in parameters]
    plain = _PARAMETER.sub("", path)
    query = [found.groups() if (found := _FIELD.fullmatch(one)) else ("", "") for one in fields.split("&") if asks]
    places = [name for name, _ in query]
    is_route = (
        _METHOD.fullmatch(method)
        and path.startswith("/")
        and not _UNCLEAN_PATH.search(path.removeprefix("/") if path.startswith("//") else path)
        and not re.search(r"[{}?#%; ]", plain)
    )
    is_name = _NAME.fullmatch(path) and (not method or _METHOD.fullmatch(method))
    if not (is_route or is_name) or "" in places or len({*names, *places}) != len(names) + len(places):
        raise SettingsError(
            f"{text!r:.100} is not a route: write it as 'GET /orders/{{order_id}}', each parameter one segment of the "
            "path; arguments in the query of another method as 'POST /orders?{full}'"
        )
    declared = frozenset(places) if asks else None
    # A route of Starlette may have other convertors in its path, such as ``uuid``: its values come with their types.
    kinds = {name: kind for name, kind in parameters if kind in ("int", "number")} | {
        name: kind for name, kind in query if kind
    }
    return Key(text, method, path, _places(method, declared) if method else declared, tool, kinds)


def _places(method: str, query: Places) -> Places:
    return query if query is not None or method in _BODILESS else frozenset()
