# SPDX-License-Identifier: Apache-2.0
"""The headers of a message of MCP over HTTP: those that a client sends, and that they say what the body says.

Until 2025-11-25 they name the session and the revision that ``initialize`` agreed on.  From 2026-07-28 on each request
names its revision, its method, its tool, and the arguments that the tool's schema marks with ``x-mcp-header``.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from arx_caps.mcp.errors import HEADER_MISMATCH, WireError
from arx_caps.mcp.message import RpcMessage
from arx_caps.mcp.revision import STATELESS, VERSION_KEY
from arx_caps.mcp.wire import EVENTS_TYPE, JSON_TYPE

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"

_ACCEPT: Final = {"accept": f"{JSON_TYPE}, {EVENTS_TYPE}", "content-type": JSON_TYPE}
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    ("tasks/get", "tasks/update", "tasks/cancel"), "taskId"
)
_PLAIN: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=")
_JSON_TYPE: Final = re.compile(rb'application/json[ \t]*(?:;[ \t]*charset=("?)utf-?8\1[ \t]*)?', re.IGNORECASE)
_PARAMETER: Final = b"mcp-param-"
_ROUTING: Final = (b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"last-event-id")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a field name of RFC 9110 5.6.2

HeaderValues = Mapping[bytes, bytes]


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
        headers = _ACCEPT | {VERSION_HEADER: own, "mcp-method": encoded(message.method)}
        if isinstance(name := message.params.get(_NAMED.get(message.method, "")), str):
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
    """Return a text as a header has it: in base64 where it would not arrive as it is.

    Args:
        text: The text.
    """
    if _PLAIN.fullmatch(text) and not _SENTINEL.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


def check_headers(headers: HeaderValues, message: RpcMessage) -> None:
    """Require that no header says something else than the body, and those that MCP 2026-07-28 demands.

    A server, or a proxy before it, may route by these headers; the decision is on the body.

    Args:
        headers: As ``collect_headers`` returns them.
        message: The message of the body.

    Raises:
        WireError: One does, is there twice, or is missing.
    """
    # Some servers decode the body with it: one message in UTF-8 is another one in UTF-7.
    if not _JSON_TYPE.fullmatch(headers.get(b"content-type", b"application/json")):
        raise WireError(HEADER_MISMATCH, "header content-type: expected application/json in UTF-8")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WireError(HEADER_MISMATCH, "header content-encoding: expected none")
    for name in _ROUTING:
        if b"\n" in headers.get(name, b""):
            raise WireError(HEADER_MISMATCH, f"header {name.decode()}: expected one, got several")
    stated = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    demanded = message.is_request and stated >= STATELESS
    name = message.params.get(_NAMED.get(message.method, ""), "")
    for header, text in ((b"mcp-method", message.method), (b"mcp-name", name)):
        found = headers.get(header)
        if _decoded(found) != text if found is not None else demanded and text:
            raise WireError(
                HEADER_MISMATCH, f"header {header.decode()}: expected the method, the name or the URI in the body"
            )
    revision = message.meta.get(VERSION_KEY)
    if revision is not None and stated and stated != revision:
        raise WireError(HEADER_MISMATCH, "header mcp-protocol-version: expected the version in the body")
    if any(header.startswith(_PARAMETER) for header in headers):
        _check_parameters(headers, message.params.get("arguments"))


def _check_parameters(headers: HeaderValues, arguments: Any) -> None:
    """Require that a header with an argument has that of its name, or, if no argument has its name, one of the body.

    Raises:
        WireError: One has another value.
    """
    named = arguments if isinstance(arguments, dict) else {}
    by_name = {_header_name(name): value for name, value in named.items()}
    for header, value in headers.items():
        if header.startswith(_PARAMETER):
            name = header.removeprefix(_PARAMETER).decode("latin-1")
            if _decoded(value) not in _texts(by_name.get(_header_name(name), arguments)) or b"\n" in value:
                raise WireError(HEADER_MISMATCH, f"header mcp-param-{name}: expected the argument in the body")


def _header_name(name: str) -> str:
    return name.casefold().replace("_", "-")


def _decoded(value: bytes) -> str | None:
    """Return the text of a header, which may be in base64; None if it is malformed."""
    text = value.decode("latin-1")
    form = _SENTINEL.fullmatch(text)
    try:
        return base64.b64decode(form[1], validate=True).decode("utf-8") if form else text
    except ValueError:
        return None


def _texts(value: Any) -> list[str]:
    """Return the scalars of a JSON value, as headers write them."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value if isinstance(value, str) else json.dumps(value, default=str)]


def _marks(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path and the header of each marked property; only properties of objects may have one."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        header = inner.get("x-mcp-header") if isinstance(inner, Mapping) else None
        if isinstance(header, str) and _TOKEN.fullmatch(header):
            yield (*path, name), header
        if len(path) < 16:
            yield from _marks(inner, (*path, name))
