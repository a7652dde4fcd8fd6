# SPDX-License-Identifier: Apache-2.0
"""``arx mint events``: what the mint recorded, for people and for scripts."""

import json
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import Realm
from tests.cli.helpers import arx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A realm with two events after its making, one of them with a hostile text."""
    realm = init_realm(tmp_path / "realm", name="acme", issuer="http://127.0.0.1:8700")
    with MintDatabase(realm.database_url, writer="arx-mint-1") as db:
        db.record(Event.of("session.opened", "agent:acme/a", session="s-1", purpose="\x1b[2J"))
        db.record(Event.of("targets.killed", "operator:root", targets=["session:s-1"], seq=3, reason="stop"))
    return realm.folder


def test_events_are_told_in_order(folder: Path) -> None:
    """
    Every event with who and its facts, the oldest first; filters take away.
    """
    events = arx("mint", "events", "--realm-dir", folder, "--json").json["events"]
    assert [event["kind"] for event in events] == ["operator.enrolled", "session.opened", "targets.killed"]
    assert events[2]["targets"] == ["session:s-1"]
    assert (events[2]["by"], events[2]["mint"], events[0]["mint"]) == ("operator:root", "arx-mint-1", "init")
    lines = arx("mint", "events", "--realm-dir", folder, "--kind", "targets.killed", "--since", "1h", "--jsonl").out
    assert [json.loads(line)["seq"] for line in lines.splitlines()] == [3]
    assert len(arx("mint", "events", "--realm-dir", folder, "--limit", "1").out.splitlines()) == 2


def test_a_database_is_read_without_the_realms_folder(folder: Path, tmp_path: Path) -> None:
    """Its URL is enough, as where the database is migrated from another machine."""
    place = ("--database", Realm.open(folder).database_url, "--realm-dir", tmp_path / "none", "--json")
    assert len(arx("mint", "events", *place).json["events"]) == 3
    assert arx("mint", "migrate", "--check", *place).exit_code == exit_codes.OK


def test_what_others_wrote_cannot_move_the_cursor(folder: Path) -> None:
    """
    A purpose with control characters is shown with them escaped.
    """
    ran = arx("mint", "events", "--realm-dir", folder)
    assert (ran.exit_code, "\x1b" in ran.out, "purpose=\\x1b[2J" in ran.out) == (exit_codes.OK, False, True)
    none = arx("mint", "events", "--realm-dir", folder, "--kind", "nothing.like.it")
    assert none.err == "no event matches\n"


def test_facts_are_json_where_they_are_no_text(folder: Path) -> None:
    """
    Numbers, yes and no, and what has parts are shown as JSON, times as times, and nothing as Python writes it.
    """
    with MintDatabase(Realm.open(folder).database_url) as db:
        facts = {"params": {"fast": True, "to": None}, "targets": ["a", "b"], "expires_at": 1_767_225_600_000}
        db.record(Event.of("task.started", "agent:acme/a", **facts))
    told = arx("mint", "events", "--realm-dir", folder, "--kind", "task.started").out
    assert 'params={"fast": true, "to": null}' in told
    assert "targets=a,b" in told
    assert "expires_at=2026-01-01T00:00:00Z" in told
