# SPDX-License-Identifier: Apache-2.0
"""An unguarded MCP server over stdio behind the gateway keeps the contract of guarded MCP servers."""

import pytest

from tests.adapters import gateway_stdio_server, mcp_contract
from tests.adapters.mcp_contract import *  # noqa: F403 - its tests run in this file

WAYS = [("http", "auto"), pytest.param(("http", "legacy"), marks=pytest.mark.nightly)]
TOOLS = ["wait.long"]
del test_a_method_that_is_not_known_is_refused  # noqa: F821 - over a pipe, which the gateway does not offer
del test_through_a_pipe_the_session_needs_no_token_and_shows_nothing  # noqa: F821
del test_the_verifier_lives_as_long_as_the_server  # noqa: F821 - the gateway's process starts it
del test_notifications_of_the_specification_pass_and_others_are_dropped  # noqa: F821 - the gateway refuses others
del test_a_token_is_not_passed_on_by_another_guard  # noqa: F821
del test_a_server_that_watches_lets_messages_go_on  # noqa: F821 - the gateway refuses to watch a server over stdio


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of this file."""
    monkeypatch.setattr(mcp_contract, "SERVER", gateway_stdio_server)
