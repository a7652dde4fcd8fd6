# SPDX-License-Identifier: Apache-2.0
"""Batches of a run wait for those before them, for no others, and not for ever."""

import threading
import time

import pytest

from arx_caps.audit.ingest.upload_order import Turns

pytestmark = pytest.mark.spec("LOG 2.3")


def test_a_batch_waits_for_those_before_it() -> None:
    """Announced in order and here out of order, they go on in order."""
    turns, order, begun = Turns(60), list[int](), threading.Barrier(4)
    for first in (1, 501, 1001):
        turns.announce("run", first)

    def take(first: int) -> None:
        begun.wait()
        with turns.turn("run", first):
            order.append(first)

    threads = [threading.Thread(target=take, args=[first]) for first in (1001, 501, 1)]
    for thread in threads:
        thread.start()
    begun.wait()
    for thread in threads:
        thread.join()
    assert order == [1, 501, 1001]
    with turns.turn("run", 9999):
        pass


def test_no_caller_waits_for_a_stranger_or_for_ever() -> None:
    """What another run sends, what comes later, and what never comes delays no sender."""
    turns = Turns(0.05)
    turns.announce("other", 1)
    turns.announce("run", 501)
    began = time.monotonic()
    with turns.turn("run", 1):
        pass
    assert time.monotonic() - began < 0.04
    with turns.turn("run", 1001):  # 501 never comes
        pass
    assert time.monotonic() - began < 5
    for number in range(3000):
        turns.announce(f"run {number}", 1)
    until = time.monotonic() + 5
    while time.monotonic() < until and len(turns._coming) > 1500:
        turns.announce("again", 1)
    assert len(turns._coming) <= 1500
