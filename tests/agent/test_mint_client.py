# SPDX-License-Identifier: Apache-2.0
"""Calls to the mint carry their proof, and its refusals come back as the errors that callers catch."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from arx_caps.agent import Agent, Session, Task
from arx_caps.agent.sessions import mint_client
from arx_caps.agent.sessions.mint_client import LostAnswerError, MintClient
from arx_caps.agent.sessions.started_task import StartedTask
from arx_caps.credentials.jose import check_assertion, check_dpop
from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_verifier.errors import (
    ArxError,
    AttenuationError,
    Failure,
    GrantError,
    ProofError,
    RequestError,
    RevokedError,
    SettingsError,
    StoreError,
    TokenError,
    UnavailableError,
)
from tests.agent.holding import ISSUER, bundle, token
from tests.support import AT, SESSION, TASK

KEY = KeyFile.generate("agent", "acme/support", ISSUER)
OPENED = {
    "session": {"id": SESSION, "agent": "acme/support", "expires_at": AT + 1000, "purpose": "x"},
    "token": "arx1_s",
}
Handle = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats follow at once."""
    monkeypatch.setattr(mint_client, "PAUSES_S", (0.0, 0.0))


def agent(handle: Handle) -> Agent:
    """An agent whose mint is a function."""
    return Agent(KEY, now=lambda: AT, client=httpx.Client(transport=httpx.MockTransport(handle)))


def opened(handle: Handle) -> Session:
    """A session that was opened before ``handle`` took over."""
    return agent(
        lambda request: httpx.Response(201, json=OPENED) if request.url.path == "/v1/sessions" else handle(request)
    ).open_session()


def problem(status: int, code: str, **more: Any) -> Handle:
    """A mint that says no."""
    return lambda request: httpx.Response(status, json={"status": status, "code": code, "detail": "because", **more})


@pytest.mark.spec("CONTROL 1.1")
def test_a_session_is_opened_with_an_assertion_and_bound_to_a_fresh_key() -> None:
    """
    The enrolled key says who it is; the proof is by another key, that of the session.
    """
    keys = []

    def handle(request: httpx.Request) -> httpx.Response:
        document = json.loads(request.content)
        assertion = check_assertion(document.pop("assertion"), lambda *who: KEY.key.public, audience=ISSUER, now=AT)
        proof = check_dpop(request.headers["DPoP"], method="POST", url=f"{ISSUER}/v1/sessions", now=AT)
        assert (assertion.subject, document) == ("acme/support", {"ttl": "1h"})
        assert assertion.bound_to == proof.key.kid
        assert "Authorization" not in request.headers
        keys.append(proof.key.kid)
        return httpx.Response(201, json=OPENED)

    for _ in range(2):
        session = agent(handle).open_session(ttl="1h")
        assert (session.id, session.agent, session.expires_at) == (SESSION, "acme/support", AT + 1000)
    assert len({*keys, KEY.key.kid}) == 3


