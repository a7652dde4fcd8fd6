# SPDX-License-Identifier: Apache-2.0
"""What a holder does with an approval: wait, pass it on, send it with the call; its errors when it cannot."""

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from arx_caps.agent import Approval, Bundle, StartedTask, Task
from arx_caps.agent.tasks import approval
from arx_caps.agent.tasks.auth import ArxAuth
from arx_verifier.errors import (
    ArxError,
    AttenuationError,
    GrantError,
    MalformedTokenError,
    RequestError,
    StoreError,
)
from arx_verifier.request import AccessRequest
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge
from arx_verifier.token.wire import JOINT
from tests.agent.holding import REFUND, REQUIRED, approvable, bundle, discharged, task, token
from tests.support import AT, KEY, PEER, TASK, verifier

ID = "a-aaaaaaaaaaaaaaaa"
ABOUT = {"id": ID, "task": TASK, "state": "waiting", "tool": "payments.refund", "args": REFUND, "need": 1, "by": []}


class Mint:
    """What the session asks, with the answers that a mint would give."""

    def __init__(self, *answers: dict[str, Any] | ArxError) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._answers: Iterator[dict[str, Any] | ArxError] = iter(answers)

    def used(self) -> None:
        """Nothing is renewed here."""

    def finish_task(self, task: str) -> dict[str, Any]:
        """Finish it."""
        raise NotImplementedError(task)

    def extend_task(self, task: str, body: Mapping[str, Any]) -> Bundle:
        """Extend it."""
        raise NotImplementedError(task, body)

    def attenuate_task(self, task: str, link: str, caveats: Mapping[str, list[dict[str, Any]]]) -> Bundle:
        """Record the description of the caveats."""
        self.asked.append(caveats)
        return bundle()

    def ask_approval(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take the request."""
        self.asked.append(body)
        return dict(ABOUT)

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Give the next answer."""
        assert approval == ID
        answer = next(self._answers)
        if isinstance(answer, ArxError):
            raise answer
        return answer


def started(mint: Mint, *, at: int = AT) -> StartedTask:
    """The task in the hands of its session."""
    return StartedTask(approvable().bundle, session=mint, now=lambda: at)


def waiting(*by: str) -> dict[str, Any]:
    """No operator has answered yet, or not all have."""
    return {"approval": {**ABOUT, "by": list(by), "need": 2}}


def approved(**changes: Any) -> dict[str, Any]:
    """It is approved."""
    return {"approval": {**ABOUT, "state": "approved", "by": ["ada"]}, "discharge": discharged(**changes)}


def given(**changes: Any) -> Approval:
    """An approval that was delegated."""
    return Approval.from_text(discharged(**changes))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mint is asked again at once."""
    monkeypatch.setattr(approval, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(approval, "LONGEST_PAUSE_S", 0.001)


@pytest.mark.spec("6.4")
def test_a_task_knows_which_tools_need_an_approval() -> None:
    """
    From its own token, offline; ``describe`` lists it as well.
    """
    held = approvable()
    assert [held.needs_approval(tool) for tool in ("payments.refund", "orders.get", "mail.send")] == [
        True,
        False,
        False,
    ]
    assert not task().needs_approval("payments.refund")
    wanted = {"id": f"k1.0:{TASK}", "tools": ["payments.refund"]}
    description = held.describe()["audiences"]
    assert (description["payments"]["requires"], description["orders"]["requires"]) == ([wanted], [])
    assert description["payments"]["caveats"][-1] == {"third_party": wanted}


def test_the_mint_is_asked_with_the_third_party_as_it_stands() -> None:
    """
    The audience is found by the tool; caveat, tool, arguments and the reason go to the mint, and nothing secret.
    """
    mint = Mint()
    asked = started(mint).ask_approval("payments.refund", REFUND, why="charged twice")
    assert (asked.id, asked.state, asked.task) == (ID, "waiting", TASK)
    text = REQUIRED.encode().decode()
    assert mint.asked == [{"caveat": text, "tool": "payments.refund", "args": REFUND, "why": "charged twice"}]


@pytest.mark.parametrize(
    ("tool", "says"),
    [("orders.get", 'needs no approval to call "orders.get": call it'), ("mail.send", "it may call .*payments.refund")],
)
def test_what_needs_no_approval_is_not_asked_for(tool: str, says: str) -> None:
    """
    A mistake is reported to the agent and reaches no operator.
    """
    mint = Mint()
    with pytest.raises(AttenuationError, match=says):
        started(mint).ask_approval(tool, {})
    assert mint.asked == []


def test_what_the_task_refuses_anyhow_is_not_asked_for() -> None:
    """
    An approval widens nothing: a call beyond the holder's own attenuation reaches no operator either.
    """
    attenuated = started(mint := Mint()).attenuate(
        args={"payments.refund": {"amount": {"max": 5}}}, tools=["payments.refund"]
    )
    with pytest.raises(AttenuationError, match=r"would not allow the call.*amount must be at most 5, got 20"):
        attenuated.ask_approval("payments.refund", REFUND)
    assert mint.asked == []
    assert attenuated.ask_approval("payments.refund", {**REFUND, "amount": 5}).id == ID


def test_two_services_that_ask_stay_apart() -> None:
    """
    Where both want an approval for one tool, the agent says which service it calls.
    """
    tokens = {
        name: require_discharge(token(name, *bundle().outlines["payments"].groups[0]), REQUIRED.encode(), KEY)
        for name in ("payments", "refunds")
    }
    held = StartedTask(bundle(tokens=tokens), session=(mint := Mint()))
    with pytest.raises(AttenuationError, match="payments and refunds ask"):
        held.ask_approval("payments.refund", REFUND)
    assert held.ask_approval("payments.refund", REFUND, audience="refunds").id == ID
    assert len(mint.asked) == 1


def test_an_agent_waits_until_operators_have_answered() -> None:
    """
    The agent sees each approval, asks a mint that is away for a moment again, and can send the discharges.
    """
    mint = Mint(waiting(), StoreError("away"), waiting("bob"), waiting("bob"), approved())
    notices: list[tuple[str, ...]] = []
    asked = started(mint).ask_approval("payments.refund", REFUND)
    assert asked.wait(notify=lambda each: notices.append(each.by)) is asked
    assert (asked.state, notices) == ("approved", [("bob",)])
    assert asked.encode() == discharged()
    assert asked.wait() is asked  # asks no operator any more


def test_what_is_taken_back_is_sent_no_more() -> None:
    """
    Who looks again after it was approved learns that it was withdrawn, and has nothing left that a service refuses.
    """
    taken = GrantError(f"{ID} was withdrawn", code="approval_withdrawn")
    asked = started(Mint(approved(), taken, taken)).ask_approval("payments.refund", REFUND)
    assert asked.look() == "approved"
    for again in (asked.look, asked.wait):
        with pytest.raises(GrantError, match="was withdrawn"):
            again()
    with pytest.raises(AttenuationError, match="is withdrawn: ask for another"):
        asked.encode()


def test_a_reason_without_a_reader_goes_nowhere() -> None:
    """
    The library refuses what the mint would refuse, with the reason.
    """
    with pytest.raises(RequestError, match="why: 500 characters at most, got 501"):
        started(mint := Mint()).ask_approval("payments.refund", REFUND, why="x" * 501)
    assert mint.asked == []


@pytest.mark.parametrize(
    ("code", "state"), [("approval_denied", "denied"), ("approval_expired", "expired"), ("session_ended", "ended")]
)
def test_a_no_ends_the_wait(code: str, state: str) -> None:
    """
    The mint's words reach the agent, and nothing can be sent afterwards.
    """
    asked = started(Mint(waiting(), GrantError("ada: not this one", code=code))).ask_approval("payments.refund", REFUND)
    with pytest.raises(GrantError, match="not this one") as caught:
        asked.wait()
    assert (caught.value.code, asked.state) == (code, state)
    with pytest.raises(AttenuationError, match=f"is {state}: ask for another"):
        asked.encode()


def test_a_no_that_is_not_an_error_ends_the_wait_too() -> None:
    """
    Whatever else a mint calls the state of what will never be approved.
    """
    answer = {"approval": {**ABOUT, "state": "withdrawn"}}
    with pytest.raises(GrantError, match="is withdrawn"):
        started(Mint(answer)).ask_approval("payments.refund", REFUND).wait()


def test_waiting_has_an_end() -> None:
    """
    Who does not want to wait for ever can go on later; a mint that stays away is given up once the task is over.
    """
    asked = started(Mint(*[waiting("bob")] * 1000)).ask_approval("payments.refund", REFUND)
    with pytest.raises(TimeoutError, match="1 of 1 operators have said yes"):
        asked.wait(timeout_s=0.01)
    with pytest.raises(AttenuationError, match=r"is waiting: wait\(\) for it"):
        asked.encode()
    over = {"approval": {**ABOUT, "expires_at": 1}}
    with pytest.raises(StoreError, match="away"):
        started(Mint(over, StoreError("away"))).ask_approval("payments.refund", REFUND).wait()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"approval": {**ABOUT, "id": "a-bbbbbbbbbbbbbbbb"}},
        approved() | {"discharge": "arx1_!"},
        approved(required=ThirdPartyCaveat(id="k1.0:t-bbbbbbbbbbbbbbbb")),
        approved() | {"discharge": token("orders").encode()},
        approved(task="a-bbbbbbbbbbbbbbbb"),
    ],
    ids=["nothing", "another approval", "no macaroon", "another third-party caveat", "a token", "another's discharge"],
)
def test_another_answer_of_the_mint_is_not_taken(answer: dict[str, Any]) -> None:
    """
    What is not the discharge of this very approval is not kept.
    """
    asked = started(Mint(answer)).ask_approval("payments.refund", REFUND)
    with pytest.raises(StoreError):
        asked.look()
    with pytest.raises(AttenuationError):
        asked.encode()


def test_an_approval_travels_as_a_text() -> None:
    """
    A sub-agent is given the approval beside its task, and sees what was approved and until when.
    """
    taken = Approval.from_text(discharged() + "\n")
    assert (taken.id, taken.tool, taken.args, taken.state) == (ID, "payments.refund", REFUND, "approved")
    assert (taken.expires_at, taken.task, taken.encode()) == (AT + 600_000, TASK, discharged())
    assert taken.wait() is taken
    assert "arx1_" not in repr(taken) + str(taken)
    assert copy.copy(taken) is taken
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(taken)


@pytest.mark.parametrize("text", ["", "hello", ID, token("orders").encode(), bundle().encode(), discharged()[:-9]])
def test_what_is_no_approval_is_not_taken_for_one(text: str) -> None:
    """
    The error names a token, a bundle or a cut text as such, and does not show it.
    """
    with pytest.raises(MalformedTokenError) as caught:
        Approval.from_text(text)
    assert text[12:] == "" or text[12:] not in str(caught.value)


def sent(held: Task, *approvals: Approval, audience: str = "payments") -> str:
    """Send a call with approvals."""
    return held.call_token(audience, "payments.refund", REFUND, approvals=list(approvals))


@pytest.mark.spec("6.6")
def test_each_holder_binds_an_approval_to_its_own_token() -> None:
    """
    One approval, two credentials: a discharge that was bound for one holder is another text for the next.
    """
    held = approvable()
    worker = Task.from_text(held.delegate("acme/worker").encode(), now=lambda: AT)
    own, handed = (sent(each, given()).partition(JOINT)[2] for each in (held, worker))
    assert own.startswith("arx1_")
    assert handed.startswith("arx1_")
    assert len({own, handed, discharged()}) == 3


OTHER = ThirdPartyCaveat(id="k1.0:t-bbbbbbbbbbbbbbbb", tools=("payments.refund",))
OLDER = ThirdPartyCaveat(id=f"k0.9:{TASK}", tools=("payments.refund",))
WRONG: list[tuple[str, Callable[[], str], str]] = [
    ("another task", lambda: sent(approvable(), given(required=OTHER)), "is for the task t-b.*, and this is t-a"),
    (
        "another service",
        lambda: sent(approvable(), given(), audience="orders"),
        "another service: the token for orders",
    ),
    ("an older key", lambda: sent(approvable(), given(required=OLDER)), "was asked for with an older token"),
    ("over", lambda: sent(approvable(), given(exp=AT - 5000)), "over since 5 s: ask for another"),
    ("over now", lambda: sent(approvable(), given(exp=AT)), "over since 0 s: ask for another"),
    ("twice", lambda: sent(approvable(), given(), given()), "one call carries one approval"),
    ("too long", lambda: sent(approvable(), given(args={"order_id": "x" * 5000})), "the limit is 7168"),
    ("not answered", lambda: sent(approvable(), started(Mint()).ask_approval("payments.refund", REFUND)), "wait"),
    ("a task without", lambda: sent(task(), given()), "another service: the token for payments does not ask"),
]


@pytest.mark.parametrize(("send", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_no_service_would_take_raises_before_it_is_sent(send: Callable[[], str], says: str) -> None:
    """
    The agent learns what is wrong with its approval from a sentence, not from a service's refusal.
    """
    with pytest.raises(AttenuationError, match=says) as caught:
        send()
    assert discharged()[12:] not in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        {"order_id": "o-1", "amount": 21},
        {"order_id": "o-1", "amount": "20"},
        {"order_id": "o-1", "amount": True},
        {"order_id": "o-1", "amount": 20.5},
        {"order_id": "O-1", "amount": 20},
        {"order_id": "o-1", "amount": 20, "note": ""},
        {"order_id": "o-1"},
        {"amount": 20},
    ],
)
def test_nothing_but_what_was_approved_passes(args: dict[str, Any]) -> None:
    """
    Another value, another type, one argument more or less: a service refuses it, and takes the approved call.
    """
    held, judge = approvable(), verifier(audience="payments")
    for wanted, code in ((args, "argument_not_allowed"), (REFUND, "ok")):
        text = held.call_token("payments", "payments.refund", wanted, approvals=[given()])
        assert judge.decide(text, AccessRequest("payments.refund", wanted, AT, PEER)).code == code


def test_an_approval_opens_nothing_else() -> None:
    """
    It goes with its own call alone: with any other of that service it attenuates, and it never widens what a task
    allows.
    """
    held, judge = approvable(), verifier(audience="payments")
    worker = Task.from_text(held.delegate("acme/worker", args={"amount": {"max": 5}}).encode(), now=lambda: AT)
    other, same = ("payments.list", {}, "tool_not_allowed"), ("payments.refund", REFUND, "argument_not_allowed")
    for holder, (tool, args, code) in ((held, other), (worker, same)):
        text = holder.call_token("payments", tool, args, approvals=[given()])
        assert judge.decide(text, AccessRequest(tool, args, AT, PEER)).code == code
    text = held.call_token("payments", "payments.refund", REFUND, approvals=[given()])
    bound = text.partition(JOINT)[2]
    stolen = worker.call_token("payments", "payments.refund", REFUND) + JOINT + bound
    assert judge.decide(stolen, AccessRequest("payments.refund", REFUND, AT, PEER)).code == "bad_signature"


def test_a_client_sends_an_approval_only_where_it_is_asked_for() -> None:
    """
    ``auth`` takes the approvals of one request; they reach the service that asks for them, and no other.
    """
    held = approvable()
    auth = held.auth(approvals=[given()])
    assert isinstance(auth, ArxAuth)
    seen: dict[str, str] = {}

    def note(request: httpx.Request) -> httpx.Response:
        seen[request.url.host] = request.headers["Authorization"]
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(note), auth=auth) as client:
        client.post("https://payments.example:8443/refunds", json=REFUND)
        client.get("https://orders.example/orders/o-1")
    assert [seen[host].count(JOINT) for host in ("payments.example", "orders.example")] == [1, 0]
    with pytest.raises(AttenuationError, match="for the task"):
        held.auth(approvals=[given(required=OTHER)])
    with pytest.raises(AttenuationError, match="another service"):
        held.auth("orders", approvals=[given()])
    with pytest.raises(AttenuationError, match="over"):
        held.auth(approvals=[given(exp=AT)])


def test_what_the_mint_requires_is_not_said_again_when_it_attenuates() -> None:
    """
    The mint signs its own third-party caveat anew by itself; one that a holder added cannot be signed, and is not
    dropped.
    """
    mint = Mint()
    started(mint).attenuate_for_all(args={"payments.refund": {"amount": {"max": 5}}}, tools=["payments.refund"])
    assert "third_party" not in json.dumps(mint.asked)
    held = approvable()
    added = require_discharge(held.bundle.tokens["payments"], ThirdPartyCaveat(id="of another party").encode(), KEY)
    own = StartedTask(held.bundle.with_tokens({**held.bundle.tokens, "payments": added}), session=mint)
    with pytest.raises(AttenuationError, match="cannot be signed anew"):
        own.attenuate_for_all(ttl="5s")
