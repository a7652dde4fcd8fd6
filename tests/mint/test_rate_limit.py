# SPDX-License-Identifier: Apache-2.0
"""A caller over its rate learns when to come back, and cannot use up the rate of another."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from arx_caps.http.buckets import MAX_BUCKETS, Buckets
from arx_caps.mint.api.app import create_app
from arx_caps.mint.rate_limit import RateLimits
from arx_caps.settings.limits import Limits
from tests.mint.harness import AGENT, ISSUER, LOOKUP, Harness

pytestmark = pytest.mark.spec("CONTROL 4.5")

STRANGER, OTHER = ("203.0.113.7", 1), ("203.0.113.8", 1)
SMALL = Limits(agent_rate=1, agent_burst=5, address_rate=1, address_burst=4)


@pytest.fixture
def called_from(unit: Harness) -> Callable[..., Harness]:
    """Call the mint from an address; the first call's limits are the mint's."""
    limited: list[Limits] = []

    def call(client: tuple[str, int] = STRANGER, limits: Limits = SMALL) -> Harness:
        if not limited:
            limited.append(limits)
            unit.mint.limits = RateLimits(limits, clock=lambda: 0.0)  # no bucket fills while a test runs
        return Harness(unit.mint, TestClient(create_app(unit.mint), base_url=ISSUER, client=client))

    return call


def test_an_agent_that_calls_too_often_waits(called_from: Callable[..., Harness]) -> None:
    """Its calls are 429 with the time to wait, a new session does not help it, and another agent goes on."""
    unit = called_from(limits=replace(SMALL, address_rate=0))
    key = unit.enrol()
    holder, _ = unit.open_session(key)
    answers = [holder.call("POST", "/v1/tasks", LOOKUP) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [201] * 4 + [429] * 2
    reply = answers[-1]
    assert (reply.json()["code"], int(reply.headers["retry-after"]) > 0) == ("rate_limited", True)
    other, _ = unit.open_session(unit.enrol("acme/support/other"))
    assert other.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    assert unit.operator().call("GET", "/v1/agents").status_code == 200


def test_no_caller_is_locked_out_by_name(called_from: Callable[..., Harness]) -> None:
    """Calls in an agent's name that prove nothing cost the stranger's address, and the agent nothing."""
    unit, agents = called_from(STRANGER), called_from(OTHER)
    key = agents.enrol()
    holder, _ = agents.open_session(key)
    statuses = []
    for _ in range(8):
        headers = {"Authorization": f"DPoP {holder.token}", "DPoP": "junk"}
        statuses.append(unit.client.post("/v1/tasks", json=LOOKUP, headers=headers).status_code)
    assert statuses == [401] * 4 + [429] * 4
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201


def test_proven_callers_cost_an_address_nothing(called_from: Callable[..., Harness]) -> None:
    """Many good calls from one address are no reason to refuse it."""
    unit = called_from(limits=replace(SMALL, agent_rate=0))
    operator = unit.operator()
    assert {operator.call("GET", "/v1/agents").status_code for _ in range(20)} == {200}


def test_this_machine_is_not_counted(called_from: Callable[..., Harness]) -> None:
    """A proxy on loopback represents every client: its failures are not one stranger's."""
    unit = called_from(("127.0.0.1", 1))
    assert {unit.client.post("/v1/tasks", json=LOOKUP).status_code for _ in range(20)} == {401}


PEERS = [
    ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    ("10.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # what a stranger wrote stands before what the proxy wrote
    ("10.0.0.1", ["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
    ("10.0.0.1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),  # as some proxies write it
    ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
    ("203.0.113.9", ["127.0.0.1"], "203.0.113.9"),  # the header of a client that is no proxy is ignored
    (None, ["127.0.0.1"], None),
]


@pytest.mark.parametrize(("peer", "forwarded", "found"), PEERS)
def test_a_proxy_is_believed_and_no_other(peer: str | None, forwarded: list[str], found: str | None) -> None:
    """The address is the last one that no proxy of the settings has."""
    assert RateLimits(Limits(proxies=("10.0.0.0/8",))).peer_of(peer, forwarded) == found


def test_one_network_of_ipv6_is_one_caller() -> None:
    """A client with 2^64 addresses has one bucket."""
    limits = RateLimits(SMALL, clock=lambda: 0.0)
    for number in range(4):
        limits.count_unproven(f"2001:db8::{number}")
    with pytest.raises(Exception, match="too often"):
        limits.require_address("2001:db8::ffff")
    limits.require_address("2001:db8:0:1::1")
    limits.require_address("::ffff:203.0.113.1")


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_no_more_than_burst_and_rate(pauses: list[float], rate: int, burst: int) -> None:
    """In any stretch of time no more calls go through than a full bucket and what flowed in."""
    now = 0.0
    buckets = Buckets(rate, burst, lambda: now)
    through: list[float] = []
    for pause in pauses:
        now += pause
        wait_s = buckets.take("a")
        if wait_s == 0:
            through.append(now)
        else:
            assert 1 <= wait_s <= 1 + 1 / rate
    for first, begun in enumerate(through):
        for last in range(first, len(through)):
            assert last - first + 1 <= burst + rate * (through[last] - begun) + 1e-6


def test_strangers_do_not_fill_the_memory() -> None:
    """However many names there are, so many buckets are kept and no more."""
    buckets = Buckets(1, 2, lambda: 0.0)
    for number in range(MAX_BUCKETS + 100):
        buckets.take(str(number))
    assert len(buckets) == MAX_BUCKETS


def test_the_agent_of_the_world_is_not_limited_by_default() -> None:
    """The default rates of a realm let an agent work."""
    limits = RateLimits(Limits(), clock=lambda: 0.0)
    for _ in range(Limits().agent_burst):
        limits.count_agent(AGENT)
