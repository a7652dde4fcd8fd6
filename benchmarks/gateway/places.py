# SPDX-License-Identifier: Apache-2.0
"""The names of what clients call: the server, and what can stand before it."""

DIRECT, ARX, SHARED, TIMED = "direct", "arx gateway", "arx gateway, used calls in the store", "arx gateway, timed"
BARE, CADDY, PROXY, FORGE = "aiohttp pass-through", "Caddy", "FastMCP's proxy", "ContextForge"
