# SPDX-License-Identifier: Apache-2.0
"""The routers of an application of Starlette or FastAPI, and the check that they show every route.  SPEC 8.4.

This module imports no framework.  If the application does not use one, neither does the process.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any, Final

from arx_verifier.errors import SettingsError

DEEP: Final = 16  # applications in applications
_FRAMEWORKS: Final = ("starlette", "fastapi")
_DISPATCH: Final = ("__call__", "app", "handle", "matches")


def routers_of(app: Any) -> list[Any]:
    """Return the outermost routers of an application of Starlette or FastAPI, also inside further middleware.

    Args:
        app: Any ASGI application.

    Returns:
        The routers; empty for an application of another framework.
    """
    if "starlette.applications" not in sys.modules:
        return []
    kinds = sys.modules["starlette.applications"].Starlette, sys.modules["starlette.routing"].Router
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    level = [app]
    for _ in range(DEEP):
        inner: list[Any] = []
        for each in level:
            if id(each) in seen or not callable(each):
                continue
            seen[id(each)] = each  # a reference, so that no other object gets this id
            if isinstance(each, kinds):
                router = each if isinstance(each, kinds[1]) else each.router
                found[id(router)] = router
            else:
                inner += _within(each, kinds)
        level = inner
    return list(found.values())


def _within(app: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Yield the callables to which an ASGI application may pass a request: its attributes, or a function's closure."""
    if isinstance(app, functools.partial):
        yield from (app.func, *app.args, *app.keywords.values())
    elif hasattr(app, "app"):
        yield app.app
    elif hasattr(app, "__self__"):
        yield app.__self__
    else:
        function = app if hasattr(app, "__code__") else type(app).__call__
        yield from _around(function, kinds)
        slots = [name for kind in type(app).__mro__ for name in getattr(kind, "__slots__", ())]
        for value in (*getattr(app, "__dict__", {}).values(), *(getattr(app, name, None) for name in slots)):
            several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            yield from (one for one in (value, *several) if callable(one) and not isinstance(one, type))


def _around(function: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Yield the objects in a function's closure, and the applications among the globals that it names."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    named = [getattr(function, "__globals__", {}).get(name) for name in names]
    yield from (one for one in named if isinstance(one, kinds))


def require_own_dispatch(router: Any, deep: int) -> None:
    """Raise for a router that may pass requests to handlers that are not in its list of routes.

    Args:
        router: The router.
        deep: How many levels of applications may still follow.

    Raises:
        SettingsError: Its class has dispatch methods of its own, it is of an old version, or nested too deeply.
    """
    if not deep:
        raise SettingsError(
            f"the application has more than {DEEP} applications within each other, or one within itself"
        )
    if not hasattr(router, "middleware_stack"):
        raise SettingsError("the application cannot be guarded: expected Starlette 0.46 or later")
    for name in _DISPATCH:
        if not is_own(getattr(type(router), name, None)):
            kind = type(router)
            raise SettingsError(
                f"the application cannot be guarded: {kind.__module__}.{kind.__qualname__} has a {name}() of its own, "
                "so that its routes are not all that it serves; give `tools` as a function"
            )


def is_own(function: Any) -> bool:
    """Return whether a handler is the framework's own."""
    return function is None or getattr(function, "__module__", "").partition(".")[0] in _FRAMEWORKS
