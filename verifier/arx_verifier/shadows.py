# SPDX-License-Identifier: Apache-2.0
"""Hold a table of tools to the routes of the application behind it.  SPEC 8.4.

What is not in the table is refused, but a route of the application may stand where the table has a parameter:
``/orders/export`` is an order called "export" to ``GET /orders/{order_id}``.  Such a call would be judged as one tool
and run as another.  Frameworks take the first route that fits, the table the one with the most literal segments; where
the two differ, the service does not start.

Routes are looked at where the application shows them (``routes``, as Starlette and what is built on it do); others
cannot be.  A parameter that takes several segments is not looked at.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from arx_verifier.errors import SettingsError
from arx_verifier.routes import RouteMap

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")
_DEEP: Final = 8  # applications around and within applications


class _Segment(NamedTuple):
    """One segment of a route: a literal, or what its parameter takes; None for whatever a segment can be."""

    literal: str | None
    takes: re.Pattern[str] | None = None

    def covers(self, other: "_Segment") -> bool:
        """Tell whether all that another segment of a request is has been taken by this one."""
        if self.literal is not None or other.literal is None:
            return self.literal == other.literal
        return self.takes is None or self.takes.fullmatch(other.literal) is not None


class _Route(NamedTuple):
    """A route of the application."""

    path: str
    methods: frozenset[str]
    segments: tuple[_Segment, ...]

    @property
    def shape(self) -> tuple[str, ...]:
        return tuple("{}" if each.literal is None else each.literal for each in self.segments)

    def comes_before(self, other: "_Route") -> bool:
        """Tell whether what is meant for another route ends here, or some of it may, when this one is asked first."""
        if self.shape == other.shape:
            return any(each.takes is not None for each in self.segments)
        pairs = zip(self.segments, other.segments, strict=False)
        return len(self.segments) == len(other.segments) and all(mine.covers(theirs) for mine, theirs in pairs)


def require_same_routes(app: Any, table: RouteMap) -> None:
    """Demand that the application runs what the table judges.

    Raises:
        SettingsError: It has a route that the table takes for another one's, or would answer with another one.
    """
    seen: list[_Route] = []
    for route in _routes_of(app, table.methods):
        for method in sorted(route.methods):
            found = table.find(method, ["\0" if each.literal is None else each.literal for each in route.segments])
            if found is None:
                continue  # nobody comes here
            judged, _ = found
            template, tool = judged.template, judged.tool
            if judged.shape != route.shape:
                raise SettingsError(
                    f"the application has a route {method} {route.path}, a call of which would be judged as {tool} "
                    f"({template}): name it in `tools` too, or move it out of this application"
                )
            first = next((each for each in seen if method in each.methods and each.comes_before(route)), None)
            if first is not None:
                raise SettingsError(
                    f"a call of {method} {route.path} would be judged as {tool} ({template}), and the application "
                    f"may answer it by {first.path}, which is declared before: declare it behind, or take one out"
                )
        seen.append(route)


def _routes_of(app: Any, every: frozenset[str]) -> Iterator[_Route]:
    """Find the application's routes, also behind further middleware."""
    for _ in range(_DEEP):
        if isinstance(getattr(app, "routes", None), Sequence):
            yield from _listed(app.routes, "", every, _DEEP)
            return
        app = getattr(app, "app", None)


def _listed(routes: Sequence[Any], prefix: str, every: frozenset[str], deep: int) -> Iterator[_Route]:
    for route in routes:
        path, inner = getattr(route, "path", None), getattr(route, "routes", None)
        if not isinstance(path, str):
            continue
        if isinstance(inner, Sequence):
            if deep:
                yield from _listed(inner, prefix + path, every, deep - 1)
            continue
        if not hasattr(route, "methods"):
            continue  # a WebSocket's: none is let through
        convertors = getattr(route, "param_convertors", {})
        segments = tuple(_segment(each, convertors) for each in (prefix + path).split("/")[1:])
        if None not in segments:
            methods = frozenset(route.methods or every)  # a class as endpoint says none
            yield _Route(prefix + path, methods, tuple(each for each in segments if each is not None))


def _segment(text: str, convertors: Any) -> _Segment | None:
    """Read one segment; None for a parameter that takes several."""
    found = _PARAMETER.fullmatch(text)
    if found is None:
        # Part literal, part parameter: what it takes is looked for by nobody else.
        return _Segment(text) if "{" not in text else _Segment(None, _pattern(text))
    if found[2] == "path":
        return None
    regex = getattr(convertors.get(found[1]), "regex", None) if found[2] not in (None, "str") else None
    return _Segment(None, re.compile(regex) if isinstance(regex, str) else None)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(map(re.escape, _PARAMETER.sub("{", text).split("{"))))
