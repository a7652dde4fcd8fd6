# SPDX-License-Identifier: Apache-2.0
"""The errors of MCP: their codes, their status over HTTP, and the messages that state them.  JSON-RPC 2.0, 5.1."""

import json
from collections.abc import Mapping
from typing import Any, Final

PARSE_ERROR: Final = -32700  # JSON-RPC 2.0
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NO_ANSWER: Final = -32000  # the server gave none
UNKNOWN_SESSION: Final = -32001
URL_ELICITATION: Final = -32042  # asks for elicitations by URL, until MCP 2025-11-25
HEADER_MISMATCH: Final = -32020  # MCP 2026-07-28
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
# MCP 2026-07-28, streamable HTTP.  Before, an answer of JSON-RPC has status 200, also if it is an error.
_STATUS: Final = {METHOD_NOT_FOUND: 404} | dict.fromkeys(
    (INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION), 400
)


class WireError(Exception):
    """A message that is not forwarded, as it has no single meaning.

    Attributes:
        code: The JSON-RPC code.
        data: What a program can read of it.
    """

    def __init__(self, code: int, text: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code, self.data = code, data


def status_of(code: object) -> int:
    """Return the HTTP status of an answer of MCP 2026-07-28 that is an error.

    Args:
        code: Its JSON-RPC code.
    """
    return _STATUS.get(code, 200) if isinstance(code, int) else 200


def error_object(identity: object, code: int, text: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an answer that is an error of JSON-RPC.

    Args:
        identity: The id of the request; None where it is not known.
        code: The JSON-RPC code.
        text: What failed.
        data: What a program can read of it.
    """
    error = {"code": code, "message": text} | ({} if data is None else {"data": dict(data)})
    return {"jsonrpc": "2.0", "id": identity, "error": error}


def error_answer(identity: object, code: int, text: str, data: Mapping[str, Any] | None = None) -> bytes:
    """Return ``error_object`` as one line of JSON."""
    return json.dumps(error_object(identity, code, text, data), separators=(",", ":")).encode()


def refused_result(text: str, *, is_stateless: bool, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the result of a tool that was not called: an error that the model reads.

    Args:
        text: The sentences for the model.
        is_stateless: Whether the call is of MCP 2026-07-28 or later.
        meta: What its ``_meta`` has; None for a result without one.
    """
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    result |= {} if meta is None else {"_meta": meta}
    return result | ({"resultType": "complete"} if is_stateless else {})
