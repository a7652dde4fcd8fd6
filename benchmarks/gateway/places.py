# SPDX-License-Identifier: Apache-2.0
"""The names of what clients call: the server, and what can stand before it; and of proxies that ask a decider."""

DIRECT, ARX, SHARED, TIMED = "direct", "arx gateway", "arx gateway, used calls in the store", "arx gateway, timed"
FORMER, FORMER_SHARED = "former arx gateway", "former arx gateway, used calls in the store"
BARE, CADDY, PROXY, FORGE = "aiohttp pass-through", "Caddy", "FastMCP's proxy", "ContextForge"

NGINX, NGINX_ASKS = "nginx", "nginx, `auth_request`"
SHARED_NGINX_ASKS = "nginx, `auth_request`, used calls in the store"
CADDY_ASKS = "Caddy, `forward_auth`"
CHECK, SHARED_CHECK = "`ext_authz`, one `Check`", "`ext_authz`, one `Check`, used calls in the store"
