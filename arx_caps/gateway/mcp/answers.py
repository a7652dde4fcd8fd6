# SPDX-License-Identifier: Apache-2.0
"""What a client gets of an MCP server's messages: lists of what its token could allow, ids that are its own.

All else passes byte for byte, but for what only ARx says in ``_meta``.  A message that a client could read otherwise
than the gateway is not passed on.
"""

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import msgspec

from arx_caps.gateway.base.bound_ids import BoundIds
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.mcp.accepted_tools import AcceptedTools
from arx_caps.gateway.mcp.server_requests import ServerRequests, WithheldMessageError
from arx_caps.gateway.mcp.tasks import TaskIds
from arx_caps.http.event_stream import fields_of, is_whole, split_events, with_data, with_id
from arx_caps.mcp.message import aside, object_in, object_of, written
from arx_verifier.enforcement.mcp.messages import McpMessage, Messages, mcp_effect
from arx_verifier.errors import RequestError
from arx_verifier.journal.record import ChainFacts
from arx_verifier.verification.verifier import Screened

_TASK: Final = b'"taskId'  # an id that is spelled with escapes stays the upstream's, which no client can use
_OWN: Final = "dev.arx/"  # what the names in `_meta` begin with that only ARx writes
_SPELT_OWN: Final = b"dev.arx"
_LISTS: Final = {
    f"{kind}/list": McpMessage(f"{kind}/list", {}, {})
    for kind in ("tools", "prompts", "resources", "resources/templates")
}
_MEMBERS: Final = {str(message.lists): message for message in _LISTS.values()}
_SPELT: Final = {member.casefold(): member for member in _MEMBERS}


class AnsweredMessage(NamedTuple):
    """The message of a client that an upstream answers.

    Attributes:
        owner: The client.
        method: The method of its message; empty for a reply and for the stream of a session.
        id: The id of its request; None if it is none.
        screened: Its live token if the message calls nothing, so that the answer may have a list; else None.
        announce: Changes the result of such a method, and returns whether it did; None to change nothing.
        meta: What ``_meta`` of the result has beside what the upstream writes, such as what a budget has left.
        answer: Answers a request of the upstream that its client does not get; None if nothing waits for it.
    """

    owner: ChainFacts
    method: str
    id: object
    screened: Screened | None
    announce: Callable[[str, dict[str, Any]], bool] | None = None
    meta: Mapping[str, Any] = MappingProxyType({})
    answer: Callable[[WithheldMessageError], None] | None = None


class _Part(msgspec.Struct):
    """The metadata of parameters or of a result; all else is skipped."""

    meta: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="_meta")


