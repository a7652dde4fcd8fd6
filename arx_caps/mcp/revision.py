# SPDX-License-Identifier: Apache-2.0
"""The headers that a revision of MCP demands of a message over HTTP.

Until 2025-11-25 they name the session and the revision that ``initialize`` agreed on.  From 2026-07-28 on each request
names its revision, its method, its tool, and the arguments that the tool's schema marks with ``x-mcp-header``.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from arx_caps.mcp.rpc_message import RpcMessage
from arx_caps.mcp.wire import EVENTS_TYPE, JSON_TYPE

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"

_ACCEPT: Final = {"accept": f"{JSON_TYPE}, {EVENTS_TYPE}", "content-type": JSON_TYPE}
_NAMES: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    ("tasks/get", "tasks/update", "tasks/cancel"), "taskId"
)
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_ENCODED: Final = re.compile(r"=\?base64\?.*\?=")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a field name of RFC 9110 5.6.2


class RevisionHeaders:
    """The headers of a client's messages; it learns what a tool's schema demands from the lists of tools."""

    def __init__(self) -> None:
        self._marked: dict[str, dict[tuple[str, ...], str]] = {}

    def learn(self, tools: Any) -> None:
        """Note the arguments of listed tools that have a header.

        Args:
            tools: The member ``tools`` of a list's result.
        """
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                self._marked[tool["name"]] = dict(_marks(tool.get("inputSchema")))

    def of(self, message: RpcMessage, session: str | None = None, version: str | None = None) -> dict[str, str]:
        """Return the headers of a message.

        Args:
            message: The message.
            session: The id of the session, or None.
            version: The revision that ``initialize`` agreed on, or None.
        """
        own = message.version
        if own is None:
            return dict(_ACCEPT) | session_headers(session, version)
        headers = _ACCEPT | {VERSION_HEADER: own, "mcp-method": encoded(str(message.method))}
        if isinstance(name := message.params.get(_NAMES.get(str(message.method), "")), str):
            headers["mcp-name"] = encoded(name)
            if message.method == "tools/call":
                headers |= self._arguments(name, message.params.get("arguments"))
        return headers

    def _arguments(self, tool: str, arguments: Any) -> dict[str, str]:
        found = {}
        for path, name in self._marked.get(tool, {}).items():
            value = arguments
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, bool):
                value = "true" if value else "false"
            if isinstance(value, str | int | float):
                found[f"mcp-param-{name}"] = encoded(str(value))
        return found


def session_headers(session: str | None, version: str | None) -> dict[str, str]:
    """Return the headers of a session, until MCP 2025-11-25.

    Args:
        session: Its id, or None.
        version: Its revision, or None.
    """
    both = ((SESSION_HEADER, session), (VERSION_HEADER, version))
    return {name: value for name, value in both if value is not None}


def encoded(text: str) -> str:
    """Return a text as a header carries it: in base64 where the text would not arrive as it is."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode('ascii')}?="


def _marks(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path and the header of each marked property; only properties of objects may have one."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        header = inner.get("x-mcp-header") if isinstance(inner, Mapping) else None
        if isinstance(header, str) and _TOKEN.fullmatch(header):
            yield (*path, name), header
        if len(path) < 16:
            yield from _marks(inner, (*path, name))
