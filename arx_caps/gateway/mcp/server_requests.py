# SPDX-License-Identifier: Apache-2.0
"""What an MCP server may ask its client: sampling, elicitation and roots, where the upstream's table allows it.

A server's text would otherwise reach a model, a person or the list of a client's folders, past every decision.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.mcp.errors import URL_ELICITATION

# By what a table allows: the method of the request, and of a notification that belongs to it.
KINDS: Final = {
    "sampling": ("sampling/createMessage", ""),
    "elicitation": ("elicitation/create", "notifications/elicitation/complete"),
    "roots": ("roots/list", ""),
}
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"  # what a client says in each message of 2026-07-28
_ALWAYS: Final = "ping"
_ENVELOPE: Final = frozenset(("error", "id", "method", "params", "result"))
_INPUT: Final = frozenset(("inputrequests", "resulttype"))
# What a message that asks something has in it, in lower case, in each spelling that a client could take for it: some
# ignore case, by which the long s of old print is an s.  No server that means well writes an ASCII letter as an escape.
_MARKS: Final = (b'"method"', b'"error"', b'"inputreque', b"\\u017f")
_ESCAPE: Final = b"\\u00"
_LETTER: Final = re.compile(rb"\\u00[4-7]")
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class WithheldMessageError(Exception):
    """A message of a server that its client does not get.

    Attributes:
        id: The id of the request, which waits for an answer; None of a notification.
        method: Its method.
    """

    def __init__(self, identity: Any, method: str) -> None:
        super().__init__(method)
        self.id, self.method = identity, method


class ServerRequests:
    """What the servers of one upstream may ask.

    Args:
        name: The upstream's name, for errors.
        allowed: Keys of ``KINDS``.
        watches: Whether everything passes now, as callers of a gateway that watches lose nothing; None for never.
    """

    def __init__(self, name: str, allowed: Iterable[str], watches: Callable[[], bool] | None = None) -> None:
        self._name, kept, self._watches = name, frozenset(allowed), watches or bool  # bool() is False
        self._refused = KINDS.keys() - kept
        self._methods = frozenset((_ALWAYS, *[KINDS[kind][0] for kind in kept]))
        self._dropped = frozenset(KINDS[kind][1] for kind in self._refused)

    def may_ask(self, data: bytes) -> bool:
        """Return whether a message has to be judged.

        Args:
            data: Its JSON.
        """
        # By plain searches: an expression over all of this takes twenty times as long, for each answer of each call.
        if self._watches():
            return False
        lowered = data.lower()
        if any([mark in lowered for mark in _MARKS]):  # noqa: C419 - a generator costs more
            return True
        return _ESCAPE in data and _LETTER.search(data) is not None

    def judge(self, message: dict[str, Any]) -> None:
        """Judge a message of the server, whose names are there once.

        Args:
            message: The message.

        Raises:
            WithheldMessageError: It is a request or a notification that does not reach the client.
            UpstreamError: It answers a request by asking something, or some clients could read it so.
        """
        if self._watches():
            return
        if any(name.casefold() in _ENVELOPE and name not in _ENVELOPE for name in message):
            raise self._error("with a message whose members have another case")
        if "method" in message:
            method = message["method"]
            if not isinstance(method, str):
                raise self._error("with a method that is no text")
            if method in self._dropped if "id" not in message else method not in self._methods:
                raise WithheldMessageError(message.get("id"), method)
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict) and error.get("code") == URL_ELICITATION and "elicitation" in self._refused:
            raise self._error("by asking for an elicitation", "elicitation")
        if isinstance(result, dict):
            # A task of MCP 2026-07-28 asks in its own state.
            for part in (result, result.get("task"), result.get("result")):
                self._judge_result(part)

    def without_capabilities(self, body: bytes, method: str, params: dict[str, Any], meta: dict[str, Any]) -> bytes:
        """Return a message of a client that announces nothing that the server may not ask.

        Args:
            body: Its JSON.
            method: Its method.
            params: Its parameters.
            meta: The ``_meta`` of them.
        """
        announced = params.get("capabilities") if method == "initialize" else meta.get(CAPABILITIES)
        if self._watches() or not isinstance(announced, dict) or not self._refused & announced.keys():
            return body
        path = ("params", "capabilities") if method == "initialize" else ("params", "_meta", CAPABILITIES)
        return self._without(body, path)

    def _without(self, raw: bytes, path: tuple[str, ...]) -> bytes:
        # All else stays as the client wrote it: a number that was read and written again could be another one.
        members = _OBJECT.decode(raw)
        if not path:
            return msgspec.json.encode({name: value for name, value in members.items() if name not in self._refused})
        return msgspec.json.encode({**members, path[0]: msgspec.Raw(self._without(bytes(members[path[0]]), path[1:]))})

    def _judge_result(self, part: Any) -> None:
        if not isinstance(part, dict):
            return
        if any(name.casefold() in _INPUT and name not in ("inputRequests", "resultType") for name in part):
            raise self._error("with a result whose members have another case")
        asked = part.get("inputRequests", {})
        for each in asked.values() if isinstance(asked, dict) else [asked]:
            method = each.get("method") if isinstance(each, dict) else None
            if method not in self._methods:
                kind = next((kind for kind, (known, _) in KINDS.items() if known == method), "")
                raise self._error(f"by asking for {kind or 'something'}", kind)

    def _error(self, what: str, kind: str = "") -> UpstreamError:
        hint = f": its table may allow that (server_requests = [{kind!r}])".replace("'", '"') if kind else ""
        return UpstreamError(f"upstream {self._name} answered {what}{hint}", sent=True)
