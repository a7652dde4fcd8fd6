# SPDX-License-Identifier: Apache-2.0
"""Which programs of this machine follow the proxy and the authority of a run: each makes one request in a box."""

import asyncio
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.isolation.start import Isolation
from arx_caps.run.box import PROXY, box_command, open_box
from arx_caps.run.certificates import RunCertificates
from arx_caps.run.environment import environment
from arx_caps.run.secret_files import secret_files
from arx_caps.run.tunnel import Tunnel
from arx_verifier.errors import SettingsError

_TIME_S: Final = 10.0  # for each program, all at once
_HOST: Final = "check.example"
_URL: Final = f"https://{_HOST}/"
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nthe front"
_REASON: Final = re.compile("error|fatal|curl:", re.IGNORECASE)
_SOCKET: Final = "front.sock"
_NODE: Final = f"""
fetch('{_URL}').catch(error => {{
  const knows = process.allowedNodeEnvironmentFlags.has('--use-env-proxy')
  const why = knows ? '' : `: Node ${{process.version}} follows no proxy, 22.21 and 24 do`
  console.error(`${{error.cause ?? error}}${{why}}`)
  process.exit(1)
}})
"""
# The request of each program, and its host.
_PROGRAMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "git": (_HOST, ("git", "ls-remote", f"{_URL}acme/app")),
    "gh": ("api.github.com", ("gh", "api", "rate_limit")),
    "curl": (_HOST, ("curl", "-sS", _URL)),
    "node": (_HOST, ("node", "-e", _NODE)),
    "npm": (_HOST, ("npm", "ping", "--registry", _URL, "--fetch-retries=0", "--logs-max=0")),
    "python": (_HOST, ("python3", "-c", f"import urllib.request as r; r.urlopen('{_URL}')")),
    "python requests": (_HOST, ("python3", "-c", f"import requests as r; r.get('{_URL}')")),
    "python httpx": (_HOST, ("python3", "-c", f"import httpx as r; r.get('{_URL}')")),
    "claude": ("api.anthropic.com", ("claude", "-p", "go")),
    "codex": ("api.openai.com", ("codex", "exec", "--skip-git-repo-check", "go")),
    "gemini": ("generativelanguage.googleapis.com", ("gemini", "--skip-trust", "-p", "go")),
}


class ProgramCheck(NamedTuple):
    """What was found of a program.

    Attributes:
        program: Its name, and that of a library.
        path: Its file; empty if there is none.
        result: ``follows``, ``does not`` or ``not installed``.
        printed: Where it does not, the last line of an error that it printed, or the last one of all.
    """

    program: str
    path: str
    result: str
    printed: str


class _OneText(asyncio.Protocol):
    """Answers each request by one text, and notes one for a host."""

    def __init__(self, host: str, arrived: asyncio.Event) -> None:
        self._wanted, self._arrived, self._read = f"\r\nhost: {host}\r\n".encode(), arrived, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, _ = self._read.partition(b"\r\n\r\n")
        if end:
            if self._wanted in head.lower() + b"\r\n":
                self._arrived.set()
            self._transport.write(_ANSWER)
            self._transport.close()


async def check(folder: Path, reads: tuple[Path, ...]) -> list[ProgramCheck]:
    """Return what was found of each program.

    Args:
        folder: A folder of this run, as of ``run_folder``.
        reads: What else the programs may read.

    Raises:
        SettingsError: There is no box on this machine.
    """
    certificates = RunCertificates(folder)
    _open_box((sys.executable,), _HOST, folder / "none", certificates, reads)
    return await asyncio.gather(*(_check(name, folder / name, certificates, reads) for name in _PROGRAMS))


def _open_box(
    command: tuple[str, ...], host: str, folder: Path, certificates: RunCertificates, reads: tuple[Path, ...]
) -> Isolation:
    run, work = folder / "run", folder / "work"
    for each in (folder, run, work):
        each.mkdir(mode=0o700)
    ca, home = run / "ca.pem", run / "home"
    ca.write_bytes(certificates.pem)
    found = environment(proxy=PROXY, ca_file=ca, home=home, folder=run, hosts=[host], socket=run / _SOCKET)
    secrets = tuple(secret_files(*reads))
    return open_box(command, environment=found, folder=work, home=home, reads=(run, *reads), protected=secrets)


async def _check(name: str, folder: Path, certificates: RunCertificates, reads: tuple[Path, ...]) -> ProgramCheck:
    (host, command), arrived, socket = _PROGRAMS[name], asyncio.Event(), folder / "run" / _SOCKET
    path = shutil.which(command[0])
    if path is None:
        return ProgramCheck(name, "", "not installed", "")
    try:
        box = _open_box(command, host, folder, certificates, reads)
    except SettingsError as error:  # of this program, as there is a box
        return ProgramCheck(name, path, "does not", str(error))

    def opened(_: dict[str, Any]) -> Any:
        return _OneText(host, arrived)

    tunnel = functools.partial(Tunnel, certificates.context_of, opened)
    server = await asyncio.get_running_loop().create_unix_server(tunnel, str(socket))
    with (folder / "printed").open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *box_command(box, socket),
            env=box.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        ends = [asyncio.ensure_future(each) for each in (process.wait(), arrived.wait())]
        try:
            await asyncio.wait(ends, timeout=_TIME_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()
            if process.returncode is None:
                process.kill()
            await process.wait()
            server.close()
    if arrived.is_set():
        return ProgramCheck(name, path, "follows", "")
    lines = (folder / "printed").read_text("utf-8", "replace").split("\n")
    printed = [line.strip() for line in lines if line.strip()] or ["nothing"]
    line = [*printed[-1:], *(each for each in printed if _REASON.search(each))][-1]
    missing = line.startswith("ModuleNotFoundError")
    return ProgramCheck(name, path, "not installed" if missing else "does not", line)
