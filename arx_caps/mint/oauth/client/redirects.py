# SPDX-License-Identifier: Apache-2.0
"""Redirect URIs of clients: which may be registered, and which request fits one.  RFC 6749 3.1.2, RFC 8252 7, 8.3."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, urlencode

from arx_caps.settings.realm import LOOPBACK
from arx_verifier.addresses import split_url
from arx_verifier.errors import RequestError

MAX_CHARS: Final = 512
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]+")  # RFC 3986 without "#"
_OWN_SCHEME: Final = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9-]+)+")  # a domain in reverse (RFC 8252 7.1)


def check_redirect(uri: str) -> str:
    """Return a redirect URI that may be registered.

    Raises:
        RequestError: It may not.
    """
    parts = _split(uri)
    if parts is not None and "@" not in parts.netloc:
        if parts.scheme == "https" and parts.hostname:
            return uri
        if _is_loopback(parts) or (_OWN_SCHEME.fullmatch(parts.scheme) and not parts.netloc):
            return uri
    raise RequestError(
        "invalid redirect: expected https://HOST/PATH, http://127.0.0.1/PATH or an app's own com.example.app:/PATH, "
        f"got {uri!r:.200}"
    )


def fits_redirect(uri: str, registered: Iterable[str]) -> bool:
    """Return whether a request's redirect URI is a registered one; the port of a loopback address may differ.

    Args:
        uri: The URI of the request.
        registered: The client's URIs.
    """
    # Character by character: any normalization could lead the code elsewhere.
    return any(uri == each or _differs_in_port(uri, each) for each in registered)


def answer_url(redirect: str, answer: dict[str, str | None]) -> str:
    """Return the URL that takes an answer to the client.

    Args:
        redirect: The redirect URI.
        answer: Members of the answer; None leaves one out.
    """
    query = urlencode({name: value for name, value in answer.items() if value is not None})
    return f"{redirect}{'&' if '?' in redirect else '?'}{query}"


def _differs_in_port(uri: str, registered: str) -> bool:
    asked, known = _split(uri), _split(registered)
    if asked is None or known is None or not (_is_loopback(asked) and _is_loopback(known)):
        return False
    return (asked.hostname, asked.path, asked.query) == (known.hostname, known.path, known.query)


def _is_loopback(parts: SplitResult) -> bool:
    """Return whether this is plain HTTP to the person's own machine, in the one way to write it."""
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        return False
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.netloc == host or re.fullmatch(rf"{re.escape(host)}:[1-9][0-9]{{0,4}}", parts.netloc) is not None


def _split(uri: str) -> SplitResult | None:
    if len(uri) > MAX_CHARS or _CHARACTERS.fullmatch(uri) is None:
        return None
    parts = split_url(uri)
    if parts is None or (not parts.netloc and parts.path.startswith("//")):  # of such a path readers differ
        return None
    # ``urlsplit`` writes a scheme in lower case and drops an empty query: such a URI has two forms.  ``geturl`` itself
    # depends on the version of Python.
    authority, query = f"//{parts.netloc}" if parts.netloc else "", f"?{parts.query}" if parts.query else ""
    return parts if f"{parts.scheme}:{authority}{parts.path}{query}" == uri else None
