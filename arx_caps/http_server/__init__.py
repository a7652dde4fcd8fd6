# SPDX-License-Identifier: Apache-2.0
"""uvicorn with bounds on connections before authentication, for the mint and the gateway.

``connections`` has the bounds, ``h11_protocol`` and ``httptools_protocol`` the parsers, ``server`` what stops in order.
"""
