# SPDX-License-Identifier: Apache-2.0
"""Documents by which clients describe themselves, of hosts that the operator lists, kept for a while.  CONTROL 5.13."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from arx_caps.http.client import make_context
from arx_caps.http.public_fetch import FetchedDocument, FetchError, fetch_public, is_document_url

MIN_FRESH_S: Final = 60  # however short its server lets it be kept: a login asks for it several times
FRESH_S: Final = 300  # if its server does not say
MAX_FRESH_S: Final = 3600  # however long: a withdrawn document must end
FAILED_S: Final = 30  # until the next attempt: any browser can ask for one
MAX_DOCUMENTS: Final = 256
MAX_FETCHES: Final = 8  # at once: slow hosts must not hold all threads


class _Kept(NamedTuple):
    """A document or a failure, and the end of its use, s of the clock."""

    body: bytes
    error: FetchError | None
    until: float


class ClientDocuments:
    """The documents of clients.  It is safe to use from any thread.

    Args:
        hosts: The hosts, with their port unless it is 443; empty for none.
        ca: File of a further authority for TLS.
        fetch: Fetches one, as ``fetch_public`` does; for tests.
        clock: A monotonic clock, s.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        ca: str | None = None,
        *,
        fetch: Callable[[str], FetchedDocument] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts, self._ca, self._clock = frozenset(hosts), ca, clock
        self._fetch = self._fetch_public if fetch is None else fetch
        # Apart, so that failures, which a stranger can cause at will, drop no document.
        self._documents: OrderedDict[str, _Kept] = OrderedDict()
        self._failures: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching = threading.Semaphore(MAX_FETCHES)

    def find(self, url: str) -> bytes:
        """Return a document.

        Args:
            url: Its URL, as a stranger wrote it.

        Raises:
            FetchError: The URL is not of a listed host, or the document cannot be had.
        """
        if not is_document_url(url) or urlsplit(url).netloc not in self._hosts:
            raise FetchError("expected the https: URL of a document at a host that the operator has listed")
        with self._lock:
            kept = self._documents.get(url) or self._failures.get(url)
        if kept is None or kept.until <= self._clock():
            kept = self._get(url)
        if kept.error is not None:
            raise kept.error
        return kept.body

    def _get(self, url: str) -> _Kept:
        if not self._fetching.acquire(blocking=False):
            raise FetchError("too many documents are being fetched: retry", may_retry=True)
        try:
            body, max_age_s = self._fetch(url)
        except FetchError as error:
            kept = _Kept(b"", error.with_traceback(None), self._clock() + FAILED_S)
        else:
            fresh_s = FRESH_S if max_age_s is None else min(max(max_age_s, MIN_FRESH_S), MAX_FRESH_S)
            kept = _Kept(body, None, self._clock() + fresh_s)
        finally:
            self._fetching.release()
        with self._lock:
            self._documents.pop(url, None)
            self._failures.pop(url, None)
            held = self._documents if kept.error is None else self._failures
            held[url] = kept
            if len(held) > MAX_DOCUMENTS:
                held.popitem(last=False)
        return kept

    def _fetch_public(self, url: str) -> FetchedDocument:
        return fetch_public(url, make_context(self._ca))
