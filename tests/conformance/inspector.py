# SPDX-License-Identifier: Apache-2.0
"""The official inspector on the command line: over HTTP, and over stdio through the bridge."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from arx_caps.agent import Task
from tests.conformance.packages import node_of
from tests.conformance.world import World

ERAS: Final = ("legacy", "modern")  # of the protocol: with a handshake, and MCP 2026-07-28
_HIDDEN: Final = "test_error_handling"
_WAIT_S: Final = 120


class Inspector(NamedTuple):
    """The inspector for one server.

    Attributes:
        packages: The folder of the npm packages.
        target: Its options that name the server.
        era: The era of the protocol.
        home: The folder of its own files.
    """

    packages: Path
    target: Sequence[str]
    era: str
    home: Path

    def ask(self, method: str, *options: str) -> dict[str, Any]:
        """Return the result that it prints; an error, if it prints none.

        Args:
            method: The method of MCP.
            options: Its options.

        Raises:
            RuntimeError: It prints neither.
        """
        program = self.packages / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
        words = [
            "--cli",
            *self.target,
            "--protocol-era",
            self.era,
            "--format",
            "json",
            "--quiet",
            "--method",
            method,
            *options,
        ]
        done = subprocess.run(
            [str(node_of(self.packages)), str(program), *words],
            env={**os.environ, "HOME": str(self.home), "MCP_INSPECTOR_SECRET_STORE": "memory"},
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
            check=False,
        )
        try:
            return dict(json.loads(done.stdout or done.stderr))
        except ValueError:
            raise RuntimeError(f"the inspector at {method}: {done.stdout}{done.stderr}") from None

    def call(self, tool: str, **args: str) -> str:
        """Call a tool, and return what a model reads, or the code of the inspector's error.

        Args:
            tool: Its name.
            args: Its arguments.
        """
        options = [f"--tool-arg={name}={value}" for name, value in args.items()]
        answer = self.ask("tools/call", f"--tool-name={tool}", *options)
        return str(answer["result"]["content"][0]["text"] if "result" in answer else answer["error"]["code"])


def faults(inspector: Inspector) -> Iterator[str]:
    """Yield a line for each thing that the inspector sees and should not, of the task ``little``.

    Args:
        inspector: The inspector.
    """
    seen = {
        "its list": [tool["name"] for tool in inspector.ask("tools/list")["result"]["tools"]],
        "a call": inspector.call("test_x_mcp_header", region="eu"),
        "an argument that is not allowed": inspector.call("test_x_mcp_header", region="us").partition(",")[0],
        "a hidden tool": inspector.call(_HIDDEN),
    }
    wanted = {
        "its list": ["test_simple_text", "test_x_mcp_header"],
        "a call": "region=eu",
        "an argument that is not allowed": 'test_x_mcp_header was refused: region must be "eu"',
        "a hidden tool": "tool_not_found",  # of the inspector itself, which calls no tool that is not listed
    }
    yield from (f"{name}: expected {wanted[name]}, got {got}" for name, got in seen.items() if got != wanted[name])


def hidden_faults(world: World, task: Task) -> Iterator[str]:
    """Yield a line if the gateway does not refuse a call of a hidden tool.

    Args:
        world: The gateway.
        task: The task ``little``.
    """
    about = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in about.items()}
    params = {"name": _HIDDEN, "arguments": {}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": _HIDDEN}
    headers["accept"] = "application/json, text/event-stream"
    line = f"Tool '{_HIDDEN}' failed"  # the server writes it when the tool has run
    before = world.logs().count(line)
    answer = httpx.post(world.web, json=message, headers=headers, auth=task.auth("web"), timeout=_WAIT_S).json()
    result = answer.get("result", {})
    if not result.get("isError") or "was refused" not in result["content"][0]["text"]:
        yield f"a hidden tool: expected a refusal, got {answer}"
    if world.logs().count(line) > before:
        yield f"{_HIDDEN} has run"
