# SPDX-License-Identifier: Apache-2.0
"""The official MCP conformance suite and inspector, with the gateway and the bridge before a real server."""
