# SPDX-License-Identifier: Apache-2.0
"""What systemd hears from a process of a unit of type ``notify``: on a real socket, as sd_notify(3) has it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.http.process import READY, RELOADING, STOPPING, notify_manager, reload_notified
from arx_caps.settings.realm import Realm
from tests.cli.live import live_realm
from tests.gateway.gateway_realm import GatewayRealm, gateway
from tests.mint.test_serve import line_of, mint_process, realm
from tests.relay.processes import RelayProcess
from tests.servers import free_ports

__all__ = ["realm"]  # a fixture
START_S = 60.0


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(START_S)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def next_state(self) -> str:
        """Wait for a notification; return its first line."""
        return self.socket.recv(4096).decode().partition("\n")[0]

    def is_silent(self) -> bool:
        """Return whether no notification waits."""
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(START_S)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    own = Manager(address)
    yield own
    own.socket.close()


def test_a_reload_has_the_time_of_its_begin(manager: Manager) -> None:
    """systemd takes the end of a reload only with a time after that of its own request."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with reload_notified(serving=True):
        lines = manager.socket.recv(4096).decode().split("\n")
    assert lines[0] == RELOADING
    name, _, value = lines[1].partition("=")
    assert (name, before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000) == (
        "MONOTONIC_USEC",
        True,
    )
    assert manager.next_state() == READY


def test_a_reload_before_the_start_is_not_its_end(manager: Manager) -> None:
    """A unit would count as started, while nothing listens."""
    with reload_notified(serving=False):
        pass
    assert manager.is_silent()


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of containers, whose manager is outside."""
    address = f"@arx-test-{os.getpid()}"
    own = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_manager(STOPPING)
    assert own.next_state() == STOPPING
    own.socket.close()


def test_a_manager_that_is_gone_stops_no_server(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server serves all the same, and its log has the reason."""
    manager.socket.close()
    notify_manager(READY)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notify_manager(READY)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify_manager(READY)
    assert len(caplog.records) == 2


@pytest.mark.slow
@pytest.mark.servers
def test_a_mint_notifies(manager: Manager, realm: Realm, valkey: EmbeddedValkey) -> None:
    """It is ready when it serves, reloads its policy in between, also a wrong one, and stops."""
    with mint_process(realm, valkey.url) as process:
        assert (line_of(process.stderr)["ready"], manager.next_state()) == (True, READY)
        for text in (realm.policy_path.read_text(), "wrong"):
            realm.policy_path.write_text(text)
            process.send_signal(signal.SIGHUP)
            assert (manager.next_state(), manager.next_state()) == (RELOADING, READY)
        process.send_signal(signal.SIGTERM)
        assert manager.next_state() == STOPPING
        process.communicate(timeout=START_S)
    assert manager.is_silent()


@pytest.mark.slow
@pytest.mark.servers
def test_a_gateway_notifies(manager: Manager, tmp_path: Path, own_valkey: EmbeddedValkey) -> None:
    """As a mint does."""
    [port] = free_ports(1)
    file = GatewayRealm(tmp_path, own_valkey.url).write(
        '\n[upstream.orders]\naudience = "orders"\nurl = "http://127.0.0.1:9"\n\n[upstream.orders.routes]\n'
        '"GET /orders/{order_id}" = "orders.get"\n',
        port=port,
    )
    with gateway(file, tmp_path / "log") as process:
        assert manager.next_state() == READY
        process.send_signal(signal.SIGHUP)
        assert (manager.next_state(), manager.next_state()) == (RELOADING, READY)
        process.send_signal(signal.SIGTERM)
        assert manager.next_state() == STOPPING
        process.wait(START_S)
    assert manager.is_silent()


@pytest.mark.servers
def test_a_relay_notifies(manager: Manager, own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """It is ready when it follows the store, and not before."""
    relay = RelayProcess(own_valkey.url, GatewayRealm(tmp_path, own_valkey.url).store.realm, tmp_path / "relay.sock")
    assert manager.next_state() == READY
    assert relay.stop() == 0
    assert manager.next_state() == STOPPING


@pytest.mark.nightly
@pytest.mark.servers
def test_a_process_that_ships_notifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ready although the mint has gone, for which it waits."""
    file = tmp_path / "orders.json"
    with live_realm(tmp_path / "realm", *free_ports(1)) as up:
        up.ok("service", "enrol", "orders", "--out", file, "--journal", tmp_path / "journal")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    manager = Manager(str(tmp_path / "notify"))
    with subprocess.Popen([sys.executable, "-m", "arx_caps.cli", "ship", str(file), "--quiet"]) as ship:
        assert manager.next_state() == READY
        ship.terminate()
        assert manager.next_state() == STOPPING
    manager.socket.close()
