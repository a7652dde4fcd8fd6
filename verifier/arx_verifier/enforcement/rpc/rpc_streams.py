# SPDX-License-Identifier: Apache-2.0
"""The messages of a running RPC call, both ways: each is checked on its way, in threads and on an event loop.  SPEC 11.

Requests are held to what was decided on, and no answer leaves after the grant has ended.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from typing import Any, Final, NoReturn

from arx_verifier.enforcement.grants.loop_calls import TaskCut
from arx_verifier.enforcement.rpc.rpc_call import RpcCall
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
            RefusedCall: As ``RpcCall.take``.
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

    async def send(self, made: AsyncGenerator[Any, None], context: "RpcContext") -> None:
        """Send the answers of an async generator while the grant holds; see ``answers``.

        Args:
            made: What the method returned.
            context: Sends each answer, after a check.

        Raises:
            RefusedCall: The call was ended.
        """
        async with aclosing(made):
            while True:
                with self._call.context():
                    answer = await anext(made, _END)
                if answer is _END:
                    self._call.require_running()  # a cut answer must not look whole
                    return
                await context.write(answer)


class RpcContext:
    """The framework's context of an asyncio call, which sends and receives nothing past the checks.

    Args:
        context: The framework's.
        call: The call.
        cut: Cancels the task of the call.
    """

    def __init__(self, context: Any, call: RpcCall, cut: TaskCut) -> None:
        self._context, self._call, self._cut = context, call, cut
        self._has_begun = False

    async def write(self, message: Any) -> None:
        """Send an answer while the grant holds."""
        self._call.require_running()
        sent = self._context.write(message)
        await (sent if self._has_begun else self._begin(sent))

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Send what comes before the answers."""
        await self._begin(self._context.send_initial_metadata(metadata))

    async def _begin(self, sent: Awaitable[None]) -> None:
        # After a cancelled first write gRPC would send the metadata again with the status, and fails at that: the
        # client would wait until its deadline.
        with self._cut.held():
            await sent
        self._has_begun = True

    async def read(self) -> NoReturn:
        """Refuse."""
        raise RequestError("a guarded method reads its messages from the iterator, not from the context")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
