# SPDX-License-Identifier: Apache-2.0
"""A stranger could block agents and operators by asking ``/readyz``, which took the writers' lock.

A stranger who asked often enough kept agents and operators waiting, and each that waited behind another writer held one
of the mint's threads for 5 s: forty of them stopped the mint.
"""

import threading
import time
from pathlib import Path

import pytest

from tests.mint.world import local_world


def test_a_stranger_takes_no_lock_and_waits_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one look at the record hangs behind a writer, everybody else is answered with what is known."""
    world, _ = local_world(tmp_path / "realm")
    assert world.client.get("/readyz").status_code == 200
    hangs, goes_on, looked = threading.Event(), threading.Event(), []

    def look() -> None:
        looked.append(time.monotonic())
        hangs.set()
        assert goes_on.wait(20)

    monkeypatch.setattr(world.mint.db.outbox, "check", look)
    monkeypatch.setattr("arx_caps.mint.db.health.LOOK_S", 0.0)
    first = threading.Thread(target=world.client.get, args=("/readyz",))
    first.start()
    assert hangs.wait(20)
    assert {world.client.get("/readyz").status_code for _ in range(50)} == {200}
    assert len(looked) == 1
    goes_on.set()
    first.join()
    world.mint.close()
