# SPDX-License-Identifier: Apache-2.0
"""An agent against a real mint: sessions, tasks and their ends, over HTTP."""

import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.agent import Agent, Task, Workload
from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_caps.service import Invitation, exchange_token, join_service
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, RevokedError, SettingsError, TokenError, UnavailableError
from tests.agent.live import LiveMint, judged, live_mint
from tests.servers import child, free_ports, until

pytestmark = pytest.mark.servers

REFUND = {"order_id": "o-1", "amount": 20}


@pytest.fixture(scope="module")
def mint(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMint]:
    """One running mint for this file."""
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("agent")
    with live_mint(folder, store_url=valkey.url, name="agents", port=port) as live:
        yield live


@pytest.fixture
def agent(mint: LiveMint, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent of this test alone."""
    name = request.node.name.removeprefix("test_").partition("[")[0][:30]
    with mint.agent(f"acme/support/{name}") as enrolled:
        yield enrolled


def test_a_task_works_until_it_is_finished(mint: LiveMint, agent: Agent) -> None:
    """
    What the mint grants, a service accepts, also delegated; when the task is finished, both are dead.
    """
    with mint.service("orders") as orders, mint.service("payments") as payments, agent.open_session() as session:
        with session.start_task("refund", order_id="o-1", amount=50) as task:
            assert (task.agent, task.session, task.depth) == (agent.path, session.id, 2)
            worker = Task.from_text(task.delegate("acme/worker", args={"amount": {"max": 20}}, ttl="60s").encode())
            assert judged(orders, task, "orders.get", {"order_id": "o-1"}) == "ok"
            assert judged(payments, worker, "payments.refund", REFUND) == "ok"
            assert judged(payments, worker, "payments.refund", {**REFUND, "amount": 21}) == "argument_not_allowed"
            assert judged(payments, task, "payments.refund", {**REFUND, "amount": 50}) == "ok"
            assert judged(payments, task, "payments.refund", {**REFUND, "amount": 51}) == "argument_not_allowed"
        ended = [judged(orders, held, "orders.get", {"order_id": "o-1"}) for held in (task, worker)]
        assert ended == ["revoked", "revoked"]
        again = session.start_task("refund", order_id="o-1", amount=50)
        assert judged(orders, again, "orders.get", {"order_id": "o-1"}) == "ok"


def test_an_end_without_the_mint_is_not_confirmed(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The block raises one error that names what may still be open and what to do; an error of the block itself stays.
    """
    monkeypatch.setattr("arx_caps.agent.sessions.mint_client.PAUSES_S", (0.01,))
    (port,) = free_ports(1)
    with live_mint(tmp_path, store_url=valkey.url, name="away", port=port) as mint:
        agents = [mint.agent(f"acme/support/{name}") for name in ("triage", "worker")]
        first, second = (agent.open_session() for agent in agents)
        task = second.start_task("refund", order_id="o-1", amount=5)
    with pytest.raises(UnavailableError) as caught, first:
        pass
    assert str(caught.value).startswith(f"the end of session {first.id} is not confirmed: the mint at ")
    assert f"`arx session end {first.id}`" in str(caught.value.hint)
    assert "httpx" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(UnavailableError, match=f"the end of task {task.id} is not confirmed"), task:
        pass
    with pytest.raises(ZeroDivisionError) as failed, second:
        _ = 1 / 0
    assert "the mint did not end it" in failed.value.__notes__[0]
    for agent in agents:
        agent.close()


def test_a_session_ends_with_its_block_and_takes_its_tasks(mint: LiveMint, agent: Agent) -> None:
    """
    After the block nothing of the session works, at a service or at the mint; a second end is reported.
    """
    with mint.service("orders") as orders:
        with agent.open_session(ttl="5m", purpose="look at an order") as session:
            assert session.purpose == "look at an order"
            assert 0 < session.expires_at - now_ms() <= 300_000
            task = session.start_task("refund", order_id="o-1", amount=5)
        assert judged(orders, task, "orders.get", {"order_id": "o-1"}) == "revoked"
    with pytest.raises(RevokedError):
        session.start_task("refund", order_id="o-1", amount=5)
    with pytest.raises(RevokedError):
        session.end()
    shown = mint.operator("GET", f"/v1/sessions/{session.id}")["session"]
    assert shown["state"] == "ended"


def test_what_is_asked_for_beyond_the_template_attenuates(agent: Agent) -> None:
    """
    The mint writes fewer tools, a shorter life and fewer delegations into the task.
    """
    with agent.open_session() as session:
        task = session.start_task("refund", REFUND, ttl="30s", tools=["orders.get"], depth=1)
        assert (task.audiences, task.tools, task.depth) == (("orders",), ("orders.get",), 1)
        assert task.expires_at - now_ms() <= 30_000


def test_a_refusal_of_the_policy_shows_what_failed(agent: Agent) -> None:
    """
    Every parameter at fault is named with what was expected; an unknown template is another code.
    """
    with agent.open_session() as session:
        with pytest.raises(GrantError) as caught:
            session.start_task("refund", order_id="a name that is too long", amount=500)
        assert caught.value.code == "bad_parameters"
        assert len(caught.value.failures) == 2
        assert {"500"} <= {failure.came for failure in caught.value.failures}
        with pytest.raises(GrantError) as caught:
            session.start_task("no-such-template")
        assert caught.value.code == "unknown_task"


def test_another_key_opens_no_session(mint: LiveMint, agent: Agent) -> None:
    """
    A key that is not enrolled for this path is refused, whatever it says of itself.
    """
    forger = KeyFile.generate("agent", agent.path, mint.realm.issuer)
    with Agent(forger) as forged, pytest.raises(TokenError) as caught:
        forged.open_session()
    assert caught.value.code == "bad_assertion"


@pytest.mark.parametrize("off_ms", [-120_000, 120_000])
def test_a_wrong_clock_is_reported(mint: LiveMint, off_ms: int) -> None:
    """
    An assertion from the past or the future is refused with a word about time, not accepted and not a riddle.
    """
    key = KeyFile.load(mint.enrol(f"acme/clock{abs(off_ms) + off_ms}"))
    with (
        Agent(key, now=lambda: now_ms() + off_ms) as wrong,
        pytest.raises(TokenError, match=r"time|clock|older|future"),
    ):
        wrong.open_session()


@pytest.mark.spec("CONTROL 1.2")
def test_a_stolen_session_token_starts_nothing(mint: LiveMint, agent: Agent) -> None:
    """
    The session's token with a proof by another key is refused.
    """
    with agent.open_session() as session:
        other = agent.open_session()
        own, other._token = other._token, session._token
        with pytest.raises(TokenError) as caught:
            other.start_task("refund", order_id="o-1", amount=5)
        assert caught.value.code == "bad_proof"
        other._token = own
        other.end()


def test_a_deactivated_agent_gets_nothing_more(mint: LiveMint, agent: Agent) -> None:
    """
    Its session is over, and it opens no other.
    """
    with agent.open_session() as session:
        mint.operator("DELETE", f"/v1/agents/{agent.path}")
        with pytest.raises(TokenError) as caught:
            session.start_task("refund", order_id="o-1", amount=5)
        assert caught.value.code in ("revoked", "frozen")
    with pytest.raises(TokenError) as caught:
        agent.open_session()
    assert caught.value.code == "frozen"


def test_an_expired_session_is_reported(agent: Agent) -> None:
    """
    When its time is over it starts nothing, and its block ends without an error: there is nothing left to end.
    """
    with agent.open_session(ttl="2s") as session:
        task = session.start_task("refund", order_id="o-1", amount=5)
        assert task.expires_at <= session.expires_at
        time.sleep(max(0, session.expires_at - now_ms() + 5) / 1000)  # only the clock says when
        with pytest.raises(TokenError) as caught:
            session.start_task("refund", order_id="o-1", amount=5)
        assert caught.value.code == "expired"


def test_a_session_at_work_is_renewed_by_itself(mint: LiveMint) -> None:
    """
    While calls are signed it lives on past its idle limit, each time with a token that ends later; unused, it runs out.
    """
    with mint.agent("acme/idle/busy") as agent, agent.open_session() as session:
        first = session.expires_at
        assert first < session.ends_at
        task = session.start_task("look", order_id="o-1")

        def at_work() -> bool:
            if now_ms() < task.expires_at:
                task.call_token("orders", "orders.get", {"order_id": "o-1"})
            return session.expires_at > first + 300

        until(at_work)
        assert session.start_task("look", order_id="o-1").expires_at > first
        until(lambda: now_ms() >= session.expires_at)
        with pytest.raises(TokenError) as caught:
            session.renew()
        assert caught.value.code == "expired"
        assert "the session was idle for" in str(caught.value)


def test_a_session_is_renewed_on_request(mint: LiveMint) -> None:
    """
    Without the thread it is the caller's: a renewal ends later, and behind an end nothing is renewed.
    """
    with mint.agent("acme/still/calm") as agent:
        with agent.open_session(keep=False) as session:
            first, opened = session.expires_at, now_ms()
            until(lambda: now_ms() > opened)
            session.renew()
            assert first < session.expires_at <= session.ends_at
        with pytest.raises(RevokedError):
            session.renew()


INTERRUPTED = """
import os, signal, sys
from httpcore._synchronization import ThreadLock
from arx_caps.agent import Agent

enter = ThreadLock.__enter__

def interrupted(lock):
    enter(lock)
    ThreadLock.__enter__ = enter
    os.kill(os.getpid(), signal.SIGINT)
    return lock

with Agent.from_key_file(sys.argv[1]) as agent, agent.open_session() as session:
    ThreadLock.__enter__ = interrupted
    session.start_task("look", order_id="o-1")
"""


@pytest.mark.slow
def test_a_program_ends_whenever_it_is_interrupted(mint: LiveMint) -> None:
    """Also at the moment when the HTTP client has just locked its connections; its session ends with it."""
    command = [sys.executable, "-c", INTERRUPTED, mint.enrol("acme/support/interrupted")]
    with child(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(60) == -signal.SIGINT, process.stderr.read()
    [session] = mint.operator("GET", "/v1/sessions?agent=acme/support/interrupted")["sessions"]
    assert session["state"] == "ended"


def test_a_task_is_attenuated_for_all_and_extended(mint: LiveMint, agent: Agent) -> None:
    """
    What the mint attenuated is alone alive, with what the holder had attenuated before; what is added stands beside it.
    """
    with mint.service("orders") as orders, mint.service("payments") as payments, agent.open_session() as session:
        with session.start_task("refund", order_id="o-1", amount=50) as task:
            worker = task.delegate("acme/worker")
            small = task.attenuate(args={"amount": {"max": 20}})
            left = small.attenuate_for_all(tools=["payments.refund"])
            assert (left.id, left.audiences) == (task.id, ("payments",))
            dead = [judged(payments, held, "payments.refund", REFUND) for held in (task, worker, small)]
            assert dead == ["revoked"] * 3
            assert judged(payments, left, "payments.refund", REFUND) == "ok"
            assert judged(payments, left, "payments.refund", {**REFUND, "amount": 21}) == "argument_not_allowed"
            longer, more = left.extend(), left.extend("look", order_id="o-2")
            assert judged(payments, longer, "payments.refund", {**REFUND, "amount": 21}) == "argument_not_allowed"
            assert judged(orders, more, "orders.get", {"order_id": "o-2"}) == "ok"
            part = session.start_task("look", order_id="o-1", parent=task)
            with pytest.raises(GrantError, match=r"it would take .*params.amount.*task.refund"):
                left.extend(amount=500)
        tokens = ((payments, left, "payments.refund", REFUND), (orders, more, "orders.get", {"order_id": "o-2"}))
        assert [judged(*each) for each in tokens] == ["revoked"] * 2
        assert judged(orders, part, "orders.get", {"order_id": "o-1"}) == "revoked"


def test_a_service_calls_another_one_on_the_same_task(mint: LiveMint, agent: Agent, tmp_path: Path) -> None:
    """
    With its own key and what it was called with, and for no longer than that lives.
    """
    answer = mint.operator("POST", "/v1/services/invitations", {"audience": "orders"})
    client = MintClient(mint.realm.issuer, now=now_ms)
    invitation = Invitation(audience="orders", enrolment=answer["enrolment"], issuer=mint.realm.issuer)
    join_service(invitation, client, out=tmp_path / "orders.json", key_out=tmp_path / "orders.key")
    client.close()
    with mint.service("payments") as payments, agent.open_session() as session:
        with session.start_task("refund", order_id="o-1", amount=50) as task:
            called = task.call_token("orders", "orders.get", {"order_id": "o-1"})
            onwards = exchange_token(tmp_path / "orders.json", called, "payments")
            assert (onwards.holder, onwards.audiences) == ("service/orders", ("payments",))
            assert judged(payments, onwards, "payments.refund", REFUND) == "ok"
            with pytest.raises(GrantError, match=r"it would take exchange"):
                exchange_token(tmp_path / "orders.json", called, "orders")
        assert judged(payments, onwards, "payments.refund", REFUND) == "revoked"


def test_nothing_is_renewed_behind_a_closed_agent(mint: LiveMint) -> None:
    """
    Closing the connections ends the renewals as well, without an error in any log.
    """

    def renewing() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "arx-session-renewal"]

    before = len(renewing())
    agent = mint.agent("acme/idle/closed")
    session = agent.open_session()
    assert len(renewing()) == before + 1
    agent.close()
    until(lambda: len(renewing()) <= before)
    assert session.expires_at < session.ends_at


def test_a_workload_reads_its_token_for_each_session(mint: LiveMint, tmp_path: Path) -> None:
    """Platforms write it again; what the mint refuses is an error that does not hold the token."""
    file, token = tmp_path / "token", "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.e30.c2lnbmF0dXJl"
    with Workload.from_token_file(file, mint.realm.issuer) as workload:
        with pytest.raises(SettingsError, match="No such file"):
            workload.open_session()
        file.write_text(token + "\n")
        with pytest.raises(ArxError) as refused:
            workload.open_session()
    assert refused.value.code == "bad_workload_token"
    assert token not in f"{refused.value!r} {refused.value} {workload!r}"
