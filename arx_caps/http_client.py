# SPDX-License-Identifier: Apache-2.0
"""Open HTTP clients, with the authorities that each trusts, and explain why a server did not answer.

Every client that calls a mint, a witness or an issuer is opened here.
"""

import ssl

import httpx

from arx_verifier import tls
from arx_verifier.errors import SettingsError


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
