# SPDX-License-Identifier: Apache-2.0
"""The marks of a session as the mint shows them, and an operator's lift."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import MarkQuestion, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.store_cluster import read_library
from tests.console.harness import operator_with
from tests.ledgers import header_of, look, new_ledger, only_bucket
from tests.mint.harness import Holder, open_unit
from tests.mint.test_carried_marks import DAY, Agent
from tests.mint.test_mark_rows import ROWS, get, refund, with_rows
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import Shop

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.7", "CONTROL 2.12")]


class Watched(Shop):
    """A shop whose sessions an operator looks at."""

    server: EmbeddedValkey

    def marks(self, agent: Agent, by: Holder | None = None) -> Any:
        """The marks of the agent's last session."""
        return (by or self.harness.operator()).call("GET", f"/v1/sessions/{agent.held[-1][1]}/marks").json()

    def lift(self, agent: Agent, mark: str = "private", by: Holder | None = None, **more: Any) -> Any:
        """Lift a mark of the agent's last session; the answer."""
        body = {"mark": mark, "reason": "the page was ours"} | more
        return (by or self.harness.operator()).call("POST", f"/v1/sessions/{agent.held[-1][1]}/marks/lift", body)

    def lifts(self, agent: Agent) -> list[Any]:
        """The events of lifts in the agent's last session."""
        session, events = agent.held[-1][1], self.harness.events()
        return [each for each in events if each["kind"] == "mark.lifted" and each["session"] == session]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("lift")
    with EmbeddedValkey(folder / "ledger") as server, open_unit(folder / "realm") as unit:
        ledger = new_ledger(server.url, unit.realm.name, hides=True)
        ledger.start()
        since = look(ledger)[1]
        while now_ms() <= since:
            pass  # a session of the same millisecond counts as lost
        unit.mint.ledger = ledger
        shop = Watched(unit, with_rows(ROWS) + DAY)
        shop.server = server
        shop.verifiers = {name: verifier(unit, name, ledger=ledger) for name in shop.services}
        yield shop
        ledger.close()


def test_a_lifted_mark_binds_no_call_until_it_is_set_again(shop: Watched) -> None:
    """Also no later session; each lift is an event, and a repeat is none."""
    agent = Agent(shop, "lifted")
    task, before = agent.open(), now_ms()
    assert shop.marks(agent) == {"marks": [], "lost": False}
    assert [get(shop, task), refund(shop, task)] == ["ok", "after_mark"]
    [mark] = shop.marks(agent)["marks"]
    assert before <= mark.pop("set_at") <= now_ms()
    assert mark == {
        "mark": "private", "kind": "warning", "of": "session", "tool": "orders.get", "service": "orders"
    }  # fmt: skip
    answer = shop.lift(agent).json()
    assert [each["mark"] for each in answer["lifted"]] == ["private"]
    assert refund(shop, task) == refund(shop, agent.open()) == "ok"
    agent.held.pop()
    assert shop.lift(agent).json()["lifted"] == shop.lift(agent, "absent").json()["lifted"] == []
    [event] = shop.lifts(agent)
    assert (event["by"], event["mark"], event["reason"]) == ("operator:root", "private", "the page was ours")
    assert [get(shop, task), refund(shop, task)] == ["ok", "after_mark"]
    assert len(shop.marks(agent)["marks"]) == len(shop.lift(agent).json()["lifted"]) == 1


def test_a_proof_can_be_lifted_too_wherever_it_is_set(shop: Watched) -> None:
    """In each task of the session, and no mark of another name."""
    agent, ledger = Agent(shop, "proven"), shop.harness.mint.ledger
    agent.open()
    assert ledger is not None
    session, now = agent.held[-1][1], now_ms()
    sets = ("p:t/t-one:checked", "p:t/t-two:checked", "w:l/abc:checked2", "w:s:private")
    question = MarkQuestion(session, now, now, "orders.get orders", sets=sets)
    assert isinstance(ledger.take("draw", "", (), None, question), Taken)
    shown = {(each["kind"], each["of"], each.get("ref"), each["mark"]) for each in shop.marks(agent)["marks"]}
    assert shown == {
        ("proof", "task", "t-one", "checked"),
        ("proof", "task", "t-two", "checked"),
        ("warning", "link", "abc", "checked2"),
        ("warning", "session", None, "private"),
    }
    assert {each["ref"] for each in shop.lift(agent, "checked").json()["lifted"]} == {"t-one", "t-two"}
    assert {each["mark"] for each in shop.marks(agent)["marks"]} == {"checked2", "private"}


def test_who_may_lift(shop: Watched) -> None:
    """An administrator alone; a reader sees the marks, and an agent does not: others may have made up the names."""
    agent = Agent(shop, "roles")
    assert get(shop, agent.open()) == "ok"
    reader, holder = operator_with(shop.harness, "reader", "read-only"), agent.held[-1][0]
    assert len(shop.marks(agent, reader)["marks"]) == 1
    for by in (reader, holder):
        assert shop.lift(agent, by=by).json()["code"] == "tool_not_allowed"
    assert shop.marks(agent, holder)["code"] == "wrong_caller"
    absent = shop.harness.operator().call("GET", "/v1/sessions/s-absent/marks")
    assert absent.json()["code"] == "not_found"
    for wrong in ({"reason": ""}, {"mark": "a b"}, {"mark": "*"}, {"more": 1}):
        assert shop.lift(agent, **wrong).json()["code"] == "malformed_request"
    assert shop.lifts(agent) == []


def test_what_a_lost_ledger_holds_cannot_be_lifted(shop: Watched) -> None:
    """Each warning counts as set in the session, whatever fields there are; a silent ledger lifts nothing either."""
    agent = Agent(shop, "lost")
    task = agent.open()
    assert get(shop, task) == "ok"
    ledger = shop.harness.mint.ledger
    assert ledger is not None
    with redis.Redis.from_url(shop.server.url, decode_responses=True) as server:
        server.hset(header_of(server, shop.harness.realm.name), "run", "another")
    only_bucket(ledger).remembered = ""
    assert shop.marks(agent)["lost"]
    answer = shop.lift(agent)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert refund(shop, task) == "after_mark"
    assert shop.lifts(agent) == []
    silent = RedisLedger("redis://127.0.0.1:1", shop.harness.realm.name)
    try:
        shop.harness.mint.ledger = silent
        assert shop.lift(agent).json()["code"] == "store_unavailable"
        shop.harness.mint.ledger = None
        assert shop.lift(agent).json()["code"] == shop.marks(agent)["code"] == "not_found"
    finally:
        shop.harness.mint.ledger = ledger
        silent.close()


def test_a_ledger_with_functions_of_before_is_named(tmp_path: Path) -> None:
    """They are not replaced by themselves, as that begins the ledger anew."""
    source = read_library("arx_verifier.ledger", "ledger.lua").replace("'arx2_marks'", "'arx2_before'")
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.function_load(source)
        with closing(new_ledger(server.url, "acme")) as ledger:
            with pytest.raises(StoreError, match="has functions of an earlier version: `arx redis begin-ledger"):
                ledger.marks("s-any", now_ms())
            ledger.reload()
            assert ledger.marks("s-any", now_ms() + 120_000) == (False, {})
