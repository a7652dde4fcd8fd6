# SPDX-License-Identifier: Apache-2.0
"""The official MCP conformance suite and inspector, with the gateway before a real server."""
