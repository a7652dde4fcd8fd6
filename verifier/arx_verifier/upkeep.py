# SPDX-License-Identifier: Apache-2.0
"""Ship the records of a service, and refresh its keys, in the process of its verifier.  LOG 2, CONTROL 3.2.

This package calls no mint.  ``arx_caps.service.upkeep`` does, in a thread; without it a warning names what to run.
"""

import atexit
import contextlib
import importlib
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from arx_verifier._platform import at_fork
from arx_verifier.token.keyring import KeyRing

CALLER: Final = "arx_caps.service.upkeep"  # found by its name: the trusted base depends on no part of arx-caps
LAST_S: Final = 3.0  # for the records of a program's last moments

_log = logging.getLogger(__name__)
# Held during the import: a fork waits for it, as a child could never end an import that a thread of its parent began.
_IMPORTING: Final = threading.Lock()
_UPKEEPS: "weakref.WeakSet[Upkeep]" = weakref.WeakSet()


class Upkeep:
    """What keeps a service in touch with its mint, beside its decisions, which never wait for it.

    It starts with the verifier, or with the first record of a process; so a forked child has its own.

    Args:
        path: The service file.
        audience: The service.
        keys: The keys of the running verifier.
        own_key: Whether the file names the mint and a key of the service's own.
    """

    def __init__(self, path: Path, audience: str, keys: KeyRing, *, own_key: bool) -> None:
        self._path, self._audience, self._keys, self._own_key = path, audience, keys, own_key
        self._closed = False
        self._reset()
        _UPKEEPS.add(self)

    def _reset(self) -> None:
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it, also after ``close``; do nothing if it runs."""
        self._closed = False
        self.begin()

    def begin(self) -> None:
        """Start it at a first record, unless it runs or was closed; never raise, as a call waits for that record."""
        with self._lock:
            if self._thread is not None or self._closed:
                return
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="arx-upkeep", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # too many threads, or the interpreter ends
                _log.error("nothing ships the records of %s: %s", self._audience, error)

    def stop(self) -> None:
        """Let it ship the last records and end; ``close`` waits for that."""
        self._closed = True
        self._stop.set()

    def close(self, within_s: float = LAST_S) -> None:
        """Stop it, and wait a bounded time while it ships the last records.

        Args:
            within_s: The longest wait, seconds.
        """
        self.stop()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(RuntimeError):  # it could not be started
                thread.join(within_s)

    def _run(self, stop: threading.Event) -> None:
        about = "this process ships no record of %s to the audit log, and refreshes none of its keys: "
        if not self._own_key:
            _log.warning(
                about + "%s names no key of its own; enrol it with `arx service enrol`", self._audience, self._path
            )
            return
        try:
            with _IMPORTING:
                caller = importlib.import_module(CALLER)
        except ImportError as error:
            _log.warning(
                about + "arx-caps is not installed here (%s); install it, or keep `arx ship %s` running",
                self._audience,
                error.name,
                self._path,
            )
            return
        try:
            caller.keep_service(self._path, self._audience, self._keys, stop)
        except Exception as error:
            # Its text could quote a file with keys: the kind alone is logged.
            _log.error(
                about + "it has ended with %s; keep `arx ship %s` running",
                self._audience,
                type(error).__name__,
                self._path,
            )

    def after_fork(self) -> None:
        """In a forked child: no thread of the parent runs here."""
        self._reset()


def _fork_all() -> None:
    _IMPORTING.release()
    for upkeep in tuple(_UPKEEPS):
        upkeep.after_fork()


def _close_all() -> None:
    upkeeps, until = tuple(_UPKEEPS), time.monotonic() + LAST_S
    for upkeep in upkeeps:
        upkeep.stop()
    for upkeep in upkeeps:  # one bound for all of them
        upkeep.close(max(0.0, until - time.monotonic()))


at_fork(before=_IMPORTING.acquire, after_in_parent=_IMPORTING.release, after_in_child=_fork_all)
atexit.register(_close_all)
