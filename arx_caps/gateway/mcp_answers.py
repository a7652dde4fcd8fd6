# SPDX-License-Identifier: Apache-2.0
"""What a client gets of an MCP server's messages: lists of what its token could allow, ids of tasks that are its own.

All else passes byte for byte.
"""

from collections.abc import AsyncIterator
from typing import Final

from arx_caps.event_stream import fields_of, split_events, with_data
from arx_caps.gateway.mcp_tasks import TaskIds
from arx_caps.gateway.mcp_wire import INTERNAL_ERROR, WireError, object_of, written
from arx_verifier.enforcement import McpMessage, Messages
from arx_verifier.errors import RequestError
from arx_verifier.journal import ChainFacts
from arx_verifier.verification import Screened

_TASK: Final = b'"taskId'  # an id that is spelled with escapes stays the upstream's, which no client can use
_LISTS: Final = tuple(
    McpMessage(f"{kind}/list", {}, {}) for kind in ("tools", "prompts", "resources", "resources/templates")
)


class McpAnswers:
    """The messages of one upstream.

    Args:
        messages: Filters lists.
        tasks: Binds ids.
        longest: The longest event of a stream, bytes.
    """

    def __init__(self, messages: Messages, tasks: TaskIds, longest: int) -> None:
        self._messages, self._tasks, self._longest = messages, tasks, longest

    def shown(self, data: bytes, owner: ChainFacts, screened: Screened | None = None) -> bytes:
        """Return a message as the client gets it.

        Args:
            data: The message.
            owner: The client.
            screened: Its live token, if the message may have a list; a list is known by its members.
        """
        if screened is None and _TASK not in data:
            return data
        found = object_of(data)
        if found is None:
            return data
        changed, result = self._tasks.bind(found, owner), found.get("result")
        if screened is not None and isinstance(result, dict):
            for message in _LISTS:
                if message.lists in result:
                    result = self._messages.filtered(message, screened, result)
                    found["result"], changed = result, True
        return written(found) if changed else data

    async def stream(
        self, parts: AsyncIterator[bytes], owner: ChainFacts, screened: Screened | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the events of a stream as the client gets them.

        Args:
            parts: The stream.
            owner: The client.
            screened: As for ``shown``.

        Raises:
            WireError: An event is too long.
        """
        try:
            async for event in split_events(parts, self._longest):
                if screened is None and _TASK not in event:  # each call comes this way
                    yield event
                    continue
                data = fields_of(event).data
                shown = self.shown(data, owner, screened)
                yield event if shown is data else with_data(event, shown)
        except RequestError as error:
            raise WireError(INTERNAL_ERROR, str(error)) from None
