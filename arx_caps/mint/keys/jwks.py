# SPDX-License-Identifier: Apache-2.0
"""Public keys of issuers, from a file or an ``https:`` address. RFC 7517.

``arx_caps.mint.identity.issuer_token`` chooses a key and decides what it may sign.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, NamedTuple

import httpx

from arx_caps.http.client import fetch, no_answer
from arx_verifier.errors import RequestError, SettingsError, UnavailableError
from arx_verifier.request import read_json_object

FRESH_S: Final = 300  # how long a set is used before it is fetched again, and so how long a withdrawn key lives
STALE_S: Final = 3600  # the same while the issuer does not answer: a withdrawn key must end
RETRY_S: Final = 10  # between two fetches from one issuer: any caller can name an unknown key id
TIMEOUT: Final = httpx.Timeout(5.0, connect=2.0)
TOTAL_S: Final = 8.0  # for a whole response, however slowly it arrives
MAX_WAITING: Final = 8  # threads that wait for another one's fetch: a slow issuer must not hold all threads
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
PRIVATE: Final = frozenset(["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
USES: Final = (None, "sig", "jwt-svid")  # a SPIFFE bundle also has keys for certificates, which sign no tokens

_log = logging.getLogger(__name__)

Keys = dict[str, list[dict[str, Any]]]


# The time while the machine is suspended counts: a withdrawn key must not survive it.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_s() -> float:
    return time.clock_gettime(_CLOCK)


class _Loaded(NamedTuple):
    """A key set: its keys by id, when it was read (s of the clock), and the identity of its file."""

    keys: Keys
    at_s: float
    file: tuple[int, ...] | None = None


class _Source:
    """A file or address of keys: its last set, and when it was last fetched."""

    def __init__(self) -> None:
        self.loaded: _Loaded | None = None
        self.fetched_s: float | None = None
        self.why = ""
        self.fetching = threading.Lock()


class KeySets:
    """The key sets of the trusted issuers. It is safe to use from any thread.

    Args:
        folder: Paths of files are relative to it.
        clock: A monotonic clock, s.
        ca: File of a further authority for TLS.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = _boot_s, ca: str | None = None) -> None:
        self._folder, self._clock, self._ca = folder, clock, ca
        self._sources: dict[str, _Source] = {}
        self._lock = threading.Lock()
        self._waiting = threading.Semaphore(MAX_WAITING)

    def find(self, place: str, kid: str) -> list[dict[str, Any]]:
        """Return the public keys with this id; an empty list if there is none.

        Args:
            place: A file or an address.
            kid: The key id of a token that is not verified yet.

        Raises:
            UnavailableError: ``issuer_unavailable``: no key set may be used now.
        """
        if "://" not in place:
            return self._file(place).keys.get(kid, [])
        with self._lock:
            known = self._sources.setdefault(place, _Source())
        self._refresh(known, place, kid)
        loaded = known.loaded
        if loaded is None or self._clock() - loaded.at_s >= STALE_S:
            raise _unavailable(f"the keys of the issuer cannot be read now: {known.why}")
        return loaded.keys.get(kid, [])

    def _refresh(self, known: _Source, place: str, kid: str) -> None:
        if not self._must_fetch(known, kid):
            return
        # One thread fetches. A caller whose key is in the last set goes on with it. The others wait for the response,
        # because their key may be in it.
        loaded = known.loaded
        has_key = loaded is not None and kid in loaded.keys and self._clock() - loaded.at_s < STALE_S
        if not known.fetching.acquire(blocking=False):
            if has_key:
                return
            if not self._wait(known):
                raise _unavailable("the issuer's keys are being fetched: retry")
        try:
            if not self._must_fetch(known, kid):
                return
            began_s = self._clock()
            try:
                known.loaded = _Loaded(read_key_set(fetch_document(place, self._ca)), began_s)
            except (httpx.HTTPError, httpx.InvalidURL, RequestError, SettingsError) as error:
                own = isinstance(error, RequestError | SettingsError)
                known.why = str(error) if own else no_answer(error, place)
                # The query of the address may hold a credential of the mint.
                _log.warning("the keys at %s cannot be read: %s", place.partition("?")[0], known.why)
            finally:
                known.fetched_s = self._clock()  # after the response: a caller that arrives meanwhile must wait for it
        finally:
            known.fetching.release()

    def _wait(self, known: _Source) -> bool:
        """Wait for another thread's fetch; return False if it takes too long or too many wait."""
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return known.fetching.acquire(timeout=TOTAL_S)
        finally:
            self._waiting.release()

    def _must_fetch(self, known: _Source, kid: str) -> bool:
        now = self._clock()
        if known.fetched_s is not None and now - known.fetched_s < RETRY_S:
            return False
        loaded = known.loaded
        return loaded is None or kid not in loaded.keys or now - loaded.at_s >= FRESH_S

    def _file(self, name: str) -> _Loaded:
        """Return the key set of a file, which is read again if it is another file than before."""
        with self._lock:
            known = self._sources.setdefault(name, _Source())
        path = self._folder / name
        try:
            # Read each time: a file that was removed takes its keys with it.
            stat = path.stat()
            file = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            loaded = known.loaded
            if not S_ISREG(stat.st_mode):
                raise RequestError("not a regular file")  # opening a pipe would block this thread
            if loaded is None or loaded.file != file:
                with path.open("rb") as stream:
                    loaded = _Loaded(read_key_set(stream.read(MAX_BYTES + 1)), self._clock(), file)
                known.loaded = loaded
        except OSError as error:
            raise _unavailable(f"the key set {name} cannot be read: {error.strerror}") from error
        except RequestError as error:
            raise _unavailable(f"the key set {name}: {error}") from error
        return loaded


def read_key_set(raw: bytes) -> Keys:
    """Return the public signature keys of a JWKS by key id.

    Raises:
        RequestError: It is malformed or too large, or it has a private key.
    """
    if len(raw) > MAX_BYTES:
        raise RequestError(f"key set too large: expected at most {MAX_BYTES} bytes")
    listed = read_json_object(raw).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS or not all(isinstance(key, dict) for key in listed):
        raise RequestError(f"invalid key set: expected an object with at most {MAX_KEYS} `keys`")
    keys: Keys = {}
    for key in listed:
        if key.get("kty") == "oct":
            continue  # a symmetric key in a published set signs for any reader
        # Its issuer has leaked it, so that any signature with it proves nothing.
        if PRIVATE & set(key):
            raise RequestError("a key set has a private key in it: publish public keys only")
        if isinstance(key.get("kid"), str) and _may_verify(key):
            keys.setdefault(key["kid"], []).append(key)
    return keys


def _may_verify(key: dict[str, Any]) -> bool:
    operations = key.get("key_ops")
    return key.get("use") in USES and (operations is None or (isinstance(operations, list) and "verify" in operations))


def fetch_document(url: str, ca: str | None) -> bytes:
    """Return a document of an issuer, bounded in time and size.

    Args:
        url: Its address.
        ca: File of a further authority for TLS.

    Raises:
        RequestError: The answer is late, too large or not of status 200.
        SettingsError: The file of authorities cannot be read.
        httpx.HTTPError: The issuer did not answer.
    """
    status, raw = fetch(url, timeout=TIMEOUT, total_s=TOTAL_S, longest=MAX_BYTES, ca=ca)
    if status != httpx.codes.OK:
        raise RequestError(f"its address answered {status}")
    return raw


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError(message, code="issuer_unavailable")
