# SPDX-License-Identifier: Apache-2.0
"""The guard of an ASGI application: HTTP, WebSocket."""
