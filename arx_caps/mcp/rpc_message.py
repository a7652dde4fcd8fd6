# SPDX-License-Identifier: Apache-2.0
"""One JSON-RPC message of MCP: how a client's is read, and how the bridge itself answers one.  JSON-RPC 2.0."""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

from arx_verifier.errors import RequestError

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INTERNAL_ERROR: Final = -32603
NO_ANSWER: Final = -32000  # the server gave none
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"  # of `_meta`, from MCP 2026-07-28 on


class RpcMessage(NamedTuple):
    """One message of a client.

    Attributes:
        raw: Its bytes as the client sent them, which are what is signed and sent.
        method: Its method; None for the answer to a request of the server.
        id: Its id; None for a notification.
        params: Its parameters.
    """

    raw: bytes
    method: str | None
    id: int | str | None
    params: Mapping[str, Any]

    @property
    def is_request(self) -> bool:
        """Whether it gets an answer."""
        return self.method is not None and self.id is not None

    @property
    def version(self) -> str | None:
        """The revision that it names itself, as each message does from MCP 2026-07-28 on; else None."""
        meta = self.params.get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        return version if isinstance(version, str) else None

    @property
    def subject(self) -> str:
        """The tool that it calls, else its method: what a refusal names."""
        name = self.params.get("name") if self.method == "tools/call" else None
        return name if isinstance(name, str) else self.method or "the answer"


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the object that a text of JSON is.

    Args:
        raw: The text, UTF-8.

    Raises:
        RequestError: It is no JSON, or no object.
    """
    try:
        value = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RequestError("message: expected JSON, got another text") from None
    if not isinstance(value, dict):
        raise RequestError(f"message: expected one JSON object, got {type(value).__name__}")
    return value


def is_json(raw: bytes) -> bool:
    """Return whether a text is JSON."""
    try:
        json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    return True


def read_message(raw: bytes) -> RpcMessage:
    """Return the message that a client sent.

    Args:
        raw: Its text.

    Raises:
        RequestError: It is no JSON-RPC message.
    """
    value = read_object(raw)
    method, identity, params = value.get("method"), value.get("id"), value.get("params", {})
    # A fraction or a boolean equals an integer in Python: two requests would have one id.
    if "id" in value and (isinstance(identity, bool) or not isinstance(identity, int | str)):
        raise RequestError("id: expected a text or an integer")
    if "method" in value:
        if not isinstance(method, str) or not isinstance(params, dict | None):
            raise RequestError("message: expected a method, and an object of parameters")
        return RpcMessage(raw, method, identity, params or {})
    if identity is None or ("result" in value) == ("error" in value):
        raise RequestError("message: expected a request, a notification or an answer")
    return RpcMessage(raw, None, identity, {})


def error_answer(identity: int | str | None, code: int, text: str, data: Mapping[str, Any] | None = None) -> bytes:
    """Return an answer that is a protocol error.

    Args:
        identity: The id of the request, or None where it is not known.
        code: The JSON-RPC code.
        text: What failed.
        data: What a program can read of it.
    """
    error: dict[str, Any] = {"code": code, "message": text} | ({} if data is None else {"data": dict(data)})
    return encode({"jsonrpc": "2.0", "id": identity, "error": error})


def tool_error(message: RpcMessage, text: str) -> bytes:
    """Return an answer that is a tool's result, an error that the model reads.

    Args:
        message: The call.
        text: The sentences for the model.
    """
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if message.version is not None:
        result["resultType"] = "complete"
    return encode({"jsonrpc": "2.0", "id": message.id, "result": result})


def encode(value: Mapping[str, Any]) -> bytes:
    """Return a message as one line of JSON."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
