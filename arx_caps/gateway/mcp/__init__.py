# SPDX-License-Identifier: Apache-2.0
"""Calls of MCP at the gateway: messages in, answers out, tasks, stdio."""
