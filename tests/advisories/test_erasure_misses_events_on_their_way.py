# SPDX-License-Identifier: Apache-2.0
"""An event that was read before its person was erased, and came into the log in between, stayed there whole.

The feed of the log read an event, and then the session that it is about.  An erasure between the two had taken the
subject from the session, so the log had the event under no subject, and the erasure did not find it.
"""

import pytest

from arx_caps.mint.audit.feeds import EventFeed
from tests.mint.harness import Harness
from tests.mint.test_erase import ANN, begin_work, erase, kept_anywhere, killed

pytestmark = pytest.mark.realm(log=True)


def test_what_comes_into_the_log_meanwhile_is_erased(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another step of the log, which read the events before, appends them when the database is erased already."""
    db, log = unit.mint.db, unit.mint.log
    with log._stepping:  # nothing of the work is in the log yet
        begin_work(unit)
        killed(unit)
        read_before = db.outbox.after(log.store.high_water("mint", db.outbox.run()))
    real_after, real_settle = db.outbox.after, db.settle
    pages = [read_before]

    def append_what_was_read() -> None:
        """The database is erased by now; the log is not."""
        with monkeypatch.context() as patch:
            patch.setattr(
                db.outbox, "after", lambda number, limit=1000: pages.pop() if pages else real_after(number, limit)
            )
            EventFeed(db)(log.store)
        real_settle()

    monkeypatch.setattr(db, "settle", append_what_was_read)
    answer = erase(unit, subject=ANN)
    assert answer.status_code == 200, answer.text
    assert not pages
    assert kept_anywhere(unit) == set()
