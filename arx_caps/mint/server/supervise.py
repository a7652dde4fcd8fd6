# SPDX-License-Identifier: Apache-2.0
"""Supervise a realm on one machine: start, watch and stop its revocation store, ledger and mint."""

# A mint that dies is started again; when the supervisor or the store dies, no process is left running. The mint is a
# process of its own and stops at the end of its standard input, which the kernel closes however this process ends.

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from arx_caps.embedded import EmbeddedValkey, socket_url
from arx_caps.http.process import has_terminal
from arx_caps.mint.server.child_process import GRACE_S, PROGRAM, SETTINGS_EXIT, STORE_VARIABLE
from arx_caps.mint.server.ledger_end import end_ledger, open_ledger
from arx_caps.settings.realm import PASSPHRASE_VARIABLE, Realm
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.revocation.password import FILE_SUFFIX

POLL_S: Final = 0.2  # between two checks of mint and store
BACKOFF_S: Final = (0.2, 5.0)  # the shortest and longest pause before a restart
SETTLED_S: Final = 30.0  # a mint that ran this long is not in a crash loop
LEDGER_S: Final = 5.0  # between two attempts to start a ledger
STOP_S: Final = GRACE_S + 5.0

OnReady = Callable[[dict[str, Any]], None]


class Supervisor:
    """Runs a realm until ``stop``.

    Args:
        realm: The realm.
        host: The address that the mint listens at; the realm's when omitted.
        port: Its port; the realm's when omitted.
        behind_tls: Whether TLS ends before the mint.
        passphrase: Opens the root keys, if a passphrase seals them.
        on_ready: Called in a thread with the mint's announcement, after each start.
        on_stop: Called at the end, before mint, store and ledger stop.
        program: The module that serves the mint.
    """

    def __init__(
        self,
        realm: Realm,
        *,
        host: str | None = None,
        port: int | None = None,
        behind_tls: bool = False,
        passphrase: str | None = None,
        on_ready: OnReady = lambda _: None,
        on_stop: Callable[[], None] = lambda: None,
        program: str = PROGRAM,
    ) -> None:
        self._realm, self._program = realm, program
        self._options = ["--realm-dir", str(realm.folder), "--until-eof"]
        self._options += ["--host", host] if host is not None else []
        self._options += ["--port", str(port)] if port is not None else []
        self._options += ["--behind-tls"] if behind_tls else []
        self._passphrase, self._on_ready, self._on_stop = passphrase, on_ready, on_stop
        self._stop = threading.Event()
        self._refused: SettingsError | None = None
        self._process: subprocess.Popen[bytes] | None = None  # the mint, after its announcement
        self._store = EmbeddedValkey(realm.valkey_dir) if realm.store is None else None
        self._ledger = EmbeddedValkey(realm.ledger_dir, fsync="everysec") if realm.runs_ledger else None
        self._options += ["--ledger", socket_url(realm.ledger_dir)] if realm.runs_ledger else []
        self._ledger_due = 0.0  # by ``time.monotonic``

    def stop(self) -> None:
        """Stop mint, store and ledger; safe in a signal handler or another thread."""
        self._stop.set()

    def reload(self) -> None:
        """Make the mint reload its policy; its stderr has the result."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGHUP)

    def run(self) -> None:
        """Run store, ledger and mint until ``stop`` is called.

        Raises:
            SettingsError: The mint or the store cannot start, and a retry would not help.
        """
        pause = BACKOFF_S[0]
        try:
            url = self._store.start() if self._store is not None else str(self._realm.store)
            self._start_ledger()
            while not self._stop.is_set():
                began = time.monotonic()
                self._run_mint(url)
                if self._refused is not None:
                    raise self._refused
                pause = BACKOFF_S[0] if time.monotonic() - began > SETTLED_S else min(2 * pause, BACKOFF_S[1])
                self._stop.wait(pause)
        finally:
            if self._ledger is not None and self._ledger.running:
                end_ledger(self._ledger.url, self._realm.name, self._ledger.data_dir)
            for server in (self._store, self._ledger):
                if server is not None:
                    server.stop()

    def _start_ledger(self) -> None:
        """Start the ledger if it does not run; report an error, and try again later."""
        if self._ledger is None or self._ledger.running or time.monotonic() < self._ledger_due:
            return
        try:
            self._ledger.start()
            open_ledger(self._ledger.url, self._realm.name)
        except ArxError as error:  # kills must work while calls with a budget do not
            self._ledger.stop()
            sys.stderr.write(f"the ledger did not start, so calls with a budget are refused, retrying: {error}\n")
            self._ledger_due = time.monotonic() + LEDGER_S

    def _run_mint(self, url: str) -> None:
        """Run one mint until it ends or ``stop`` is called, and restart a store or a ledger that ended."""
        environment = {**os.environ, STORE_VARIABLE: url}
        if self._passphrase is not None:
            environment[PASSPHRASE_VARIABLE] = self._passphrase
            environment.pop(PASSPHRASE_VARIABLE + FILE_SUFFIX, None)
        # -P: `-m` alone would import modules from the working folder first, and run them beside the root keys.
        # A session of its own: Ctrl-C must reach this process alone, which then stops the mint in order.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._program, *self._options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(process,), name="arx-mint-stderr", daemon=True)
        reader.start()
        try:
            while process.poll() is None and not self._stop.wait(POLL_S):
                if self._store is not None and not self._store.running:
                    self._store.start()
                self._start_ledger()
            if self._stop.is_set():
                self._on_stop()
        finally:
            _end(process)
            reader.join(STOP_S)
            if process.stderr is not None:
                process.stderr.close()
        if process.returncode != SETTINGS_EXIT and self._refused is not None:
            sys.stderr.write(f"the mint did not start, retrying: {self._refused}\n")
            self._refused = None

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Pass the mint's stderr on, except for its announcement and its errors at a start."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict) and message.get("ready") is True:
                self._process = process
                self._on_ready(message)
            elif isinstance(message, dict) and message.get("ready") is False:
                self._refused = SettingsError(str(message.get("error")), hint=message.get("hint"))
            else:
                sys.stderr.write(line.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_until_signal(supervisor: Supervisor, on_reload: Callable[[], None] = lambda: None) -> None:
    """Run a realm until SIGINT or SIGTERM. SIGHUP reloads the policy.

    A SIGHUP stops a realm that a terminal has started.

    Args:
        supervisor: The supervisor of the realm.
        on_reload: Called at a SIGHUP that reloads the policy.

    Raises:
        SettingsError: The mint or the store cannot be started.
    """
    before = {number: signal.signal(number, lambda *_: supervisor.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    on_hangup = (supervisor.stop,) if has_terminal() else (supervisor.reload, on_reload)
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: [call() for call in on_hangup])
    try:
        supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
