# SPDX-License-Identifier: Apache-2.0
"""What the gateway adds to a call of an MCP server, beside other things that could stand before the server."""
