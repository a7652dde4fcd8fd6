# SPDX-License-Identifier: Apache-2.0
"""A gRPC server of one decider.  A failure is an error of the call: a proxy that fails closed denies then."""

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

from arx_caps.gateway.deciders.protos import message
from arx_caps.http.process import ListenError
from arx_caps.installation import install_line
from arx_verifier.errors import SettingsError

MAX_MESSAGE: Final = 2 * 1024 * 1024  # bytes: a body of 1 MiB and the headers of its request
_AT_ONCE: Final = 1_024  # calls; a further one is refused
_PEER: Final = re.compile(r"ipv[46]:\[?([0-9a-fA-F.:]+(?:%[^\]:]*)?)\]?:\d+")

Answer = Callable[[str, Any, str | None], Awaitable[Any]]

_log = logging.getLogger(__name__)


class GrpcServer:
    """Serves one service.

    Args:
        service: Its full name.
        calls: The name of the request's message, by the name of the call.
        answer: Returns the answer to a call's name, its request, and the address of who asks, or None.

    Raises:
        SettingsError: gRPC is not installed.
    """

    def __init__(self, service: str, calls: dict[str, str], answer: Answer) -> None:
        try:
            import grpc
        except ImportError:
            raise SettingsError(f"a decider over gRPC needs `{install_line('grpc')}`") from None
        options = [
            *(("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_metadata_size", 64 * 1024)),
            ("grpc.so_reuseport", 0),  # a second gateway at this address must fail, and not take every other question
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_AT_ONCE)
        handlers = {name: _handler(name, message(request), answer) for name, request in calls.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def listen(self, host: str, port: int) -> str:
        """Listen, and return the address.

        Raises:
            ListenError: It cannot listen there.
        """
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._server.add_insecure_port(place)
        except RuntimeError as error:
            raise ListenError(f"the gateway cannot listen at {place}") from error
        return place

    async def start(self) -> None:
        """Answer calls from now on."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and wait for those that run.

        Args:
            grace_s: How long to wait, s.
        """
        await self._server.stop(grace_s)


def _handler(name: str, kind: Any, answer: Answer) -> Any:
    import grpc

    async def answered(request: Any, context: Any) -> Any:
        try:
            return await answer(name, request, _address_of(context.peer()))
        except Exception:
            # gRPC would send the exception's text to who asks.
            _log.exception("%s failed", name)
            await context.abort(grpc.StatusCode.INTERNAL, "the decider failed")

    return grpc.unary_unary_rpc_method_handler(
        answered, request_deserializer=kind.FromString, response_serializer=lambda message: message.SerializeToString()
    )


def _address_of(peer: str) -> str | None:
    form = _PEER.fullmatch(unquote(peer))
    return form[1] if form else None
