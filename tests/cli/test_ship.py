# SPDX-License-Identifier: Apache-2.0
"""``arx ship``: a sidecar that reports its state, and ends with a code that a script can use."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.service import open_shipper
from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.writer import Journal, name_verifier
from arx_verifier.service import read_service_file
from tests.audit.receiver import REALM, Receiver
from tests.audit.shipping import receiver
from tests.cli.helpers import arx, service_file
from tests.servers import child, until
from tests.verifier.journals import FACTS, allow, files

__all__ = ["receiver"]  # fixtures


@pytest.fixture
def service(tmp_path: Path, receiver: Receiver) -> Path:
    """A service file that names a mint, a key of the service's own and a journal."""
    KeyFile("service", "orders", receiver.issuer, receiver.key).save(tmp_path / "orders.key")
    file = service_file(tmp_path / "orders.json")
    content = json.loads(file.read_text()) | {"realm": REALM, "issuer": receiver.issuer, "key_file": "orders.key"}
    file.write_text(json.dumps(content | {"journal": str(tmp_path / "journal"), "store": "unix:///none"}))
    return file


def decided(file: Path, count: int) -> None:
    """Record some decisions, as a verifier that does not ship."""
    sink = Journal(read_service_file(file).journal or "", name_verifier("orders", shares=False), "orders")
    for number in range(count):
        sink.append(allow(number))
    sink.close()


def test_what_there_is_is_sent_once(service: Path, receiver: Receiver, tmp_path: Path) -> None:
    """With --once: 0 when the mint has it all, 5 while it does not answer, and nothing is lost in between."""
    decided(service, 700)
    receiver.refuse = 503
    ran = arx("ship", service, "--once")
    assert ran.exit_code == exit_codes.UNREACHABLE
    assert "the records stay in the journal" in ran.err
    receiver.refuse = 403
    assert arx("ship", service, "--once").exit_code == exit_codes.INCOMPLETE
    receiver.refuse = None
    ran = arx("ship", service, "--once", "--json")
    assert (ran.exit_code, ran.json["done"], ran.json["shipped"], ran.json["lost"]) == (0, True, 700, 0)
    assert len(receiver.tools) == 700
    assert files(tmp_path / "journal") == []
    assert arx("ship", service, "--once").out == "0 records shipped, journal 0% full\n"


def test_a_mint_that_hangs_is_waited_for_aloud(service: Path) -> None:
    """The mint takes the connection and answers nothing: a person reads that before the client's patience ends."""
    decided(service, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        issuer = f"http://127.0.0.1:{silent.getsockname()[1]}"
        service.write_text(json.dumps(json.loads(service.read_text()) | {"issuer": issuer}))
        command = [sys.executable, "-m", "arx_caps.cli", "ship", str(service), "--once"]
        with child(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting for an answer of the mint\n"
            process.kill()


def test_losses_and_alarms_are_said(service: Path, receiver: Receiver, tmp_path: Path) -> None:
    """A file that a user deleted ends with 3; a journal above 50 % of its budget has an alarm."""
    small = {"segment_bytes": 65536, "max_bytes": 4 * 65536}
    journal = Journal(tmp_path / "journal", "v1", "orders", **small)  # type: ignore[arg-type]
    for number in range(700):
        journal.append(Decision("ok", number, FACTS, "t" * 90))
    assert len(files(tmp_path / "journal")) > 2
    receiver.refuse = 503
    assert "ALARM: above 50 %" in arx("ship", service, "--once").out
    receiver.refuse = None
    files(tmp_path / "journal")[0].unlink()
    ran = arx("ship", service, "--once", "--json")
    assert ran.exit_code == exit_codes.INCOMPLETE
    assert ran.json["lost"] > 0
    journal.close()


@pytest.mark.slow
def test_it_runs_until_stopped(service: Path, receiver: Receiver) -> None:
    """As a process beside the service: what is decided meanwhile arrives, and at the signal nothing is left."""
    decided(service, 10)
    command = [sys.executable, "-m", "arx_caps.cli", "ship", str(service), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    with child(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        until(lambda: len(receiver.tools) == 10)
        decided(service, 15)
        until(lambda: len(receiver.tools) == 25)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert [line["schema"] for line in lines][-1] == "arx/shipped/1"
    assert lines[0]["schema"] == "arx/shipping/1"
    assert (lines[-1]["shipped"], lines[-1]["error"]) == (25, None)


def test_a_service_ships_in_its_own_process(service: Path, receiver: Receiver, tmp_path: Path) -> None:
    """Two lines beside open_verifier; the error for a file without its own key, or with another's, has a hint."""
    with open_shipper(service):
        decided(service, 20)
        until(lambda: len(receiver.tools) == 20)
    KeyFile("agent", "acme/bot", receiver.issuer, receiver.key).save(tmp_path / "agent.key")
    content = json.loads(service.read_text())
    service.write_text(json.dumps(content | {"key_file": "agent.key"}))
    with pytest.raises(SettingsError, match="is the key of acme/bot"):
        open_shipper(service)
    service.write_text(json.dumps(content | {"key_file": None}))
    ran = arx("ship", service, "--once")
    assert (ran.exit_code, "arx service enrol" in ran.err) == (2, True)
