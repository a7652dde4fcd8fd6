# SPDX-License-Identifier: Apache-2.0
"""Stock clients of npm: ``mcp-remote``, which is an MCP server over stdio, and ``mcpdo``, which is a command a call."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.conformance.packages import node_of
from tests.servers import free_ports
from tests.stock.clients import ANSWER_S, Client, Refused, ends_late

_WAIT_S = 90.0


class McpRemote(Client):
    """``npx mcp-remote URL``, as a host such as Claude Desktop starts it."""

    def __init__(self, packages: Path, url: str, folder: Path, environment: dict[str, str]) -> None:
        program = packages / "mcp-remote" / "dist" / "proxy.js"
        self._process = subprocess.Popen(
            [str(node_of(packages)), str(program), url, "--transport", "http-only"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            env={**environment, "MCP_REMOTE_CONFIG_DIR": str(folder / "mcp-auth")},
            text=True,
        )
        self._last = 0
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        self._ask("initialize", about)
        self._write({"method": "notifications/initialized"})

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self._ask("tools/list", {})["tools"]]

    def call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        found = self._ask("tools/call", {"name": tool, "arguments": arguments})
        return bool(found.get("isError")), " ".join(part["text"] for part in found["content"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdout is not None
        self._last += 1
        self._write({"id": self._last, "method": method, "params": params})
        with ends_late(self._process):
            for line in self._process.stdout:
                message = json.loads(line)
                if message.get("id") == self._last:
                    if "result" not in message:
                        raise Refused(json.dumps(message.get("error")))
                    return dict(message["result"])
        raise Refused(f"mcp-remote has ended, or gave no answer in {ANSWER_S} s")


class Mcpdo(Client):
    """``mcpdo``, the command line of the MCP inspector; a daemon of its own keeps the connection."""

    steps_up = False  # it looks into the list first

    def __init__(
        self, packages: Path, url: str, folder: Path, environment: dict[str, str], browser: tuple[str, ...]
    ) -> None:
        program = packages / "@modelcontextprotocol" / "inspector" / "clients" / "mcpdo" / "build" / "mcp-bin.js"
        self._words, self._browser = (str(node_of(packages)), str(program)), browser
        # A daemon and a port of its own: a daemon that another run left takes the answers of this one's logins.
        (port,) = free_ports(1)
        self._daemon = folder / f"daemon-{port}"
        self._environment = {**environment, "HOME": str(folder), "MCP_INSPECTOR_SECRET_STORE": "file"}
        self._environment |= {"MCP_INSPECTOR_DAEMON_DIR": str(self._daemon)}
        self._environment |= {"MCP_OAUTH_CALLBACK_URL": f"http://127.0.0.1:{port}/oauth/callback"}
        try:
            self._sign_in(self._run("connect", "--transport", "http", "--server-url", url, "--connection", "shop"))
        except BaseException:
            self.close()
            raise

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self._again("@shop", "tools/list")["tools"]]

    def call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        found = self._again("@shop", "tools/call", tool, *(f"{name}:={json.dumps(v)}" for name, v in arguments.items()))
        found = found.get("result", found)
        return bool(found.get("isError")), " ".join(part["text"] for part in found["content"])

    def close(self) -> None:
        """Kill the daemon: after its own ``daemon stop`` it waits for what is open."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int((self._daemon / "mcpdod.lock").read_text()), signal.SIGKILL)

    def _again(self, *words: str) -> dict[str, Any]:
        found = self._run(*words)
        if "authUrl" in json.dumps(found):
            self._sign_in(found)
            found = self._run(*words)
        if "content" not in json.dumps(found) and "tools" not in found:
            raise Refused(json.dumps(found))
        return found

    def _sign_in(self, found: dict[str, Any]) -> None:
        url = found.get("authUrl") or found.get("error", {}).get("authUrl")
        if url is None:
            return
        subprocess.run([*self._browser, url], check=False)
        until = time.monotonic() + _WAIT_S
        while "authUrl" in json.dumps(self._run("connections/show", "@shop")):
            if time.monotonic() > until:
                raise Refused("mcpdo did not complete the login")
            time.sleep(0.2)

    def _run(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [*self._words, *words, "--format", "json"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
            check=False,
        )
        for text in (done.stdout, done.stderr):
            try:
                return dict(json.loads(text))
            except ValueError:
                continue
        sys.stderr.write(f"mcpdo {words}: {done.stdout}{done.stderr}\n")
        return {"text": done.stdout + done.stderr}