@pytest.mark.spec("CONTROL 1.2")
def test_later_calls_prove_the_sessions_key_for_method_address_and_token() -> None:
    """
    Starting, finishing and ending carry the session's token and a proof that names it; parameters arrive as given.
    """
    calls: list[tuple[str, str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "DPoP arx1_s"
        url = ISSUER + request.url.path
        check_dpop(request.headers["DPoP"], method=request.method, url=url, now=AT, token="arx1_s")
        calls.append((request.method, request.url.path, json.loads(request.content or b"null")))
        return httpx.Response(200, json={"task": {}, "bundle": bundle().encode()})

    with opened(handle) as session:
        task = session.start_task("refund", {"ttl": 5}, ttl="60s", tools=("orders.get",), order_id="o-1")
        task.finish()
    wanted = {"template": "refund", "params": {"ttl": 5, "order_id": "o-1"}, "ttl": "60s", "tools": ["orders.get"]}
    assert calls == [
        ("POST", "/v1/tasks", wanted),
        ("DELETE", f"/v1/tasks/{TASK}", None),
        ("DELETE", f"/v1/sessions/{SESSION}", None),
    ]


ASK: list[Callable[[Session, Any], object]] = [
    lambda session, ttl: agent(problem(500, "internal")).open_session(ttl=ttl),
    lambda session, ttl: session.start_task("refund", ttl=ttl),
    lambda session, ttl: StartedTask(bundle(), session=session, now=lambda: AT).extend(ttl=ttl),
    lambda session, ttl: StartedTask(bundle(), session=session, now=lambda: AT).attenuate(ttl=ttl),
    lambda session, ttl: Task(bundle(), now=lambda: AT).delegate("acme/x", ttl=ttl),
]


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("ttl", [60, 1.5, timedelta(minutes=1), "60", "1m30s", "", "0s"])
def test_a_wrong_duration_raises_before_the_network(ask: Callable[[Session, Any], object], ttl: Any) -> None:
    """Whatever has a life to ask for says how one is written, in the library's words; the mint hears of nothing."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(500)

    session = opened(handle)
    with pytest.raises(
        (RequestError, AttenuationError), match=r'^ttl: (a duration is .*"60s"|expected more than 0|.* lives 0)'
    ):
        ask(session, ttl)
    assert asked == []


others = bundle({"orders": token("orders", agent="acme/other")}, agent="acme/other")
FAILURE = {"place": "params", "rule": "amount range", "expected": "[0,100]", "came": "500"}
REFUSALS: list[tuple[Handle, type[ArxError], str, str]] = [
    (
        problem(403, "bad_parameters", failures=[FAILURE]),
        GrantError,
        "bad_parameters",
        "because: amount must be between 0 and 100 .params., got 500",
    ),
    (problem(403, "unknown_task"), GrantError, "unknown_task", "because"),
    (problem(404, "not_found"), GrantError, "not_found", "because"),
    (problem(409, "conflict"), GrantError, "conflict", "because"),
    (problem(401, "bad_proof"), TokenError, "bad_proof", "because"),
    (problem(401, "revoked"), RevokedError, "revoked", "because"),
    (problem(401, "replayed"), ProofError, "replayed", "because"),
    (problem(503, "stale"), UnavailableError, "stale", "because"),
    (problem(500, "internal"), UnavailableError, "internal", "because"),
    (lambda request: httpx.Response(502, text="<html>arx1_x"), UnavailableError, "no_mint", "answered 502, as a proxy"),
    (lambda request: httpx.Response(302, headers={"Location": "/x"}), UnavailableError, "not_a_mint", "answered 302"),
    (lambda request: httpx.Response(200, text="arx1_x"), StoreError, "store_unavailable", "not a mint of this version"),
    (lambda request: httpx.Response(200, json=[1]), StoreError, "store_unavailable", "not a mint of this version"),
    (lambda request: httpx.Response(201, json={}), StoreError, "store_unavailable", "has no .*bundle"),
    (lambda request: httpx.Response(201, json={"bundle": "arx1_x"}), StoreError, "store_unavailable", "cannot be used"),
    (
        lambda request: httpx.Response(201, json={"bundle": others.encode()}),
        StoreError,
        "store_unavailable",
        "of another agent or session",
    ),
]


@pytest.mark.parametrize(("handle", "kind", "code", "says"), REFUSALS)
def test_a_refusal_becomes_its_error(handle: Handle, kind: type[ArxError], code: str, says: str) -> None:
    """
    The class is the one that callers catch, with the mint's code, words and failures, and no token.
    """
    with pytest.raises(kind, match=says) as caught:
        opened(handle).start_task("refund")
    assert caught.value.code == code
    assert "arx1_" not in str(caught.value)


def test_failures_are_kept_and_reported_once() -> None:
    """
    What was expected and what came can be read from the error; its text says it once.
    """
    text = str(Failure(**FAILURE))
    with pytest.raises(GrantError) as caught:
        opened(problem(403, "bad_parameters", detail=f"no: {text}", failures=[FAILURE])).start_task("refund")
    assert caught.value.failures == (Failure(**FAILURE),)
    assert str(caught.value).count(text) == 1
    assert caught.value.status_hint == 403


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_network_trouble_says_what_to_do(error: type[httpx.TransportError]) -> None:
    """
    A mint that does not answer is a store error with its address and the command that starts one.
    """

    def handle(request: httpx.Request) -> httpx.Response:
        raise error("no")

    with pytest.raises(StoreError, match=rf"{ISSUER} does not answer") as caught:
        agent(handle).open_session()
    assert "`arx up`" in (caught.value.hint or "")


def lost(request: httpx.Request) -> httpx.Response:
    """A connection that ends before the answer."""
    raise httpx.ReadError("reset", request=request)


def refused(request: httpx.Request) -> httpx.Response:
    """A port without a listener."""
    raise httpx.ConnectError("refused", request=request)


def done(request: httpx.Request) -> httpx.Response:
    """A mint that answers."""
    return httpx.Response(201, json={"bundle": bundle().encode()})


def bad_gateway(request: httpx.Request) -> httpx.Response:
    """A proxy whose mint is gone."""
    return httpx.Response(502, text="bad gateway")


OUTCOMES: list[tuple[tuple[Handle, ...], type[ArxError] | None]] = [
    ((lost, done), None),
    ((lost, refused, done), None),
    ((bad_gateway, problem(503, "stale"), done), None),
    ((problem(500, "internal"), problem(429, "rate_limited"), done), None),
    ((problem(503, "store_unavailable"), done), None),
    ((lost, problem(403, "not_granted")), GrantError),
    ((lost, lost, lost), LostAnswerError),
    ((lost, refused, refused), LostAnswerError),
    ((refused,), StoreError),
    ((problem(503, "stale"),), UnavailableError),
    ((problem(429, "rate_limited"),), UnavailableError),
    ((problem(409, "conflict"),), GrantError),
]


@pytest.mark.parametrize(("answers", "raised"), OUTCOMES)
def test_what_may_have_been_done_is_repeated(answers: tuple[Handle, ...], raised: type[ArxError] | None) -> None:
    """
    Each repeat has the first one's key and a proof of its own; what was refused or never heard has none.
    """
    keys, proofs, left = set(), set(), list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        keys.add(request.headers["Idempotency-Key"])
        proofs.add(request.headers["DPoP"])
        return left.pop(0)(request)

    session = opened(handle)
    if raised is None:
        assert session.start_task("refund").id == TASK
    else:
        with pytest.raises(raised) as caught:
            session.start_task("refund")
        assert isinstance(caught.value, LostAnswerError) == (raised is LostAnswerError)
    assert (left, len(keys), len(proofs)) == ([], 1, len(answers))


def test_a_repeat_of_an_opening_has_an_assertion_of_its_own() -> None:
    """
    An assertion is accepted once, whatever became of the call that it went with; two sessions have two keys.
    """
    came, left = [], [lost, lambda request: httpx.Response(201, json=OPENED)] * 2

    def handle(request: httpx.Request) -> httpx.Response:
        came.append((request.headers["Idempotency-Key"], json.loads(request.content)["assertion"]))
        return left.pop(0)(request)

    caller = agent(handle)
    caller.open_session()
    caller.open_session()
    keys, assertions = zip(*came, strict=True)
    assert (keys[0], keys[2], len(set(keys)), len(set(assertions))) == (keys[1], keys[3], 2, 4)


@pytest.mark.servers
def test_a_port_without_a_mint(free_port: int) -> None:
    """
    The same over a real socket; and an address that is none.
    """
    key = SigningKey.generate()
    with pytest.raises(StoreError, match="does not answer"):
        MintClient(f"http://127.0.0.1:{free_port}", now=lambda: AT).call("GET", "/v1/whoami", key=key)
    for address in ("nonsense", "http://[", "http://a b"):
        with pytest.raises(StoreError):
            MintClient(address, now=lambda: AT).call("GET", "/v1/whoami", key=key)


def test_a_block_hides_no_error_of_its_own() -> None:
    """
    The error raised is the one inside the block; a note to it reports that the end failed.
    """
    with pytest.raises(ZeroDivisionError) as caught, opened(problem(503, "stale")):
        _ = 1 / 0
    assert "because" in caught.value.__notes__[0]
    with pytest.raises(UnavailableError), opened(problem(503, "stale")):
        pass
    for over in ("expired", "revoked"):
        with opened(problem(401, over)):
            pass


def test_an_operators_key_opens_no_session() -> None:
    """
    Nor does a key file that names no mint.
    """
    with pytest.raises(SettingsError, match="key of operator:root"):
        Agent(KeyFile.generate("operator", "root", ISSUER))
    with pytest.raises(SettingsError, match="names no mint"):
        Agent(KeyFile.generate("agent", "acme/x", ""))


def test_nothing_is_shown() -> None:
    """
    Neither repr gives a secret away, and a session is not pickled.
    """
    session = opened(problem(503, "stale"))
    assert repr(session) == f"<Session {SESSION} of acme/support>"
    assert repr(agent(problem(503, "stale"))) == f"<Agent acme/support at {ISSUER}>"
    with pytest.raises(TypeError, match="pickled"):
        session.__reduce__()
