# SPDX-License-Identifier: Apache-2.0
"""What a caller hears of a budget: what is left with an answer, and by how much it was too little with a refusal."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from arx_verifier import AccessError, ArxMiddleware, ArxWSGI, Rule, current_grant, protect
from arx_verifier.errors import AuditError, StoreError
from arx_verifier.testing import UnsafeTestRealm
from tests.servers import run_together
from tests.support import FullDecisions

pytestmark = pytest.mark.spec("17.4")

COSTS: dict[str, Any] = {"pay.refund": {"usd": "$amount"}, "pay.ask": {"usd": {"reserve": "$most"}}}


def realm() -> UnsafeTestRealm:
    """A realm whose service has costs."""
    return UnsafeTestRealm("pay", costs=COSTS)


def test_an_answer_says_what_is_left() -> None:
    """By a header of the answer, after a commit with what the call really cost; a refusal has the numbers."""

    async def refund(_: Any) -> JSONResponse:
        return JSONResponse({})

    async def ask(request: Any) -> JSONResponse:
        await request.scope["arx"].commit_async("0.25")
        return JSONResponse({})

    made = realm()
    app = Starlette(routes=[Route("/refund", refund, methods=["POST"]), Route("/ask", ask, methods=["POST"])])
    tools = {"POST /refund": "pay.refund", "POST /ask": "pay.ask"}
    client = TestClient(ArxMiddleware(app, verifier=made.verifier, tools=tools))
    agent = made.caller(Rule(tool="*"), budget={"usd": "5.00", "calls": 10})
    answer = client.post("/refund", json={"amount": "2.5"}, auth=agent)
    assert (answer.status_code, answer.headers["arx-budget"]) == (200, 'calls="9", usd="2.5"')
    answer = client.post("/ask", json={"most": 1}, auth=agent)
    assert (answer.status_code, answer.headers["arx-budget"]) == (200, 'calls="8", usd="2.25"')
    worker = agent.delegate("test/worker", budget={"usd": 2})
    refused = client.post("/refund", json={"amount": "2.1"}, auth=worker)
    assert refused.status_code == 403
    assert refused.json()["code"] == "insufficient_budget"
    assert refused.json()["budget"] == {
        "pool": "worker",
        "hop": "test/worker",
        "unit": "usd",
        "remaining": "2",
        "required": "2.1",
    }
    free = client.post("/refund", json={"amount": "1"}, auth=made.caller(Rule(tool="*")))
    assert "arx-budget" not in free.headers


def test_a_wsgi_answer_says_what_is_left() -> None:
    """As one of ASGI does."""

    def app(_: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"done"]

    made = realm()
    guarded = ArxWSGI(app, verifier=made.verifier, tools={"POST /refund": "pay.refund"})
    agent = made.caller(Rule(tool="*"), budget={"usd": "5.00"})
    import httpx2

    with httpx2.Client(transport=httpx2.WSGITransport(app=guarded), base_url="http://pay") as client:
        answer = client.post("/refund", json={"amount": 2}, auth=agent)
        assert (answer.status_code, answer.headers["arx-budget"]) == (200, 'usd="3"')


def test_a_commit_is_made_once_and_by_unit() -> None:
    """What was not used goes back; a second commit, another unit and a call without a reservation are mistakes."""
    made = realm()
    grants: list[Any] = []

    @protect(made.verifier, "pay.ask")
    def ask(most: Any) -> None:
        grants.append(current_grant())

    agent = made.caller(Rule(tool="*"), budget={"usd": 1, "calls": 9})
    ask(most="0.75", arx_token=agent.token("pay.ask", most="0.75"))
    (grant,) = grants
    assert grant.remaining == {"usd": "0.25", "calls": "8"}
    with pytest.raises(ValueError, match="expected a number"):
        grant.commit(usd=-1)
    grant.commit(usd="0.5")
    assert grant.remaining == {"usd": "0.5", "calls": "8"}
    with pytest.raises(ValueError, match="no reservation"):
        grant.commit(usd="0.1")
    ask(most="0.25", arx_token=agent.token("pay.ask", most="0.25"))
    with pytest.raises(AccessError) as caught:
        grants[-1].commit("0.75")
    assert (caught.value.code, grants[-1].remaining["usd"]) == ("insufficient_budget", "0")
    ask(most="9", arx_token=made.caller(Rule(tool="*")).token("pay.ask", most="9"))
    grants[-1].commit("9")  # a token without a budget


def test_a_commit_may_be_tried_again() -> None:
    """An answer that was lost is no commit that was lost, and none that is made twice."""
    made = realm()

    @protect(made.verifier, "pay.ask")
    def ask(most: Any) -> Any:
        return current_grant()

    agent = made.caller(Rule(tool="*"), budget={"usd": 1})
    grant = ask(most=1, arx_token=agent.token("pay.ask", most=1))
    settle, answers = made.ledger.settle, [False, True]

    def lose(*args: Any) -> Any:
        found = settle(*args)
        if not answers.pop(0):
            raise StoreError("no answer")
        return found

    made.ledger.settle = lose  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        grant.commit("0.25")
    grant.commit("0.25")
    (pool,) = made.ledger.pools.values()
    assert (pool.committed, pool.held) == (250_000, {})


def test_a_call_that_cannot_be_recorded_costs_nothing() -> None:
    """What was drawn for it goes back, and so does what was reserved."""
    made = realm()
    made.verifier.decisions = FullDecisions()
    agent = made.caller(Rule(tool="*"), budget={"usd": 1, "calls": 5})
    for tool, args in (("pay.refund", {"amount": 1}), ("pay.ask", {"most": 1})):

        @protect(made.verifier, tool)
        def run(**_: Any) -> None:
            raise AssertionError("it ran")

        with pytest.raises(AuditError):
            run(**args, arx_token=agent.token(tool, **args))
    assert [pool.used for pool in made.ledger.pools.values()] == [0, 0]


def test_many_threads_spend_what_there_is() -> None:
    """Eight threads race for a budget of 40 calls: 40 are allowed."""
    made = realm()
    agent, codes = made.caller(Rule(tool="*"), budget={"calls": 40}), list[str]()

    @protect(made.verifier, "pay.get")
    def get() -> bool:
        return True

    def work() -> None:
        for _ in range(20):
            try:
                get(arx_token=agent.token("pay.get"))
                codes.append("ok")
            except AccessError as error:
                codes.append(error.code)

    run_together(*[work] * 8)
    assert Counter(codes) == {"ok": 40, "budget_exhausted": 120}
    assert json.dumps(made.decisions.decisions[-1].to_dict())
