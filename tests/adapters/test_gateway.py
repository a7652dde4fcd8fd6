# SPDX-License-Identifier: Apache-2.0
"""A guarded server of the ``mcp`` SDK 2 keeps the contract of guarded MCP servers."""

import pytest

from tests.adapters import gateway_server, mcp_contract
from tests.adapters.mcp_contract import *  # noqa: F403 - its tests run in this file


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of this file."""
    monkeypatch.setattr(mcp_contract, "SERVER", gateway_server)
