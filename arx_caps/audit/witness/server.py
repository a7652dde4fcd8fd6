# SPDX-License-Identifier: Apache-2.0
"""Serve a witness over HTTP (c2sp.org/tlog-witness).  LOG 1.6."""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from arx_caps.audit.witness.witness import MAX_REQUEST_BYTES, Witness, WitnessResponse
from arx_caps.http.connections import BACKLOG
from arx_caps.http.process import open_listener
from arx_caps.http.server import config_of
from arx_verifier.enforcement import bounded_body

# Callers are not authenticated; the log's signature on the checkpoint is verified.  So a stranger's work is bounded:
# the size of a request, its time, and the number of connections.
AT_ONCE: Final = 512  # connections
REQUEST_S: Final = 10.0  # for a body to arrive
KEEP_ALIVE_S: Final = 15
GRACE_S: Final = 2


def create_app(witness: Witness, now: Callable[[], float] = time.time) -> Starlette:
    """Return the witness's HTTP application.

    Args:
        witness: The witness.
        now: The clock, in seconds since the epoch.
    """

    async def add_checkpoint(request: Request) -> Response:
        raw = await _bounded(request.receive)
        if raw is None:
            return _response(WitnessResponse(413, f"a request has at most {MAX_REQUEST_BYTES} bytes, and arrives\n"))
        return _response(await run_in_threadpool(witness.add_checkpoint, raw, int(now())))

    async def checkpoint(request: Request) -> Response:
        raw = await run_in_threadpool(witness.last, request.path_params["origin"])
        if raw is None:
            return _response(WitnessResponse(404, "nothing was cosigned of this log\n"))
        return _response(WitnessResponse(200, raw.decode()))

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )


def serve(witness: Witness, host: str, port: int, on_ready: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        witness: The witness.
        host: The address to listen at.
        port: The port; 0 for a free one.
        on_ready: Called with the URL once it listens.

    Raises:
        SettingsError: It cannot listen there.
    """
    listener = open_listener("witness", host, port, BACKLOG)
    config = config_of(
        create_app(witness),
        http="h11",  # which bounds a head by itself; httptools, which uvicorn would prefer, does not
        limit_concurrency=AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    shown = f"[{host}]" if ":" in host else host
    if threading.current_thread() is threading.main_thread():
        # uvicorn ends in order and then raises the signal again, which would make an orderly end look like a failure.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listener:
        on_ready(f"http://{shown}:{listener.getsockname()[1]}")  # connections wait from now on
        uvicorn.Server(config).run(sockets=[listener])


async def _bounded(receive: Receive) -> bytes | None:
    """Return a body, or None if it is too large or does not arrive in time."""
    try:
        async with asyncio.timeout(REQUEST_S):
            return bytes(await bounded_body.receive_body(receive, MAX_REQUEST_BYTES))
    except (bounded_body.BodyTooLongError, bounded_body.ClientGoneError, TimeoutError):
        return None


def _response(answer: WitnessResponse) -> Response:
    return Response(answer.text, answer.status, media_type=answer.kind)
