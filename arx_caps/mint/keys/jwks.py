# SPDX-License-Identifier: Apache-2.0
"""Public keys of issuers, from a file or an ``https:`` address.  RFC 7517.

A key set is cached for a while.  An unknown key id makes the mint fetch again, seldom, because any stranger can name
one.  When an issuer does not answer, its last set is used for a bounded time, because a key that it took back must
end.  Only public signature keys are taken; ``identity.issuer_token`` chooses one and decides what it may sign.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, NamedTuple

import httpx

from arx_caps.http_client import no_answer, open_client
from arx_verifier.errors import RequestError, SettingsError, UnavailableError
from arx_verifier.request import read_json_object

FRESH_S: Final = 300  # how long a set is used without asking; what an issuer took back is believed as long
STALE_S: Final = 3600  # the same, when the issuer does not answer
RETRY_S: Final = 10  # between two questions to one issuer
TIMEOUT: Final = httpx.Timeout(5.0, connect=2.0)
TOTAL_S: Final = 8.0  # for a whole answer, however slowly it comes
MAX_WAITING: Final = 8  # callers who wait for somebody else's question: a slow issuer must not hold all of the mint
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
PRIVATE: Final = frozenset(["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
USES: Final = (None, "sig", "jwt-svid")  # a SPIFFE bundle also has keys of certificates, which sign no tokens

_log = logging.getLogger(__name__)

Keys = dict[str, list[dict[str, Any]]]


# Suspend counts: what an issuer took back must not live on through a night's sleep.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_s() -> float:
    return time.clock_gettime(_CLOCK)


class _Loaded(NamedTuple):
    """A set as it was read: its keys by id, when that was, and for a file which file it was."""

    keys: Keys
    at_s: float
    file: tuple[int, ...] | None = None


class _Place:
    """One place that keys come from: what it last said, and when it was last asked."""

    def __init__(self) -> None:
        self.loaded: _Loaded | None = None
        self.asked_s: float | None = None
        self.why = ""
        self.asking = threading.Lock()


class KeySets:
    """The key sets of the issuers.  Any thread may ask.

    Args:
        folder: What the names of files are relative to.
        clock: A clock that only rises, s.
        ca: File of a further authority for TLS.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = _boot_s, ca: str | None = None) -> None:
        self._folder, self._clock, self._ca = folder, clock, ca
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._waiting = threading.Semaphore(MAX_WAITING)

    def find(self, place: str, kid: str) -> list[dict[str, Any]]:
        """Return the public keys of this id at a place; none is an empty list.

        Args:
            place: A file, or an address.
            kid: The id that a token names.  Nothing is proven of it yet.

        Raises:
            UnavailableError: ``issuer_unavailable``: there is no set that may be used now.
        """
        if "://" not in place:
            return self._file(place).keys.get(kid, [])
        with self._lock:
            known = self._places.setdefault(place, _Place())
        self._refresh(known, place, kid)
        loaded = known.loaded
        if loaded is None or self._clock() - loaded.at_s >= STALE_S:
            raise _unavailable(f"the keys of the issuer cannot be read now: {known.why}")
        return loaded.keys.get(kid, [])

    def _refresh(self, known: _Place, place: str, kid: str) -> None:
        if not self._must_ask(known, kid):
            return
        # One thread asks.  Whoever can do without the answer does not wait for it; to anybody else no key is unknown
        # before the answer is there.
        loaded = known.loaded
        spared = loaded is not None and kid in loaded.keys and self._clock() - loaded.at_s < STALE_S
        if not known.asking.acquire(blocking=False):
            if spared:
                return
            if not self._wait(known):
                raise _unavailable("the issuer is being asked for its keys; try again")
        try:
            if not self._must_ask(known, kid):
                return
            began_s = self._clock()
            try:
                known.loaded = _Loaded(read_key_set(_fetch(place, self._ca)), began_s)
            except (httpx.HTTPError, httpx.InvalidURL, RequestError, SettingsError) as error:
                own = isinstance(error, RequestError | SettingsError)
                known.why = str(error) if own else no_answer(error, place)
                # Its query may hold what lets the mint ask.
                _log.warning("the keys at %s cannot be read: %s", place.partition("?")[0], known.why)
            finally:
                known.asked_s = self._clock()  # not before: who comes meanwhile is to wait
        finally:
            known.asking.release()

    def _wait(self, known: _Place) -> bool:
        """Wait until nobody asks any more, and ask in their place; False where that takes too long, or too many do."""
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return known.asking.acquire(timeout=TOTAL_S)
        finally:
            self._waiting.release()

    def _must_ask(self, known: _Place, kid: str) -> bool:
        now = self._clock()
        if known.asked_s is not None and now - known.asked_s < RETRY_S:
            return False
        loaded = known.loaded
        return loaded is None or kid not in loaded.keys or now - loaded.at_s >= FRESH_S

    def _file(self, name: str) -> _Loaded:
        """Read a file when it is another one than before; one that is gone takes its keys with it."""
        with self._lock:
            known = self._places.setdefault(name, _Place())
        path = self._folder / name
        try:
            stat = path.stat()
            file = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            loaded = known.loaded
            if not S_ISREG(stat.st_mode):
                raise RequestError("is no file")  # a pipe would keep whoever opens it
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
    """Read a JWKS and return its public keys for signatures by id.

    Raises:
        RequestError: It is none, is too large, or has a private key, which nobody's tokens can be trusted after.
    """
    if len(raw) > MAX_BYTES:
        raise RequestError(f"a key set has at most {MAX_BYTES} bytes")
    listed = read_json_object(raw).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS or not all(isinstance(key, dict) for key in listed):
        raise RequestError(f"a key set is an object with at most {MAX_KEYS} `keys`")
    keys: Keys = {}
    for key in listed:
        if key.get("kty") == "oct":
            continue  # a secret that is published signs for everybody
        if PRIVATE & set(key):
            raise RequestError("a key set has a private key in it")
        if isinstance(key.get("kid"), str) and _may_verify(key):
            keys.setdefault(key["kid"], []).append(key)
    return keys


def _may_verify(key: dict[str, Any]) -> bool:
    operations = key.get("key_ops")
    return key.get("use") in USES and (operations is None or (isinstance(operations, list) and "verify" in operations))


def _fetch(url: str, ca: str | None) -> bytes:
    """Fetch a key set; no redirect is followed, which could lead to where nobody said keys are."""
    until = time.monotonic() + TOTAL_S
    raw = bytearray()
    # A proxy of the environment may stand before an address that TLS proves, and before no other.
    with (
        open_client(url, timeout=TIMEOUT, ca=ca, proxy=url.startswith("https:")) as client,
        # Not compressed: a few bytes could become a great many.
        client.stream("GET", url, headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as answer,
    ):
        if answer.status_code != httpx.codes.OK:
            raise RequestError(f"its address answered {answer.status_code}")
        for chunk in answer.iter_raw():
            raw += chunk
            if len(raw) > MAX_BYTES:
                raise RequestError(f"its key set has more than {MAX_BYTES} bytes")
            if time.monotonic() > until:
                raise RequestError(f"its key set did not come within {TOTAL_S:.0f} s")
    return bytes(raw)


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError(message, code="issuer_unavailable")
