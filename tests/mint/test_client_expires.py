# SPDX-License-Identifier: Apache-2.0
"""An OAuth client that an operator registers for a time ends by itself, with all that it has begun."""

from typing import Any

import pytest
from sqlalchemy import update

from arx_caps.mint.db.tables import OAUTH_CLIENTS
from tests.mint.harness import Harness, now_ms
from tests.mint.oauth import Client

pytestmark = pytest.mark.spec("CONTROL 5.2")


def shown(client: Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.harness.operator().call("GET", f"/v1/clients/{client.id}").json()
    return answer


def test_a_client_for_a_time_begins_nothing_that_outlives_it(unit: Harness) -> None:
    """Session, task and access token end with it; without `expires` none of them is cut."""
    unit.enrol()
    before = now_ms()
    client = Client(unit, expires="2m")
    end = shown(client)["expires_at"]
    assert before + 120_000 <= end <= now_ms() + 120_000
    assert client.ask(scope="lookup").json()["expires_in"] <= 120
    with unit.mint.db.read() as c:
        found = c.exec_driver_sql("SELECT ends_at, expires_at FROM sessions").all()
        found += c.exec_driver_sql("SELECT expires_at, expires_at FROM tasks").all()
    assert len(found) == 2
    assert all(value <= end for row in found for value in row)
    assert shown(Client(unit))["expires_at"] is None


def test_a_client_whose_time_is_over_proves_nothing(unit: Harness) -> None:
    """As one that was removed; its row and its record stay."""
    unit.enrol()
    client = Client(unit, expires="30m")
    assert client.ask(scope="lookup").status_code == 200
    with unit.mint.db.write() as c:
        c.execute(update(OAUTH_CLIENTS).values(expires_at=now_ms()))
    assert client.ask(scope="lookup").json()["error"] == "invalid_client"
    assert shown(client)["ended_at"] is None


@pytest.mark.parametrize("expires", ["0s", "soon", "1000d", ""])
def test_a_time_that_is_none_is_refused(unit: Harness, expires: str) -> None:
    """No client is registered, least of all one without an end."""
    unit.enrol()
    body = {"agent": "acme/support/triage", "scopes": ["lookup"], "expires": expires}
    answer = unit.operator().call("POST", "/v1/clients", body)
    assert (answer.status_code, "expected a duration such as 30m" in answer.text) == (400, True)
