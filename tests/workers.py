# SPDX-License-Identifier: Apache-2.0
"""A service under gunicorn with several workers: its service file, its processes, and signed calls of it.

The tests of WSGI, Flask and Django share it.  It needs the verifier, gunicorn, and a store that ``servers`` has begun.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from arx_verifier.constraints.rule import Rule
from arx_verifier.request import HttpCall
from arx_verifier.token import wire
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.servers import until

if TYPE_CHECKING:
    from arx_caps.revocation.store import RevocationStore

KEY = bytes(range(32))
SESSION = "s-aaaaaaaaaaaaaaaa"
# Each way in which gunicorn runs a WSGI application with several workers.
WAYS = {
    "sync": ("--worker-class", "sync"),
    "sync, preloaded": ("--worker-class", "sync", "--preload"),
    "threads": ("--worker-class", "gthread", "--threads", "4"),
    "threads, preloaded": ("--worker-class", "gthread", "--threads", "4", "--preload"),
}


def write_service_file(folder: Path, store: RevocationStore, url: str, **members: Any) -> Path:
    """Write ``orders.json`` for a verifier of the store's realm; all its processes share their nonces there."""
    content = {"v": 1, "realm": store.realm, "audience": "orders", "keys": {"k1.0": wire.text_of(KEY)}}
    content |= {"max_ttl_ms": 600_000, "store": url, "nonces": url, "journal": str(folder / "journal")} | members
    file = folder / "orders.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(content))
    return file


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Holder:
    """An agent with a token of the store's realm, which signs each call."""

    def __init__(self, store: RevocationStore, *rules: Rule, session: str = SESSION) -> None:
        header, now = store.header(), time.time_ns() // 1_000_000
        identifier = Identifier(
            agent="acme/support",
            aud="orders",
            born=(header.incarnation, header.seq),
            depth=2,
            exp=now + 500_000,
            iat=now,
            id=wire.text_of(os.urandom(16)),
            kid="k1.0",
            session=session,
            task="t-aaaaaaaaaaaaaaaa",
            v=1,
        )
        caveats = (Caveat(allow=rules, require=("call",)),)
        self._signer = CallSigner(Macaroon.mint(identifier, key=KEY, realm=store.realm, caveats=caveats), "orders")

    def sign(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        """Return the headers of one call."""
        fields = http_fields(HttpCall(method, target.encode(), hashlib.sha256(body).digest()))
        token = self._signer.sign(fields, time.time_ns() // 1_000_000)
        return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


class Service:
    """A running service.

    Attributes:
        port: Its port.
        master: The process that started its workers.
    """

    def __init__(self, port: int, master: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.master, self._log = port, master, log

    @property
    def log(self) -> str:
        """What its processes wrote."""
        return self._log.read_text()

    def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request on a connection of its own, and return the answer before its body is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, target, body or None, dict(headers))
        return connection, connection.getresponse()

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """Return the whole answer to a request."""
        connection, response = self.open(method, target, headers or {}, body)
        with contextlib.closing(connection):
            return Answer(response.status, response.read())

    def call(self, holder: Holder, method: str, target: str, body: bytes = b"") -> Answer:
        """Return the answer to a call that is signed for it."""
        return self.ask(method, target, holder.sign(method, target, body), body)


@contextlib.contextmanager
def gunicorn(folder: Path, application: str, port: int, *options: str, workers: int = 2) -> Iterator[Service]:
    """Run an application of a folder, such as ``service:app``, until it answers; end it in order."""
    log = folder / "gunicorn.log"
    words = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    words += ["--graceful-timeout", "5", "--no-control-socket", *options, application]
    environment = {name: value for name, value in os.environ.items() if name[:4] != "ARX_"}
    with log.open("wb") as err, subprocess.Popen(words, stdout=err, stderr=err, env=environment, cwd=folder) as master:
        service = Service(port, master, log)
        try:
            until(lambda: _answers(service))
            yield service
        finally:
            master.send_signal(signal.SIGTERM)
            try:
                master.wait(60)
            except subprocess.TimeoutExpired:
                master.kill()
                raise


def _answers(service: Service) -> bool:
    assert service.master.poll() is None, service.log
    with contextlib.suppress(OSError):
        return service.ask("GET", "/").status != 0
    return False


def deciders(service: Service, holder: Holder, target: str, code: str, count: int = 2) -> None:
    """Call until so many processes have refused with a code; none may allow.  A decision's id names its process."""
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while len(seen) < count:
        assert time.monotonic() < deadline, seen
        answer = service.call(holder, "GET", target).json
        assert answer["code"] == code, answer
        seen.add(answer["decision"].partition("-")[0])
