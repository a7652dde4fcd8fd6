# SPDX-License-Identifier: Apache-2.0
"""A realm in a store whose tokens are minted here, without a mint, and gateways of it as processes."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from arx_caps.revocation.store import RevocationStore
from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.agent.live import now_ms
from tests.house.pages import ROOT

AUDIENCE: Final = "orders"
BY: Final = "operator:test"
# What each request of MCP 2026-07-28 has in `_meta`.
ENVELOPE: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
_KID: Final = "k1.0"
_TTL_MS: Final = 600_000
_START_S: Final = 60.0
# Runs `arx`, after statements that make a bound small enough for a test.
_PROGRAM: Final = "{before}\nfrom arx_caps.cli.app import main\nmain()"


class GatewayRealm:
    """One realm with one audience.

    Args:
        folder: Keeps its files.
        url: The store's URL, which also has the nonces.
        lease_ms: The realm's lease, ms.
        name: The realm's name.

    Attributes:
        store: Where kills are made.
        folder: As given.
    """

    def __init__(self, folder: Path, url: str, *, lease_ms: int = 1_000, name: str = "acme") -> None:
        self.folder, self._name, self._url, self._key = folder, name, url, os.urandom(32)
        self.store = RevocationStore(url, name)
        self.store.load_functions()
        self.store.init(lease_ms=lease_ms)
        self.write_service()

    def write_service(self, file: str = f"{AUDIENCE}.json", *, journal: str = "journal") -> None:
        """Write a service file, whose records have the arguments of calls."""
        service = self.folder / file
        facts = {"audience": AUDIENCE, "keys": {_KID: wire.text_of(self._key)}, "max_ttl_ms": 86_400_000, "v": 1}
        facts |= {"journal": str(self.folder / journal), "realm": self._name, "store": self._url, "nonces": self._url}
        facts["record_arguments"] = [f"{AUDIENCE}.*"]
        service.touch(0o600)
        service.write_text(json.dumps(facts), "utf-8")

    def caller(self, *rules: Rule, session: str, agent: str = "acme/a") -> UnsafeCaller:
        """Return an agent with a token that is born now."""
        now, header = now_ms(), self.store.header()
        identifier = Identifier(
            agent=agent,
            aud=AUDIENCE,
            born=(header.incarnation, header.seq),
            depth=4,
            exp=now + _TTL_MS,
            iat=now,
            id=wire.text_of(os.urandom(16)),
            kid=_KID,
            session=session,
            subject=None,
            task="t-" + wire.text_of(os.urandom(12)),
            v=1,
        )
        caveat = Caveat(allow=rules, require=("call",))
        return UnsafeCaller(Macaroon.mint(identifier, key=self._key, realm=self._name, caveats=(caveat,)), AUDIENCE)

    def kill(self, session: str) -> None:
        """Kill a session."""
        self.store.kill([f"session:{session}"], "test", BY)

    def write(self, text: str, *, port: int, file: str = "gateway.toml", members: str = "") -> Path:
        """Write a gateway's file that listens at a port; ``members`` are further ones of its table ``gateway``."""
        path = self.folder / file
        path.write_text(f'[gateway]\nlisten = ["127.0.0.1:{port}"]\n{members}{text}', "utf-8")
        return path


class Program(subprocess.Popen[str]):
    """A running program.

    Attributes:
        first_line: What it wrote first to standard output.
    """

    first_line = ""


@contextlib.contextmanager
def running(
    words: list[str], log: Path, *, ready: str = "", files: int | None = None, stdin: int | None = None
) -> Iterator[Program]:
    """Run a Python program from its first line on standard output until the end of the block.

    Args:
        words: What follows the interpreter.
        log: Gets what it writes to standard error.
        ready: What its first line has in it.
        files: Its limit of open files.
        stdin: Its standard input; none by default.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    command = [sys.executable, *words]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    with log.open("a") as error:
        process = Program(
            command,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=error,
            env={**environment, "PYTHONPATH": str(ROOT)},
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        process.first_line = _line(process.stdout).strip()
        assert process.first_line, log.read_text()
        assert ready in process.first_line, f"{process.first_line}{log.read_text()}"
        yield process
    finally:
        process.kill()
        process.communicate()


def gateway(
    file: Path, log: Path, *, before: str = "", files: int | None = None, stdin: int | None = None
) -> contextlib.AbstractContextManager[Program]:
    """Run `arx gateway`; ``before`` are statements of Python that its process runs first."""
    words = ["-c", _PROGRAM.format(before=before), "gateway", str(file)]
    return running(words, log, ready="ready: the gateway listens", files=files, stdin=stdin)


def _line(output: IO[str]) -> str:
    """Read a line, or fail."""
    assert select.select([output], [], [], _START_S)[0], "the program did not start in time"
    return output.readline()
