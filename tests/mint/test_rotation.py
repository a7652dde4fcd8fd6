# SPDX-License-Identifier: Apache-2.0
"""Root keys and audience keys change, and no token ever meets a service that does not know its key."""

from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.cli.commands.doctor import services
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.db.repositories.identity import keys
from arx_caps.mint.keys import key_schedule, rotation
from arx_verifier.token.macaroon import Identifier
from tests.mint.harness import LOOKUP, Harness, Holder, local_mint, now_ms

pytestmark = pytest.mark.spec("CONTROL 3.4")

REFRESH_MS = 60_000
DAY_MS = 24 * 3600 * 1000


class Clock:
    """The mint's clock, as far as keys go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ms = 0
        for module in (key_schedule, rotation, keys):
            monkeypatch.setattr(module, "now_ms", lambda: now_ms() + self.ahead_ms)

    def wait(self, ms: int) -> None:
        self.ahead_ms += ms


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mint looks for due rotations on every call."""
    monkeypatch.setattr(key_schedule, "PLAN_S", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def joined(harness: Harness, audience: str = "orders") -> Holder:
    answer = harness.operator().call("POST", "/v1/services/invitations", {"audience": audience})
    holder = Holder(harness, SigningKey.generate(), None)
    assert holder.call("POST", "/v1/services/keys", {"enrolment": answer.json()["enrolment"]}).status_code == 201
    return holder


def fetch(service: Holder) -> set[str]:
    return {each["kid"] for each in service.call("GET", "/v1/keys").json()["keys"]}


def minted(agent: Holder) -> str:
    """The key id of a token for orders that is made now."""
    answer = agent.call("POST", "/v1/tasks", LOOKUP)
    assert answer.status_code == 201, answer.text
    identifier = Bundle.parse(answer.json()["bundle"]).tokens["orders"].unverified_identifier
    assert isinstance(identifier, Identifier)
    return identifier.kid


def rotated(harness: Harness, **how: Any) -> dict[str, Any]:
    answer = harness.operator().call("POST", "/v1/root-keys/rotate", how)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_new_root_waits_until_services_know_it(unit: Harness, clock: Clock) -> None:
    """It is handed out at once, mints after two intervals and never before each service that runs has fetched it."""
    service, (agent, _) = joined(unit), unit.session()
    fetch(service)
    clock.wait(2 * REFRESH_MS)
    fetch(service)
    old = minted(agent)
    answer = rotated(unit)
    assert (answer["name"], answer["state"]) == ("k2", "waiting")
    assert [waiting["audience"] for waiting in answer["waits_for"]] == ["orders"]
    assert minted(agent) == old == "k1.1"
    clock.wait(2 * REFRESH_MS)
    assert minted(agent) == old  # the time is over, and the service has not asked
    assert fetch(service) == {"k1.1", "k2.1"}
    assert minted(agent) == "k2.1"
    [first, second] = unit.operator().call("GET", "/v1/root-keys").json()["keys"]
    assert (first["state"], second["state"]) == ("accepted", "minting")
    assert second["mints_for"] == ["arx.mint", "orders"]


def test_a_fetched_root_waits_its_two_intervals(unit: Harness, clock: Clock) -> None:
    """That one process of a service has it does not mean that all have."""
    service, (agent, _) = joined(unit), unit.session()
    fetch(service)
    clock.wait(2 * REFRESH_MS)
    rotated(unit)
    assert "k2.1" in fetch(service)
    clock.wait(2 * REFRESH_MS - 5_000)
    assert minted(agent) == "k1.1"
    clock.wait(10_000)
    assert minted(agent) == "k2.1"


def test_a_service_that_is_gone_is_not_waited_for(unit: Harness, clock: Clock) -> None:
    """Neither one whose key was taken away, nor one that has not asked for as long as any token lives."""
    gone, lost, (agent, _) = joined(unit), joined(unit), unit.session()
    fetch(gone)
    fetch(lost)
    clock.wait(2 * REFRESH_MS)
    rotated(unit)
    clock.wait(2 * REFRESH_MS)
    unit.operator().call("PATCH", "/v1/services/orders", {"remove_kid": lost.key.kid})
    fetch(joined(unit))
    assert minted(agent) == "k1.1"
    clock.wait(DAY_MS)
    assert minted(agent) == "k2.1"


def test_created_ahead_and_rotated_later(unit: Harness, clock: Clock) -> None:
    """A key that was published long ago mints on command; in an emergency one does without waiting."""
    service, (agent, _) = joined(unit), unit.session()
    assert unit.operator().call("POST", "/v1/root-keys").json()["state"] == "published"
    fetch(service)
    clock.wait(DAY_MS // 2)
    fetch(service)
    assert minted(agent) == "k1.1"
    assert rotated(unit)["state"] == "minting"
    assert minted(agent) == "k2.1"
    assert rotated(unit, now=True)["name"] == "k3"
    assert minted(agent) == "k3.1"
    names = {event["key"] for event in unit.events() if event["kind"] == "key.rotated"}
    assert names == {"k2", "k3"}


def test_what_mints_is_not_retired(unit: Harness, clock: Clock) -> None:
    """Nor what tokens live of, unless they are to be ended; nor the last one."""
    service, operator = joined(unit), unit.operator()
    fetch(service)
    for body in ({}, {"now": True}):
        assert operator.call("POST", "/v1/root-keys/k1/retire", body).json()["code"] == "conflict"
    assert operator.call("POST", "/v1/root-keys/k9/retire", {}).json()["code"] == "not_found"
    rotated(unit)
    clock.wait(2 * REFRESH_MS)
    fetch(service)
    clock.wait(2 * REFRESH_MS)
    unit.mint.key_schedule.tick()
    answer = operator.call("POST", "/v1/root-keys/k1/retire", {})
    assert answer.json()["code"] == "conflict"
    assert "live until" in answer.json()["detail"]
    clock.wait(DAY_MS + 5 * REFRESH_MS)
    # The store of `unit` does not answer: retired all the same, and the mint freezes it when it does.
    assert unit.operator().call("POST", "/v1/root-keys/k1/retire", {}).status_code == 503
    assert fetch(service) == {"k2.1"}
    assert unit.mint.key_schedule.retired_targets() == {"key:k1.0", "key:k1.1"}
    assert operator.call("GET", "/v1/whoami").json()["code"] == "unknown_key"


@pytest.mark.spec("9")
def test_a_stolen_key_is_replaced_alone(unit: Harness) -> None:
    """The next number is its audience's alone, the stolen key is handed out no more, and no other audience notices."""
    orders, payments = joined(unit), joined(unit, "payments")
    assert fetch(orders) == {"k1.1"}
    before = fetch(payments)
    agent, _ = unit.session()
    operator = unit.operator()
    assert operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True}).status_code == 503
    assert fetch(orders) == {"k1.3"}
    assert minted(agent) == "k1.3"
    assert fetch(payments) == before == {"k1.2"}
    assert unit.mint.key_schedule.retired_targets() == {"key:k1.1"}
    assert operator.call("POST", "/v1/services/unknown/replace-key", {}).status_code == 404


