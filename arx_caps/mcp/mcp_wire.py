# SPDX-License-Identifier: Apache-2.0
"""MCP over streamable HTTP, as bytes: one message of a body, headers that agree with it."""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from arx_caps.mcp.member_names import check_names
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object

INVALID_REQUEST: Final = -32600  # JSON-RPC 2.0
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020  # MCP 2026-07-28
UNKNOWN_SESSION: Final = -32001
STATELESS: Final = "2026-07-28"  # the first revision without sessions
REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", STATELESS)
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
# MCP 2026-07-28, streamable HTTP.  Before, an answer of JSON-RPC has status 200, also if it is an error.
_STATUS: Final = {METHOD_NOT_FOUND: 404} | dict.fromkeys(
    (INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION), 400
)
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    ("tasks/get", "tasks/update", "tasks/cancel"), "taskId"
)
_PLAIN: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=")
_JSON_TYPE: Final = re.compile(rb'application/json[ \t]*(?:;[ \t]*charset=("?)utf-?8\1[ \t]*)?', re.IGNORECASE)
_PARAMETER: Final = b"mcp-param-"
_JUDGED: Final = ("_meta", "arguments", "inputResponses", "name", "requestState", "uri")  # what a decision depends on
_SPELT: Final = {name.casefold(): name for name in _JUDGED}
_ROUTING: Final = (b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"last-event-id")

_QUICK: Final = 65_536  # bytes of a message that is read in a millisecond
# One thread: each of several long messages would take all that the event loop has for the others, and ten times its
# size in memory.
_READER: Final = ThreadPoolExecutor(1, "arx-gateway-reader")

P = ParamSpec("P")
T = TypeVar("T")
HeaderValues = Mapping[bytes, bytes]


class WireError(Exception):
    """A message that is not forwarded, as it has no single meaning.

    Attributes:
        code: The JSON-RPC code.
        data: What a program can read of it.
    """

    def __init__(self, code: int, text: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code, self.data = code, data


class Incoming(NamedTuple):
    """One message of a client.

    Attributes:
        method: Its method; empty for a reply.
        params: Its parameters.
        id: The id of a request or a reply; None for a notification.
    """

    method: str
    params: dict[str, Any]
    id: str | int | None

    @property
    def is_request(self) -> bool:
        """Whether it has an answer."""
        return bool(self.method) and self.id is not None

    @property
    def meta(self) -> dict[str, Any]:
        """The ``_meta`` of its parameters."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}


def status_of(code: object) -> int:
    """Return the HTTP status of an answer of MCP 2026-07-28 that is an error.

    Args:
        code: Its JSON-RPC code.
    """
    return _STATUS.get(code, 200) if isinstance(code, int) else 200


def read_incoming(body: bytes) -> Incoming:
    """Return the one message of a body.

    Args:
        body: The body.

    Raises:
        WireError: It is no JSON-RPC message, a batch, or JSON that two parsers could read in two ways.
    """
    try:
        found = read_json_object(body)
        check_names(found)
    except RequestError as error:
        batch = body.lstrip()[:1] == b"["
        text = "expected one message, got a batch, which MCP does not have" if batch else f"expected a message: {error}"
        raise WireError(INVALID_REQUEST, text) from None
    method, identity, params = found.get("method"), found.get("id"), found.get("params")
    if found.get("jsonrpc") != "2.0" or found.keys() - {"jsonrpc", "id", "method", "params", "result", "error"}:
        raise WireError(INVALID_REQUEST, "expected a message of JSON-RPC 2.0 with no member of its own")
    if "id" in found and type(identity) not in (str, int):
        raise WireError(INVALID_REQUEST, "id: expected a text or an integer")
    answers = found.keys() & {"result", "error"}
    if "method" in found:
        if not isinstance(method, str) or not method or answers or not isinstance(params, dict | None):
            raise WireError(INVALID_REQUEST, "expected a request with a method, and an object of params")
        # A server in Go takes `Arguments` for the arguments, where a decision finds none.
        if wrong := [name for name in params or () if _SPELT.get(name.casefold(), name) != name]:
            raise WireError(
                INVALID_REQUEST, f"expected {_SPELT[wrong[0].casefold()]!r} in the case of the specification"
            )
        return Incoming(method, params or {}, identity)
    if len(answers) != 1 or "id" not in found or "params" in found:
        raise WireError(INVALID_REQUEST, "expected a request, a notification or a reply")
    return Incoming("", {}, identity)


def check_revision(headers: HeaderValues) -> None:
    """Require a revision that there is, where the gateway is the HTTP server.  MCP, protocol version header.

    From 2026-07-28 on a request names its revision in the body too, and the server behind judges it.

    Args:
        headers: As ``collect_headers`` returns them.

    Raises:
        WireError: It is another one.
    """
    stated = headers.get(b"mcp-protocol-version")
    if stated is not None and (asked := stated.decode("latin-1")) not in REVISIONS and asked < STATELESS:
        text = f"header mcp-protocol-version: expected one of {', '.join(REVISIONS)}, got {asked!r:.60}"
        raise WireError(UNSUPPORTED_VERSION, text, {"supported": [*REVISIONS], "requested": asked[:60]})


def check_headers(headers: HeaderValues, message: Incoming) -> None:
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
    revision = message.meta.get("io.modelcontextprotocol/protocolVersion")
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


def encoded(text: str) -> str:
    """Return a text as a header has it: in base64 where it would not arrive as it is.

    Args:
        text: The text.
    """
    if _PLAIN.fullmatch(text) and not _SENTINEL.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


def _texts(value: Any) -> list[str]:
    """Return the scalars of a JSON value, as headers write them."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value if isinstance(value, str) else json.dumps(value, default=str)]


def without_token(body: bytes, token: str) -> bytes:
    """Return the bytes of a message without the token in its ``_meta``, and no other byte changed.

    Args:
        body: The body.
        token: The token.

    Raises:
        WireError: The message has the token in no such spelling, or more than once.
    """
    written = b'"' + token.encode("utf-8", "replace") + b'"'
    if body.count(written) != 1:
        raise WireError(INVALID_REQUEST, "expected the token once in the message, without escapes")
    return body.replace(written, b'""')


def object_of(data: bytes) -> dict[str, Any] | None:
    """Return a message of a server as an object; None if it is none.

    Args:
        data: The message's JSON.
    """
    try:
        found = json.loads(data, object_pairs_hook=_made)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A function of Python: a thread that parses in C alone lets no other one run until its end.
    return dict(pairs)


def result_of(data: bytes) -> dict[str, Any] | None:
    """Return a response as an object if it has a result; None for another message.

    Args:
        data: The message's JSON.
    """
    found = object_of(data)
    return found if found is not None and isinstance(found.get("result"), dict) else None


async def aside(size: int, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return the result of work on a message; beside the event loop if the message is long.

    Args:
        size: The size of the message, bytes.
        work: What to do.
        args: Its arguments.
        options: Its named arguments.
    """
    if size <= _QUICK:
        return work(*args, **options)
    return await asyncio.get_running_loop().run_in_executor(_READER, lambda: work(*args, **options))


def written(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()
