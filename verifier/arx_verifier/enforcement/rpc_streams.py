# SPDX-License-Identifier: Apache-2.0
"""The messages of a running RPC call, both ways: each is checked on its way, in threads and on an event loop.  SPEC 11.

Requests are held to what was decided on, and no answer leaves after the grant has ended.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

from arx_verifier.enforcement.rpc_call import RpcCall
from arx_verifier.errors import RequestError

_END: Final = object()


class RpcStreams:
    """The messages of one call.

    Args:
        call: The call, decided on.
        parse: Parses a request, as the framework would.
    """

    def __init__(self, call: RpcCall, parse: Callable[[Any], Any] | None) -> None:
        self._call, self._parse = call, parse or bytes

    def requests(self, first: Any, later: Iterable[bytes]) -> Iterator[Any]:
        """Yield the requests.

        Args:
            first: The message that was decided on; None for a stream without one.
            later: The others, as they came.

        Raises:
            RequestError: As ``RpcCall.take``.
        """
        if first is not None:
            yield first
        for each in later:
            yield self._call.take(self._parse(each))

    async def requests_async(self, first: Any, later: AsyncIterable[bytes]) -> AsyncIterator[Any]:
        """Yield the requests; see ``requests``."""
        if first is not None:
            yield first
        async for each in later:
            yield self._call.take(self._parse(each))

    def answers(self, made: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield the answers of a method while the grant holds.  The method runs with its grant.

        Args:
            made: What the method returned.

        Raises:
            RefusedCall: The call was ended.
        """
        source = iter(made)
        try:
            while True:
                with self._call.context():
                    answer = next(source, _END)
                self._call.require_running()  # also before the end: a cut answer must not look whole
                if answer is _END:
                    return
                yield answer
        finally:
            if hasattr(source, "close"):
                source.close()

    async def answers_async(self, made: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Yield the answers of an async generator while the grant holds; see ``answers``."""
        async with aclosing(made):
            while True:
                with self._call.context():
                    answer = await anext(made, _END)
                self._call.require_running()
                if answer is _END:
                    return
                yield answer


class RpcContext:
    """The framework's context of an asyncio call, which sends and receives nothing past the checks.

    Args:
        context: The framework's.
        call: The call.
    """

    def __init__(self, context: Any, call: RpcCall) -> None:
        self._context, self._call = context, call

    async def write(self, message: Any) -> None:
        """Send an answer while the grant holds."""
        self._call.require_running()
        await self._context.write(message)

    async def read(self) -> NoReturn:
        """Refuse."""
        raise RequestError("a guarded method reads its messages from the iterator, not from the context")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class TaskCut:
    """Cancels the asyncio task that runs here, when called from any thread, until it is over."""

    def __init__(self) -> None:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self._is_over = self._is_cut = False

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if not self._is_over and self._task is not None:
            self._is_cut = self._task.cancel()

    def close(self) -> None:
        """Cancel nothing any more."""
        self._is_over = True

    def take(self, error: BaseException) -> None:
        """Let the task go on after an error, to answer it.

        Raises:
            CancelledError: Another part of the program has cancelled the task.
        """
        if isinstance(error, asyncio.CancelledError) and not self._is_cut:
            raise error
        if self._task is not None and self._is_cut:
            self._task.uncancel()
