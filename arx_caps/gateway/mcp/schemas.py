# SPDX-License-Identifier: Apache-2.0
"""The input schema of a tool, as an MCP server behind the gateway lists it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from arx_caps.http.event_stream import fields_of, split_events
from arx_caps.mcp.message import aside, object_in, result_of

_PAGES: Final = 100


async def input_schema(tool: str, listed: Callable[[dict[str, Any]], Awaitable[tuple[bool, bytes]]]) -> dict[str, Any]:
    """Return the properties of a tool's input; none if the server does not list it.

    Args:
        tool: The name of the tool.
        listed: Returns the page of the list behind a cursor: whether it is a stream, and its body.

    Returns:
        A schema whose properties are objects, whatever the server has listed.
    """
    cursor: dict[str, Any] = {}
    for _ in range(_PAGES):
        result = await _result(*await listed(cursor))
        tools = result.get("tools")
        for item in tools if isinstance(tools, list) else ():
            if isinstance(item, dict) and item.get("name") == tool:
                properties = object_in(object_in(item, "inputSchema"), "properties")
                return {"properties": {name: each for name, each in properties.items() if isinstance(each, dict)}}
        if not isinstance(result.get("nextCursor"), str):
            break
        cursor = {"cursor": result["nextCursor"]}
    return {}


async def _result(is_stream: bool, data: bytes) -> dict[str, Any]:
    """Return the result of a page; an empty one if it has none."""
    found = None if is_stream else await aside(len(data), result_of, data)
    if is_stream:
        async for event in split_events(_once(data), len(data)):
            found = await aside(len(event), _of_event, event) or found
    return object_in(found, "result")


def _of_event(event: bytes) -> dict[str, Any] | None:
    return result_of(fields_of(event).data)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
