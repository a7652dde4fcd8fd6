# SPDX-License-Identifier: Apache-2.0
"""Serve a realm's mint over HTTP.

Plain HTTP is for loopback; anywhere else TLS must end before the mint, and an option confirms it.  The store's URL,
which may hold a password, and the passphrase come from the environment, never from a command line that every user of
the machine could read.
"""

import argparse
import gc
import ipaddress
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from wsgiref.simple_server import WSGIServer

import uvicorn
from prometheus_client import start_http_server
from starlette.applications import Starlette

from arx_caps.mint.api.access_log import log_lines
from arx_caps.mint.api.app import create_app
from arx_caps.mint.api.metrics import Metrics
from arx_caps.mint.runtime import MintRuntime, need_store
from arx_caps.mint.server.connections import AT_ONCE, BACKLOG, BoundedProtocol, accept_last, bounded
from arx_caps.realm import PASSPHRASE_VARIABLE, Realm, default_folder
from arx_verifier.errors import ArxError, SettingsError

STORE_VARIABLE: Final = "ARX_STORE_URL"
LOG_VARIABLE: Final = "ARX_LOG"
GRACE_S: Final = 10  # for requests that run when the mint is stopped: as long as one may take to arrive
KEEP_ALIVE_S: Final = 15
SETTINGS_EXIT: Final = 2  # somebody must mend something first
LATER_EXIT: Final = 3  # trying again may help: a store or a disk did not answer
GARBAGE_AT: Final = 50_000  # objects more until cycles are looked for; some batches under way have as many

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server, which says on stderr, in one JSON line, that it listens, and cuts off nobody when it stops."""

    announcement: dict[str, object]
    protocol: type[BoundedProtocol]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has one number for how many wait and how many it accepts at once
        if self.started:
            print(json.dumps(self.announcement), file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await accept_last(sockets or ())
        for server in self.servers:
            server.close()
        await self.protocol.take_last()
        await super().shutdown(sockets)


def serve(
    realm_dir: str | os.PathLike[str],
    host: str | None = None,
    port: int | None = None,
    store_url: str | None = None,
    *,
    behind_tls: bool = False,
    passphrase: str | None = None,
    database: str | None = None,
    until_eof: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reads the policy again, or stops what a terminal holds.

    Args:
        realm_dir: The realm's folder.
        host: The address to listen at; the realm's own when left out.
        port: The port; the realm's own when left out.
        store_url: The revocation store; the realm's own when left out.
        behind_tls: TLS ends before the mint, so it may listen beyond loopback.
        passphrase: Opens the root keys, where a passphrase seals them.
        database: Another database than the realm folder's, in SQLAlchemy's form.
        until_eof: Also stop when standard input ends: whoever started the mint is gone.

    Raises:
        SettingsError: A key, the policy or a setting is missing or wrong, or it would listen beyond loopback in the
            clear.
        StoreError: Store or database do not answer.
    """
    realm = Realm.open(realm_dir)
    own_host, own_port = realm.host_and_port
    host, port = host or own_host, own_port if port is None else port
    if not behind_tls and not is_loopback(host):
        raise SettingsError(
            f"the mint speaks plain HTTP and would listen at {host}: give it a loopback address, or say that TLS ends "
            "before it (--behind-tls)"
        )
    listener = _listen(host, port)
    try:
        mint = MintRuntime.open(realm, store_url=need_store(realm, store_url), passphrase=passphrase, database=database)
        # What a start can fail for is told here, where there is somebody to tell; the application finds it started.
        mint.start()
    except ArxError:
        listener.close()
        raise
    app = create_app(mint)
    try:
        numbers = _serve_metrics(realm, app.state.metrics)
    except SettingsError:
        listener.close()
        mint.close()
        raise
    protocol = bounded(realm.issuer, http_protocol())
    server = _Server(_config(app, protocol))
    server.protocol = protocol
    server.announcement = {"ready": True, "realm": realm.name, "issuer": realm.issuer, "pid": os.getpid()}
    server.announcement |= {"listen": f"{host}:{listener.getsockname()[1]}", "policy": mint.policies.loaded.digest}
    if until_eof:
        threading.Thread(target=_stop_at_eof, args=(server,), name="arx-mint-parent", daemon=True).start()
    if threading.current_thread() is threading.main_thread() and not has_terminal():
        signal.signal(signal.SIGHUP, _reloader(mint))
    try:
        server.run(sockets=[listener])
    finally:
        if numbers is not None:
            numbers.shutdown()
            numbers.server_close()


