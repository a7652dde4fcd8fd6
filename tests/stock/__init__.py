# SPDX-License-Identifier: Apache-2.0
"""Stock MCP clients of PyPI and npm at a gateway, from its URL alone; each person logs in at nanoidp."""
