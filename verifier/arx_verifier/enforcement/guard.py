# SPDX-License-Identifier: Apache-2.0
"""Put a verifier before a plain function: no call runs without a grant.  SPEC 11.

For transports without HTTP, such as a tool of an agent framework or a worker of a queue.  The arguments that are
checked are those the function is called with, by name, so they must be what came over the wire.
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from arx_verifier.enforcement.enforcement import Enforcement, Problem, now_ms
from arx_verifier.errors import SettingsError, refusal
from arx_verifier.journal import Decision
from arx_verifier.names import is_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification import Grant, Verifier

R = TypeVar("R")

ARGUMENT: Final = "arx_token"
_GRANT: ContextVar[Grant | None] = ContextVar("arx_grant", default=None)


def current_grant() -> Grant | None:
    """Return the grant that the running protected function was called with, or None outside of one."""
    return _GRANT.get()


def protect(verifier: Verifier, tool: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function require a token: ``f(order_id="A-1", arx_token=text)``.

    Arguments are given by name; the token is taken out before the function runs.  A method's object, ``self`` or
    ``cls``, is no argument: no rule is asked about it.

    Args:
        verifier: Decides, and is started by whoever made it.
        tool: What the function is called in tokens.

    Returns:
        A decorator for a function or a coroutine function.  The decorated one raises ``ArxError`` instead of running
        when the call is refused, and ``TypeError`` for an argument without a name.

    Raises:
        SettingsError: The tool's name cannot stand in a token, or the function can take no token.
    """
    if not is_tool(tool):
        raise SettingsError(f"{tool!r:.100} cannot name a tool")

    enforcement = Enforcement(verifier)

    # No type can add a keyword to a ParamSpec (PEP 612): what a function returns is kept, what it takes is not.
    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise SettingsError("a generator runs after its call was decided: protect the function that consumes it")
        if ARGUMENT in inspect.signature(function).parameters:
            raise SettingsError(f"{ARGUMENT} is taken out before the function runs: it cannot be a parameter")
        own = _own(function)
        if not inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            def guarded(*positional: Any, arx_token: str = "", **args: Any) -> R:
                request = _request(tool, positional[own:], args)
                decision = enforcement.decide(arx_token, request)
                with _granted(enforcement, decision, request):
                    return function(*positional[:own], **args)

            return guarded

        @functools.wraps(function)
        async def guarded_async(*positional: Any, arx_token: str = "", **args: Any) -> Any:
            request = _request(tool, positional[own:], args)
            decision = await enforcement.decide_async(arx_token, request)
            with _granted(enforcement, decision, request):
                return await function(*positional[:own], **args)

        return guarded_async  # type: ignore[return-value]  # R is its coroutine

    return decorate


def _own(function: Callable[..., Any]) -> int:
    """Count the positional values that are no arguments: one for a method of a class, none for all else.

    Both are asked for, class and name: of a static method the first value would be an argument that no rule saw.
    """
    within = function.__qualname__.rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    return int(first in ("self", "cls") and within != "" and not within.endswith("<locals>"))


class _granted:  # noqa: N801 - used as a statement
    """Raises unless the decision is an allow; else makes its grant the current one."""

    def __init__(self, enforcement: Enforcement, decision: Decision, request: AccessRequest) -> None:
        try:
            self._grant = enforcement.require(decision, request)
        except Problem as problem:
            raise refusal(problem.code, tuple(problem.failures)) from None

    def __enter__(self) -> None:
        self._before = _GRANT.set(self._grant)

    def __exit__(self, *_: object) -> None:
        _GRANT.reset(self._before)


def _request(tool: str, positional: tuple[Any, ...], args: dict[str, Any]) -> AccessRequest:
    if positional:
        raise TypeError("a protected function takes its arguments by name: a token's rules know them by name")
    return AccessRequest(tool, args, now_ms())
