# SPDX-License-Identifier: Apache-2.0
"""A tool that runs in the agent's own process: its function runs only with a grant for the current task.  SPEC 11.

The decision is made on the values that the function receives.  What a model wrote may be another value: frameworks
convert it, ``"007"`` to 7, before they call the function.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from arx_caps.agent.tools.running_task import running_call
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import Enforcement
from arx_verifier.enforcement.base.guard import follow_effect, granted
from arx_verifier.errors import RequestError, SettingsError, shorten
from arx_verifier.names import is_tool
from arx_verifier.request import AccessRequest
from arx_verifier.verification.verifier import Verifier

R = TypeVar("R")


def local_tool(
    verifier: Verifier, tool: str, *, injected: Collection[str] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return a decorator whose function runs with the current task, or raises.

    Args:
        verifier: Decides and records; the program that made it also starts it.
        tool: The function's tool name in tokens.
        injected: Parameters that the framework fills by itself, such as its context; no rule applies to them.

    Returns:
        A decorator for a function or a coroutine function; name, signature and types stay, so a framework shows the
        model the same tool.  The decorated one raises ``ArxError`` instead of running when the call is refused.

    Raises:
        SettingsError: The tool's name is malformed, or the function is a generator or takes arguments without a name.
    """
    if not is_tool(tool):
        raise SettingsError(f"{shorten(tool)} cannot name a tool")
    enforcement = Enforcement(verifier)

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # Its body would run after the call has returned, and so outside of the grant.
            raise SettingsError("a generator runs after its call was decided: guard the function that consumes it")
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
            raise SettingsError("a guarded function takes its arguments by name: a token's rules know them by name")

        def signed(given: tuple[Any, ...], more: dict[str, Any]) -> tuple[str, AccessRequest]:
            task, approvals = running_call()
            args = _judged(signature, given, more, injected)
            held = task.bundle.outlines.get(verifier.audience)
            # A framework fills in defaults.  No caller chose them, so one that no rule knows counts as left out.
            for name, parameter in signature.parameters.items():
                if name in args and _is(args[name], parameter.default) and not (held and held.takes(tool, name)):
                    del args[name]
            token = task.call_token(verifier.audience, tool, args, approvals=approvals)
            return token, AccessRequest(tool, args, now_ms())

        if not inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            def guarded(*given: Any, **more: Any) -> R:
                token, request = signed(given, more)
                decision = enforcement.decide(token, request)
                with granted(enforcement, decision, request), follow_effect(enforcement, decision):
                    return function(*given, **more)

            return guarded

        @functools.wraps(function)
        async def guarded_async(*given: Any, **more: Any) -> Any:
            token, request = signed(given, more)
            decision = await enforcement.decide_async(token, request)
            with granted(enforcement, decision, request):
                async with follow_effect(enforcement, decision):
                    return await function(*given, **more)

        return guarded_async  # type: ignore[return-value]  # R is its coroutine

    return decorate


def _judged(
    signature: inspect.Signature, given: tuple[Any, ...], more: dict[str, Any], injected: Collection[str]
) -> dict[str, Any]:
    """Return the arguments by name, as the rules know them.

    Raises:
        RequestError: Two arguments have one name.
    """
    bound = signature.bind(*given, **more).arguments
    args: dict[str, Any] = {}
    for name, value in bound.items():
        if name in injected:
            continue
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            if both := sorted(args.keys() & value.keys()):  # beside one without a name: def pay(amount, /, **more)
                raise RequestError(f"argument {shorten(both[0])}: expected one of this name, got two")
            args |= value
        else:
            args[name] = value
    return args


def _is(value: Any, default: Any) -> bool:
    """Return whether a value is the parameter's default; 1, 1.0 and True are three values, also inside another one."""
    return type(value) is type(default) and bool(value == default) and repr(value) == repr(default)