def _serve_metrics(realm: Realm, metrics: Metrics) -> WSGIServer | None:
    """Serve the mint's numbers where the realm's settings say."""
    if realm.metrics is None:
        return None
    host, _, port = realm.metrics.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), metrics.registry)
    except OSError as error:
        raise SettingsError(f"the mint's numbers cannot be served at {realm.metrics}: {error.strerror}") from error
    return server


def http_protocol() -> type[BoundedProtocol]:
    """Return what parses HTTP: httptools where it is installed, or else h11."""
    try:
        from arx_caps.mint.server.httptools_protocol import BoundedHttpTools
    except ImportError:
        from arx_caps.mint.server.h11_protocol import BoundedH11

        return BoundedH11
    return BoundedHttpTools


def _config(app: Starlette, protocol: type[BoundedProtocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        backlog=AT_ONCE,
        log_config=None,
        log_level="error",  # a stranger's malformed request is no line of the log
        access_log=False,  # a line a request would tell who works on what to whoever reads logs
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        lifespan="on",
    )


def _reloader(mint: MintRuntime) -> Callable[..., None]:
    """Return a signal handler that has the policy read again, in a thread, once for each signal.

    A handler runs between any two steps of the server's thread.  There a lock of the state may be held, for which it
    would wait for ever, and what it raised would come out of the middle of the server's loop.
    """
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # a handler may interrupt another one's ``put``

    def reload() -> None:
        while True:
            asked.get()
            _reload(mint)

    threading.Thread(target=reload, name="arx-mint-reload", daemon=True).start()
    return lambda *_: asked.put(None)


def _reload(mint: MintRuntime) -> None:
    """Take the policy file as it is now; one with a mistake changes nothing."""
    try:
        told: dict[str, object] = {"reloaded": True, "policy": mint.reload_policy()}
    except ArxError as error:
        told = {"reloaded": False, "code": error.code, "error": str(error), "policy": mint.policies.loaded.digest}
    except Exception:
        _log.exception("the policy was not read again")
        more = "the mint's log says more"
        told = {"reloaded": False, "code": "internal", "error": more, "policy": mint.policies.loaded.digest}
    print(json.dumps(told), file=sys.stderr, flush=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is said: asyncio turns Nagle's delay off only for sockets that say it, and 40 ms is a long time.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(f"the mint cannot listen at {host}:{port}: {error.strerror}") from error
    return listener


def has_terminal() -> bool:
    """Tell whether a person's terminal started this process: its end, a SIGHUP, is then to be obeyed."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def is_loopback(host: str) -> bool:
    """Tell whether an address cannot be reached from another machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stop_at_eof(server: uvicorn.Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the mint as a program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m arx_caps.mint.server.serve", description="Serve a realm's mint.")
    parser.add_argument("--realm-dir", type=Path, default=default_folder(os.environ))
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--behind-tls", action="store_true")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(argv)
    log_lines("info" if os.environ.get(LOG_VARIABLE) == "info" else "warning")
    # What is loaded stays, and nearly all that a call or a batch makes goes by itself: it is looked through less often.
    gc.freeze()
    gc.set_threshold(GARBAGE_AT)
    try:
        serve(
            options.realm_dir,
            options.host,
            options.port,
            os.environ.get(STORE_VARIABLE),
            behind_tls=options.behind_tls,
            passphrase=os.environ.get(PASSPHRASE_VARIABLE),
            until_eof=options.until_eof,
        )
    except ArxError as error:
        print(json.dumps({"ready": False, "code": error.code, "error": str(error)}), file=sys.stderr, flush=True)
        return SETTINGS_EXIT if isinstance(error, SettingsError) else LATER_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
