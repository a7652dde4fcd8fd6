# SPDX-License-Identifier: Apache-2.0
"""The gateway beside a mint: an error reaches the operator in any case, and service files are fresh at its start."""

import json
import os
from pathlib import Path

import pytest

from arx_caps.cli.access.place import Place
from arx_caps.cli.gateway_process import GatewayProcess
from arx_caps.cli.terminal import Console
from tests.cli.helpers import arx
from tests.cli.live import live_realm
from tests.servers import free_ports, until

# Enough to be enrolled; the gateway itself ends at once, because the variable is not set.
UPSTREAM = """
[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:1"
credential = { from = "env:ARX_TEST_NO_SUCH_SECRET" }

[upstream.typo]
audience = "oders"
url = "http://127.0.0.1:1"
"""
LEDGER = "redis://127.0.0.1:1"


def seen(written: list[str], text: str) -> str:
    """Add a text to those before, and return all."""
    written.append(text)
    return "".join(written)


def test_a_file_that_cannot_be_used_is_reported_with_quiet_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again until the operator has mended the file, so that silence would last for ever."""
    (tmp_path / "gateway.toml").write_text("[upstreams.orders]")
    console, written = Console(), list[str]()
    console.quiet = True
    process = GatewayProcess(tmp_path / "gateway.toml", Place(tmp_path), console)
    process.start()
    try:
        until(lambda: bool(seen(written, capsys.readouterr().err)))
    finally:
        process.stop()
    assert "arx: the gateway does not run: " in "".join(written)
    assert "upstreams" in "".join(written)
    assert "the mint runs, and the gateway is started again in 1 s" in "".join(written)


def test_an_operator_s_key_that_is_missing_does_not_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is tried again once the key is there; the thread would otherwise be gone, and no gateway run any more."""
    (tmp_path / "gateway.toml").write_text(UPSTREAM)
    process, written = GatewayProcess(tmp_path / "gateway.toml", Place(tmp_path), Console()), list[str]()
    process.start()
    try:
        until(lambda: seen(written, capsys.readouterr().err).count("does not run") == 2)
    finally:
        process.stop()
    assert "operator.key: no such key file of an operator" in "".join(written)


def test_a_file_that_is_missing_is_refused_before_the_mint_starts(tmp_path: Path) -> None:
    """Under a wrong name no gateway would ever run."""
    ran = arx("up", "--gateway", tmp_path / "gatway.toml", "--realm-dir", tmp_path)
    assert ran.exit_code == 2
    assert "gatway.toml" in ran.err
    assert "does not exist" in ran.err


@pytest.mark.slow
@pytest.mark.servers
def test_a_service_file_has_the_new_ledger_before_the_gateway_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A verifier takes it at its start alone: else each call with a budget would be refused until another restart."""
    folder, service = tmp_path / "realm", tmp_path / "orders.json"
    (tmp_path / "gateway.toml").write_text(UPSTREAM)
    assert "ARX_TEST_NO_SUCH_SECRET" not in os.environ
    port, written = free_ports(1)[0], list[str]()

    def run(expected: str) -> None:
        process = GatewayProcess(tmp_path / "gateway.toml", Place(folder), Console())
        written.clear()
        process.start()
        try:
            until(lambda: expected in seen(written, capfd.readouterr().err))
        finally:
            process.stop()

    with live_realm(folder, port):
        run("it has ended with exit code 2")
    assert "add [audience.oders] to the policy" in "".join(written)
    assert "add [audience.orders]" not in "".join(written)
    assert json.loads(service.read_text())["ledger"] == f"unix://{folder}/ledger/valkey.sock"
    with (folder / "realm.toml").open("a") as settings:
        settings.write(f'\nledger = "{LEDGER}"\n')
    with live_realm(folder, port):
        run("it has ended with exit code 2")
    assert json.loads(service.read_text())["ledger"] == LEDGER
