# SPDX-License-Identifier: Apache-2.0
"""One call's unit of work: its key, its proofs and its events are written with its change, or not at all."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.work.repeats import Claim, Made
from arx_verifier.clock import now_ms
from arx_verifier.errors import AuditError, GrantError
from tests.servers import run_together

MADE = Event.of("agent.enrolled", "operator:root", agent="acme/x")


@pytest.fixture
def db(tmp_path: Path, database: str | None) -> Iterator[MintDatabase]:
    with MintDatabase(database or f"sqlite:///{tmp_path}/mint.db") as made:
        made.create()
        yield made


def claim(digest: str = "d") -> Claim:
    return Claim("operator:root", "k-1", digest, now_ms(), MADE.kind)


def spend(db: MintDatabase, jti: str) -> str:
    """Use a proof in another call; what that came to."""
    try:
        db.unit().spend("proof", "kid", jti, now_ms() + 60_000)
    except GrantError as error:
        return error.code
    return "ok"


def test_a_change_takes_key_proof_and_event_along(db: MintDatabase) -> None:
    """The key finds what was made, with its recipe; the proof is used; the event is recorded."""
    with db.unit(one_change=True) as unit:
        unit.claim, unit.recipe = claim(), {"kids": ["k1"]}
        unit.spend("proof", "kid", "one", now_ms() + 60_000)
        db.agents.add(unit, "acme/x", SigningKey.generate().public, owner=None, metadata={}, what=MADE)
        assert spend(db, "one") == "replayed"  # with the change, and not only at the end of the call
    assert db.repeats.find(claim()) == Made({"agent": "acme/x"}, {"kids": ["k1"]})
    assert [event.kind for event in db.outbox.after(0)] == [MADE.kind]
    with pytest.raises(GrantError) as caught:
        db.repeats.find(claim("another"))
    assert caught.value.code == "idempotency_mismatch"


def test_a_change_that_fails_leaves_nothing_but_the_used_proof(db: MintDatabase) -> None:
    """Without its record there is no thing and no key; the call was answered, so its proof is used."""
    with db.write() as c:
        c.exec_driver_sql("ALTER TABLE outbox RENAME TO elsewhere")

    def enrol() -> None:
        with db.unit(one_change=True) as unit:
            unit.claim = claim()
            unit.spend("proof", "kid", "one", now_ms() + 60_000)
            db.agents.add(unit, "acme/x", None, owner=None, metadata={}, what=MADE)

    with pytest.raises(AuditError):
        enrol()
    assert (db.agents.find("acme/x"), db.repeats.find(claim()), spend(db, "one")) == (None, None, "replayed")


def test_only_the_event_that_is_claimed_is_found_again(db: MintDatabase) -> None:
    """A step on the way, which has an event of its own, is not what the call was to do."""
    unit = db.unit()
    unit.claim = claim()
    unit.record(Event.of("key.created", "operator:root"))
    assert (db.repeats.find(claim()), unit.claimed) == (None, False)
    unit.record(MADE)
    assert db.repeats.find(claim()) is not None
    assert unit.claimed
    with pytest.raises(GrantError) as caught:
        unit.require_first()
    assert caught.value.code == "conflict"


def test_a_change_that_finds_nothing_to_do_records_nothing(db: MintDatabase) -> None:
    """What an attempt before it would have recorded does not come into the next one's transaction."""
    unit = db.unit()
    with pytest.raises(ValueError, match="broken"), unit.change(MADE):
        raise ValueError("broken")
    with unit.change():
        pass
    assert db.outbox.after(0) == []
    with unit.change():
        unit.note(MADE)
    assert len(db.outbox.after(0)) == 1


def test_two_threads_share_no_unit_of_work(db: MintDatabase) -> None:
    """One that is passed to another thread does nothing there: it would write one call's key with another's change."""
    refused = []

    def use(step: str) -> None:
        try:
            unit.spend("proof", "kid", step, now_ms() + 60_000) if step == "spend" else unit.record(MADE)
        except RuntimeError as error:
            refused.append(str(error))

    with db.unit(one_change=True) as unit:
        run_together(*(partial(use, step) for step in ("spend", "record")))
    assert refused == ["a unit of work belongs to the thread that opened it: open another"] * 2
    assert (db.outbox.after(0), spend(db, "spend")) == ([], "ok")
