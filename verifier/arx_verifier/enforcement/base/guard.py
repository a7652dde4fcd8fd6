# SPDX-License-Identifier: Apache-2.0
"""A decorator for plain functions: no call runs without a grant.  SPEC 11.

For transports without HTTP, such as a tool of an agent framework or a worker of a queue.  The decision is made on the
arguments of the call, by name, so they must be those that came over the wire.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeVar, Unpack

from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.grants.call_effect import CallEffect
from arx_verifier.errors import SettingsError, refusal
from arx_verifier.journal.decision import Decision
from arx_verifier.names import is_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import GuardOptions, WatchedCall

R = TypeVar("R")

ARGUMENT: Final = "arx_token"
_NO_EFFECT: Final = nullcontext()
_RUNNING: ContextVar[Grant | WatchedCall | None] = ContextVar("arx_grant", default=None)


def current_grant() -> Grant | None:
    """Return the grant that the running protected function was called with, or None outside of one.

    Raises:
        ArxError: It runs without a grant, as its guard watches: why it would be refused.  See ``current_watch``.
    """
    running = _RUNNING.get()
    if isinstance(running, WatchedCall):
        raise running.refusal()
    return running


def current_watch() -> WatchedCall | None:
    """Return the running call if it goes on in watch mode without a grant, else None."""
    running = _RUNNING.get()
    return running if isinstance(running, WatchedCall) else None


def running_call() -> Grant | WatchedCall | None:
    """Return the grant of the running call, or the watched call, or None outside of one."""
    return _RUNNING.get()


def protect(
    verifier: Verifier, tool: str, **options: Unpack[GuardOptions]
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return a decorator whose function requires a token: ``f(order_id="A-1", arx_token=text)``.

    The caller passes arguments by name; the token is removed before the function runs.  A method's object, ``self`` or
    ``cls``, is no argument: no rule applies to it.

    Args:
        verifier: The verifier; the program that made it also starts it.
        tool: The function's tool name in tokens.
        options: ``limits``, ``effects``, and ``mode`` and ``until`` of a guard that watches; see ``GuardOptions``.

    Returns:
        A decorator for a function or a coroutine function.  The decorated one raises ``ArxError`` instead of running
        when the call is refused, and ``TypeError`` for an argument without a name.

    Raises:
        SettingsError: The tool's name or a limit is malformed, or the function cannot take a token.
    """
    if not is_tool(tool):
        raise SettingsError(f"{tool!r:.100} cannot name a tool")

    enforcement = Enforcement(verifier, **options)

    # No type can add a keyword to a ParamSpec (PEP 612): the type of the result is kept, that of the arguments is not.
    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # Its body would run after the call has returned, and so outside of the grant.
            raise SettingsError("a generator runs after its call was decided: protect the function that consumes it")
        if ARGUMENT in inspect.signature(function).parameters:
            raise SettingsError(f"{ARGUMENT} cannot be a parameter: it is removed before the function runs")
        own = _own(function)
        if not inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            def guarded(*positional: Any, arx_token: str = "", **args: Any) -> R:
                request = _request(tool, positional[own:], args)
                decision = enforcement.decide(arx_token, request)
                with granted(enforcement, decision, request), follow_effect(enforcement, decision):
                    return function(*positional[:own], **args)

            return guarded

        @functools.wraps(function)
        async def guarded_async(*positional: Any, arx_token: str = "", **args: Any) -> Any:
            request = _request(tool, positional[own:], args)
            decision = await enforcement.decide_async(arx_token, request)
            with granted(enforcement, decision, request):
                async with follow_effect(enforcement, decision):
                    return await function(*positional[:own], **args)

        return guarded_async  # type: ignore[return-value]  # R is its coroutine

    return decorate


def _own(function: Callable[..., Any]) -> int:
    """Return the number of positional values that are no arguments: one for a method of a class, else none."""
    # Class and name must both fit: the first value of a static method is an argument, which the rules must see.
    within = function.__qualname__.rpartition(".")[0]
    first = next(iter(inspect.signature(function).parameters), "")
    return int(first in ("self", "cls") and within != "" and not within.endswith("<locals>"))


def follow_effect(enforcement: Enforcement, decision: Decision) -> CallEffect | nullcontext[None]:
    """Return a context that records how the function of a call has ended, where its tool gets such a record.

    Args:
        enforcement: What made the decision.
        decision: The decision that allowed the call.
    """
    return CallEffect.of(enforcement.verifier, decision) or _NO_EFFECT


class granted:  # noqa: N801 - used as a statement
    """A context in which a decision's grant, or its watched call, is the current one, for adapters that run a function.

    Args:
        enforcement: What made the decision.
        decision: The decision.
        request: The request that it was made on.
        answers: Whether the answer leaves at its end; else the adapter reports that.

    Raises:
        ArxError: The decision is a refusal.
    """

    def __init__(
        self, enforcement: Enforcement, decision: Decision, request: AccessRequest, *, answers: bool = True
    ) -> None:
        self._answers = answers
        try:
            self._running = enforcement.require(decision, request)
        except RefusedCall as problem:
            raise refusal(problem.code, tuple(problem.failures)) from None

    def __enter__(self) -> Grant | WatchedCall:
        self._before = _RUNNING.set(self._running)
        return self._running

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _RUNNING.reset(self._before)
        if self._answers and kind is None:
            self._running.leave()


def _request(tool: str, positional: tuple[Any, ...], args: dict[str, Any]) -> AccessRequest:
    if positional:
        raise TypeError("a protected function takes its arguments by name: a token's rules know them by name")
    return AccessRequest(tool, args, now_ms())
