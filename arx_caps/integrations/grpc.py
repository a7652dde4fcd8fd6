# SPDX-License-Identifier: Apache-2.0
"""Sign the calls of a gRPC channel for a task.  SPEC 8.2.

``ArxClientInterceptor`` is for ``grpc.intercept_channel``, ``aio_interceptors`` for a channel of ``grpc.aio``.
The metadata of a call has a one-shot token over its tool and the fields of its request.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import grpc
import grpc.aio

from arx_caps.agent import Task
from arx_caps.agent.running_task import current_approvals, running_call
from arx_verifier.enforcement import arguments_of
from arx_verifier.errors import AttenuationError

HEADER = "authorization"


class GrpcSigner:
    """The tools of a service's methods, and the signature of each call.

    Args:
        audience: The service.
        tools: The tool of each method, as the service has it: ``{"/orders.Orders/Refund": "orders.refund"}``.  Calls of
            other methods are sent without a token.
        task: The task; None for ``current_task()`` of each call.
        data: The fields of a method's messages that are no arguments, as the service has them.
    """

    def __init__(
        self,
        audience: str,
        tools: Mapping[str, str],
        *,
        task: Task | None = None,
        data: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._audience, self._tools, self._task, self._data = audience, dict(tools), task, dict(data or {})

    def sign(self, details: Any, message: Any, make: Callable[..., Any]) -> Any:
        """Return the details of a call with its token; without one for a method that has no tool.

        Args:
            details: The details of the framework.
            message: The first message, which the service decides on; None for an empty stream.
            make: Makes such details of their members.

        Raises:
            AttenuationError: The task has no token for the service, no task runs here, or the call has an authorization
                already; or an approval of the call is of no use there.
            RequestError: The message has no JSON form.
        """
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        tool = self._tools.get(method)
        if tool is None:
            return details
        metadata = [*(details.metadata or ())]
        if any(name.lower() == HEADER for name, _ in metadata):
            raise AttenuationError("this call has an authorization already; it is not overwritten")
        args = {} if message is None else arguments_of(message, self._data.get(method, ()))
        task = self._task if self._task is not None else running_call()[0]
        # A service refuses an approval that its tool does not ask for.
        approvals = current_approvals(task) if task.needs_approval(tool) else ()
        metadata.append((HEADER, f"Bearer {task.call_token(self._audience, tool, args, approvals=approvals)}"))
        return make(details, metadata)

    def __repr__(self) -> str:
        return f"<GrpcSigner for {self._audience}>"


class _Details(NamedTuple):
    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _CallDetails(_Details, grpc.ClientCallDetails):
    pass


def _details(old: Any, metadata: Any) -> Any:
    return _CallDetails(*(metadata if name == "metadata" else getattr(old, name, None) for name in _Details._fields))


def _aio_details(old: Any, metadata: Any) -> Any:
    found = grpc.aio.Metadata(*metadata)
    return grpc.aio.ClientCallDetails(old.method, old.timeout, found, old.credentials, old.wait_for_ready)


class ArxClientInterceptor(
    GrpcSigner,
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Interceptor of a channel: ``grpc.intercept_channel(channel, ArxClientInterceptor("orders", tools))``."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Sign one call; the channel calls this."""
        return continuation(self.sign(details, request, _details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Sign one call; the channel calls this."""
        return continuation(self.sign(details, request, _details), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Sign one call by its first message, which is awaited before the call is sent; the channel calls this."""
        return self._intercept_stream(continuation, details, iter(requests))

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Sign one call as ``intercept_stream_unary`` does; the channel calls this."""
        return self._intercept_stream(continuation, details, iter(requests))

    def _intercept_stream(self, continuation: Any, details: Any, messages: Iterator[Any]) -> Any:
        first = next(messages, None)
        return continuation(self.sign(details, first, _details), chain(() if first is None else (first,), messages))


class _AioUnary(GrpcSigner, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.sign(details, request, _aio_details), request)


class _AioUnaryStream(GrpcSigner, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.sign(details, request, _aio_details), request)


class _AioStreamUnary(GrpcSigner, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await _stream(self, continuation, details, requests)


class _AioStreamStream(GrpcSigner, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await _stream(self, continuation, details, requests)


def aio_interceptors(audience: str, tools: Mapping[str, str], **options: Any) -> list[Any]:
    """Return interceptors for ``grpc.aio.insecure_channel(…, interceptors=…)``; arguments as ``GrpcSigner``."""
    kinds = (_AioUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)
    return [kind(audience, tools, **options) for kind in kinds]


async def _stream(signer: GrpcSigner, continuation: Any, details: Any, requests: Any) -> Any:
    messages = aiter(requests) if isinstance(requests, AsyncIterable) else _aiter(requests)
    first = await anext(messages, None)
    return await continuation(signer.sign(details, first, _aio_details), _chain_async(first, messages))


async def _aiter(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def _chain_async(first: Any, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    if first is not None:
        yield first
    async for message in messages:
        yield message
