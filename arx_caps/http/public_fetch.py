# SPDX-License-Identifier: Apache-2.0
"""Fetch a small document of a public host that a stranger names.  CONTROL 5.13.

``arx_caps.mint.documents`` decides which hosts, and keeps what was fetched.
"""

import http.client
import re
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from arx_caps.http.public_host import (
    HostRules,
    Lookup,
    NotPublicError,
    connect_public,
    find_addresses,
    is_public,
    time_left,
)
from arx_verifier.errors import RequestError

MAX_BYTES: Final = 5 * 1024
TOTAL_S: Final = 2.0  # for address, connection and answer together
MAX_URL_CHARS: Final = 512
_URL: Final = re.compile(r"https://[a-z0-9.-]+(:[1-9][0-9]{0,4})?/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})+")
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})")
_LOOKUPS: Final = ThreadPoolExecutor(4, "arx-lookup")


class FetchError(RequestError):
    """A document cannot be had; ``may_retry`` says whether a later attempt may succeed."""

    def __init__(self, text: str, *, may_retry: bool = False) -> None:
        super().__init__(text)
        self.may_retry = may_retry


class FetchedDocument(NamedTuple):
    """A document.

    Attributes:
        body: Its bytes.
        max_age_s: How long its server lets it be kept, s; None if the server does not say.
    """

    body: bytes
    max_age_s: int | None


def is_document_url(url: str) -> bool:
    """Return whether a URL can be fetched: https, a path, and no query, fragment, user or dot segment."""
    if len(url) > MAX_URL_CHARS or _URL.fullmatch(url) is None:
        return False
    return not any(unquote(segment) in (".", "..") for segment in urlsplit(url).path.split("/"))


def fetch_public(
    url: str,
    context: ssl.SSLContext,
    *,
    lookup: Lookup = find_addresses,
    may_connect: Callable[[str], bool] = is_public,
) -> FetchedDocument:
    """Return a JSON document of a public host.

    Args:
        url: Its URL, for which ``is_document_url`` is true.
        context: Which authorities are trusted for TLS.
        lookup: How to find addresses; for tests.
        may_connect: Whether an address may be reached; for tests.

    Raises:
        FetchError: It cannot be had: an address is not public, or the answer is late, too large or of another kind.
    """
    until = time.monotonic() + TOTAL_S
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        with connect_public(host, port, until, HostRules(context, _LOOKUPS, lookup, may_connect)) as connection:
            # Uncompressed: a few bytes could expand to gigabytes.
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            connection.request("GET", parts.path, headers=headers)
            return _read(connection.getresponse(), until)
    except NotPublicError as error:
        raise FetchError(str(error)) from None
    except (OSError, TimeoutError, http.client.HTTPException, UnicodeError, ValueError) as error:
        raise FetchError(f"{host} did not answer: {type(error).__name__}", may_retry=True) from None


def _read(answer: http.client.HTTPResponse, until: float) -> FetchedDocument:
    # No redirect is followed: its address was not checked.
    if answer.status != http.client.OK:
        raise FetchError(f"expected status 200, got {answer.status}", may_retry=answer.status >= 500)
    if answer.getheader("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise FetchError("expected Content-Type application/json")
    if answer.getheader("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("expected no Content-Encoding")
    body = answer.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise FetchError(f"expected at most {MAX_BYTES} bytes")
    time_left(until)  # what the watch has cut off could look whole
    policy = answer.getheader("Cache-Control", "").lower()
    age = _MAX_AGE.search(policy)
    if "no-store" in policy or "no-cache" in policy:
        return FetchedDocument(body, 0)
    return FetchedDocument(body, None if age is None else int(age[1]))
