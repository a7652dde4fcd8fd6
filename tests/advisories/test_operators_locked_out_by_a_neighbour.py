# SPDX-License-Identifier: Apache-2.0
"""A stranger behind the same address locked operators, services and agents out: the address was judged first."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_caps.mint.api import admission
from arx_caps.mint.rate_limit import RateLimits
from arx_verifier.token import wire
from tests.console.harness import Browser, link_of, sign_in
from tests.mint.harness import ISSUER, LOOKUP, Harness, Holder

pytestmark = [pytest.mark.spec("CONTROL 4.5"), pytest.mark.sqlite]
OFFICE = ("203.0.113.7", 1)  # one address for a whole office
BURST = 3


@pytest.fixture
def office(unit: Harness) -> Harness:
    """The realm as it is called from the office, whose address has no unauthenticated call left."""
    limits = replace(unit.realm.limits, address_rate=0.0001, address_burst=BURST)
    unit.mint.limits = RateLimits(limits)
    client = TestClient(Browser(unit).client.app, base_url=ISSUER, client=OFFICE, follow_redirects=False)
    assert [client.get("/v1/agents").status_code for _ in range(BURST + 2)] == [401] * BURST + [429] * 2
    return Harness(unit.mint, client)


def service(unit: Harness) -> Holder:
    """Return an enrolled service."""
    asked = unit.operator().call("POST", "/v1/services/invitations", {"audience": "orders"}).json()
    holder = Holder(unit, SigningKey.generate(), None)
    assert holder.call("POST", "/v1/services/keys", {"enrolment": asked["enrolment"]}).is_success
    return holder


def test_who_is_authenticated_goes_on(unit: Harness, office: Harness) -> None:
    """An operator that signs in, a service that fetches keys, an agent that opens a session and starts a task."""
    operator = office.operator()
    assert operator.call("GET", "/v1/agents").status_code == 200
    holder, _ = office.open_session(unit.enrol())
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    enrolled = service(unit)
    path = "/v1/keys"
    assert office.client.get(path, headers=enrolled.headers("GET", path)).status_code == 200


def test_an_operator_at_the_console_goes_on(unit: Harness, office: Harness) -> None:
    """Also one that signs in by a link now."""
    browser = sign_in(unit)
    cookie = {"Cookie": f"arx-console={browser.client.cookies['arx-console']}"}
    assert [office.client.get("/console/kill", headers=cookie).status_code for _ in range(10)] == [200] * 10
    link = link_of(unit.operator())
    page = office.client.get(link)
    assert (page.status_code, f'action="{link}"' in page.text) == (200, True)
    used = office.client.post(link, data={"link": link.partition("link=")[2]}, headers={"Origin": ISSUER})
    assert (used.status_code, used.headers["location"]) == (303, "/console/home")
    office.client.cookies.clear()
    assert office.client.post(link, data={"link": "x"}, headers={"Origin": ISSUER}).status_code == 429  # it is used


def stranger_calls(unit: Harness, office: Harness) -> list[httpx2.Response]:
    """Return the answers to what a stranger can make up: keys, tokens, cookies, links, assertions."""
    holder, _ = unit.session()
    own = Holder(office, SigningKey.generate(), None)
    taken = Holder(office, own.key, holder.token)  # another's token, and a key of its own
    key = KeyFile.generate("operator", "root", ISSUER)
    cookie = {"Cookie": f"arx-console={wire.text_of(bytes(32))}"}
    return [
        own.call("GET", "/v1/keys"),
        taken.call("POST", "/v1/tasks", LOOKUP),
        Holder(office, own.key, unit.operator().token).call("GET", "/v1/agents"),
        own.call("POST", "/v1/sessions", {"assertion": unit.assertion(key)}),
        own.call("POST", "/v1/operators/token", {"assertion": unit.assertion(key)}),
        office.client.get("/console/now", headers=cookie),
        office.client.get(f"/console/open?link={wire.text_of(bytes(32))}"),
        office.client.get("/console/sign-in"),
    ]


def test_a_stranger_is_refused_as_before(unit: Harness, office: Harness) -> None:
    """Whatever it makes up: all it gets is 429, and how long to wait."""
    answers = stranger_calls(unit, office)
    assert [answer.status_code for answer in answers] == [429] * len(answers)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)


def test_a_former_caller_has_a_limit_of_its_own(unit: Harness, office: Harness) -> None:
    """A frozen operator's key is known, so that its failing calls would otherwise have no limit."""
    operator = office.operator()
    unit.epochs.freeze("operator:root")
    statuses = [operator.call("GET", "/v1/agents").status_code for _ in range(BURST + 2)]
    assert statuses[-1] == 429, statuses


def test_the_work_for_strangers_is_bounded(unit: Harness, office: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full line the next one is refused at once, without a look at its proof."""
    looked: list[Any] = []
    monkeypatch.setattr(admission, "_PROOFS", admission.WorkQueue("full", 1, -1))
    operator = unit.operator()
    monkeypatch.setattr(unit.mint.db.holder_keys, "row_of", lambda *each: looked.append(each))
    assert Holder(office, operator.key, operator.token).call("GET", "/v1/agents").status_code == 429
    assert looked == []
