# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on notifications: what receivers have not taken."""

import pytest

from arx_caps.cli.commands.doctor.notifications import check_notifications
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import KILLED
from tests.mint.harness import Harness

pytestmark = [pytest.mark.sqlite, pytest.mark.realm(log=True), pytest.mark.spec("CONTROL 7")]


def test_doctor_says_what_no_receiver_has_taken(unit: Harness) -> None:
    """Nothing without a receiver; one that takes nothing, and one that is gone, each with its remedy."""
    assert list(check_notifications(unit.mint.realm)) == []
    url = "https://alerts.acme.example/secret-path"
    webhook = unit.operator().call("POST", "/v1/webhooks", {"url": url}).json()["webhook"]["id"]
    db = unit.mint.db
    name = db.notifications.add(webhook, KILLED, {"seq": 1})
    (check,) = check_notifications(unit.mint.realm)
    assert (check.ok, check.mend, "wait" in check.found) == (True, "", False)
    row = db.notifications.claim(webhook, 1000)
    assert row is not None
    db.notifications.failed(row, "answered 500", 1)
    (check,) = check_notifications(unit.mint.realm)
    assert (check.ok, "1 waiting: answered 500" in check.found) == (True, True)
    db.notifications.failed(row, "answered 500", None)
    (check,) = check_notifications(unit.mint.realm)
    assert (check.ok, "answered 500" in check.found, "resend" in check.mend) == (False, True, True)
    assert "secret-path" not in check.found
    text = unit.client.app.state.metrics.text().decode()  # type: ignore[attr-defined]
    assert 'arx_notifications{state="failed"} 1.0' in text
    assert 'arx_notifications{state="waiting"} 0.0' in text
    db.webhooks.end(webhook, Event.of("webhook.gone", "mint", webhook=webhook))
    (check,) = check_notifications(unit.mint.realm)
    assert (check.ok, "gone" in check.found, webhook in check.mend) == (False, True, True)
    assert name == db.notifications.page(status="failed")[0].id
