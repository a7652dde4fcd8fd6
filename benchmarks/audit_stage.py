# SPDX-License-Identifier: Apache-2.0
"""A realm for the audit benchmark, and a service in it with a journal that is shipped."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.service.own_key import ServiceIdentity, read_own_key
from arx_caps.settings.realm import Realm
from arx_verifier.journal.writer import Journal
from benchmarks.audit_fill import AUDIENCE, VERIFIER, decisions
from tests.cli.live import Live, live_realm
from tests.servers import free_ports

REALM = "acme"


class Service:
    """A service whose verifier records, and whose records are shipped in batches of one size."""

    def __init__(self, folder: Path, own: ServiceIdentity, log_dir: Path, at_once: int) -> None:
        self._log_dir = log_dir
        self._journal, self._decisions = Journal(folder, VERIFIER, AUDIENCE), decisions()
        about = {"audience": AUDIENCE, "realm": REALM, "issuer": own.issuer, "key": own.key}
        self._shipper = Shipper(folder, at_once=at_once, **about)  # type: ignore[arg-type]

    def record(self, count: int) -> None:
        """Put so many decisions into the journal."""
        for decision in islice(self._decisions, count):
            self._journal.append(decision)

    def ship(self) -> None:
        """Send what is in the journal; the mint has it all."""
        assert self._shipper.once(), self._shipper.status.error

    def signed(self) -> int:
        """How many records the published checkpoint has."""
        file = self._log_dir / "checkpoint"
        return Checkpoint.parse(Note.parse(file.read_bytes()).text).size if file.exists() else 0

    def close(self) -> None:
        """Let go."""
        self._shipper.close()
        self._journal.close()


@contextlib.contextmanager
def stage(database: str | None, at_once: int) -> Iterator[Service]:
    """Run a realm with one service, its log in a SQLite file or in a PostgreSQL; it ships so many records a batch."""
    with tempfile.TemporaryDirectory(prefix="arx-bench-") as folder, contextlib.ExitStack() as left:
        home, port = Path(folder) / "realm", free_ports(1)[0]
        words = ["init", str(home), "--name", REALM, "--issuer", f"http://127.0.0.1:{port}"]
        words += ["--database", database] if database else []
        subprocess.run([sys.executable, "-m", "arx_caps.cli", *words], check=True, capture_output=True)
        live = left.enter_context(live_realm(home, port))
        own, journal = _joined(live, Path(folder)), Path(folder) / "journal"
        service = Service(journal, own, Realm.open(home).log_dir, at_once)
        left.callback(service.close)
        yield service


def _joined(live: Live, folder: Path) -> ServiceIdentity:
    file = folder / "orders.json"
    live.ok("service", "enrol", AUDIENCE, "--out", file)
    assert json.loads(file.read_text())["key_file"]
    return read_own_key(file)