class _Envelope(msgspec.Struct):
    """The members of a message that say what it answers, and what ARx may have said in it."""

    id: Any = msgspec.UNSET
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: _Part | msgspec.UnsetType = msgspec.UNSET
    result: _Part | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def metadata(self) -> list[bytes]:
        """The metadata that it has, as they were written."""
        parts = [part.meta for part in (self.params, self.result) if isinstance(part, _Part)]
        return [bytes(meta) for meta in parts if isinstance(meta, msgspec.Raw)]


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_MEMBERS_OF: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class McpAnswers:
    """The messages of one upstream.

    Args:
        name: The upstream's name, for errors.
        messages: Filters lists.
        tasks: Binds ids of tasks.
        events: Binds ids of events.
        longest: The longest event of a stream, bytes.
        lists_tasks: Whether clients may list tasks.
        requests: What the upstream may ask of clients; None for a proxy that shows results alone.
        tools: The tools that are accepted; None to hold none.
    """

    def __init__(
        self,
        name: str,
        messages: Messages,
        tasks: TaskIds,
        events: BoundIds,
        longest: int,
        lists_tasks: bool,
        requests: ServerRequests | None = None,
        tools: AcceptedTools | None = None,
    ) -> None:
        self._requests, self._accepted = requests, tools
        self._name, self._messages, self._tasks, self._events = name, messages, tasks, events
        self._longest, self._lists_tasks = longest, lists_tasks

    async def whole(self, status: int, data: bytes, asked: AnsweredMessage) -> bytes:
        """Return the body of an answer that is no stream, as the client gets it.

        Args:
            status: The answer's status.
            data: The body.
            asked: What it answers.

        Raises:
            UpstreamError: It is no message, or none that answers this.
        """
        if not data:
            return data
        return await aside(len(data), self._whole, status, data, asked)

    def _whole(self, status: int, data: bytes, asked: AnsweredMessage) -> bytes:
        if status >= 400 and object_of(data) is None:
            return b""  # the page of a server or a proxy: its status says what a client has to know
        try:
            return self.shown(data, asked)
        except WithheldMessageError:
            raise self._error("with a request of its own") from None

    async def stream(self, parts: AsyncIterator[bytes], asked: AnsweredMessage) -> AsyncIterator[bytes]:
        """Yield the events of a stream as the client gets them.

        Args:
            parts: The stream.
            asked: What it answers.

        Raises:
            UpstreamError: An event is too long, has no message, or one that does not answer this.
        """
        try:
            async for event in split_events(parts, self._longest):
                if not is_whole(event):
                    return  # it broke off, and clients ignore it
                data, identity, _ = fields_of(event)
                try:
                    shown = await aside(len(data), self.shown, data, asked) if data else data
                except WithheldMessageError as withheld:
                    if withheld.id is not None and asked.answer is not None:
                        asked.answer(withheld)  # else its tool would wait for the client without end
                    continue
                changed = event if shown is data else with_data(event, shown)
                # An upstream may have one store of events for all sessions: an id must resume no other client's stream.
                yield with_id(changed, self._events.bind(identity, asked.owner)) if identity else changed
        except RequestError as error:
            raise UpstreamError(f"upstream {self._name}: {error}", sent=True) from None

    def shown(self, data: bytes, asked: AnsweredMessage) -> bytes:
        """Return a message as the client gets it.

        Args:
            data: The message.
            asked: What it answers.

        Raises:
            UpstreamError: It is no message, or none that answers this.
            WithheldMessageError: The client does not get it.
        """
        shown = self._shown(data, asked)
        return with_meta(shown, asked.meta) if asked.meta else shown

    def _shown(self, data: bytes, asked: AnsweredMessage) -> bytes:
        judges = self._requests if self._requests is not None and self._requests.may_ask(data) else None
        if asked.screened is None and _TASK not in data and (envelope := _envelope_of(data)) is not None:
            self._check(msgspec.structs.asdict(envelope), asked)  # each call comes this way
            if judges is not None:
                found = _object_of(data)
                if found is None:
                    raise self._error("with no message")
                judges.judge(found)
            # Not only in the metadata that were read: of two of one name, a client may take the other ones.
            has_own = _SPELT_OWN in data or any(map(_may_have_own, envelope.metadata))
            return _message_without_own(data) if has_own else data
        found = _object_of(data)
        if found is None:
            raise self._error("with no message")
        self._check(found, asked)
        if self._requests is not None:
            self._requests.judge(found)
        changed = self._tasks.bind(found, asked.owner) | _remove_own(found)
        if asked.screened is not None and "result" in found:
            changed |= self._filter(found["result"], asked, asked.screened)
            if asked.announce is not None:
                changed |= asked.announce(asked.method, found["result"])
        return _encoded(found) if changed else data

    def _check(self, found: dict[str, Any], asked: AnsweredMessage) -> None:
        """Require that a result answers what was asked: a client finds the request of a result by its id.

        Raises:
            UpstreamError: It does not.
        """
        if found.get("result", msgspec.UNSET) is msgspec.UNSET:
            return
        if any(found.get(name, msgspec.UNSET) is not msgspec.UNSET for name in ("method", "error")):
            raise self._error("with a result that is something else too")
        identity = found.get("id", msgspec.UNSET)
        if asked.id is not None and (type(identity) is not type(asked.id) or identity != asked.id):
            raise self._error("another request than the one that was sent")

    def _filter(self, result: Any, asked: AnsweredMessage, screened: Screened) -> bool:
        """Change the result of a message that called nothing to what the client may see; return whether it differs.

        Raises:
            UpstreamError: It is no object, or no list where one was asked for.
        """
        wanted = _LISTS.get(asked.method)
        if not isinstance(result, dict) or (wanted is not None and not isinstance(result.get(wanted.lists), list)):
            raise self._error(f"{asked.method or 'a message'} with another result than MCP has")
        if any(_SPELT.get(name.casefold(), name) != name for name in result):
            raise self._error("with a list whose name has another case")  # some clients ignore it
        if self._accepted is not None and isinstance(result.get("tools"), list):
            self._accepted.see(result["tools"])  # before the list is filtered: a tool that is held is not shown
        changed = False
        for member, message in _MEMBERS.items():  # also unasked, as in a stream that is resumed
            if member in result:
                result.update(self._messages.filtered(message, screened, result))
                changed = True
        tasks = object_in(object_in(result, "capabilities"), "tasks")
        if not self._lists_tasks and "list" in tasks:
            del tasks["list"]  # a client would ask for what is refused
            changed = True
        return changed

    def _error(self, what: str) -> UpstreamError:
        return UpstreamError(f"upstream {self._name} answered {what}", sent=True)


