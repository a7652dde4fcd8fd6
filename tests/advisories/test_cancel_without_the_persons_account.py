# SPDX-License-Identifier: Apache-2.0
"""An upstream with people's own accounts went on with a call that was killed: its cancellation needed an account.

The gateway sent it as a message of no call, for which there is none.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.upstream.credentials import Credential, LiveCall
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.advisories.test_cancellation_with_the_gateways_credential import SlowUpstream
from tests.gateway.served_door import ServedDoor, serving
from tests.gateway.test_watch import ask
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.3", "12.7")]


class Person(Credential):
    """The credential of a person's call, with the agent and the tool of the call in it."""

    async def headers(self, session: aiohttp.ClientSession, call: LiveCall) -> Mapping[str, str]:
        """Return a header of the call's own tool."""
        del session
        return {"authorization": f"Bearer of-{call.facts.agent}-for-{call.tool}"}


def test_a_cancellation_has_the_account_of_its_call(tmp_path: Path) -> None:
    """The upstream gets it, with the header that the call had."""
    realm = UnsafeTestRealm("orders")
    caller, upstream = realm.caller(Rule(tool="orders.get", open=True)), SlowUpstream()
    with serving(Starlette(routes=[Route("/mcp", upstream.mcp, methods=["POST"])])) as behind:
        url = f"http://127.0.0.1:{behind}/mcp"
        terms = msgspec.convert({"audience": "orders", "url": url}, UpstreamTerms)
        served = ServedDoor(realm.verifier, terms, tmp_path, Person("orders", None, tmp_path))
        with serving(served) as port, ThreadPoolExecutor(1) as clients:
            answer = clients.submit(ask, f"http://127.0.0.1:{port}/orders", "mcp", "o-1", caller)
            assert upstream.called.wait(30)
            realm.epochs.kill("session:s-test")
            assert "revoked" in answer.result(30).text
            until(lambda: len(upstream.got) == 2)
    header = "Bearer of-test/agent-for-orders.get"
    assert upstream.got == [("tools/call", header), ("notifications/cancelled", header)]
