# SPDX-License-Identifier: Apache-2.0
"""Serve a realm's mint over HTTP."""

# Plain HTTP is for loopback. Anywhere else TLS must end before the mint, and an option confirms that it does. The
# store's URL, which may hold a password, and the passphrase come from the environment: a command line is readable by
# every user of the machine.

import argparse
import contextlib
import dataclasses
import functools
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

from starlette.applications import Starlette

from arx_caps.credentials.secret_source import find_secret
from arx_caps.http.connections import AT_ONCE, BACKLOG, BoundedProtocol, places_for
from arx_caps.http.httptools_protocol import bounded
from arx_caps.http.metrics import metrics_served
from arx_caps.http.process import collect_rarely, has_terminal, hide_memory, open_listener, reload_notified, stop_at_eof
from arx_caps.http.server import BoundedServer, config_of
from arx_caps.mint.api.access_log import log_lines
from arx_caps.mint.api.app import create_app
from arx_caps.mint.api.problems import type_of
from arx_caps.mint.runtime import MintRuntime, need_store
from arx_caps.mint.server.child_process import GRACE_S, LATER_EXIT, PROGRAM, SETTINGS_EXIT, STORE_VARIABLE
from arx_caps.settings.realm import PASSPHRASE_VARIABLE, Realm, default_folder
from arx_verifier.addresses import is_loopback
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.revocation.store_url import without_login

_ANY_PORT: Final = 9  # nothing is sent: a UDP socket only finds the route
LOG_VARIABLE: Final = "ARX_LOG"
REQUEST_S: Final = 10.0  # for a whole request of 64 KiB, and for the client to read of its answer
MAX_CONNECTIONS: Final = 2048
OTHER_FILES: Final = 4 * AT_ONCE + 128  # free for new connections, database, log, journal, store and standard streams
KEEP_ALIVE_S: Final = 15  # how long an idle connection is kept

# Adds parts to a mint's application, and returns what ends their open answers when the server stops.
Compose = Callable[[Starlette, MintRuntime], Callable[[], None]]

_log = logging.getLogger(__name__)


def serve(
    realm_dir: str | os.PathLike[str],
    host: str | None = None,
    port: int | None = None,
    store_url: str | None = None,
    *,
    behind_tls: bool = False,
    passphrase: str | None = None,
    database: str | None = None,
    ledger_url: str | None = None,
    until_eof: bool = False,
    compose: Compose = lambda *_: lambda: None,
) -> None:
    """Serve a realm's mint until SIGINT or SIGTERM. SIGHUP reloads the policy.

    A SIGHUP stops a mint that a terminal has started.

    Args:
        realm_dir: The realm's folder.
        host: The address to listen at; the realm's when omitted.
        port: The port; the realm's when omitted.
        store_url: The revocation store's URL; the realm's when omitted.
        behind_tls: Whether TLS ends before the mint, so that it may listen beyond loopback.
        passphrase: Opens the root keys, if a passphrase seals them.
        database: The database's URL, in SQLAlchemy's form; the realm's when omitted.
        ledger_url: The ledger's URL; the realm's when omitted.
        until_eof: Whether to stop at the end of standard input too, which is the end of the parent process.
        compose: Adds more to the application, such as the console.

    Raises:
        SettingsError: A key, the policy or a setting is missing or invalid, or it would listen beyond loopback without
            TLS.
        StoreError: Store or database did not answer.
    """
    hide_memory()
    realm = Realm.open(realm_dir, database)
    if ledger_url is not None:
        realm = dataclasses.replace(realm, ledger=ledger_url)
    own_host, own_port = realm.host_and_port
    host = host or own_host
    listener = _listen(host, own_port if port is None else port, behind_tls=behind_tls)
    try:
        mint = MintRuntime.open(realm, store_url=need_store(realm, store_url), passphrase=passphrase)
        mint.address = own_address(host, listener.getsockname()[1], mint.store_url)
        # Started here and not in the application's lifespan, so that its errors reach the operator as exit codes.
        mint.start()
    except ArxError:
        listener.close()
        raise
    app = create_app(mint)
    on_stopping = compose(app, mint)
    protocol = mint_protocol(realm.issuer)
    listen = f"{host}:{listener.getsockname()[1]}"
    settings = {"backlog": AT_ONCE, "timeout_graceful_shutdown": GRACE_S, "timeout_keep_alive": KEEP_ALIVE_S}
    config = config_of(app, http=protocol, lifespan="on", **settings)
    server = BoundedServer(config, protocol, lambda: _announce(mint, listen), on_stopping)
    if until_eof:
        stop = functools.partial(setattr, server, "should_exit", True)
        threading.Thread(target=stop_at_eof, args=(stop,), name="arx-mint-parent", daemon=True).start()
    if threading.current_thread() is threading.main_thread() and not has_terminal():
        signal.signal(signal.SIGHUP, _reloader(mint, server))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(metrics_served("mint", realm.metrics, app.state.metrics.registry, mint.ready))
        except SettingsError:
            listener.close()
            mint.close()
            raise
        server.run(sockets=[listener])


