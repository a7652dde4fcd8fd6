# SPDX-License-Identifier: Apache-2.0
"""What a stock client's configuration file says to start the bridge.  It names the bundle's file and has no secret."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")


class ClientConfig(NamedTuple):
    """How a client's configuration file lists its MCP servers.

    Attributes:
        member: The member of the file that has them.
        typed: Whether an entry names its transport.
        file: Where the file is.
        plain: Whether the name of a server has letters, digits, ``-`` and ``_`` alone.
        toml: Whether the file is TOML; else JSON.
    """

    member: str
    typed: bool
    file: str
    plain: bool = False
    toml: bool = False

    def entry(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """Return what the file says of one server.

        Args:
            name: The server's name in the client.
            command: What the client starts.
        """
        kind = {"type": "stdio"} if self.typed else {}
        name = _OTHER.sub("-", name) if self.plain else name
        return {self.member: {name: kind | {"command": command[0], "args": list(command[1:])}}}

    def text(self, entry: Mapping[str, Any]) -> str:
        """Return an entry as the file has it.

        Args:
            entry: What ``entry`` returned.
        """
        if not self.toml:
            return json.dumps(entry, indent=2)
        # A string of JSON is one of TOML, but for escapes of characters beyond the first plane: none is escaped.
        ((name, server),) = entry[self.member].items()
        rows = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in server.items()]
        return "\n".join([f"[{self.member}.{name}]", *rows])


CLIENT_CONFIGS: Final = {
    "claude": ClientConfig("mcpServers", False, "claude_desktop_config.json (Settings, Developer, Edit Config)"),
    "vscode": ClientConfig("servers", True, ".vscode/mcp.json, or the user's mcp.json"),
    "claude-code": ClientConfig("mcpServers", True, ".mcp.json of the project", plain=True),
    "codex": ClientConfig("mcp_servers", False, "~/.codex/config.toml", plain=True, toml=True),
    "cursor": ClientConfig("mcpServers", True, ".cursor/mcp.json, or ~/.cursor/mcp.json"),
}


def arx_command() -> list[str]:
    """Return the command that starts ``arx`` from any folder, with nothing of that folder in it."""
    # A client starts it in a project's folder, with the project's environment.  Without -I, Python imports what lies
    # there, such as a file `json.py` that the agent wrote, into the process that holds the task.
    return [sys.executable, "-I", "-m", "arx_caps.cli"]


def bridge_command(
    bundle: Path, url: str, only: Sequence[str] = (), audience: str | None = None, key: Path | None = None
) -> list[str]:
    """Return the command that starts the bridge from any folder.

    Args:
        bundle: The bundle's file.
        url: The server.
        only: Tools to keep.
        audience: The server's audience, or None.
        key: The file of the holder's key, or None.
    """
    options = [word for tool in only for word in ("--only", tool)]
    options += [] if audience is None else ["--audience", audience]
    options += [] if key is None else ["--holder-key", str(key.absolute())]
    return [*arx_command(), "connect", "--task", str(bundle.absolute()), *options, url]
