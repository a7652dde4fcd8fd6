# SPDX-License-Identifier: Apache-2.0
"""The bridge for stock MCP clients: it signs each message of a client with a task, over stdio.

``arx connect`` runs it.  A client needs no code of ARx; the server sees calls that are signed as an agent's own.
"""
