# SPDX-License-Identifier: Apache-2.0
"""The routers of an application of Starlette or FastAPI, and the check that they show every route.  SPEC 8.4.

This module imports no framework.  If the application does not use one, neither does the process.
"""

import functools
import inspect
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from arx_verifier.errors import SettingsError

DEEP: Final = 16  # applications in applications
_FRAMEWORKS: Final = ("starlette", "fastapi")
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ASGI: Final = ["scope", "receive", "send"]
_DISPATCH: Final = ("__call__", "app", "handle", "matches")


class _Seen(NamedTuple):
    app: Any  # a reference, so that no other object gets its id
    has: bool | None


def routers_of(app: Any) -> list[Any]:
    """Return the outermost routers of an application of Starlette or FastAPI, also inside further middleware.

    Args:
        app: Any ASGI application.

    Returns:
        The routers; empty for an application of another framework.

    Raises:
        SettingsError: A function or an object passes some calls to a router and may pass others to an application
            without routes, which no gate would guard.
    """
    if "starlette.applications" not in sys.modules:
        return []
    kinds = sys.modules["starlette.applications"].Starlette, sys.modules["starlette.routing"].Router
    found: dict[int, Any] = {}
    _collect(app, kinds, found, {}, DEEP)
    return list(found.values())


def _collect(app: Any, kinds: tuple[Any, ...], found: dict[int, Any], seen: dict[int, _Seen], deep: int) -> bool | None:
    """Add the routers of an application to *found*; return whether it has one, or None while it is looked at."""
    if isinstance(app, kinds):
        router = app if isinstance(app, kinds[1]) else app.router
        found[id(router)] = router
        return True
    if id(app) in seen:
        return seen[id(app)].has
    if not callable(app) or not deep:
        return False
    seen[id(app)] = _Seen(app, None)
    inner = [(one, _collect(one, kinds, found, seen, deep - 1)) for one in _within(app, kinds)]
    has = any(has for _, has in inner)
    seen[id(app)] = _Seen(app, has)
    for one, within in inner:
        if has and within is False and _is_application(one):
            raise SettingsError(
                f"the application cannot be guarded: {_name_of(app)} passes calls to {_name_of(one)}, which shows no "
                "routes, beside a Starlette or FastAPI application; give each an ArxMiddleware of its own"
            )
    return has


def _within(app: Any, kinds: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the callables to which an ASGI application may pass a request: its attributes, or a function's closure."""
    if isinstance(app, functools.partial):
        yield from (app.func, *app.args, *app.keywords.values())
        return
    function = app if hasattr(app, "__code__") else getattr(app, "__func__", type(app).__call__)
    if hasattr(app, "app"):
        yield app.app
    elif hasattr(app, "__self__"):
        yield app.__self__
    else:
        yield from _enclosed(function)
    yield from (one for one in _named(function) if isinstance(one, kinds) or _is_application(one, by_name=True))
    slots = [name for kind in type(app).__mro__ for name in getattr(kind, "__slots__", ())]
    for value in (*getattr(app, "__dict__", {}).values(), *(getattr(app, name, None) for name in slots)):
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        for one in (value, *several):
            # A middleware passes its requests to its `app`: its hooks and callbacks are no applications.
            if callable(one) and (not hasattr(app, "app") or isinstance(one, kinds) or _is_application(one)):
                yield one


def _enclosed(function: Any) -> Iterator[Any]:
    """Yield the objects in a function's closure."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue


def _named(function: Any) -> Iterator[Any]:
    """Yield the globals that a function names."""
    for name in getattr(getattr(function, "__code__", None), "co_names", ()):
        yield getattr(function, "__globals__", {}).get(name)


def _is_application(value: Any, *, by_name: bool = False) -> bool:
    """Return whether a value looks like an ASGI application: it takes scope, receive and send, or three values."""
    if isinstance(value, type) or not callable(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [one.name for one in parameters if one.kind in _POSITIONAL and one.default is one.empty]
    waits = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)
    # By name alone among the globals of a module, where a helper of three parameters is no rarity.
    return [name.strip("_") for name in needed] == _ASGI or (waits and len(needed) == 3 and not by_name)


def _name_of(app: Any) -> str:
    kind = app if hasattr(app, "__qualname__") else type(app)
    return f"{kind.__module__}.{kind.__qualname__}"


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
