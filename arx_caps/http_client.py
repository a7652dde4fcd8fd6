# SPDX-License-Identifier: Apache-2.0
"""The HTTP clients of ARx: which certificates each trusts, and what it is called when no answer comes.

Every client that calls a mint, a witness or an issuer is opened here.
"""

import ssl

import httpx

from arx_verifier import tls
from arx_verifier.errors import SettingsError


def open_client(
    url: str, *, timeout: httpx.Timeout | float, ca: str | None = None, proxy: bool = False
) -> httpx.Client:
    """Open a client for the server at an address.

    Args:
        url: The server's address, or its beginning.
        timeout: How long to wait for it, s.
        ca: The `ca` of a realm's, a key's or a service's file; ``ARX_CA`` wins.
        proxy: Whether a proxy that the environment names may stand between.

    Raises:
        SettingsError: The file of authorities cannot be read.
    """
    # Reading authorities takes longer than most calls, and a plain connection has no use for them.
    secure = url[:6].lower() == "https:"
    context = make_context(ca) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(timeout=timeout, trust_env=proxy, verify=context)


def make_context(ca: str | None = None) -> ssl.SSLContext:
    """Make a TLS context that trusts the authorities of httpx, the system's and ``ca``.

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
    """Return why a server did not answer: its certificate was refused, or the kind of failure.

    Args:
        error: What httpx raised.
        url: The server's address.
    """
    try:
        host = httpx.URL(url).netloc.decode("ascii")
    except httpx.InvalidURL:
        host = "the server"
    return tls.explain(error, host) or type(error).__name__
