# SPDX-License-Identifier: Apache-2.0
"""A stranger could block agents and operators by asking ``/readyz``, which took the writers' lock.

A stranger who asked often enough kept agents and operators waiting, and each that waited behind another writer held one
of the mint's threads for 5 s: forty of them stopped the mint.
"""

import threading
import time

import pytest

from tests.mint.harness import Harness


@pytest.mark.sqlite
def test_a_stranger_takes_no_lock_and_waits_for_none(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one look at the record hangs behind a writer, every other caller gets what is known."""
    assert unit.client.get("/readyz").status_code == 200
    hangs, goes_on, looked = threading.Event(), threading.Event(), []

    def look() -> None:
        looked.append(time.monotonic())
        hangs.set()
        assert goes_on.wait(60)

    monkeypatch.setattr(unit.mint.db.outbox, "check", look)
    monkeypatch.setattr("arx_caps.mint.db.health.LOOK_S", 0.0)
    first = threading.Thread(target=unit.client.get, args=("/readyz",))
    first.start()
    assert hangs.wait(60)
    assert {unit.client.get("/readyz").status_code for _ in range(50)} == {200}
    assert len(looked) == 1
    goes_on.set()
    first.join()
