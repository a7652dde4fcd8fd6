# SPDX-License-Identifier: Apache-2.0
"""A relay in a process of its own, as ``arx relay`` runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from arx_caps.revocation.store import RevocationStore
from tests.faults.witness import Witness
from tests.support import ANYTHING, mint

LEASE_MS = 600  # three levels of processes on a busy machine
L_NS = LEASE_MS * 1_000_000
BY = "operator:ada"
SESSION = "s-aaaaaaaaaaaaaaaa"


class RelayProcess:
    """A running relay.

    Args:
        store: What it follows.
        realm: The realm's name.
        path: Its socket; or host and port.
        name: How reports name it.
        options: More of the command's options.
        variables: More of its environment.
        program: What Python runs as `arx`.
    """

    def __init__(
        self,
        store: str,
        realm: str,
        path: Path | str,
        name: str = "host",
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "arx_caps.cli"),
    ) -> None:
        self.url = f"relay+unix://{path}"
        command = [sys.executable, *program, "relay", "--realm", realm, "--json"]
        command += ["--listen", f"unix://{path}" if isinstance(path, Path) else path, "--name", name, *options]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ARX_")}
        environment |= {"ARX_STORE_URL": store} | dict(variables or {})
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        try:
            self.ready = json.loads(self._process.stdout.readline())
        except BaseException:  # such as a test's time limit: the caller has nothing to end it by
            self.kill()
            raise

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self._process.poll() is None:
            self._process.kill()
        self._end()

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        self._process.terminate()
        self._end()
        return self._process.returncode

    def _end(self) -> None:
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def watch(store: RevocationStore, verifiers: list[Witness], session: str = SESSION) -> None:
    """Let verifiers decide about a token born now, from now on, and wait until all accept it."""
    header, now = store.header(), time.time_ns() // 1_000_000
    born = (header.incarnation, header.seq)
    token = mint(ANYTHING, realm=store.realm, born=born, iat=now, exp=now + 600_000, session=session).encode()
    for one in verifiers:
        one.watch(token=token)
    for one in verifiers:
        one.until("ok")
