# SPDX-License-Identifier: Apache-2.0
"""One message of MCP as bytes: how a client's is read, so that no server reads another one in it.  JSON-RPC 2.0."""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, NoReturn, ParamSpec, TypeVar

from arx_caps.mcp.errors import INVALID_REQUEST, WireError
from arx_caps.mcp.revision import VERSION_KEY
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object

_JUDGED: Final = ("_meta", "arguments", "inputResponses", "name", "requestState", "uri")  # what a decision depends on
_SPELT: Final = {name.casefold(): name for name in _JUDGED}
_MEMBERS: Final = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
# The letters whose case Unicode 16 and 17 added.  Python 3.14 folds the former, 3.11 to 3.13 neither: servers may.
_FOLDED: Final = {0x1C89: 0x1C8A, 0xA7CB: 0x0264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x019B}
_FOLDED.update({letter: letter + 0x20 for letter in range(0x10D50, 0x10D66)})
_FOLDED.update({0xA7CE: 0xA7CF, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5})
_FOLDED.update({letter: letter + 0x1B for letter in range(0x16EA0, 0x16EB9)})

_QUICK: Final = 65_536  # bytes of a message that is read in a millisecond
# One thread: each of several long messages would take all that the event loop has for the others, and ten times its
# size in memory.
_READER: Final = ThreadPoolExecutor(1, "arx-gateway-reader")

P = ParamSpec("P")
T = TypeVar("T")


class RpcMessage(NamedTuple):
    """One message of a client.

    Attributes:
        method: Its method; empty for a reply.
        params: Its parameters.
        id: The id of a request or a reply; None for a notification.
        raw: Its bytes as the client sent them.
    """

    method: str
    params: dict[str, Any]
    id: str | int | None
    raw: bytes = b""

    @property
    def is_request(self) -> bool:
        """Whether it gets an answer."""
        return bool(self.method) and self.id is not None

    @property
    def meta(self) -> dict[str, Any]:
        """The ``_meta`` of its parameters."""
        return object_in(self.params, "_meta")

    @property
    def version(self) -> str | None:
        """The revision that it names itself, as each message does from MCP 2026-07-28 on; else None."""
        version = self.meta.get(VERSION_KEY)
        return version if isinstance(version, str) else None

    @property
    def subject(self) -> str:
        """The tool that it calls, else its method: what a refusal names."""
        name = self.params.get("name") if self.method == "tools/call" else None
        return name if isinstance(name, str) else self.method or "the answer"


def read_message(body: bytes) -> RpcMessage:
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
    if found.get("jsonrpc") != "2.0" or found.keys() - _MEMBERS:
        raise WireError(INVALID_REQUEST, "expected a message of JSON-RPC 2.0 with no member of its own")
    # A fraction or a boolean equals an integer in Python: two requests would have one id.
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
        return RpcMessage(method, params or {}, identity, body)
    if len(answers) != 1 or "id" not in found or "params" in found:
        raise WireError(INVALID_REQUEST, "expected a request, a notification or a reply")
    return RpcMessage("", {}, identity, body)


def check_names(value: Any) -> None:
    """Require that no object, at any depth, has two names that differ in case alone.

    Args:
        value: Plain data of at most 32 levels.

    Raises:
        RequestError: One has: Go and ASP.NET ignore the case, and may read the name that no rule was applied to.
    """
    if type(value) is dict:
        if len({name.casefold().translate(_FOLDED) for name in value}) != len(value):
            raise RequestError("the JSON has two names in one object that differ in case alone")
        value = value.values()
    for each in value:
        if type(each) is dict or type(each) is list:
            check_names(each)


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


def read_object(raw: bytes) -> dict[str, Any]:
    """Return a message of a server as an object.

    Args:
        raw: The message's JSON.

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


def object_in(value: Any, name: str) -> dict[str, Any]:
    """Return the object that a JSON object has as a member; a new, empty one if it has none.

    Args:
        value: The object, or any other value, which has no members.
        name: The member's name.
    """
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


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


def is_json(raw: bytes) -> bool:
    """Return whether a text is JSON."""
    try:
        json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    return True


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
    """Return a value as one line of JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def result_answer(identity: object, result: Mapping[str, Any]) -> bytes:
    """Return an answer with a result, as one line of JSON.

    Args:
        identity: The id of the request.
        result: The result.
    """
    return written({"jsonrpc": "2.0", "id": identity, "result": result})


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
