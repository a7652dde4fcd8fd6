# SPDX-License-Identifier: Apache-2.0
"""Channels of gRPC that sign each call for a task: ``arx_channel``, and ``arx_aio_channel`` for ``grpc.aio``.

The metadata of a call has a one-shot token over its tool and the fields of its request.  SPEC 8.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from arx_caps.agent.tools.repeated_call import RepeatedCall, came_early, first_of, first_of_async
from arx_caps.agent.tools.rpc_calls import RpcSigner

# A retry by gRPC's own policy would send the same token again, which the service refuses.
_NO_RETRIES: Final = (("grpc.enable_retries", 0),)


def arx_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    tools: Mapping[str, str],
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
    **signing: Any,
) -> grpc.Channel:
    """Return a channel whose calls are signed.  Interceptors go around it: ``grpc.intercept_channel(channel, …)``.

    Args:
        target: The service's address, an origin of the task's audience.
        credentials: As for ``grpc.secure_channel``; None for a channel without TLS.
        tools: The tool of each method, as the service has it: ``{"/orders.Orders/Refund": "orders.refund"}``.
        options: As for ``grpc.secure_channel``.
        compression: Likewise.
        signing: ``task``, ``audience`` and ``data`` of ``RpcSigner``.

    Raises:
        AttenuationError: As ``RpcSigner``.
    """
    signer = RpcSigner(target, credentials is not None, tools, **signing)
    settings: Any = ((*_NO_RETRIES, *options), compression)
    if credentials is None:
        channel = grpc.insecure_channel(target, *settings)
    else:
        channel = grpc.secure_channel(target, credentials, *settings)
    return grpc.intercept_channel(channel, _Interceptor(signer))


def arx_aio_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    tools: Mapping[str, str],
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] = (),
    **signing: Any,
) -> grpc.aio.Channel:
    """Return a channel of ``grpc.aio`` whose calls are signed.

    Args:
        target: As for ``arx_channel``, like all that follow.
        credentials: None for a channel without TLS.
        tools: The tool of each method.
        options: Options.
        compression: The compression.
        interceptors: Interceptors around the signing, as for ``grpc.aio.secure_channel``.
        signing: ``task``, ``audience`` and ``data``.

    Raises:
        AttenuationError: As ``RpcSigner``.
    """
    signer = RpcSigner(target, credentials is not None, tools, **signing)
    own = [kind(signer) for kind in _AIO_KINDS]
    settings: Any = ((*_NO_RETRIES, *options), compression, [*interceptors, *own])
    if credentials is None:
        return grpc.aio.insecure_channel(target, *settings)
    return grpc.aio.secure_channel(target, credentials, *settings)


class _Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, signer: RpcSigner) -> None:
        self._signer = signer

    def _signed(self, details: Any, message: Any) -> Any:
        return details._replace(metadata=self._signer.sign(details.method, details.metadata, message))

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return RepeatedCall(lambda: continuation(self._signed(details, request), request), grpc.RpcError)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        first, messages = first_of(requests)
        return continuation(self._signed(details, first), messages)

    intercept_unary_stream: Any = intercept_unary_unary
    intercept_stream_stream: Any = intercept_stream_unary


class _Aio:
    def __init__(self, signer: RpcSigner) -> None:
        self._signer = signer

    def _signed(self, details: Any, message: Any) -> Any:
        method = details.method if isinstance(details.method, str) else details.method.decode()
        metadata = grpc.aio.Metadata(*self._signer.sign(method, details.metadata, message))
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(self._signed(details, request), request)
        if came_early(await call.trailing_metadata()):
            return await continuation(self._signed(details, request), request)
        return call

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        try:
            _, answers = await first_of_async(await continuation(self._signed(details, request), request))
        except grpc.aio.AioRpcError as error:
            if not came_early(error.trailing_metadata()):
                raise
            return await continuation(self._signed(details, request), request)
        return answers

    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        first, messages = await first_of_async(requests)
        return await continuation(self._signed(details, first), messages)

    intercept_stream_stream = intercept_stream_unary


# One class a kind: a channel takes an interceptor for the first kind alone that it finds among its bases.
_AIO_KINDS: Final = [
    type("_AioInterceptor", (_Aio, kind), {})
    for kind in (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
]
