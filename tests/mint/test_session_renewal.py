# SPDX-License-Identifier: Apache-2.0
"""Sessions have an idle and an absolute limit: renewed within both, refused when what opened them no longer holds."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.repositories.work.sessions import Room
from arx_caps.mint.db.tables import SESSIONS
from arx_caps.mint.policy.model import SessionTerms
from arx_caps.mint.tasks.sessions import next_end
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, now_ms
from tests.mint.test_races import at_once

pytestmark = pytest.mark.spec("CONTROL 2.1")

LIMITS = '[session]\nagents = ["acme/**"]\nttl = "8h"\nidle = "10m"\nmax_open = 3\n'


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A mint whose sessions idle out after ten minutes, and of which an agent has three at once."""
    limit(unit, LIMITS)
    return unit


def limit(harness: Harness, sessions: str) -> None:
    """Put another ``[session]`` into the policy that is in force."""
    path = harness.realm.policy_path
    before, _, rest = path.read_text().partition("[session]")
    path.write_text(f"{before}{sessions}\n[task.{rest.partition('[task.')[2]}")
    harness.mint.reload_policy()


def renew(holder: Holder, session: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = holder.call("POST", f"/v1/sessions/{session['id']}/renew").json()
    return answer


def read(token: str) -> Identifier:
    found = Macaroon.parse(token).unverified_identifier
    assert isinstance(found, Identifier)
    return found


def since(harness: Harness, session: dict[str, Any], ms: int) -> None:
    """Let a session have been opened so much earlier; its token stays as it is."""
    values = {"opened_at": session["opened_at"] - ms, "ends_at": session["ends_at"] - ms}
    with harness.mint.db.write() as c:
        c.execute(SESSIONS.update().where(SESSIONS.c.id == session["id"]).values(**values))


def test_a_renewal_ends_later_and_within_the_limit(unit: Harness) -> None:
    """The new token starts tasks, the session ends later than before, and its absolute limit stays where it was."""
    holder, session = unit.session()
    assert session["expires_at"] == session["opened_at"] + 600_000
    assert session["ends_at"] == session["opened_at"] + 8 * 3_600_000
    answer = renew(holder, session)
    assert answer["session"]["ends_at"] == session["ends_at"]
    assert session["expires_at"] <= answer["session"]["expires_at"] <= now_ms() + 600_000
    assert read(answer["token"]).exp == answer["session"]["expires_at"]
    again = Holder(unit, holder.key, answer["token"])
    assert again.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    kinds = [(event["kind"], event.get("session")) for event in unit.events()]
    assert ("session.renewed", session["id"]) in kinds


def test_the_absolute_limit_holds(unit: Harness) -> None:
    """Near its end a renewal gives what is left and no more; behind it, nothing."""
    holder, session = unit.session()
    since(unit, session, 8 * 3_600_000 - 60_000)
    answer = renew(holder, session)
    assert read(answer["token"]).exp == session["ends_at"] - (8 * 3_600_000 - 60_000)
    assert answer["session"]["expires_at"] == session["expires_at"]  # the older token lives longer
    since(unit, session, 8 * 3_600_000)
    answer = renew(holder, session)
    assert (answer["code"], "open another" in answer["detail"]) == ("session_ended", True)


@given(
    st.integers(1, 10**9),
    st.integers(1, 10**9) | st.none(),
    st.integers(1, 10**9),
    st.lists(st.integers(0, 10**8), max_size=8),
)
def test_no_renewal_outlives_the_limit(ttl: int, idle: int | None, longest: int, pauses: list[int]) -> None:
    """However often and whenever a session is renewed, no token of it ends after its absolute limit."""

    class OfRealm:
        class realm:  # noqa: N801 - stands where the mint's realm does
            max_ttl_ms = longest

    terms = SessionTerms(name="s", agents=("**",), ttl_ms=ttl, idle_ms=idle)
    now, ends_at = 0, ttl
    for pause in (0, *pauses):
        now += pause
        if now >= ends_at:
            break
        end = next_end(OfRealm, terms, now, ends_at)  # type: ignore[arg-type]
        assert now < end <= min(ends_at, now + longest, now + (idle or longest))


def test_a_stricter_policy_shortens_and_a_laxer_one_does_not_prolong(unit: Harness) -> None:
    """The limit is the smaller one of when the session was opened and of now; an agent that may no more is refused."""
    holder, session = unit.session()
    limit(unit, LIMITS.replace("8h", "9h"))
    assert renew(holder, session)["session"]["ends_at"] == session["ends_at"]
    limit(unit, LIMITS.replace("8h", "1h"))
    answer = renew(holder, session)
    assert answer["session"]["ends_at"] == session["opened_at"] + 3_600_000
    assert answer["session"]["policy"] == unit.mint.policy.digest
    limit(unit, LIMITS.replace("acme/**", "other/**"))
    assert renew(holder, session)["code"] == "session_not_allowed"


def test_what_opened_it_must_still_be_enrolled(unit: Harness) -> None:
    """When the key that opened a session was taken away, it goes on to its end and is not renewed."""
    key = unit.enrol()
    holder, session = unit.open_session(key)
    other = SigningKey.generate().public
    change = {"add_jwk": other.jwk, "remove_kid": key.key.kid}
    assert unit.operator().call("PATCH", f"/v1/agents/{AGENT}", change).status_code == 200
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    assert renew(holder, session)["code"] == "session_not_allowed"


def test_another_session_is_not_found(unit: Harness) -> None:
    """A session's key renews that session alone; an operator renews none."""
    holder, _ = unit.session()
    _, theirs = unit.session("acme/support/other")
    assert renew(holder, theirs)["code"] == "not_found"
    assert renew(unit.operator(), theirs)["code"] == "wrong_caller"


def test_what_is_over_or_frozen_is_not_renewed(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """A frozen session is refused until it is thawed; a killed one for good; so is one whose row says that it ended."""
    holder, session = unit.session()
    epochs.freeze(f"session:{session['id']}")
    assert renew(holder, session)["code"] == "frozen"
    epochs.thaw(f"session:{session['id']}")
    assert "token" in renew(holder, session)
    epochs.kill(f"session:{session['id']}")
    assert renew(holder, session)["code"] == "revoked"
    holder, session = unit.open_session(unit.enrol("acme/support/other"))
    with unit.mint.db.write() as c:
        c.execute(SESSIONS.update().where(SESSIONS.c.id == session["id"]).values(status="ended"))
    assert renew(holder, session)["code"] == "revoked"


@pytest.mark.spec("CONTROL 2.2")
def test_as_many_as_the_policy_says(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """The fourth is refused with what to do; what was killed, ended or is over leaves room, what is frozen does not."""
    key = unit.enrol()
    sessions = [unit.open_session(key)[1]["id"] for _ in range(3)]
    again = Holder(unit, unit.session_key, None)

    def another() -> str:
        answer = again.call("POST", "/v1/sessions", {"assertion": unit.assertion(key)})
        return "ok" if answer.status_code == 201 else str(answer.json()["code"])

    answer = again.call("POST", "/v1/sessions", {"assertion": unit.assertion(key)}).json()
    assert (answer["code"], sessions[0] in answer["detail"]) == ("too_many_sessions", True)
    epochs.freeze(f"session:{sessions[0]}")
    assert another() == "too_many_sessions"
    epochs.kill(f"session:{sessions[0]}")
    assert [another(), another()] == ["ok", "too_many_sessions"]
    with unit.mint.db.write() as c:
        c.execute(SESSIONS.update().where(SESSIONS.c.id == sessions[1]).values(expires_at=now_ms()))
        c.execute(SESSIONS.update().where(SESSIONS.c.id == sessions[2]).values(status="ended"))
    assert [another(), another(), another()] == ["ok", "ok", "too_many_sessions"]
    assert unit.open_session(unit.enrol("acme/support/other"))


@pytest.mark.spec("CONTROL 2.2")
def test_a_limit_is_not_escaped_by_other_terms(unit: Harness) -> None:
    """Where several terms fit, the smallest number counts."""
    limit(unit, LIMITS.replace("[session]", "[session.one]") + '[session.two]\nagents = ["acme/**"]\nttl = "1h"\n')
    assert unit.mint.policy.most_open(AGENT) == 3
    assert unit.mint.policy.most_open("other") is None


@pytest.mark.spec("CONTROL 2.2")
def test_no_race_opens_one_too_many(unit: Harness) -> None:
    """Of many that are opened at once, at two mints on one database, as many as are allowed come about."""
    key = unit.enrol()
    url = unit.mint.db._engine.url.render_as_string(hide_password=False)
    with MintDatabase(url) as other:
        row = unit.mint.db.sessions.find(unit.open_session(key)[1]["id"])
        assert row is not None

        def opening(n: int) -> Any:
            db = (unit.mint.db, other)[n % 2]
            mark, what = HighWater(row.incarnation, row.born), Event.of("session.opened", "test")
            return lambda: db.sessions.add(
                db.unit(),
                msgspec.structs.replace(row, id=f"s-{n}"),
                mark,
                unit.realm.name,
                what,
                Room(3, lambda _: True),
            )

        assert sorted(at_once(*map(opening, range(8)))) == ["ok"] * 2 + ["too_many_sessions"] * 6
        assert len(other.sessions.list(agent=AGENT)) == 3