def _announce(mint: MintRuntime, listen: str) -> None:
    """Print that the mint serves, as one JSON line."""
    ready: dict[str, object] = {
        "ready": True,
        "realm": mint.realm.name,
        "issuer": mint.realm.issuer,
        "pid": os.getpid(),
    }
    ready |= {"listen": listen, "policy": mint.policies.loaded.digest}
    print(json.dumps(ready), file=sys.stderr, flush=True)


def mint_protocol(issuer: str) -> type[BoundedProtocol]:
    """Return the protocol class of a mint, with a place for each file that it can open.

    Args:
        issuer: The mint's public base URL, for the ``type`` of problems.
    """
    return bounded(
        places=places_for(MAX_CONNECTIONS, files=1, other_files=OTHER_FILES),
        request_s=REQUEST_S,
        type_of=lambda code: type_of(code, issuer),
    )


def _listen(host: str, port: int, *, behind_tls: bool) -> socket.socket:
    if not behind_tls and not is_loopback(host):
        raise SettingsError(
            f"the mint serves plain HTTP and would listen at {host}: give it a loopback address, or confirm that TLS "
            "ends before it (--behind-tls)"
        )
    return open_listener("mint", host, port, BACKLOG)


def _reloader(mint: MintRuntime, server: BoundedServer) -> Callable[..., None]:
    """Return a signal handler that makes a thread reload the policy, once for each signal."""
    # A handler runs between any two instructions of the server's thread. That thread may hold a lock that a reload
    # waits for, and an exception of the handler would be raised inside the server's loop. SimpleQueue is reentrant: a
    # handler may interrupt another one's ``put``.
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def reload() -> None:
        while True:
            asked.get()
            with reload_notified(serving=server.started):
                _reload(mint)

    threading.Thread(target=reload, name="arx-mint-reload", daemon=True).start()
    return lambda *_: asked.put(None)


def _reload(mint: MintRuntime) -> None:
    """Reload the policy file, and print the result as one JSON line."""
    try:
        result: dict[str, object] = {"reloaded": True, "policy": mint.reload_policy()}
    except ArxError as error:
        result = {"reloaded": False, "code": error.code, "error": str(error), "policy": mint.policies.loaded.digest}
    except Exception:
        _log.exception("the policy was not reloaded")
        more = "see the mint's log"
        result = {"reloaded": False, "code": "internal", "error": more, "policy": mint.policies.loaded.digest}
    print(json.dumps(result), file=sys.stderr, flush=True)


def main(
    argv: Sequence[str] | None = None,
    *,
    program: str = PROGRAM,
    compose: Compose = lambda *_: lambda: None,
) -> int:
    """Run the mint as a program, and return its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description="Serve a realm's mint.")
    parser.add_argument("--realm-dir", type=Path, default=default_folder(os.environ))
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--behind-tls", action="store_true")
    parser.add_argument("--ledger", help="URL of the ledger, without a login")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(argv)
    log_lines("info" if os.environ.get(LOG_VARIABLE) == "info" else "warning")
    collect_rarely()
    try:
        serve(
            options.realm_dir,
            options.host,
            options.port,
            os.environ.get(STORE_VARIABLE),
            behind_tls=options.behind_tls,
            passphrase=find_secret(PASSPHRASE_VARIABLE),
            ledger_url=options.ledger,
            until_eof=options.until_eof,
            compose=compose,
        )
    except ArxError as error:
        refused = {"ready": False, "code": error.code, "error": str(error), "hint": error.hint}
        print(json.dumps(refused), file=sys.stderr, flush=True)
        return SETTINGS_EXIT if isinstance(error, SettingsError) else LATER_EXIT
    return 0


def own_address(host: str, port: int, store_url: str) -> str:
    """Return the URL at which the mint listens, with a host that other machines of the realm can use.

    Args:
        host: The address that it listens at; of any form.
        port: The port.
        store_url: The revocation store's URL: the mint names itself by the address that it reaches this store from.
    """
    with_brackets = _bracketed(host if not _is_any(host) else _towards(store_url))
    return f"http://{with_brackets}:{port}"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _towards(store_url: str) -> str:
    """Return this machine's address on the way to the store; loopback if the store is on this machine."""
    scheme, _, rest = without_login(store_url).partition("://")
    place = rest.partition("/")[0].partition("?")[0].partition(",")[0]
    host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
    if scheme == "unix" or not host:
        return "127.0.0.1"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as route:
            route.connect(address)
            return str(route.getsockname()[0])
    except OSError:
        return socket.gethostname()


if __name__ == "__main__":
    sys.exit(main())
