# SPDX-License-Identifier: Apache-2.0
"""A late request could make the mint trust a history of the kill epoch that had been ended.

The mint remembers which history it acted on last.  A session or task that was granted, or a kill that was taken, just
before the history was ended wrote the ended one's name back over it.  A store that was then set back to that history
passed as the right one, and every token that the new history had ended was alive again; without such a store, the next
start of the mint ended every session of the realm for nothing.
"""

from pathlib import Path

import pytest

from arx_caps.mint.context import Born, KillView
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from tests.mint.harness import AGENT, LOOKUP, Harness

pytestmark = [pytest.mark.sqlite, pytest.mark.realm(own_store=True)]


def test_a_late_word_of_an_ended_history_is_not_remembered(tmp_path: Path) -> None:
    """Only the beginning of a history, or a later place in the sequence, can change which one is trusted."""
    with MintDatabase(f"sqlite:///{tmp_path}/mint.db") as db:
        db.create()
        db.epoch.raise_high_water("acme", HighWater("old", 9, max_ttl_ms=1000), begins=True)
        db.epoch.raise_high_water("acme", HighWater("new", 9, max_ttl_ms=1000), begins=True)
        for late in (8, 9):
            db.epoch.raise_high_water("acme", HighWater("old", late))
            assert db.epoch.high_water("acme") == HighWater("new", 9, max_ttl_ms=1000)
        db.epoch.raise_high_water("acme", HighWater("newer", 10))
        assert db.epoch.high_water("acme") == HighWater("newer", 10, max_ttl_ms=1000)


@pytest.mark.servers
def test_a_grant_that_raced_a_new_history_changes_nothing(live: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mint that is looked at again after such a race keeps the new history, and what was granted late is dead."""
    agent, _ = live.session(AGENT)
    before = Born(*live.mint.epochs.view()[:2])
    begun = live.mint.store.rotate(max_ttl_ms=live.realm.max_ttl_ms).header
    live.mint.db.epoch.raise_high_water(live.realm.name, HighWater(begun.incarnation, begun.seq), begins=True)

    with monkeypatch.context() as racing:  # this request read the epoch, and was held to it, a moment before
        racing.setattr(KillView, "born", lambda _: before)
        racing.setattr(KillView, "require", lambda *_: None)
        racing.setattr(live.mint.epochs, "check", lambda *_: None)
        assert agent.call("POST", "/v1/tasks", LOOKUP).status_code == 201

    mark = live.mint.db.epoch.high_water(live.realm.name)
    assert mark is not None
    assert mark.incarnation == begun.incarnation
    live.mint.history.attest()
    assert live.mint.store.header().incarnation == begun.incarnation
