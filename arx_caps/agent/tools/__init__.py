# SPDX-License-Identifier: Apache-2.0
"""Calls of tools: models, MCP, other agents, RPC."""
