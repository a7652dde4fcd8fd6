# SPDX-License-Identifier: Apache-2.0
"""A person could lock out all others whose programs are the same agent at a gateway, as limits were the agent's alone.

Programs that registered themselves are one agent.  One person's open streams, calls or processes were all that the
agent has.  Now a person has at most as much as is left for all others of the agent.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

from arx_caps.gateway.base import rates
from arx_caps.gateway.base.bound_ids import owner_of
from arx_caps.gateway.base.rates import OverRateError, Rates
from arx_caps.gateway.base.settings import RateTerms, UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_verifier import Rule
from arx_verifier.journal.record import ChainFacts
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.agent.live import now_ms
from tests.gateway.door import CALL, Answer, Door, Upstream

AGENT = "acme/apps"
Person = tuple[str, str] | None
PEOPLE = [("https://login.example", name) for name in ("ada", "bob", "eve", "mallory")]
SERVER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}), flush=True)
"""


async def opened(limits: Rates, held: contextlib.AsyncExitStack, person: Person, most: int) -> int:
    for number in range(most):
        try:
            await held.enter_async_context(limits.opened(AGENT, person))
        except OverRateError:
            return number
    return most


@pytest.mark.parametrize("greedy", [1, 2, 3])
def test_streams_of_some_leave_room_for_another(greedy: int) -> None:
    """Each has the same share, and so has the next one; the agent's total holds, and the end of a stream frees it."""

    async def use() -> None:
        limits = Rates(RateTerms(open=256))
        async with contextlib.AsyncExitStack() as held:
            for _ in range(300):
                for person in PEOPLE[:greedy]:
                    await opened(limits, held, person, 1)
            fair = 256 // (greedy + 1)
            assert await opened(limits, held, PEOPLE[3], 1) == 1
            assert fair // 2 <= 1 + await opened(limits, held, PEOPLE[3], 300) <= fair
        async with contextlib.AsyncExitStack() as held:
            assert await opened(limits, held, None, 300) == 256

    asyncio.run(use())


def test_calls_of_one_leave_some_for_another() -> None:
    """A person alone gets the whole rate, and half of what may come at once."""
    clock = [0.0]
    rate = rates.SharedRate(10, 100, lambda: clock[0])

    def calls(person: Person, seconds: float) -> int:
        made, end = 0, clock[0] + seconds
        while True:
            if not (wait_s := rate.wait(AGENT, person)):
                rate.take(AGENT, person)
                made += 1
            elif clock[0] >= end:
                return made
            else:
                assert wait_s > 0
                clock[0] = min(end, clock[0] + 0.05)

    assert calls(PEOPLE[0], 0) == 50
    assert 550 <= calls(PEOPLE[0], 60) <= 650
    assert 15 <= calls(PEOPLE[1], 0) <= 50
    assert calls(None, 0) > 0
    assert rate.wait(AGENT, PEOPLE[2]) > 0  # the agent's own total holds
    clock[0] += 60
    assert rate.wait(AGENT, PEOPLE[2]) == 0


def test_a_call_of_another_is_forwarded() -> None:
    """After one has had calls and lists refused for their number."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}'))
    door = Door(realm, upstream, RateTerms(agent="8/1h"))
    one, other = (realm.caller(Rule(tool="files.get"), agent=AGENT, subject=person) for person in PEOPLE[:2])
    answers = [door.message(one, "tools/call", {"name": "get"}) for _ in range(6)]
    answers += [door.message(one, "tools/list") for _ in range(2)]
    assert ["error" in answer for answer in answers] == [False] * 4 + [True] * 4
    assert answers[-1]["error"]["data"]["code"] == "rate_limited"
    assert "result" in door.message(other, "tools/call", {"name": "get"})


def test_a_refusal_names_the_person_and_the_wait() -> None:
    """One of the agent's whole rate names the agent alone."""
    limits = Rates(RateTerms(agent="4/1m", tool="2/1m"))
    limits.charge(AGENT, PEOPLE[0], "files.get")
    with pytest.raises(OverRateError, match=f"{AGENT} calls files.get for one person too often: wait 15 s"):
        limits.charge(AGENT, PEOPLE[0], "files.get")
    limits.charge(AGENT, PEOPLE[1], "files.get")
    with pytest.raises(OverRateError, match=f"{AGENT} calls files.get too often: wait 30 s"):
        limits.charge(AGENT, PEOPLE[2], "files.get")


def test_processes_of_one_leave_room_for_another(tmp_path: Path) -> None:
    """Sessions of one person, each with a process, end with the person's share."""
    realm = UnsafeTestRealm("files")

    def facts(person: Person, session: str) -> ChainFacts:
        caller = realm.caller(Rule(tool="*"), agent=AGENT, subject=person, session=session)
        return realm.verifier.verify(caller.token("files.get"), AccessRequest("files.get", {}, now_ms())).facts

    async def begin(upstream: StdioUpstream, person: Person, session: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).encode()
        async with upstream.send("POST", [], body, owner_of(facts(person, session)), call=CALL) as answer:
            assert answer.status == 200

    async def use() -> None:
        terms = UpstreamTerms(audience="files", command=(sys.executable, "-c", SERVER))
        upstream = StdioUpstream("files", terms, tmp_path)
        upstream.open()
        try:
            for number in range(16):
                await begin(upstream, PEOPLE[0], f"s-{number}")
            with pytest.raises(UpstreamError, match="16 processes of this person: end a session"):
                await begin(upstream, PEOPLE[0], "s-more")
            await begin(upstream, PEOPLE[1], "s-other")
        finally:
            await upstream.close()

    asyncio.run(use())
