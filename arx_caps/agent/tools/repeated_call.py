# SPDX-License-Identifier: Apache-2.0
"""A call of an RPC channel that is made once more where its service had not started when it was signed.  SPEC 8.3.

The adapter of gRPC uses this.  It imports no framework: calls and futures are those of the framework, by their methods.
"""

import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from arx_caps.agent.tasks.request_signer import came_before_start
from arx_verifier.enforcement.rpc.rpc_call import RPC_PROBLEM


def came_early(metadata: Iterable[tuple[str, Any]] | None) -> bool:
    """Return whether a call was refused, and not run, because its service had not started when it was signed.

    Args:
        metadata: The trailing metadata of the call.
    """
    return any(name == RPC_PROBLEM and came_before_start(value) for name, value in metadata or ())


class RepeatedCall:
    """A call with one request, as a future or an iterator of answers.

    Args:
        make: Signs the call and begins it.
        error: What the framework raises for a call that failed.
    """

    def __init__(self, make: Callable[[], Any], error: type[Exception]) -> None:
        self._make, self._call, self._error = make, make(), error
        self._is_last, self._lock = False, threading.Lock()

    def _is_anew(self, failed: Any) -> bool:
        """Return whether a call that has failed was made anew, here or in another thread."""
        with self._lock:
            if failed is self._call and not self._is_last and came_early(failed.trailing_metadata()):
                self._is_last, self._call = True, self._make()
            return failed is not self._call

    def _step(self, step: Callable[[Any], Any]) -> Any:
        call = self._call
        try:
            found = step(call)
        except self._error:
            if not self._is_anew(call):
                raise
            return step(self._call)
        self._is_last = True  # what has answered has run
        return found

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer."""
        return self._step(lambda call: call.result(timeout))

    def exception(self, timeout: float | None = None) -> Any:
        """Wait for the end, and return the error or None."""
        call = self._call
        error = call.exception(timeout)
        return error if error is None or not self._is_anew(call) else self._call.exception(timeout)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call a function with this at the end."""

        def done(call: Any) -> None:
            if self._is_anew(call):
                self._call.add_done_callback(lambda _: callback(self))
            else:
                callback(self)

        self._call.add_done_callback(done)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._step(next)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def first_of(messages: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    """Take the first message of a stream.

    Args:
        messages: The stream.

    Returns:
        The message, or None, and the whole stream.
    """
    rest = iter(messages)
    first = next(rest, None)
    return first, rest if first is None else chain((first,), rest)


async def first_of_async(messages: Iterable[Any] | AsyncIterable[Any]) -> tuple[Any, AsyncIterator[Any]]:
    """Take the first message of a stream, asynchronous or not; see ``first_of``.

    Args:
        messages: The stream.
    """
    rest = aiter(messages if isinstance(messages, AsyncIterable) else _as_async(messages))
    first = await anext(rest, None)
    return first, _whole(first, rest)


async def _as_async(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def _whole(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    if first is not None:
        yield first
    async for message in rest:
        yield message
