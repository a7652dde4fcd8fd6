# SPDX-License-Identifier: Apache-2.0
"""Keep a service's audience keys fresh, in the process of its verifier or beside it (``arx ship``).  CONTROL 3.2.

A running verifier notices changes of its service file by itself.  Decisions never wait for a refresh.
"""

import logging
import random
import threading
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.service.fetch import Fetched, fetch_keys, write_keys
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.service import FileKeys
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of

FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
CLOSE_S: Final = 3.0  # for an attempt under way
DEFAULT_REFRESH_S: Final = 60.0  # until the mint has answered with its own time

_log = logging.getLogger(__name__)


class Status(NamedTuple):
    """The state of a service's keys.

    Attributes:
        kids: Ids of the keys in the mint's last answer; empty before the first.
        refreshed_at: Time of that answer, ms since the Unix epoch; None before the first.
        error: Why the last attempt failed, or None.
    """

    kids: tuple[str, ...] = ()
    refreshed_at: int | None = None
    error: str | None = None


class KeyRefresher:
    """Fetches a service's keys again and again.

    Args:
        path: The service file, which names the mint and the service's own key.
        keys: The keys of a running verifier, to replace at once; None if it runs elsewhere.
        client: The HTTP client; the refresher opens its own when omitted.

    Attributes:
        status: The state of the keys.

    Raises:
        SettingsError: The file, or the service's own key, is unusable.
    """

    def __init__(self, path: Path | str, keys: KeyRing | None = None, *, client: httpx.Client | None = None) -> None:
        self._path, self._keys = Path(path), keys
        own = read_own_key(self._path)
        self._key = own.key
        self._mint = MintClient(own.issuer, now=now_ms, client=client, ca=own.ca)
        self.status = Status()
        self._pause_s = DEFAULT_REFRESH_S
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def refresh(self) -> bool:
        """Fetch the keys once, write the file, and update the running verifier.

        Returns:
            Whether the keys have changed.

        Raises:
            StoreError: The mint does not answer.
            UnavailableError: The mint cannot answer now.
            TokenError: The mint does not know the service's key any more.
            SettingsError: The file cannot be written; the running verifier has the new keys nevertheless.
        """
        fetched = fetch_keys(self._mint, self._key)
        self._pause_s = fetched.refresh_ms / 1000
        try:
            changed = write_keys(self._path, fetched)
        except SettingsError:
            # A full or read-only disk must not keep a running verifier on keys that were stolen and replaced.
            if self._keys is not None:
                self._hand_on(fetched, self._keys)
            raise
        if changed and self._keys is not None:
            self._hand_on(fetched, self._keys)
        self.status = Status(tuple(sorted(fetched.texts)), now_ms())
        return changed

    def start(self) -> None:
        """Refresh the keys in a thread of this process, until ``close``."""
        self._thread = threading.Thread(target=self.run, args=(self._stop,), name="arx-service-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close the connection for good; the keys stay."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(CLOSE_S)
            if thread.is_alive():  # it waits for the mint: its connection ends with it, or with the process
                return
        self._mint.close()

    def run(self, stop: threading.Event) -> None:
        """Refresh the keys until ``stop`` is set.

        Args:
            stop: Stops refreshing when set.
        """
        failures = 0
        while not stop.is_set():
            try:
                if self.refresh():
                    _log.info("audience keys: %s", ", ".join(self.status.kids))
                failures = 0
                # Earlier than required, and at random: the services of a fleet that started together spread out.
                pause_s = self._pause_s * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
            except ArxError as error:  # the present keys stay in use, in memory and in the file
                # Once for each outage: a mint may be down for hours.
                if failures == 0:
                    _log.error("the audience keys stay as they are: %s", error)
                self.status = self.status._replace(error=str(error))
                pause_s = min(FIRST_RETRY_S * 2**failures, LAST_RETRY_S, self._pause_s)
                failures = min(failures + 1, 10)
            stop.wait(pause_s)

    def _hand_on(self, fetched: Fetched, keys: KeyRing) -> None:
        # A key ring that reads the file gets the keys from there, so that both never differ.
        if not isinstance(keys, FileKeys) or not keys.reread():
            keys.replace({kid: bytes_of(text) for kid, text in fetched.texts.items()})

    def __repr__(self) -> str:
        return f"<KeyRefresher of {self._path}>"
