# SPDX-License-Identifier: Apache-2.0
"""Open HTTP clients, with the authorities that each trusts, and explain why a server did not answer.

Every client that calls a mint, a witness or an issuer is opened here.  The answers of issuers are bounded.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any, Final

import httpx

from arx_verifier import tls
from arx_verifier.errors import RequestError, SettingsError

THREAD: Final = "arx-fetch"
USER_AGENT: Final = f"arx-caps/{version('arx-caps')}"  # to mints, which list the versions of services: CONTROL 3.6


def open_client(
    url: str, *, timeout: httpx.Timeout | float, ca: str | None = None, proxy: bool = False
) -> httpx.Client:
    """Return an HTTP client for the server at a URL.

    Args:
        url: The server's URL, or its beginning.
        timeout: How long to wait for the server, s.
        ca: The `ca` of a realm's, a key's or a service's file; ``ARX_CA`` wins.
        proxy: Whether to use a proxy that the environment names.

    Raises:
        SettingsError: The file of authorities cannot be read.
    """
    # Reading the authorities takes longer than most calls, and a plain connection does not use them.
    secure = url[:6].lower() == "https:"
    context = make_context(ca) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(timeout=timeout, trust_env=proxy, verify=context)


def fetch(
    url: str,
    *,
    timeout: httpx.Timeout | float,
    total_s: float,
    longest: int,
    ca: str | None = None,
    form: Mapping[str, str] | None = None,
    basic: tuple[str, str] | None = None,
    bearer: str | None = None,
) -> tuple[int, bytes]:
    """Return the status and the body of an issuer's answer, bounded in time and size.

    Args:
        url: Its address.
        timeout: How long to wait for each part of the answer, s.
        total_s: How long to wait for all of it, s.
        longest: The largest body, bytes.
        ca: File of a further authority for TLS.
        form: The form to send; None for a GET.
        basic: User and password to send with it.
        bearer: The access token to send with it, a secret.

    Raises:
        RequestError: The answer is late or too large.
        SettingsError: The file of authorities cannot be read.
        httpx.HTTPError: The issuer did not answer.
        httpx.InvalidURL: The address is malformed.
    """
    done, ending = Future[tuple[int, bytes]](), _Ending()

    def run() -> None:
        try:
            done.set_result(_fetch(url, ending, timeout, longest, ca, bearer, data=form, auth=basic))
        except Exception as error:
            done.set_exception(error)

    # In a thread: the resolver of names and each further address of a name have times of their own.
    threading.Thread(target=run, name=THREAD, daemon=True).start()
    try:
        return done.result(total_s)
    except TimeoutError:
        ending.end()
        raise RequestError(f"its answer did not come within {total_s:.0f} s") from None


def _fetch(
    url: str,
    ending: "_Ending",
    timeout: httpx.Timeout | float,
    longest: int,
    ca: str | None,
    bearer: str | None,
    **content: Any,
) -> tuple[int, bytes]:
    # No redirect is followed: it could lead to an address that its caller has not named.
    raw, method = bytearray(), "GET" if content["data"] is None else "POST"
    # Uncompressed: a few bytes could expand to gigabytes.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    headers |= {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
    more = content | {"headers": headers, "extensions": {"trace": ending.note}}
    # Only TLS proves the issuer through a proxy of the environment, so plain addresses go without one.
    with (
        open_client(url, timeout=timeout, ca=ca, proxy=url.startswith("https:")) as client,
        client.stream(method, url, **more) as answer,
    ):
        for chunk in answer.iter_raw():
            raw += chunk
            if len(raw) > longest:
                raise RequestError(f"its answer has more than {longest} bytes")
    return answer.status_code, bytes(raw)


class _Ending:
    """Ends a request's connections when its time is over: each byte of an answer begins the wait for the next one anew.

    A request whose caller has gone on is not sent later: a refresh token would be used twice.
    """

    def __init__(self) -> None:
        self._is_over = False
        self._sockets: list[socket.socket] = []

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Take a connection that httpx has made; see its extension ``trace``."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self._is_over:
                self.end()

    def end(self) -> None:
        """End all connections, and those that are made later."""
        self._is_over = True
        for each in list(self._sockets):
            with contextlib.suppress(OSError):  # it is closed, or has become the socket of TLS
                # Not by SSLSocket, which would go on without TLS in the thread that reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)


def make_context(ca: str | None = None) -> ssl.SSLContext:
    """Return a TLS context that trusts the authorities of httpx, the system's and ``ca``.

    Args:
        ca: File of a further authority; ``ARX_CA`` wins.

    Raises:
        SettingsError: A file of authorities cannot be read.
    """
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        raise SettingsError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror}") from error
    context.load_default_certs()
    return tls.trust(context, ca)


def no_answer(error: Exception, url: str) -> str:
    """Return why a server did not answer: a refused certificate, or the kind of failure.

    Args:
        error: The error that httpx raised.
        url: The server's URL.
    """
    try:
        host = httpx.URL(url).netloc.decode("ascii")
    except httpx.InvalidURL:
        host = "the server"
    return tls.explain(error, host) or type(error).__name__
