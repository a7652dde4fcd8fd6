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
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from arx_verifier.enforcement import RefusedCall, RpcCall, RpcMethods
from arx_verifier.errors import RequestError

PROBLEM: Final = "arx-problem-bin"  # trailing metadata: the problem of a refusal (RFC 9457), as over HTTP
_CODES: Final = {401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED}
_CODES[503] = grpc.StatusCode.UNAVAILABLE
_END: Final = object()


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
        # The messages are parsed here, after the token was authenticated.
        if handler.response_streaming:
            return _like(handler, lambda raw, context: _respond(handler, call, raw, context))
        return _like(handler, lambda raw, context: _one(_respond(handler, call, raw, context)))


def _one(answers: Generator[Any, None, None]) -> Any:
    with contextlib.closing(answers):
        return next(answers)


def _like(handler: Any, behavior: Any) -> Any:
    kinds = "stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary"
    make = getattr(grpc, f"{kinds[0]}_{kinds[1]}_rpc_method_handler")
    return make(behavior, request_deserializer=None, response_serializer=handler.response_serializer)


def _behavior(handler: Any) -> Any:
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _respond(handler: Any, call: RpcCall, raw: Any, context: Any) -> Generator[Any, None, None]:
    """Yield the answers of a call while its grant holds."""

    own = threading.get_ident()

    def cut() -> None:
        # An answer that has not begun is refused with its reason once the method returns.
        is_open = handler.response_streaming and call.running is not None and call.running.is_open
        if is_open and threading.get_ident() != own:
            context.cancel()

    answers: Any = None
    try:
        call.admit(context.peer())
        first = _parse(handler, call, next(raw, None) if handler.request_streaming else raw)
        call.decide(call.request(first), cut)
        request = _rest(handler, call, first, raw) if handler.request_streaming else first
        with call.context():
            answers = _behavior(handler)(request, context)
        if not handler.response_streaming:
            call.require_running()
            yield answers
            return
        answers = iter(answers)
        while True:
            with call.context():
                answer = next(answers, _END)
            call.require_running()  # also before the end: a cut answer must not look whole
            if answer is _END:
                return
            yield answer
    except RefusedCall as problem:
        _abort(call, context, problem)
    except Exception:
        reason = call.reason()
        if reason is None:
            raise
        _abort(call, context, reason)
    finally:
        call.close()
        if handler.response_streaming and hasattr(answers, "close"):
            answers.close()


def _parse(handler: Any, call: RpcCall, raw: Any) -> Any:
    try:
        return None if raw is None else (handler.request_deserializer or bytes)(raw)
    except Exception:
        call.refuse_unread(RefusedCall("malformed_request", "the message cannot be parsed"))


def _rest(handler: Any, call: RpcCall, first: Any, raw: Iterator[bytes]) -> Iterator[Any]:
    if first is not None:
        yield first
    for each in raw:
        yield call.take(handler.request_deserializer(each))


def _status(call: RpcCall, problem: RefusedCall) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    answer = call.answer(problem)
    code = _CODES.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT)
    return code, json.loads(answer.body)["detail"], ((PROBLEM, answer.body),)


def _abort(call: RpcCall, context: Any, problem: RefusedCall) -> NoReturn:
    code, detail, metadata = _status(call, problem)
    context.set_trailing_metadata(metadata)
    context.abort(code, detail)
    raise AssertionError("abort() raises")


class ArxAioInterceptor(RpcMethods, grpc.aio.ServerInterceptor):
    """Interceptor of an asyncio server; see ``ArxInterceptor``.  A method is a coroutine or an async generator."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler of a call, guarded; the server calls this."""
        handler = await continuation(details)
        if handler is None or self.is_public(details.method):
            return handler
        call = self.call(details.method, details.invocation_metadata or ())

        async def one(raw: Any, context: Any) -> Any:
            async with contextlib.aclosing(_respond_async(handler, call, raw, context)) as answers:
                return await anext(answers)

        async def many(raw: Any, context: Any) -> AsyncIterator[Any]:
            async for answer in _respond_async(handler, call, raw, context):
                yield answer

        return _like(handler, many if handler.response_streaming else one)


class _Context:
    """The context of a call, which sends and receives nothing past the checks."""

    def __init__(self, context: Any, call: RpcCall) -> None:
        self._context, self._call = context, call

    async def write(self, message: Any) -> None:
        self._call.require_running()
        await self._context.write(message)

    async def read(self) -> NoReturn:
        raise RequestError("a guarded method reads its messages from the iterator, not from the context")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def _respond_async(handler: Any, call: RpcCall, raw: Any, context: Any) -> AsyncGenerator[Any, None]:
    """Yield the answers of a call while its grant holds; see ``_respond``."""
    behavior, task, loop = _behavior(handler), asyncio.current_task(), asyncio.get_running_loop()
    is_over = is_cut = False

    def cancel() -> None:
        nonlocal is_cut
        if not is_over and task is not None:
            is_cut = True
            task.cancel()

    answers: Any = None
    try:
        if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
            raise TypeError("a guarded method of an asyncio server is a coroutine or an async generator")
        call.admit(context.peer())
        first = _parse(handler, call, await anext(raw, None) if handler.request_streaming else raw)
        await call.decide_async(call.request(first), lambda: loop.call_soon_threadsafe(cancel))
        request = _rest_async(handler, call, first, raw) if handler.request_streaming else first
        with call.context():
            answers = behavior(request, _Context(context, call))
            answer = await answers if inspect.isawaitable(answers) else _END
        if answer is not _END:  # a coroutine of a streaming method has written its answers itself
            call.require_running()
            if not handler.response_streaming:
                yield answer
            return
        while True:
            with call.context():
                answer = await anext(answers, _END)
            call.require_running()
            if answer is _END:
                return
            yield answer
    except RefusedCall as problem:
        await context.abort(*_status(call, problem))
    except (Exception, asyncio.CancelledError) as error:
        reason = call.reason()
        if reason is None or (isinstance(error, asyncio.CancelledError) and not is_cut):
            raise
        if task is not None and is_cut:
            task.uncancel()
        await context.abort(*_status(call, reason))
    finally:
        is_over = True
        call.close()
        if hasattr(answers, "aclose"):
            await answers.aclose()


async def _rest_async(handler: Any, call: RpcCall, first: Any, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    if first is not None:
        yield first
    async for each in raw:
        yield call.take(handler.request_deserializer(each))
