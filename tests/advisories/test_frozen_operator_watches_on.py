# SPDX-License-Identifier: Apache-2.0
"""An open page of the console went on for an operator who was frozen, or whose rule no longer allowed all of it."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from arx_caps.console import live
from arx_caps.mint.db.tables import OPERATORS
from tests.console.harness import Browser, operator_with, sign_in
from tests.mint.harness import Harness

END_S = 60.0  # for a stream to end that checks itself all the time


def give(unit: Harness, *rules: dict[str, object]) -> None:
    """Give the operator ``eve`` these rules."""
    row = {"role": "custom", "rules": msgspec.json.encode(rules).decode()}
    with unit.mint.db.write() as c:
        c.execute(update(OPERATORS).where(OPERATORS.c.id == "eve").values(**row))


def ends(browser: Browser, path: str, change: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a stream that has begun ends by a change."""
    answer = live.Live.answer

    def begun(self: live.Live, *what: Any, **more: Any) -> Any:
        change()
        timer = threading.Timer(END_S, self.stop)
        timer.daemon = True
        timer.start()
        return answer(self, *what, **more)

    monkeypatch.setattr(live.Live, "answer", begun)
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    return "event: ended" in browser.get(path)


@pytest.mark.sqlite
def test_a_freeze_ends_its_streams(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it refuses the next page."""
    browser = sign_in(unit, operator_with(unit, "eve", "read-only"))
    assert ends(browser, "/console/now/live", lambda: unit.epochs.freeze("operator:eve"), monkeypatch)


@pytest.mark.sqlite
def test_each_call_that_a_stream_began_with_is_judged_again(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of verifiers shows the state of the realm, too."""
    browser = sign_in(unit, operator_with(unit, "eve", "read-only"))
    assert ends(browser, "/console/verifiers/live", lambda: give(unit, {"tool": "arx.services.read"}), monkeypatch)


@pytest.mark.sqlite
def test_the_arguments_of_a_rule_count_for_a_stream(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who may read the sessions of one agent now no longer gets those of another."""
    browser = sign_in(unit, operator_with(unit, "eve", "read-only"))
    rule = {"tool": "arx.sessions.read", "args": {"agent": {"one_of": ["acme/other"]}}, "open": True}
    assert ends(browser, "/console/sessions/live?agent=acme/support", lambda: give(unit, rule), monkeypatch)
