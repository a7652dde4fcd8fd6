# SPDX-License-Identifier: Apache-2.0
"""After a kill, the model of a stock client read of an unknown session and not that an operator had ended its work.

At the 401 such a client logs in anew and repeats its call in the session that is over, for ever.  Now that 404 has the
reason of the refusal before it.
"""

import json
from typing import Any

import pytest

from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld, call, opened, payload_of
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 5.5")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    yield from started(OAuthWorld(tmp_path_factory.mktemp("kill")))


@pytest.mark.slow
def test_it_reads_of_the_kill(world: OAuthWorld) -> None:
    """In the session that was ended; another unknown session is only that."""
    client = world.client_of("refund")
    token = world.token(client, "orders")
    session, other = opened(world, token), opened(world, token)
    world.kill("session", json.loads(payload_of(token))["sid"])
    until(lambda: call(world, token, session, "get", order_id="o-1").status_code == 401)
    again = world.token(client, "orders")
    assert json.loads(payload_of(again))["sid"] != json.loads(payload_of(token))["sid"]
    texts = {}
    for name in (session, other):
        answer = call(world, again, name, "get", order_id="o-1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32001)
        texts[name] = answer.json()["error"]["message"]
    assert "An operator ended this work" in texts[session]
    assert texts[other] == "expected a session that this caller has opened. Open another one."
