# SPDX-License-Identifier: Apache-2.0
"""After a commit without an answer no change is begun, until the answer comes or a change that is tried succeeds."""

import os
import socket
from collections.abc import Iterator

import pytest

from arx_caps.database import commit_watch
from arx_caps.database.commit_watch import RETRY_S, CommitWatch
from arx_verifier.errors import StoreError

pytestmark = pytest.mark.spec("CONTROL 4.8")
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the watch, s."""
    now = [1000.0]
    monkeypatch.setattr(commit_watch.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection: the mint's end and the server's."""
    ends = socket.socketpair()
    with ends[0], ends[1]:
        yield ends


@pytest.fixture
def watch(pair: Pair, clock: list[float]) -> CommitWatch:
    """A watch with one commit that has no answer."""
    assert clock
    found = CommitWatch("the database")
    found.require()
    found.add(os.dup(pair[0].fileno()))
    return found


@pytest.mark.parametrize("ends", [False, True])
def test_an_answer_ends_it(watch: CommitWatch, pair: Pair, ends: bool) -> None:
    """The server's answer, or its end."""
    with pytest.raises(StoreError, match="commits nothing"):
        watch.require()
    if ends:
        pair[1].close()
    else:
        pair[1].send(b"C")
    assert watch.why_not() is None
    watch.require()


def test_a_change_is_tried_ever_more_rarely(watch: CommitWatch, clock: list[float]) -> None:
    """One each time, after twice the pause: a standby that was promoted never answers the old connection."""
    tried = []
    for _ in range(100):
        clock[0] += RETRY_S / 2
        try:
            watch.require()
            tried.append(clock[0] - 1000)
        except StoreError:
            continue
    assert tried == [RETRY_S, 3 * RETRY_S, 7 * RETRY_S, 15 * RETRY_S, 31 * RETRY_S]
    watch.clear()
    assert watch.why_not() is None
