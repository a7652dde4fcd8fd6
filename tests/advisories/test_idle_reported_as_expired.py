# SPDX-License-Identifier: Apache-2.0
"""An agent whose session had been idle for too long learned only that a token had expired.

The mint keeps the idle limit in the life of the session's token, so its refusal spoke of ``exp`` and two times in
milliseconds, and not of the session, nor of what to do.
"""

import re
from typing import Any

import pytest

from arx_caps.mint.identity import authenticate
from tests.mint.harness import REFUNDS, Harness, Holder, now_ms

IDLE = REFUNDS.replace('ttl = "8h"', 'ttl = "8h"\nidle = "10m"', 1)
MINUTES = 60_000

pytestmark = [pytest.mark.sqlite, pytest.mark.realm(policy=IDLE)]


def later(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    """Set the clock of the mint, and of those who call it, ahead."""

    def ahead() -> int:
        return now_ms() + ms

    monkeypatch.setattr(authenticate, "now_ms", ahead)


def refused(holder: Holder, session: dict[str, Any], ms: int) -> dict[str, Any]:
    path = f"/v1/sessions/{session['id']}/renew"
    headers = holder.headers("POST", path, now=now_ms() + ms)
    answer: dict[str, Any] = holder.harness.client.post(path, headers=headers).json()
    return answer


def test_an_idle_session_is_reported_as_idle(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """For how long, and what to do; the code stays what clients go by."""
    holder, session = unit.session()
    later(monkeypatch, 12 * MINUTES)
    answer = refused(holder, session, 12 * MINUTES)
    assert answer["code"] == "expired"
    assert re.fullmatch(r"the session was idle for (12m|7\d\ds) and has expired; open another", answer["detail"])


def test_one_that_has_lived_its_life_is_not_idle(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absolute limit is another matter."""
    holder, session = unit.open_session(unit.enrol(), ttl="5m")
    later(monkeypatch, 12 * MINUTES)
    answer = refused(holder, session, 12 * MINUTES)
    assert answer["code"] == "expired"
    assert answer["detail"] == "the session has reached the lifetime that the policy allows; open another"
