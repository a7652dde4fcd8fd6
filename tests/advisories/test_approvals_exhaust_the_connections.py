# SPDX-License-Identifier: Apache-2.0
"""An agent could stall the mint and an operator's answer, by asking for forty approvals at once.

The last of several approvals held the task's lock and asked for a second connection to the database, to look at
the operators before.  Those that waited for the lock had all connections: no request went on for five seconds.
"""

import threading
from collections import defaultdict
from typing import Any

from sqlalchemy import event

from tests.mint.approvals import TWO, Desk, code
from tests.servers import until

DESK_POLICY = TWO


def test_a_holder_of_a_connection_waits_for_no_other(desk: Desk) -> None:
    """
    From the request to its answer no thread holds two connections at once.
    """
    held: dict[int, int] = defaultdict(int)
    most = 0

    def taken(*_: Any) -> None:
        nonlocal most
        held[threading.get_ident()] += 1
        most = max(most, held[threading.get_ident()])

    def given_back(*_: Any) -> None:
        # The mint's own threads may have taken theirs before this listened.
        held[threading.get_ident()] = max(0, held[threading.get_ident()] - 1)

    ada, bob = desk.operator("ada"), desk.operator("bob")
    # Each transaction has a connection of its own, from its beginning to its end.
    engine = desk.harness.mint.db._engine
    event.listen(engine, "begin", taken)
    event.listen(engine, "commit", given_back)
    event.listen(engine, "rollback", given_back)
    asked = desk.ask()
    for each in (ada, bob):
        assert code(desk.answer(each, asked)) == "ok"
    assert desk.fetch(asked).json()["approval"]["state"] == "approved"
    assert code(desk.answer(ada, desk.ask(), "deny")) == "ok"
    until(lambda: set(held.values()) == {0})  # a thread of the mint may read just now
    assert most == 1
