# SPDX-License-Identifier: Apache-2.0
"""A stranger could make the mint read up to 2 MiB of policy before it asked for a proof.

Bodies that were too long, or of another kind, cost their sender's address nothing, so that one stranger could have many
of them read; those of proven operators cost an address what strangers pay.
"""

import json
import socket

import pytest
from starlette.testclient import TestClient

from arx_caps.mint.api.app import create_app
from arx_caps.mint.rate_limit import RateLimits
from arx_caps.settings.limits import Limits
from tests.agent.live import serving
from tests.mint.harness import ISSUER, Harness

pytestmark = pytest.mark.sqlite


@pytest.fixture
def limited(unit: Harness) -> Harness:
    """A mint that lets one address ask four times, called from a public address."""
    unit.mint.limits = RateLimits(Limits(address_rate=1, address_burst=4), clock=lambda: 0.0)
    return Harness(unit.mint, TestClient(create_app(unit.mint), base_url=ISSUER, client=("203.0.113.7", 1)))


@pytest.mark.servers
def test_a_stranger_is_refused_before_the_body_comes(limited: Harness) -> None:
    """
    The answer is there while the body is not: 401, and the connection is closed.
    """
    head = b"POST /v1/policies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n"
    app = create_app(limited.mint)
    with serving(app, lifespan="off") as port, socket.create_connection(("127.0.0.1", port), 20) as stranger:
        stranger.sendall(head)
        answer = b"".join(iter(lambda: stranger.recv(65536), b""))
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (answer.split()[1], document["code"], b"connection: close" in answer.lower()) == (
        b"401",
        "missing_token",
        True,
    )


@pytest.mark.parametrize(
    ("path", "content", "kind", "status"),
    [
        ("/v1/kills", b"x" * 70_000, "application/json", 413),
        ("/v1/sessions", b"{}", "text/plain", 401),
        ("/v1/policies", b"x" * 3_000_000, "application/json", 401),
    ],
)
def test_a_strangers_body_costs_its_address(
    limited: Harness, path: str, content: bytes, kind: str, status: int
) -> None:
    """
    Whatever is wrong with it, after so many of them the address has to wait.
    """
    answers = [limited.client.post(path, content=content, headers={"Content-Type": kind}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [status] * 4 + [429] * 2


def test_a_proven_operators_mistakes_cost_nothing(limited: Harness) -> None:
    """
    A body that is not what is expected, or of another kind, is no stranger's when its sender is proven.
    """
    operator = limited.operator()
    for _ in range(6):
        assert operator.call("POST", "/v1/kills", {"targets": 1}).status_code == 400
        headers = operator.headers("POST", "/v1/kills") | {"Content-Type": "text/plain"}
        assert limited.client.post("/v1/kills", content=b"x", headers=headers).status_code == 415
