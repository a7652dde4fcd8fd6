# SPDX-License-Identifier: Apache-2.0
"""A lost answer ends no session: the last refresh may be repeated, and only one of its answers goes on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt

from arx_caps.mint.oauth import refresh
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from tests.mint.harness import ISSUER, now_ms, open_live
from tests.mint.login import POLICY, Flow, Issuer, claims_of, settings
from tests.mint.oauth import RESOURCE
from tests.servers import run_together

pytestmark = [pytest.mark.spec("CONTROL 5.9"), pytest.mark.servers]


@pytest.fixture
def live_flow(idp: Issuer, tmp_path: Path, valkey: Any, realm_name: str, database: str | None) -> Iterator[Flow]:
    """A client of a mint with a store, so that tasks and sessions can end."""
    policy, extra = POLICY.format(issuer=idp.url), settings(idp.url)
    with open_live(
        tmp_path / "realm", str(valkey.url), name=realm_name, database=database, policy=policy, settings=extra
    ) as live:
        live.enrol()
        yield Flow(live)


def is_refused(flow: Flow, token: str) -> bool:
    """Use a refresh token; return whether it was refused."""
    answer = flow.refresh(token)
    assert answer.status_code == 200 or answer.json()["error"] == "invalid_grant", answer.text
    return answer.status_code != 200


def session_of(flow: Flow, answer: dict[str, Any]) -> Any:
    """Return the row of an access token's session."""
    return flow.harness.mint.db.sessions.find(claims_of(flow.harness, answer["access_token"]).sid)


def test_a_lost_answer_is_asked_for_again(live_flow: Flow) -> None:
    """The repeat ends what the lost answer gave, and the session goes on, as often as answers get lost."""
    flow = live_flow
    first = flow.token()
    lost = [flow.refresh(first["refresh_token"]).json() for _ in range(3)]
    came = lost.pop()
    assert [flow.client.active(answer["access_token"]) for answer in (*lost, came)] == [False, False, True]
    assert flow.client.active(first["access_token"])
    assert not is_refused(flow, came["refresh_token"])
    assert session_of(flow, came).status == "open"


@pytest.mark.sqlite
def test_a_thief_and_the_client_do_not_both_go_on(live_flow: Flow) -> None:
    """The thief first or after: who came before has no access at once, and ends the session by trying to go on."""
    flow = live_flow
    token = flow.token()["refresh_token"]
    before, later = (flow.refresh(token).json() for _ in range(2))
    assert not flow.client.active(before["access_token"])
    assert flow.client.active(later["access_token"])
    assert is_refused(flow, before["refresh_token"])
    assert not flow.client.active(later["access_token"])
    assert is_refused(flow, later["refresh_token"])
    assert session_of(flow, later).status == "ended"


@pytest.mark.sqlite
def test_a_token_whose_answer_arrived_is_no_repeat(live_flow: Flow) -> None:
    """A client that used the next token has no reason to come with this one: a thief has it."""
    flow = live_flow
    first = flow.token()["refresh_token"]
    second = flow.refresh(first).json()
    third = flow.refresh(second["refresh_token"]).json()
    assert is_refused(flow, first)
    assert not flow.client.active(third["access_token"])
    assert is_refused(flow, third["refresh_token"])


@pytest.mark.sqlite
def test_a_repeat_has_its_time(live_flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted from the first use; after it the session ends."""
    flow = live_flow
    first = flow.token()["refresh_token"]
    flow.refresh(first)
    monkeypatch.setattr(refresh, "now_ms", lambda: now_ms() + refresh.REPEAT_MS - 5_000)
    again = flow.refresh(first).json()
    monkeypatch.setattr(refresh, "now_ms", lambda: now_ms() + refresh.REPEAT_MS)
    assert is_refused(flow, first)
    assert not flow.client.active(again["access_token"])


@pytest.mark.sqlite
def test_no_other_client_repeats(live_flow: Flow) -> None:
    """Nor does its attempt end anything."""
    flow = live_flow
    first = flow.token()["refresh_token"]
    came = flow.refresh(first).json()
    assert is_refused(Flow(flow.harness), first)
    assert flow.client.active(came["access_token"])


def test_two_at_once_leave_one(live_flow: Flow) -> None:
    """Both are answered, in some order; one answer goes on, and the other's refresh token ends the session."""
    flow = live_flow
    first, rounds = flow.token()["refresh_token"], 4
    for _ in range(rounds):
        barrier, answers = threading.Barrier(2), list[dict[str, Any]]()

        def ask(token: str = first, barrier: threading.Barrier = barrier, answers: Any = answers) -> None:
            barrier.wait()
            answers.append(flow.refresh(token).json())

        run_together(*[ask] * 2)
        live = [answer for answer in answers if flow.client.active(answer["access_token"])]
        assert len(live) == 1, answers
        [gone] = [answer for answer in answers if answer is not live[0]]
        first = live[0]["refresh_token"]
    assert is_refused(flow, gone["refresh_token"])
    assert is_refused(flow, first)


def test_a_successor_that_is_used_meanwhile_ends_the_session(live_flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client goes on while a thief repeats: the repeat finds it out before it answers."""
    flow = live_flow
    first = flow.token()["refresh_token"]
    second = flow.refresh(first).json()["refresh_token"]
    start, done = refresh.start_and_issue, list[bool]()

    def late(*args: Any) -> Any:
        monkeypatch.setattr(refresh, "start_and_issue", start)
        done.append(is_refused(flow, second))  # after the repeat was found in order, and before it is answered
        return start(*args)

    monkeypatch.setattr(refresh, "start_and_issue", late)
    assert is_refused(flow, first)
    assert done == [False]


@pytest.mark.sqlite
def test_a_consent_goes_on_in_no_session_of_an_identity_assertion(flow: Flow, idp: Issuer) -> None:
    """Nothing renews such a session, so the consent's refresh token would be of no use."""
    now, header = now_ms() // 1000, {"typ": "oauth-id-jag+jwt", "alg": "ES256", "kid": "k1"}
    claims: dict[str, Any] = {
        "iss": idp.url,
        "sub": "ann",
        "groups": ["support"],
        "aud": ISSUER,
        "client_id": flow.client.id,
    }
    claims |= {"jti": "of-an-assertion-1", "iat": now, "exp": now + 300}
    form = {"assertion": jwt.encode(header, claims, idp.key), "scope": "status", "resource": RESOURCE}
    answer = flow.client.post("/oauth/token", None, grant_type=JWT_BEARER, **form)
    assert answer.status_code == 200, answer.text
    assert flow.refresh(flow.token()["refresh_token"]).status_code == 200
