# SPDX-License-Identifier: Apache-2.0
"""Run the gateway as a process until SIGINT or SIGTERM; SIGHUP reads its file again, or is a terminal's end."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from arx_caps.gateway.base.settings import GatewaySettings, read_address, read_settings
from arx_caps.gateway.deciders.decider_runtime import grpc_server
from arx_caps.gateway.gateway import Gateway
from arx_caps.http.connections import AT_ONCE, BACKLOG, BoundedProtocol, places_for
from arx_caps.http.httptools_protocol import bounded
from arx_caps.http.process import collect_rarely, has_terminal, hide_memory, open_listener, reload_notified, stop_at_eof
from arx_caps.http.server import BoundedServer, config_of, is_no_cut
from arx_verifier.errors import ArxError

_GRACE_S: Final = 10  # for running requests at a stop
_REQUEST_S: Final = 30.0  # for a whole request of 1 MiB, and for a client that reads nothing of its answer
_KEEP_ALIVE_S: Final = 25  # how long an idle connection is kept; a proxy must give it up sooner
_CONNECTIONS: Final = 4_096
_OTHER_FILES: Final = 512  # pipes of processes, journals, connections to stores and mints, standard streams

_log = logging.getLogger(__name__)


def serve(
    path: Path | str,
    *,
    on_ready: Callable[[dict[str, object]], None],
    until_eof: bool = False,
    realm: Path | None = None,
) -> None:
    """Run the gateway in this process, which is its own.

    Args:
        path: The gateway's file.
        on_ready: Called once it serves, with facts such as ``listen`` and ``pid``.
        until_eof: Whether to stop at the end of standard input too, which is the end of the parent process.
        realm: The folder of a realm that runs beside the gateway.

    Raises:
        ArxError: The file or what it names cannot be used, or the address is taken.
    """
    hide_memory()
    settings = read_settings(path, realm)
    asked = {name: terms.listen for name, terms in settings.deciders.items() if not terms.is_grpc}
    addresses = [
        read_address(text, settings.gateway.behind_tls) for text in (*settings.gateway.listen, *asked.values())
    ]
    gateway = Gateway(settings)
    collect_rarely()
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(contextlib.closing(open_listener("gateway", *address, BACKLOG)))
            for address in addresses
        ]
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(gateway, settings, Path(path), listeners, [*asked], on_ready, until_eof))


async def _serve(
    gateway: Gateway,
    settings: GatewaySettings,
    path: Path,
    listeners: list[socket.socket],
    asked: list[str],
    on_ready: Callable[[dict[str, object]], None],
    until_eof: bool,
) -> None:
    places = [":".join(map(str, listener.getsockname()[:2])) for listener in listeners]
    own = len(places) - len(asked)
    facts: dict[str, object] = {"listen": places[:own], "pid": os.getpid(), "upstreams": sorted(gateway.upstreams)}
    facts["deciders"] = dict(zip(asked, places[own:], strict=True)) | {
        name: terms.listen for name, terms in settings.deciders.items() if terms.is_grpc
    }
    protocol = gateway_protocol()
    config = config_of(
        gateway,
        http=protocol,
        backlog=AT_ONCE,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    server = BoundedServer(config, protocol, lambda: on_ready(facts))
    logging.getLogger("uvicorn.error").addFilter(is_no_cut)
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def hangup() -> None:
        task = asyncio.ensure_future(_reload(gateway, path, settings.realm, serving=server.started))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    stop = functools.partial(setattr, server, "should_exit", True)
    loop.add_signal_handler(signal.SIGHUP, stop if has_terminal() else hangup)
    # The server has its own handler while it runs, and raises the signal again at its end: the default one would end
    # the process before the upstreams are closed and the counted refusals recorded.
    signal.signal(signal.SIGTERM, lambda *_: stop())
    if until_eof:
        threading.Thread(target=stop_at_eof, args=(stop,), name="arx-gateway-parent", daemon=True).start()
    async with gateway.running(), contextlib.AsyncExitStack() as stack:
        for name, terms in settings.deciders.items():
            if terms.is_grpc:
                asker = grpc_server(terms.kind, functools.partial(gateway.rpc, name))
                asker.listen(*terms.address(settings.gateway))
                await asker.start()
                stack.push_async_callback(asker.stop, _GRACE_S)
        await server.serve(sockets=listeners)


async def _reload(gateway: Gateway, path: Path, realm: Path | None, *, serving: bool) -> None:
    with reload_notified(serving=serving):
        try:
            await gateway.reload(await asyncio.to_thread(read_settings, path, realm))
            _log.warning("reloaded %s: %s", path, ", ".join(sorted([*gateway.upstreams, *gateway.deciders])))
        except ArxError as error:
            for mistake in (error, *getattr(error, "further", ())):
                _log.error("the gateway goes on as before: %s", mistake)


def gateway_protocol() -> type[BoundedProtocol]:
    """Return the protocol class of a gateway."""
    # A call has a connection of its client, and one to the upstream.
    places = places_for(_CONNECTIONS, files=2, other_files=_OTHER_FILES)
    return bounded(places=places, request_s=_REQUEST_S, type_of=lambda _: "about:blank")
