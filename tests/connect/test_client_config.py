# SPDX-License-Identifier: Apache-2.0
"""``arx connect --print-config``: the snippet of each client's configuration file starts a bridge that works."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from arx_caps.connect.client_config import CLIENT_CONFIGS
from tests.cli.helpers import arx
from tests.connect.conftest import World

CLIENTS = {
    "claude": ("mcpServers", None),
    "claude-code": ("mcpServers", "stdio"),
    "codex": ("mcp_servers", None),
    "cursor": ("mcpServers", "stdio"),
    "vscode": ("servers", "stdio"),
}


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_the_snippet_starts_the_bridge(client: str, tmp_path: Path) -> None:
    """A client that starts it elsewhere reaches the same task; it holds no secret."""
    world = World(tmp_path)
    ran = arx("connect", "--task", str(world.bundle), "--only", "orders.get", "--print-config", client, world.url)
    assert ran.exit_code == 0, ran
    member, kind = CLIENTS[client]
    config: dict[str, Any] = tomllib.loads(ran.out) if client == "codex" else json.loads(ran.out)
    entry = config[member]["orders"]
    assert entry.get("type") == kind
    assert Path(entry["command"]).is_absolute()
    assert "arxb1_" not in ran.out
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "plain"}}\n'
    command = [entry["command"], *entry["args"]]
    done = subprocess.run(command, cwd="/", input=ping, capture_output=True, check=True, timeout=60)
    text = json.loads(done.stdout)["result"]["content"][0]["text"]
    assert text.startswith("plain was refused: the tool must be orders.get")


def test_names_and_paths_are_written_as_the_client_reads_them() -> None:
    """Claude Code and Codex take no dot in a server's name; TOML has no surrogates, and needs quotes escaped."""
    command = ['/opt/a "b"/arx', "connect", "--task", "/home/\U0001f600/t\\b.bundle"]
    entry = CLIENT_CONFIGS["codex"].entry("orders.eu", command)
    assert entry == {"mcp_servers": {"orders-eu": {"command": command[0], "args": command[1:]}}}
    assert tomllib.loads(CLIENT_CONFIGS["codex"].text(entry)) == entry
    assert "orders-eu" in CLIENT_CONFIGS["claude-code"].entry("orders.eu", command)["mcpServers"]


def test_a_script_gets_the_snippet_as_data(tmp_path: Path) -> None:
    """With ``--json`` it has a schema."""
    world = World(tmp_path)
    ran = arx("connect", "--task", str(world.bundle), "--print-config", "vscode", "--json", world.url)
    assert ran.exit_code == 0
    data = json.loads(ran.out)
    assert data["schema"] == "arx/connect_config/1"
    assert "orders" in data["config"]["servers"]