def test_a_stolen_machine_gets_no_next_key(unit: Harness) -> None:
    """In the order of docs/operations.md: the service's own key goes first, else its thief fetches what comes next."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    paragraph = page.partition("**A service's key was stolen**")[2]
    assert paragraph.index("service remove-key") < paragraph.index("service replace-key orders --stolen")
    thief, operator = joined(unit), unit.operator()
    fetch(thief)
    own = {"remove_kid": thief.key.kid}
    assert operator.call("PATCH", "/v1/services/orders", own).status_code == 200
    operator.call("POST", "/v1/services/orders/replace-key", {"stolen": True})
    assert thief.call("GET", "/v1/keys").status_code == 401
    assert fetch(joined(unit)) == {"k1.2"}


def test_a_key_is_replaced_in_peace(unit: Harness, clock: Clock) -> None:
    """Both are accepted; the new one mints when the service has it, the old one goes when its last token is over."""
    service, (agent, _) = joined(unit), unit.session()
    fetch(service)
    clock.wait(2 * REFRESH_MS)
    fetch(service)
    answer = unit.operator().call("POST", "/v1/services/orders/replace-key", {})
    assert (answer.status_code, answer.json()["kill"]) == (200, None)
    assert minted(agent) == "k1.1"
    assert fetch(service) == {"k1.1", "k1.2"}
    clock.wait(2 * REFRESH_MS)
    assert minted(agent) == "k1.2"
    unit.mint.key_schedule.tick()
    clock.wait(DAY_MS + 10 * REFRESH_MS)
    assert fetch(service) == {"k1.2"}


def test_a_removed_service_is_gone(unit: Harness) -> None:
    """Its own keys get nothing, it is listed no more, and an audience of that name gets another key."""
    service = joined(unit)
    assert fetch(service) == {"k1.1"}
    assert unit.operator().call("DELETE", "/v1/services/orders").status_code == 503
    assert service.call("GET", "/v1/keys").status_code == 401
    assert unit.operator().call("GET", "/v1/services").json()["services"] == []
    assert unit.mint.key_schedule.retired_targets() == {"key:k1.1"}
    assert fetch(joined(unit)) == {"k1.2"}


def test_every_mint_of_a_realm_has_every_root(unit: Harness, clock: Clock) -> None:
    """A key that one mint made mints at the other too, and each accepts what the other signed, also when it is new."""
    other = local_mint(unit.realm)
    service = joined(unit)
    fetch(service)
    rotated(unit)
    clock.wait(2 * REFRESH_MS)
    fetch(service)
    clock.wait(1)
    kid, key = other.key_schedule.mint_key()
    assert kid == "k2.0"
    assert unit.mint.key_schedule.mint_key() == (kid, key)
    assert other.key_schedule.audience_key("orders") == unit.mint.key_schedule.audience_key("orders")
    # Met before it was looked for.
    third = local_mint(unit.realm)
    assert third.key_schedule.ring.get("k2.0") is not None
    assert third.key_schedule.ring.get("k9.0") is None
    for mint in (other, third):
        mint.close()


def test_a_key_that_is_asked_for_again_is_made_once(unit: Harness) -> None:
    """A repeated call whose answer was lost, with its idempotency key, finds the key that was made."""
    operator = unit.operator()

    def create(again: str) -> Any:
        headers = operator.headers("POST", "/v1/root-keys") | {HEADER: again}
        return unit.client.post("/v1/root-keys", headers=headers)

    answers = [create(again) for again in ("one", "one", "two")]
    assert [answer.json()["name"] for answer in answers] == ["k2", "k2", "k3"], answers[0].text


def test_the_doctor_names_a_service_without_the_newest_key(
    unit: Harness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own key, while it asks; one that has fetched, whose key was removed, or that is gone holds nothing up."""
    monkeypatch.setattr(services, "now_ms", lambda: now_ms() + clock.ahead_ms)

    def checks() -> list[Check]:
        return list(services._fetched(unit.mint.db.keys.rows(), ["orders", "payments"], unit.realm))

    first, second = joined(unit), joined(unit)
    fetch(first)
    fetch(second)
    rotated(unit)
    clock.wait(2 * REFRESH_MS)
    assert checks() == []
    fetch(first)
    clock.wait(2 * REFRESH_MS)
    [check] = checks()
    assert (check.name, check.mend) == ("service orders", services.REFRESH)
    assert "lacks the key k2.1," in check.found
    unit.operator().call("PATCH", "/v1/services/orders", {"remove_kid": second.key.kid})
    assert checks() == []
