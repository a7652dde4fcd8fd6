# SPDX-License-Identifier: Apache-2.0
"""A server that a gateway starts as a service of systemd reaches nothing of it; systemd runs in namespaces here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from tests.gateway.gateway_realm import AUDIENCE, ENVELOPE, GatewayRealm
from tests.gateway.systemd_machine import machine, why_not
from tests.gateway.test_isolation import PLANT, PYTHON, SPY, UPSTREAM, USER, planted_keys, system_v_memory
from tests.house.pages import ROOT
from tests.servers import free_ports, until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


def call(url: str, token: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call the spy, and return its answer."""
    params = {"name": "look", "arguments": arguments, "_meta": {**ENVELOPE, "dev.arx/cap": token}}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28"}
    headers |= {"mcp-method": "tools/call", "mcp-name": "look"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = httpx.post(url, json=body, headers=headers, timeout=300).json()
    assert "result" in answer, answer
    return dict(json.loads(answer["result"]["content"][0]["text"]))


@pytest.mark.parametrize("user", ["", USER])
def test_a_server_as_a_service_of_systemd(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, user: str) -> None:
    """None of its ways leads anywhere, and it ends with its session."""
    [port] = free_ports(1)
    realm = GatewayRealm(tmp_path, valkey.url, name=realm_name)
    text = UPSTREAM.replace("{kind}", "systemd", 1).replace('audience = "{kind}"', f'audience = "{AUDIENCE}"')
    text = text.format(kind="systemd", python=PYTHON, spy=json.dumps(SPY))
    if user:
        home = tmp_path / "servers" / "own"
        home.mkdir(parents=True)
        os.chown(home, 65534, 65534)
        text += f'user = "{user}"\nhome = "{home}"\n'
    file = realm.write(text, port=port)
    (tmp_path / "planted").write_text(PLANT)
    environment = {**os.environ, "OTHER_KEY": PLANT, "PYTHONPATH": str(ROOT)}
    with machine(tmp_path) as words, planted_keys(), system_v_memory() as memory, (tmp_path / "log").open("w") as log:
        # In a namespace of its own, the server has low ids of processes: the gateway's must be none of them.
        subprocess.run([*words, "sh", "-c", "echo 5000 > /proc/sys/kernel/ns_last_pid"], check=True)
        command = [*words, sys.executable, "-m", "arx_caps.cli", "gateway", str(file), "--json"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as gateway:
            assert gateway.stdout is not None
            ready = gateway.stdout.readline()
            assert ready, (tmp_path / "log").read_text()
            secret = [str(path) for path in (tmp_path / "orders.json", file, tmp_path / "planted")]
            kinds = ("root_key", "operator_key", "service_key", "database", "journal", "store", "realm")
            targets: dict[str, Any] = {
                "pids": [json.loads(ready)["pid"]],
                "planted": str(tmp_path / "planted"),
                "files": {"service": secret, "settings": secret, **{kind: [] for kind in kinds}},
                "folders": [str(tmp_path)],
                "programs": [str(ROOT)],
                "places": dict.fromkeys(PLACES, secret),
                "sockets": [valkey.url.removeprefix("unix://")],
                "ports": [],
                "written": "written",
                "mint": 9,
                "key": "arx-plant",
                "memory": memory,
            }
            caller = realm.caller(Rule(tool=f"{AUDIENCE}.look", open=True), session="s-1")
            url = f"http://127.0.0.1:{port}/systemd"
            came = call(url, caller.token(f"{AUDIENCE}.look", targets=targets), {"targets": targets})
            assert units(words), "expected the server's service"
            subprocess.run([*words, "kill", str(targets["pids"][0])], check=True)  # of the gateway, by its id there
            gateway.wait(60)
            until(lambda: not units(words))
    assert not (tmp_path / "written").exists()
    assert len(came["tried"]) >= 50
    assert came["found"] == [], came


PLACES = (
    *("temporary_files", "long_lived_temporary_files", "shared_memory_files", "shell_history", "git_settings"),
    *("npm_settings", "netrc", "core_dump"),
)


def units(words: list[str]) -> str:
    """The services of servers."""
    asked = [*words, "systemctl", "list-units", "--no-legend", "--plain", "arx-upstream-*"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
