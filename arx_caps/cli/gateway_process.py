# SPDX-License-Identifier: Apache-2.0
"""The gateway of ``arx up --gateway``: a process beside the mint, whose upstreams are enrolled by themselves."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import click

from arx_caps.cli.access.place import Place
from arx_caps.cli.display import hint_audience
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.resources import INVITATIONS
from arx_caps.cli.terminal import Console
from arx_caps.credentials.jose import BAD_PROOF
from arx_caps.settings.realm import PASSPHRASE_VARIABLE, ROOT_KEY_VARIABLE
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.service import read_service_file

_PAUSES_S: Final = (0.5, 10.0)  # the shortest and longest before a restart
_SETTLED_S: Final = 30.0
_STOP_S: Final = 15.0
THE_MINTS: Final = (PASSPHRASE_VARIABLE, ROOT_KEY_VARIABLE)  # variables, also with _FILE, that no gateway gets


class GatewayProcess:
    """Runs ``arx gateway`` until ``stop``, and again whenever it ends.

    Args:
        file: The gateway's file.
        place: The realm on this machine, whose operator enrols the upstreams.
        console: Gets what a person should know.
    """

    def __init__(self, file: Path, place: Place, console: Console) -> None:
        self._file, self._place, self._console = file, place, console
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="arx-gateway", daemon=True)

    def start(self) -> None:
        """Start it in a thread; the mint must answer."""
        self._thread.start()

    def reload(self) -> None:
        """Make it read its file again; its stderr has the result."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = _PAUSES_S[0]
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._enrol()
                why = f"it has ended with exit code {self._run_once()}"
            except (ArxError, Stop) as error:
                why = str(error)
            pause = _PAUSES_S[0] if time.monotonic() - began > _SETTLED_S else min(2 * pause, _PAUSES_S[1])
            if not self._stop.is_set():  # with --quiet, too
                again = f"the mint runs, and the gateway is started again in {pause:g} s"
                click.echo(f"arx: the gateway does not run: {why}; {again}", err=True)
            self._stop.wait(pause)

    def _run_once(self) -> int:
        # -P: `-m` alone would import modules from the working folder first.  The end of its stdin stops it, also after
        # a kill of this process; a session of its own, so that Ctrl-C reaches this process alone.
        words = [sys.executable, "-P", "-m", "arx_caps.cli", "gateway", str(self._file), "--until-eof"]
        words += ["--realm", str(self._place.realm_dir.absolute())]
        words += ["--quiet"] if self._console.quiet else []
        words += ["--json"] if self._console.json else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith(THE_MINTS)}
        with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True, env=environment) as process:
            self._process = process
            while process.poll() is None and not self._stop.wait(0.2):
                pass
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.returncode

    def _enrol(self) -> None:
        """Enrol the service of each upstream that has no service file yet, and refresh the files of all others."""
        from arx_caps.agent.sessions.mint_client import MintClient
        from arx_caps.gateway.base.settings import read_settings
        from arx_caps.service import Invitation, join_service

        settings = read_settings(self._file)
        for name, terms in settings.tables.items():
            path = settings.service_file(name)
            if path.exists():
                self._refresh(path)
                continue
            with contextlib.closing(self._place.mint()) as operator:
                answer = operator.call("POST", INVITATIONS, {"audience": terms.audience})
            invited = Invitation(*(str(answer[member]) for member in ("audience", "enrolment", "issuer")))
            with contextlib.closing(MintClient(invited.issuer, now=now_ms, ca=self._place.ca())) as mint:
                journal = self._place.realm_dir / "journals" / "gateway" / path.stem  # where `arx decisions` looks
                key = path.with_suffix(".key")
                join_service(invited, mint, out=path, key_out=key, journal=journal, ca=self._place.ca())
            self._console.say(f"enrolled the service {terms.audience} for the gateway: {path}")
            hint_audience(self._console, answer)

    def _refresh(self, path: Path) -> None:
        """Refresh a service file, and refuse one whose key the mint does not know: it would refuse all calls.

        Raises:
            SettingsError: It is of an earlier realm.
        """
        from arx_caps.agent.sessions.mint_client import MintClient
        from arx_caps.credentials.keyfile import KeyFile
        from arx_caps.service.fetch import fetch_keys, write_keys

        key_file = read_service_file(path).key_file
        if key_file is None:
            return
        key = KeyFile.load(Path(key_file))
        with contextlib.closing(MintClient(key.issuer, now=now_ms, ca=self._place.ca())) as mint:
            try:
                # Before the gateway reads it: a verifier takes a new `ledger` at its start alone.
                write_keys(path, fetch_keys(mint, key.key))
            except ArxError as error:  # any other one passes, or is the gateway's to report
                if error.code == BAD_PROOF:
                    text = f"{path}: the mint does not know its key, as after a new `arx init`"
                    hint = f"move it and {key_file} away, and the service is enrolled again"
                    raise SettingsError(f"{text}; {hint}") from None
