# SPDX-License-Identifier: Apache-2.0
"""Guard the methods of a gRPC server: a method is a tool, the fields of its request are the arguments.  SPEC 8, 11.

``ArxInterceptor`` is for ``grpc.server`` and ``ArxAioInterceptor`` for ``grpc.aio.server``.  In a method,
``current_grant()`` is the grant.
"""

import asyncio
import contextlib
import inspect
import json
import threading
from collections.abc import Generator
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from arx_verifier.enforcement.grants.loop_calls import TaskCut
from arx_verifier.enforcement.rpc.rpc_call import RPC_PROBLEM, RpcCall, RpcMethods
from arx_verifier.enforcement.rpc.rpc_streams import RpcContext, RpcStreams

_CODES: Final = {401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED}
_CODES[503] = grpc.StatusCode.UNAVAILABLE


class ArxInterceptor(RpcMethods, grpc.ServerInterceptor):
    """Interceptor of a server with threads: ``grpc.server(pool, interceptors=[ArxInterceptor(verifier, tools={…})])``.

    Arguments and errors are those of ``RpcMethods``.
    """

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler of a call, guarded; the server calls this."""
        handler = continuation(details)
        if handler is None or self.is_public(details.method):
            return handler
        call = self.call(details.method, details.invocation_metadata or ())

        def one(raw: Any, context: Any) -> Any:
            with contextlib.closing(_respond(handler, call, raw, context)) as answers:
                return next(answers)

        return _like(handler, (lambda *sent: _respond(handler, call, *sent)) if handler.response_streaming else one)


class ArxAioInterceptor(RpcMethods, grpc.aio.ServerInterceptor):
    """Interceptor of an asyncio server; see ``ArxInterceptor``.  A method is a coroutine or an async generator."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler of a call, guarded; the server calls this."""
        handler = await continuation(details)
        if handler is None or self.is_public(details.method):
            return handler
        call = self.call(details.method, details.invocation_metadata or ())

        async def respond(raw: Any, context: Any) -> Any:
            return await _respond_async(handler, call, raw, context)

        return _like(handler, respond)


def _like(handler: Any, behavior: Any) -> Any:
    # The call parses the messages, after its token was authenticated.
    kinds = "stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary"
    make = getattr(grpc, f"{kinds[0]}_{kinds[1]}_rpc_method_handler")
    return make(behavior, request_deserializer=None, response_serializer=handler.response_serializer)


def _behavior(handler: Any) -> Any:
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _respond(handler: Any, call: RpcCall, raw: Any, context: Any) -> Generator[Any, None, None]:
    """Yield the answers of a call while its grant holds."""
    own, parse = threading.get_ident(), handler.request_deserializer

    def cut(is_open: bool) -> None:
        # An answer that has not begun is refused with its reason once the method returns.
        if is_open and handler.response_streaming and threading.get_ident() != own:
            context.cancel()

    try:
        call.admit(context.peer())
        first = call.read(next(raw, None) if handler.request_streaming else raw, parse)
        call.decide(call.request(first), cut)
        streams = RpcStreams(call, parse)
        with call.context():
            made = _behavior(handler)(streams.requests(first, raw) if handler.request_streaming else first, context)
        if handler.response_streaming:
            yield from streams.answers(made)
            _settle(call, context)
            _add_left(call, context)
        else:
            call.require_running()
            call.report(made, handler.response_serializer)
            _settle(call, context)
            _add_left(call, context)
            yield made
    except Exception as error:
        _settle(call, context, failed=True)
        _abort(call, context, error)
    finally:
        call.close()


def _status(call: RpcCall, error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    answer = call.answer_to(error)
    code = _CODES.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT)
    return code, json.loads(answer.body)["detail"], ((RPC_PROBLEM, answer.body),)


def _abort(call: RpcCall, context: Any, error: Exception) -> NoReturn:
    code, detail, metadata = _status(call, error)
    context.set_trailing_metadata(metadata)
    context.abort(code, detail)
    raise AssertionError("abort() raises")


def _settle(call: RpcCall, context: Any, *, failed: bool = False) -> None:
    """Record the effect of a call whose method is over."""
    if (ended := call.ended_effect(context.code, failed=failed)) is not None:
        ended[0].settle(ended[1])


async def _settle_async(call: RpcCall, context: Any, *, failed: bool = False) -> None:
    """Record the effect without blocking the event loop; see ``_settle``."""
    if (ended := call.ended_effect(context.code, failed=failed)) is not None:
        await ended[0].settle_async(ended[1])


def _add_left(call: RpcCall, context: Any) -> None:
    if left := call.left():
        context.set_trailing_metadata((*(context.trailing_metadata() or ()), *left))


async def _respond_async(handler: Any, call: RpcCall, raw: Any, context: Any) -> Any:
    """Send the answers of a streaming method while its grant holds, or return that of another one; see ``_respond``."""
    behavior, parse, cut = _behavior(handler), handler.request_deserializer, TaskCut()
    try:
        if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
            raise TypeError("a guarded method of an asyncio server is a coroutine or an async generator")
        call.admit(context.peer())
        first = call.read(await anext(raw, None) if handler.request_streaming else raw, parse)
        await call.decide_async(call.request(first), lambda _: cut())
        streams, checked, answer = RpcStreams(call, parse), RpcContext(context, call, cut), None
        request = streams.requests_async(first, raw) if handler.request_streaming else first
        made: Any = behavior(request, checked)
        if handler.response_streaming and hasattr(made, "__anext__"):
            # gRPC would be cancelled in its own write, and end the call without a status.
            await streams.send(made, checked)
        else:
            with call.context():
                answer = await made
            call.require_running()
            if not handler.response_streaming:  # else its answers have left through the context, and this is None
                call.report(answer, handler.response_serializer)
        await _settle_async(call, context)
        _add_left(call, context)
        return answer
    except (Exception, asyncio.CancelledError) as error:
        if not cut.close() and isinstance(error, asyncio.CancelledError):
            raise  # another part of the program has cancelled the task
        await _settle_async(call, context, failed=True)
        await context.abort(*_status(call, error))
    finally:
        cut.close()
        call.close()
