# SPDX-License-Identifier: Apache-2.0
"""Policies drafted from what agents do with real services, put in force, and tried.

``fastapi_shop`` needs fastapi beside .venv, and ``mcp_servers`` installs servers of PyPI and npm: ``.ci/nightly`` runs
both by their names.
"""
