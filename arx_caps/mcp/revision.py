# SPDX-License-Identifier: Apache-2.0
"""The revisions of MCP, and how a message names its own."""

from collections.abc import Mapping
from typing import Final

from arx_caps.mcp.errors import UNSUPPORTED_VERSION, WireError

HAS_TASKS: Final = "2025-11-25"  # the revision that has tasks in the protocol; the next one has the extension
STATELESS: Final = "2026-07-28"  # the first revision without sessions
REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", HAS_TASKS, STATELESS)
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"  # of `_meta`, from MCP 2026-07-28 on


def check_revision(headers: Mapping[bytes, bytes]) -> None:
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
