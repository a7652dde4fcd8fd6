# SPDX-License-Identifier: Apache-2.0
"""A journal that Node writes, read and shipped by Python.  SPEC 15.3."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.journal.quota import finish_stale
from arx_verifier.journal.reader import read_journal
from tests.audit.receiver import REALM, Receiver
from tests.audit.shipping import receiver
from tests.cli.helpers import service_file
from tests.servers import child, until
from tests.typescript.node import PROGRAMS, node
from tests.verifier.journals import files

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("15.3")]

__all__ = ["receiver"]  # fixtures


def writer(folder: Path, mode: str = "strict") -> list[str]:
    return [str(node()), str(PROGRAMS / "journal_writer.ts"), str(folder), mode]


def last_of(output: bytes) -> tuple[str, int]:
    """The run, and its last record that was acknowledged."""
    whole = [line for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
    boot, last = whole[-1].split()
    return boot.decode(), int(last)


@pytest.mark.parametrize("mode", ["strict", "durable"])
def test_its_records_are_read_and_its_files_are_left_alone(tmp_path: Path, mode: str) -> None:
    """While it lives no other writer cuts a file; after a kill each acknowledged record is there."""
    with child(writer(tmp_path, mode), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        segment = files(tmp_path)[-1]
        size = segment.stat().st_size
        finish_stale(tmp_path)
        assert segment.stat().st_size == size
        process.kill()
        boot, last = last_of(first + process.stdout.read())
    read = [decision.sequence for decision in read_journal(tmp_path)]
    assert read == list(range(1, len(read) + 1))
    assert len(read) - last in (0, 1)
    finish_stale(tmp_path)
    assert files(tmp_path)[-1].stat().st_size <= size
    assert (tmp_path / f"{boot}.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.nightly)])
def test_kills_under_load_lose_nothing(tmp_path: Path, receiver: Receiver, kills: int) -> None:
    """With `arx ship` beside it, killed as well: each acknowledged record arrives, once."""
    KeyFile("service", "orders", receiver.issuer, receiver.key).save(tmp_path / "orders.key")
    file, folder, dice = service_file(tmp_path / "orders.json"), tmp_path / "journal", random.Random(7)
    content = json.loads(file.read_text()) | {"realm": REALM, "issuer": receiver.issuer, "key_file": "orders.key"}
    file.write_text(json.dumps(content | {"journal": str(folder), "store": "unix:///none"}))
    folder.mkdir(mode=0o700)
    ship = [sys.executable, "-m", "arx_caps.cli", "ship", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    written: dict[str, int] = {}
    with contextlib.ExitStack() as running:
        shipper = running.enter_context(child(ship, stderr=subprocess.DEVNULL, env=environment))
        for turn in range(kills):
            process = running.enter_context(child(writer(folder), stdout=subprocess.PIPE))
            assert process.stdout is not None
            first = process.stdout.readline()
            threading.Timer(dice.uniform(0.02, 0.2), process.kill).start()
            boot, last = last_of(first + process.stdout.read())
            written[boot] = last
            process.wait()
            if turn % 10 == 9:
                shipper.kill()
                shipper.wait()
                shipper = running.enter_context(child(ship, stderr=subprocess.DEVNULL, env=environment))
        until(lambda: files(folder) == [], 600)
        shipper.kill()
    assert len(written) == kills
    assert receiver.gaps == {}
    assert list(folder.glob("*.damaged")) == []
    for boot, last in written.items():
        sequences = [record.sequence for record in receiver.records[boot]]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) - last in (0, 1)  # one more was written whose acknowledgement the kill stopped
