# SPDX-License-Identifier: Apache-2.0
"""Run a relay process: follow a store or another relay, and listen for followers.  SPEC 10.7."""

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from cryptography import x509

from arx_caps.http.metric_families import RELAY as FAMILIES
from arx_caps.http.process import READY, STOPPING, notify_manager, open_listener, open_unix_listener
from arx_caps.relay.connection import Connection
from arx_caps.relay.hub import Hub
from arx_caps.relay.upstream import Upstream
from arx_verifier._platform import require_posix
from arx_verifier.addresses import is_loopback, read_port
from arx_verifier.errors import SettingsError
from arx_verifier.metrics.export import Samples
from arx_verifier.revocation.epoch import EpochState
from arx_verifier.revocation.password import Password
from arx_verifier.revocation.store_link import Crowd

TICK_S: Final = 0.05  # how often silent followers are looked for
FIRST_LOOK_S: Final = 0.02
BACKLOG: Final = 512  # connections that may wait


class ListenAddress(NamedTuple):
    """The address that a relay listens at: a unix socket's path, or host and port."""

    path: Path | None
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "ListenAddress":
        """Parse ``unix:///PATH`` or ``HOST:PORT``.

        Raises:
            SettingsError: It is neither.
        """
        scheme, separator, rest = text.partition("://")
        if separator and scheme == "unix" and rest.startswith("/"):
            return cls(Path(unquote(rest)), "", 0)
        host, _, port = (rest if separator and scheme == "tcp" else text).rpartition(":")
        number = read_port(port)
        if host and number is not None and (not separator or scheme == "tcp"):
            return cls(None, host.strip("[]"), number)
        raise SettingsError(f"invalid address of a relay: expected unix:///PATH or HOST:PORT, got {text[:100]!r}")

    @property
    def loopback(self) -> bool:
        """Whether no other machine can reach it."""
        return is_loopback(self.host)


def serve(
    store: str,
    realm: str,
    listen: str,
    *,
    name: str | None = None,
    store_password: Password | None = None,
    password: Password | None = None,
    certificate: tuple[str, str] | None = None,
    ca: str | None = None,
    metrics: str | None = None,
    on_ready: Callable[[dict[str, object]], None] = lambda _: None,
) -> None:
    """Run a relay until SIGINT or SIGTERM.

    Args:
        store: URL of the store, or of the relay, to follow.
        realm: The realm's name.
        listen: The address to listen at, as ``ListenAddress.of`` parses it.
        name: The relay's name in reports of kills; the host's name when omitted.
        store_password: Replaces a password in the store's URL.
        password: The followers' password; required for a TCP port.
        certificate: Files of certificate and key, for TLS; required beyond loopback.
        ca: File of a further authority, for TLS with the store or relay that it follows.
        metrics: Host and port of its metrics and its health; None for none.
        on_ready: Called once it follows and listens, with facts such as ``listen`` and ``pid``.

    Raises:
        SettingsError: It cannot listen there, or a password or certificate is missing.
    """
    require_posix("a relay")
    place = ListenAddress.of(listen)
    context = _tls(place, password, certificate)
    # The name is new for each process: this one must not confirm for the leases of a relay that was killed.
    full = f"relay:{name or socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    served = functools.partial(_metrics_served, metrics, None if certificate is None else certificate[0])
    asyncio.run(_serve(place, (store, realm, full), (store_password, ca), password, context, served, on_ready))


def _tls(place: ListenAddress, password: Password | None, certificate: tuple[str, str] | None) -> ssl.SSLContext | None:
    # A unix socket is for one user's processes.  Any user of the machine can reach a TCP port, so that needs a
    # password.  Beyond loopback an attacker could change answers and hide every kill from the verifiers below: hence
    # TLS.
    if place.path is None and not password:
        raise SettingsError(
            "any user of the machine can reach a TCP port: set ARX_RELAY_PASSWORD or ARX_RELAY_PASSWORD_FILE, or use "
            "unix:///PATH"
        )
    if certificate is None:
        if place.path is None and not place.loopback:
            raise SettingsError(f"a relay at {place.host} needs a certificate and its key, or must listen at loopback")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*certificate)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError("certificate and key cannot be read, or do not belong together") from error
    return context


async def _serve(
    place: ListenAddress,
    follow: tuple[str, str, str],
    trusted: tuple[Password | None, str | None],
    password: Password | None,
    context: ssl.SSLContext | None,
    served: Callable[[Hub, Upstream], contextlib.AbstractContextManager[None]],
    on_ready: Callable[[dict[str, object]], None],
) -> None:
    store_password, ca = trusted
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def state() -> EpochState:
        return upstream.state

    def stand_for(incarnation: str, crowd: Crowd, now: bool, hurry: bool) -> None:
        upstream.stand_for(incarnation, crowd, now=now, hurry=hurry)

    hub = Hub(state, stand_for, loop.call_later)
    upstream = Upstream(*follow, password=store_password, loop=loop, hearer=hub, ca=ca)
    listener = _listen(place)
    try:
        with served(hub, upstream):
            upstream.start()
            while hub.granted is None and not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), FIRST_LOOK_S)
            _, realm, name = follow
            server = await loop.create_server(lambda: Connection(hub, realm, password), sock=listener, ssl=context)
            if not stop.is_set():
                at = str(place.path) if place.path else f"{place.host}:{listener.getsockname()[1]}"
                on_ready({"ready": True, "realm": realm, "name": name, "pid": os.getpid(), "listen": at})
                notify_manager(READY)
            while not stop.is_set():
                hub.tick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
            notify_manager(STOPPING)
            server.close()
            for follower in list(hub.listeners):
                follower.drop()
    finally:
        listener.close()
        upstream.close()
        if place.path is not None:
            place.path.unlink(missing_ok=True)


def _listen(place: ListenAddress) -> socket.socket:
    if place.path is None:
        return open_listener("relay", place.host, place.port, BACKLOG)
    return open_unix_listener(place.path, BACKLOG)


@contextlib.contextmanager
def _metrics_served(address: str | None, certificate: str | None, hub: Hub, upstream: Upstream) -> Iterator[None]:
    if address is None:
        yield
        return
    from arx_caps.http.metrics import ProcessMetrics, metrics_served  # few relays install what it needs

    ends = None if certificate is None else x509.load_pem_x509_certificate(Path(certificate).read_bytes())

    def samples() -> Samples:
        # In another thread: each attribute is replaced whole, and is read once.
        crowd = hub.reported
        yield "arx_relay_followers", len(hub.listeners)
        yield "arx_relay_verifiers", crowd.verifiers
        yield "arx_relay_late", sum(late.verifiers for late in crowd.late)
        yield "arx_relay_epoch_age_seconds", upstream.view()[2] / 1000
        if ends is not None:  # the one in use: a renewed file needs a restart
            yield "arx_certificate_expires_seconds", ends.not_valid_after_utc.timestamp() - time.time(), "relay"

    def why_not() -> list[str]:
        refused = upstream.check(None, 0, ())
        return [] if refused is None else [refused.detail]

    metrics = ProcessMetrics("relay", FAMILIES)
    metrics.read_rest(samples)
    with metrics_served("relay", address, metrics.registry, why_not):
        yield
