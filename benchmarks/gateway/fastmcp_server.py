# SPDX-License-Identifier: Apache-2.0
"""A FastMCP server, or FastMCP's own proxy before one, in an environment that has FastMCP.

python fastmcp_server.py PORT serves at ``/mcp``; python fastmcp_server.py PORT URL forwards to the server at URL.
"""

import sys

from fastmcp import FastMCP
from fastmcp.server import create_proxy


def make_server() -> FastMCP:
    """Return the server: one tool, which does nothing but answer."""
    server = FastMCP("files")

    @server.tool
    def get(order_id: str, note: str) -> str:
        """Return an order."""
        return f"{order_id}: kettle, {note}"

    return server


if __name__ == "__main__":
    served = create_proxy(sys.argv[2]) if len(sys.argv) > 2 else make_server()
    served.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="error")
