# SPDX-License-Identifier: Apache-2.0
"""The bytes between a verifier and its store: read however they arrive; what is no answer ends the connection."""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_verifier.revocation.store_link import CHUNK, MAX_ANSWER, EpochEntry, FeedError, Link, StoreAnswer

PUSH = b">3\r\n$8\r\nsmessage\r\n$2\r\nch\r\n$14\r\nI 7 kill realm\r\n"
ANSWER = (
    b"*9\r\n$1\r\nI\r\n:6\r\n:1700000000000\r\n:1000\r\n$2\r\nOK\r\n:3690000\r\n$1\r\nc\r\n:7\r\n"
    b"*1\r\n*2\r\n$3\r\n6-0\r\n*4\r\n$2\r\nop\r\n$4\r\nkill\r\n$1\r\ns\r\n$5\r\nrealm\r\n"
)
READ = {
    PUSH: EpochEntry("I", 7, "kill", "realm"),
    ANSWER: StoreAnswer(
        "I", 6, 1_700_000_000_000, 1_000, "OK", 3_690_000, "c", (EpochEntry("I", 6, "kill", "realm"),), 7
    ),
    b">3\r\n$10\r\nssubscribe\r\n$2\r\nch\r\n:1\r\n": None,
}


class Opened:
    """What the client library delegates: a connection that is open, here one end of a pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self) -> None:
        """Do nothing: it is open."""

    def disconnect(self) -> None:
        """Close this end."""
        self._sock.close()


@contextlib.contextmanager
def linked() -> Iterator[tuple[Link, socket.socket]]:
    """Yield a link and the store's end of its connection."""
    here, there = socket.socketpair()
    wake, waker = socket.socketpair()
    there.setblocking(False)  # a link that stops reading must not stop the test
    link = Link(Opened(here), "acme", wake).open()
    try:
        assert b"SSUBSCRIBE" in there.recv(CHUNK)
        yield link, there
    finally:
        link.close()
        for each in (there, wake, waker):
            each.close()


def frames(link: Link, there: socket.socket, data: bytes) -> list[Any]:
    """Send what the store says, and return what the link read of it."""
    found: list[Any] = []
    while data:
        data = data[there.send(data[:CHUNK]) :]
        link.wait(0)
        found += link.frames()
    return found


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(list(READ)), max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_answers_and_pushes_are_read_wherever_they_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    """Each comes once, whole and in order, whatever pieces its bytes arrive in."""
    stream = b"".join(sent)
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    with linked() as (link, there):
        found = [each for begin, end in itertools.pairwise(ends) for each in frames(link, there, stream[begin:end])]
    assert found == [READ[each] for each in sent if READ[each] is not None]


def test_a_refusal_is_reported() -> None:
    """With the hint for a user that may not call the functions."""
    with linked() as (link, there), pytest.raises(FeedError, match=r"the store refused: NOPERM no.*arx redis acl"):
        frames(link, there, b"-NOPERM no\r\n")


@pytest.mark.parametrize(
    "stream",
    [
        b"?what\r\n",
        b":five\r\n",
        b"$many\r\n",
        b"*x\r\n",
        b"\r\n",
        b"+OK\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"%1\r\n*0\r\n+b\r\n",
        b"*2\r\n:1\r\n-ERR inside\r\n",
        b"*4294967295\r\n:1\r\n",
        b"*1\r\n" * 100_000 + b":1\r\n",
        ANSWER.replace(b":6\r\n", b",6.5\r\n"),
        ANSWER.replace(b":6\r\n", b"#t\r\n"),
        ANSWER.replace(b"*1\r\n*2\r\n", b"%1\r\n"),
    ],
)
def test_what_is_no_answer_ends_the_connection(stream: bytes) -> None:
    """Nothing is guessed: not a refusal inside an answer, a list without end or one too deep."""
    with linked() as (link, there), pytest.raises(FeedError, match=r"cannot read|unknown form"):
        frames(link, there, stream)


@pytest.mark.parametrize("begin", [b"+", b"$1000000000\r\n", b"*100000\r\n$100000000\r\n"])
def test_an_answer_without_end_is_not_kept(begin: bytes) -> None:
    """It is dropped when it is longer than any answer is."""
    with linked() as (link, there), pytest.raises(FeedError, match=f"an answer longer than {MAX_ANSWER} bytes"):
        frames(link, there, begin + b"x" * (MAX_ANSWER + CHUNK))


@given(st.binary(max_size=200))
def test_noise_ends_the_connection_or_is_waited_for(noise: bytes) -> None:
    """No bytes make it fail in another way."""
    with linked() as (link, there), contextlib.suppress(FeedError):
        frames(link, there, noise)
