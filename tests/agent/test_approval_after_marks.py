# SPDX-License-Identifier: Apache-2.0
"""A call that a service refused after a mark, at an agent with a real mint."""

from pathlib import Path

import pytest

from arx_caps.agent.tools.tool_calls import ToolCalls
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.errors import GrantError, refusal
from tests.agent.live import POLICY, live_mint
from tests.servers import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.8")]
LOOK = 'allow = [{ tool = "orders.get", args = { order_id = "$order_id" } }]\n'
AFTER = POLICY.replace(LOOK, LOOK + 'after = [{ mark = "private", tools = ["orders.get"], do = "approve" }]\n', 1)


def test_a_tool_is_called_again_once_the_mint_says_that_it_needs_no_approval(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """An operator lifted the mark: the next call is not suspended for an approval that no agent can request."""
    (port,) = free_ports(1)
    args = {"order_id": "o-1"}
    with (
        live_mint(tmp_path, store_url=valkey.url, name="lifted", port=port, policy=AFTER) as mint,
        mint.agent("acme/support/triage") as agent,
        agent.open_session(purpose="a look") as session,
        session.start_task("look", **args) as task,
    ):
        calls = ToolCalls(task)
        assert not calls.needs_approval("orders.get", args)
        calls.refusal_of("orders.get", refusal("missing_discharge"))
        assert calls.needs_approval("orders.get", args)
        with pytest.raises(GrantError) as asked:
            calls.ask_approval("orders.get", args)
        assert asked.value.code == "conflict"
        assert not calls.needs_approval("orders.get", args)
