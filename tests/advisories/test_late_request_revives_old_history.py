# SPDX-License-Identifier: Apache-2.0
"""A late request could make the mint trust a history of the kill epoch that had been ended.

The mint remembers which history it acted on last.  A session or task that was granted, or a kill that was taken, just
before the history was ended wrote the ended one's name back over it.  A store that was then set back to that history
passed as the right one, and every token that the new history had ended was alive again; without such a store, the next
start of the mint ended every session of the realm for nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.context import Born
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.epoch import HighWater
from arx_caps.mint.runtime import MintRuntime
from tests.mint.world import AGENT, LOOKUP, World, client_of, make_realm


@pytest.fixture
def world(tmp_path: Path, own_valkey: EmbeddedValkey) -> Iterator[World]:
    mint = MintRuntime.open(make_realm(tmp_path / "realm"), store_url=own_valkey.url)
    with client_of(mint) as client:
        yield World(mint, client)


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
def test_a_grant_that_raced_a_new_history_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mint that is looked at again after such a race keeps the new history, and what was granted late is dead."""
    agent, _ = world.session(AGENT)
    before = Born(*world.mint.epochs.view()[:2])
    begun = world.mint.store.rotate(max_ttl_ms=world.realm.max_ttl_ms).header
    world.mint.db.epoch.raise_high_water(world.realm.name, HighWater(begun.incarnation, begun.seq), begins=True)

    with monkeypatch.context() as racing:  # this request read the epoch, and was held to it, a moment before
        racing.setattr(world.mint, "born", lambda: before)
        racing.setattr(world.mint, "require", lambda *_: None)
        racing.setattr(world.mint.epochs, "check", lambda *_: None)
        assert agent.call("POST", "/v1/tasks", LOOKUP).status_code == 201

    mark = world.mint.db.epoch.high_water(world.realm.name)
    assert mark is not None
    assert mark.incarnation == begun.incarnation
    world.mint.history.attest()
    assert world.mint.store.header().incarnation == begun.incarnation
