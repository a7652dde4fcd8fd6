# SPDX-License-Identifier: Apache-2.0
"""Work that asks a store, written once for threads and for event loops: a generator that yields each question.

A thread waits for each answer (``run``).  An event loop awaits it (``run_async``), and other tasks run meanwhile.
"""

from collections.abc import Awaitable, Callable, Generator
from functools import partial, update_wrapper
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

Self_ = TypeVar("Self_")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class StoreCall(Protocol):
    """One question, whose answer the work needs to go on."""

    def run(self) -> Any:
        """Ask, and wait in this thread."""

    def run_async(self) -> Awaitable[Any]:
        """Ask, and return what the event loop awaits."""


Steps: TypeAlias = Generator[StoreCall, Any, Result]
"""Work with questions.  The error of an answer is raised at the ``yield``; ``GeneratorExit`` if it is given up."""


class BlockingCall(NamedTuple):
    """A function that waits by itself: an event loop has a thread call it."""

    function: Callable[[], Any]

    def run(self) -> Any:
        """Call it."""
        return self.function()

    def run_async(self) -> Awaitable[Any]:
        """Call it in a thread."""
        from asyncio import to_thread  # imported on use: programs without an event loop never need it

        return to_thread(self.function)


def run(steps: "Steps[Result]") -> Result:
    """Do work in this thread."""
    try:
        call = next(steps)
        while True:
            try:
                answer = call.run()
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # of ``Steps``


async def run_async(steps: "Steps[Result]") -> Result:
    """Do work in the event loop.  After a cancellation the work asks nothing more."""
    try:
        call = next(steps)
        while True:
            try:
                answer = await call.run_async()
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # of ``Steps``
    finally:
        steps.close()


def by_steps(
    method: "Callable[Concatenate[Self_, Parameters], Steps[Result]]",
) -> Callable[Concatenate[Self_, Parameters], Result]:
    """Make a method of one that returns steps: a call runs them in its thread, and ``steps_of`` yields them."""

    def run_here(self: Self_, /, *args: Parameters.args, **named: Parameters.kwargs) -> Result:
        return run(method(self, *args, **named))

    run_here.steps = method  # type: ignore[attr-defined]
    return update_wrapper(run_here, method)


def has_steps(method: Callable[..., Any]) -> bool:
    """Return whether an event loop can call a method without a thread."""
    return hasattr(method, "steps")


def steps_of(
    method: Callable[Parameters, Result], *args: Parameters.args, **named: Parameters.kwargs
) -> "Steps[Result]":
    """Call a method of a store within other steps, however the store is made.

    Args:
        method: A bound method; its object's ``waits`` is whether it may wait for a network.
        args: Its arguments.
        named: Its arguments by name.
    """
    owner, steps = getattr(method, "__self__", None), getattr(method, "steps", None)
    if steps is not None:
        return steps(owner, *args, **named)  # type: ignore[no-any-return]  # of ``by_steps``
    return _in_one(partial(method, *args, **named), waits=getattr(owner, "waits", False))


def _in_one(function: Callable[[], Result], *, waits: bool) -> "Steps[Result]":
    return (yield BlockingCall(function)) if waits else function()
