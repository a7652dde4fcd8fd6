# SPDX-License-Identifier: Apache-2.0
"""A whole realm on one machine: its revocation store and its mint, started, watched and stopped together.

A mint that dies is started again; when the supervisor or the store dies, nothing is left running.  The mint is a
process of its own and stops at the end of its standard input, which comes however this process ends.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.server.serve import GRACE_S, SETTINGS_EXIT, STORE_VARIABLE, has_terminal
from arx_caps.realm import PASSPHRASE_VARIABLE, Realm
from arx_verifier.errors import SettingsError

POLL_S: Final = 0.2
BACKOFF_S: Final = (0.2, 5.0)
SETTLED_S: Final = 30.0  # a mint that ran so long is not in a loop of crashes
STOP_S: Final = GRACE_S + 5.0

OnReady = Callable[[dict[str, Any]], None]


class Supervisor:
    """Runs a realm until ``stop``.

    Args:
        realm: The realm.
        host: Where the mint listens; as the realm says when left out.
        port: Its port.
        behind_tls: TLS ends before the mint.
        passphrase: Opens the root keys, where a passphrase seals them.
        on_ready: Called with the mint's announcement, each time it comes up; in a thread.
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
    ) -> None:
        self._realm = realm
        self._options = ["--realm-dir", str(realm.folder), "--until-eof"]
        self._options += ["--host", host] if host is not None else []
        self._options += ["--port", str(port)] if port is not None else []
        self._options += ["--behind-tls"] if behind_tls else []
        self._passphrase, self._on_ready = passphrase, on_ready
        self._stop = threading.Event()
        self._refused: str | None = None
        self._process: subprocess.Popen[bytes] | None = None  # once it said that it is ready

    def stop(self) -> None:
        """Stop everything; may be called from a signal handler or another thread."""
        self._stop.set()

    def reload(self) -> None:
        """Have the mint read its policy again; what it makes of it is on its stderr."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGHUP)

    def run(self) -> None:
        """Run store and mint until ``stop`` is called.

        Raises:
            SettingsError: The mint or the store cannot start, and trying again will not help.
        """
        store = EmbeddedValkey(self._realm.valkey_dir) if self._realm.store is None else None
        url = store.start() if store is not None else str(self._realm.store)
        pause = BACKOFF_S[0]
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._run_mint(url, store)
                if self._refused is not None:
                    raise SettingsError(self._refused)
                pause = BACKOFF_S[0] if time.monotonic() - began > SETTLED_S else min(2 * pause, BACKOFF_S[1])
                self._stop.wait(pause)
        finally:
            if store is not None:
                store.stop()

    def _run_mint(self, url: str, store: EmbeddedValkey | None) -> None:
        """Run one mint until it ends or is to stop; a store that ended meanwhile is started again."""
        environment = {**os.environ, STORE_VARIABLE: url}
        if self._passphrase is not None:
            environment[PASSPHRASE_VARIABLE] = self._passphrase
        # A session of its own: Ctrl-C reaches this process, which then stops the mint in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "arx_caps.mint.server.serve", *self._options],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(process,), name="arx-mint-stderr", daemon=True)
        reader.start()
        try:
            while process.poll() is None and not self._stop.wait(POLL_S):
                if store is not None and not store.running:
                    store.start()
        finally:
            _end(process)
            reader.join(STOP_S)
            if process.stderr is not None:
                process.stderr.close()
        if process.returncode != SETTINGS_EXIT and self._refused is not None:
            sys.stderr.write(f"the mint did not start, and is started again: {self._refused}\n")
            self._refused = None

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Pass the mint's stderr on, and notice what it says of its start."""
        assert process.stderr is not None
        for line in process.stderr:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if isinstance(said, dict) and said.get("ready") is True:
                self._process = process
                self._on_ready(said)
            elif isinstance(said, dict) and said.get("ready") is False:
                self._refused = str(said.get("error"))
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


def up(
    realm_dir: str | os.PathLike[str],
    *,
    host: str | None = None,
    port: int | None = None,
    behind_tls: bool = False,
    passphrase: str | None = None,
    on_ready: OnReady = lambda _: None,
) -> None:
    """Run a realm until SIGINT or SIGTERM; SIGHUP reads the policy again, or stops what a terminal holds.

    Args:
        realm_dir: The realm's folder.
        host: Where the mint listens; as the realm says when left out.
        port: Its port.
        behind_tls: TLS ends before the mint.
        passphrase: Opens the root keys, where a passphrase seals them.
        on_ready: Called with the mint's announcement, each time it comes up; in a thread.

    Raises:
        SettingsError: The realm, the mint or the store cannot be started.
    """
    supervisor = Supervisor(
        Realm.open(Path(realm_dir)),
        host=host,
        port=port,
        behind_tls=behind_tls,
        passphrase=passphrase,
        on_ready=on_ready,
    )
    before = {number: signal.signal(number, lambda *_: supervisor.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    on_hangup = supervisor.stop if has_terminal() else supervisor.reload
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: on_hangup())
    try:
        supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