def with_meta(data: bytes, more: Mapping[str, Any]) -> bytes:
    """Return a message whose result has more in its ``_meta``; another message as it is.

    Args:
        data: The message.
        more: The members of ``_meta``, which replace those of these names.
    """
    # All else stays as the upstream wrote it: a number that was read and written again could be another one.
    try:
        members = _MEMBERS_OF.decode(data)
    except (ValueError, RecursionError):
        return data  # it takes another parser
    if "result" not in members:
        return data
    result = result_with_meta(members["result"], more)
    return data if result is members["result"] else msgspec.json.encode({**members, "result": msgspec.Raw(result)})


def result_with_meta(data: bytes, more: Mapping[str, Any]) -> bytes:
    """Return a result with more in its ``_meta``; what is no result of MCP, or takes another parser, as it is.

    Args:
        data: The result's JSON.
        more: As for ``with_meta``.
    """
    try:
        result = _MEMBERS_OF.decode(data)
        meta = _MEMBERS_OF.decode(result.get("_meta", b"{}"))
    except (ValueError, RecursionError):
        return data
    meta |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in more.items()}
    return msgspec.json.encode({**result, "_meta": msgspec.Raw(msgspec.json.encode(meta))})


def _envelope_of(data: bytes) -> _Envelope | None:
    """Return the envelope of a message; None if it takes another parser, or is none."""
    try:
        if not data.isascii():
            data.decode("utf-8")  # the parser does not look into a text that it skips
        return _ENVELOPE.decode(data)
    except (ValueError, RecursionError):
        return None  # Python's parser reads `\ud800`, which a server may write


def _object_of(data: bytes) -> dict[str, Any] | None:
    """Return a message as an object; None if it is none, or if two parsers could read two in it."""
    try:
        text = data.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _encoded(message: dict[str, Any]) -> bytes:
    """Return a message as JSON."""
    try:
        return msgspec.json.encode(message)  # ten times as fast, and it keeps all threads waiting
    except (ValueError, OverflowError, RecursionError):
        return written(message)  # it has a long integer, or half a surrogate pair


def _number(text: str) -> float:
    """Return a number that is written again as JSON: `NaN` is none, and 1e999 would be `Infinity`.

    Raises:
        ValueError: It is another one.
    """
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"expected a number of JSON, got {text:.20}")
    return found


def without_own(data: bytes) -> bytes:
    """Return a result or parameters without what only ARx says in ``_meta``; all else as the upstream wrote it.

    Args:
        data: The JSON of the result, or of the parameters.
    """
    if not _may_have_own(data):
        return data
    try:
        part = _MEMBERS_OF.decode(data)
        meta = _MEMBERS_OF.decode(part.get("_meta", b"{}"))
    except (ValueError, RecursionError):
        return data  # it is no object, or has no metadata
    kept = {name: value for name, value in meta.items() if not name.startswith(_OWN)}
    if len(kept) == len(meta) and _SPELT_OWN not in data:
        return data
    if "_meta" in part:
        part["_meta"] = msgspec.Raw(msgspec.json.encode(kept))
    return msgspec.json.encode(part)  # a name that was there twice is there once: no client takes the other one


def _may_have_own(data: bytes) -> bool:
    return _SPELT_OWN in data or b"\\u" in data  # a name may have escapes, also before its slash


def _message_without_own(data: bytes) -> bytes:
    """Return a message without what only ARx says in ``_meta``."""
    members = _MEMBERS_OF.decode(data)
    came = {name: bytes(members[name]) for name in members.keys() & {"params", "result"}}
    kept = {name: without_own(part) for name, part in came.items()}
    if _SPELT_OWN not in data and all(part is came[name] for name, part in kept.items()):
        return data
    return msgspec.json.encode({**members, **{name: msgspec.Raw(part) for name, part in kept.items()}})


def _remove_own(message: dict[str, Any]) -> bool:
    """Remove what only ARx says in ``_meta`` of a message; return whether there was any."""
    found = False
    for part in (message.get("params"), result := message.get("result"), object_in(result, "result")):
        meta = object_in(part, "_meta")
        for name in [each for each in meta if each.startswith(_OWN)]:
            del meta[name]
            found = True
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


class _Result(msgspec.Struct):
    """What a result of MCP says of its effect."""

    is_error: bool = msgspec.field(default=False, name="isError")
    result_type: Any = msgspec.field(default=None, name="resultType")
    task: Any = None


class _Response(msgspec.Struct):
    """What a JSON-RPC message says of an effect."""

    result: _Result | None = None
    error: Any = None


_RESPONSE: Final = msgspec.json.Decoder(_Response)


def effect_in(answer: bytes) -> Literal["done", "failed", "unknown"] | None:
    """Return what a response shows of the effect of its call; None for a message that is no response."""
    try:
        found = _RESPONSE.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "unknown"
    if found.result is None:
        return None if found.error is None else "failed"
    return mcp_effect(found.result)
