# SPDX-License-Identifier: Apache-2.0
"""A guarded server of the ``mcp`` SDK 2 keeps the contract of guarded MCP servers."""

from pathlib import Path

import httpx2
import pytest
from mcp import MCPError
from mcp.client.subscriptions import SubscriptionLost

from arx_verifier.testing import UnsafeTestRealm
from tests.adapters import mcp_contract, mcp_server
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.mcp_contract import opened, run
from tests.adapters.readiness import Readiness, check_readiness, route


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of this file."""
    monkeypatch.setattr(mcp_contract, "SERVER", mcp_server)


def test_a_kill_ends_a_stream_of_changes(tmp_path: Path) -> None:
    """A subscription is a call of ``subscriptions.listen`` that runs until its grant ends."""

    async def test() -> None:
        async with opened(("http", "auto"), tmp_path) as server:
            async with server.client.listen(tools_list_changed=True) as changes:
                server.kill()
                with pytest.raises(SubscriptionLost):
                    async for _ in changes:
                        pass
            with pytest.raises(MCPError) as refused:
                async with server.client.listen(tools_list_changed=True):
                    pass
            assert refused.value.error.data["code"] == "revoked"

    run(test())


def test_the_page_of_readiness() -> None:
    """Its route answers as the lease is, and needs no token."""
    realm = UnsafeTestRealm("orders")
    server = mcp_server.make_server(realm.verifier, [])
    route("over stdio has none", server=server, verifier=realm.verifier)
    with serving(server.streamable_http_app()) as port:

        def ask() -> Readiness:
            answer = httpx2.get(f"http://127.0.0.1:{port}/readyz")
            return answer.status_code, answer.json()["why"]

        check_readiness(realm, ask)
