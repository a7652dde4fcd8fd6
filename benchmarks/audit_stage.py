# SPDX-License-Identifier: Apache-2.0
"""A realm for the audit benchmark, and a service that sends it batches as its shipper does."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from arx_caps.audit.checkpoint import Checkpoint
from arx_caps.audit.note import Note
from arx_caps.audit.wire import HEADER, MEDIA_TYPE, PATH, Batch, sign_batch
from arx_caps.demo.stage import free_ports
from arx_caps.jose import make_dpop
from arx_caps.realm import Realm
from arx_caps.service.own_key import OwnKey, read_own_key
from tests.cli.live import Live, live_realm

REALM = "acme"


class Attempt(NamedTuple):
    """A batch that is ready to be sent: its bytes, its service's statement, and the mark that is the answer."""

    body: bytes
    statement: str
    last: int


class Sender:
    """Sends a service's batches to the mint, and sees what is signed."""

    def __init__(self, own: OwnKey, log_dir: Path) -> None:
        self._own, self._log_dir = own, log_dir
        self._http = httpx.Client(timeout=60, trust_env=False)

    def make(self, batch: Batch) -> Attempt:
        """Encode and sign a batch, as ``Shipper`` does."""
        body = batch.encode()
        statement = sign_batch(self._own.key, batch, body, realm=REALM, issuer=self._own.issuer, now=_now_ms())
        return Attempt(body, statement, batch.last)

    def send(self, made: Attempt) -> None:
        """Post a batch with a proof of its own; it must be taken whole."""
        url = self._own.issuer + PATH
        proof = make_dpop(self._own.key, method="POST", url=url, now=_now_ms())
        headers = {"Content-Type": MEDIA_TYPE, "DPoP": proof, HEADER: made.statement}
        answer = self._http.post(url, content=made.body, headers=headers)
        assert answer.json()["high_water"] == made.last, answer.text

    def signed(self) -> int:
        """How many records the published checkpoint has."""
        file = self._log_dir / "checkpoint"
        return Checkpoint.parse(Note.parse(file.read_bytes()).text).size if file.exists() else 0

    def close(self) -> None:
        """Let go."""
        self._http.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def stage(database: str | None) -> Iterator[Sender]:
    """Run a realm with one service, its log in a SQLite file or in a PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="arx-bench-") as folder, contextlib.ExitStack() as left:
        home, port = Path(folder) / "realm", free_ports(1)[0]
        words = ["init", str(home), "--name", REALM, "--issuer", f"http://127.0.0.1:{port}"]
        words += ["--database", database] if database else []
        subprocess.run([sys.executable, "-m", "arx_caps.cli", *words], check=True, capture_output=True)
        live = left.enter_context(live_realm(home, port))
        sender = Sender(_joined(live, Path(folder)), Realm.open(home).log_dir)
        left.callback(sender.close)
        yield sender


def _joined(live: Live, folder: Path) -> OwnKey:
    invitation, file = folder / "orders.invite", folder / "orders.json"
    live.ok("service", "invite", "orders", "--out", invitation)
    live.ok("service", "join", invitation, "--out", file, "--key-out", folder / "orders.key")
    assert json.loads(file.read_text())["key_file"]
    return read_own_key(file)
