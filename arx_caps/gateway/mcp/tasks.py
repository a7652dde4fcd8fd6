# SPDX-License-Identifier: Apache-2.0
"""The ids of MCP tasks: a client reads, answers and cancels the tasks that its own calls began, and no other.

Revision 2025-11-25 has tasks in the protocol, 2026-07-28 as the extension ``io.modelcontextprotocol/tasks``.  To an
upstream all clients are the gateway, so that it does not separate their tasks.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from arx_caps.gateway.base.bound_ids import BoundIds
from arx_caps.mcp.errors import INVALID_PARAMS, WireError
from arx_caps.mcp.message import object_in, written
from arx_verifier.enforcement.mcp.messages import McpMessage
from arx_verifier.journal.record import ChainFacts
from arx_verifier.token.keyring import KeyRing

_RELATED: Final = "io.modelcontextprotocol/related-task"
_PARAMS: Final = frozenset(("_meta", "cursor", "inputResponses", "taskId"))
_STATUS: Final = ("notifications/tasks", "notifications/tasks/status")

Object = dict[str, Any]


class TaskIds:
    """Binds the ids in the messages of an upstream, and reads those in the messages of a client.

    Args:
        keys: The audience keys.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._ids = BoundIds(keys, "task")

    def bind(self, message: Object, owner: ChainFacts) -> bool:
        """Bind the ids in a message of the upstream to its client; return whether there is one.

        Args:
            message: The message, which is changed.
            owner: The client.
        """

        def bound(identity: Any) -> Any:
            return self._ids.bind(identity, owner) if isinstance(identity, str) else identity

        return _replace(_of_server(message), bound)

    def may_name(self, message: McpMessage) -> bool:
        """Return whether a message of a client may have ids; a reply may."""
        listens = message.method in ("", "subscriptions/listen")
        return listens or message.is_task or _RELATED in message.meta

    def read(self, body: bytes, owner: ChainFacts) -> bytes:
        """Return the message of a client with the upstream's ids.

        Args:
            body: The message.
            owner: The client.

        Raises:
            WireError: A task is none of the client's.
        """
        message = json.loads(body)
        return written(message) if _replace(_of_client(message), lambda bound: self.known(bound, owner)) else body

    def known(self, bound: object, owner: ChainFacts) -> str:
        """Return the upstream's id of a task.

        Args:
            bound: What the client sent.
            owner: The client.

        Raises:
            WireError: The task is none of the client's.
        """
        identity = self._ids.read(bound, owner) if isinstance(bound, str) else None
        if identity is None:
            raise WireError(INVALID_PARAMS, "expected a task that this caller has begun")
        return identity


def _of_server(message: Object) -> Iterator[Object]:
    """Yield the objects with ids of tasks in a message of a server."""
    result, params = object_in(message, "result"), object_in(message, "params")
    yield result  # of `tasks/get` and `tasks/cancel`; a call that became a task, in 2026-07-28
    yield object_in(result, "task")  # a call that became a task, in 2025-11-25
    for task in result["tasks"] if isinstance(result.get("tasks"), list) else ():
        if isinstance(task, dict):
            yield task
    yield _related(result)
    yield _related(params)
    if message.get("method") in _STATUS:
        yield params
    if message.get("method") == "notifications/subscriptions/acknowledged":
        yield object_in(params, "notifications")


def _of_client(message: Object) -> Iterator[Object]:
    """Yield the objects with ids of a server's tasks in a message of a client."""
    params, method = object_in(message, "params"), str(message.get("method"))
    if method.startswith("tasks/"):
        if params.keys() - _PARAMS:  # a server that reads names in any case could take an id from another one
            raise WireError(INVALID_PARAMS, f"expected no parameters but {', '.join(sorted(_PARAMS))}")
        yield params
    if method == "subscriptions/listen":
        yield object_in(params, "notifications")
    yield _related(params)
    yield _related(object_in(message, "result"))


def _replace(places: Iterator[Object], replaced: Callable[[Any], Any]) -> bool:
    """Replace the ids in each place; return whether there is one."""
    found = False
    for place in places:
        if "taskId" in place:
            place["taskId"], found = replaced(place["taskId"]), True
        if "taskIds" in place:
            several = place["taskIds"]
            place["taskIds"] = [replaced(each) for each in several] if isinstance(several, list) else replaced(several)
            found = True
    return found


def _related(value: Object) -> Object:
    return object_in(object_in(value, "_meta"), _RELATED)
