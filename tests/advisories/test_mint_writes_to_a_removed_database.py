# SPDX-License-Identifier: Apache-2.0
"""A mint reported changes as recorded after its database's file had been moved away.

A kill, an enrolment, a session was answered as recorded, and the mint called itself ready, while all of it went into a
file without a name and was gone with the process.
"""

from pathlib import Path

import pytest

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_verifier.errors import StoreError


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_nothing_is_recorded_in_a_file_without_its_name(tmp_path: Path, how: str) -> None:
    """Once the database's file is not where it was, nothing is answered as done, and the mint is not ready."""
    path = tmp_path / "mint.db"
    with MintDatabase(f"sqlite:///{path}") as db:
        db.create()
        db.record(Event.of("first", "mint"))
        if how == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "old.db")
        if how == "replaced":
            path.write_bytes(b"")
        for ask in (
            lambda: db.record(Event.of("second", "mint")),
            db.outbox.check,
            lambda: db.outbox.after(0),
        ):
            with pytest.raises(StoreError, match="moved away or removed"):
                ask()
        if how == "moved":
            (tmp_path / "old.db").rename(path)
            db.record(Event.of("third", "mint"))
            assert [event.kind for event in db.outbox.after(0)] == ["first", "third"]
