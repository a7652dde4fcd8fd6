# SPDX-License-Identifier: Apache-2.0
"""What a relay answers, and whom it drops, with a clock moved by hand."""

import asyncio

import pytest

from arx_caps.relay.connection import REFUSED, Connection
from arx_caps.relay.hub import KEEP, NEWS
from arx_verifier.revocation.follower_core import Following
from arx_verifier.revocation.history import UNKNOWN
from arx_verifier.revocation.relay_link import Frames, Hello, Probe, Refusal, RelayAnswer, RelayPage, RelayScan, frame
from arx_verifier.revocation.store_link import OK, REGRESSED, RESYNC, Crowd, StoreAnswer
from tests.relay.crowd import BEGAN, INCARNATION, L_MS, MS, OTHER, START, HubHarness, Peer, harness

pytestmark = pytest.mark.spec("10.7")

__all__ = ["harness"]  # fixtures


def test_an_answer_says_its_age(harness: HubHarness) -> None:
    """
    The age is what passed between upstream's question and this one's coming.
    """
    harness.wait(40)
    answer = Peer(harness).probe(5)
    assert answer is not None
    assert (answer.status, answer.seq, answer.age_ns) == (OK, 5, 40 * MS)


@pytest.mark.parametrize("age_ms", [0, 40, 999, 1_001, 60_000])
def test_a_lease_never_outlives_the_relay_s(age_ms: int) -> None:
    """
    Whatever the age, a verifier's lease ends no later than the one that the relay itself has.
    """
    harness = HubHarness()
    follower = Peer(harness)
    clock = [harness.now]
    following = Following(boot=lambda: clock[0], wall=lambda: 1_800_000_000_000 * MS + clock[0])
    following.adopt(INCARNATION, 5, {}, {})
    following._place = BEGAN
    harness.now = clock[0] = START + age_ms * MS
    question = following.ask()
    assert question is not None
    answer = follower.probe(question.place.seq, chain=question.place.chain)
    assert answer is not None
    clock[0] += 3 * MS  # the answer travels
    following.take_answer(
        StoreAnswer(
            answer.incarnation,
            answer.seq,
            answer.at_ms,
            answer.lease_ms,
            OK,
            answer.keep_ms,
            answer.chain,
            (),
            answer.askers,
            answer.age_ns,
        ),
        lambda _: {},
    )
    lease = following._state.lease
    assert lease is not None
    assert lease.boot <= START + L_MS * MS
    assert lease.sent <= START
    assert (following.check(INCARNATION, 5, ()) is None) == (age_ms < 990)


def test_a_waiting_follower_is_answered_from_news(harness: HubHarness) -> None:
    """
    A hurried question waits for an answer that upstream asked for afterwards; the age is then nothing.
    """
    harness.wait(40)
    follower = Peer(harness)
    assert follower.probe(5, hurry=True) is None
    assert harness.crowds[-1][2]
    harness.wait(1)
    harness.grant()
    answer = follower.got[-1]
    assert isinstance(answer, RelayAnswer)
    assert answer.age_ns == 0


def test_who_knows_more_hears_no_less(harness: HubHarness) -> None:
    """
    A follower ahead of the relay waits until the relay has asked, and only then hears of a store that went back.
    """
    harness.wait(40)
    follower = Peer(harness)
    assert follower.probe(6) is None
    harness.grant()
    assert isinstance(answer := follower.got[-1], RelayAnswer)
    assert answer.status == REGRESSED


def test_who_came_by_another_way_is_not_believed(harness: HubHarness) -> None:
    """
    The same number with another past: regressed at once, behind or not; nothing counts as applied there, and the
    store learns which place that is.
    """
    follower = Peer(harness)
    harness.entry(6)
    for applied in (5, 6):
        answer = follower.probe(applied, chain=OTHER)
        assert answer is not None
        assert (answer.status, answer.entries) == (REGRESSED, [])
        assert harness.crowd == Crowd(1, -1, (), (applied, OTHER))
        answer = follower.probe(applied)
        assert answer is not None
        assert (answer.status, answer.chain) == (OK, harness.places[6].chain)
        assert harness.crowd == Crowd(1, applied, ())
    answer = follower.probe(6, chain=UNKNOWN)
    assert answer is not None
    assert (answer.status, answer.seq, answer.chain) == (RESYNC, 6, harness.places[6].chain)


def test_who_lacks_too_much_gets_a_copy(harness: HubHarness) -> None:
    """
    Entries within what is kept, a copy beyond; what is pushed while it is copied follows in the entries.
    """
    follower = Peer(harness)
    harness.entry(6)
    answer = follower.probe(5)
    assert answer is not None
    assert answer.entries == [(6, "kill", "realm")]
    harness.state.kills["task:t"] = 7
    for seq in range(7, KEEP + 8):
        harness.entry(seq)
    answer = follower.probe(5)
    assert answer is not None
    assert (answer.status, answer.seq) == (RESYNC, KEEP + 7)
    assert follower.copy is not None
    assert follower.copy.page("k", 0) == RelayPage(0, {"task:t": 7})
    stranger = follower.probe(5, incarnation="J" * 22)
    assert stranger is not None
    assert stranger.status == RESYNC


def test_a_relay_without_a_view_answers_no_follower(harness: HubHarness) -> None:
    """
    Fenced upstream: every connection ends, and a new one does not help.
    """
    one, two = Peer(harness, "one"), Peer(harness, "two")
    one.probe(5)
    harness.hub.take_fence()
    assert one.dropped
    assert two.probe(5) is None
    assert two.dropped


def test_after_an_outage_all_ask_at_once(harness: HubHarness) -> None:
    """
    The first news after a silence is pushed, as of no history.
    """
    follower = Peer(harness)
    harness.wait(50)
    harness.grant()
    assert NEWS not in follower.got
    harness.wait(2_000)
    harness.grant()
    assert follower.got[-1] == NEWS


@pytest.mark.parametrize(
    "messages",
    [
        [Probe("v", INCARNATION, 5, OTHER, 10, False)],
        [Hello(2, "acme", "secret")],
        [Hello(1, "other", "secret")],
        [Hello(1, "acme", "guess")],
        [Hello(1, "acme")],
        [Hello(1, "acme", "secret"), RelayScan("f", 0)],
        [Hello(1, "acme", "secret"), RelayScan("h", 0)],
    ],
)
def test_a_stranger_is_dropped(harness: HubHarness, messages: list[Hello | Probe | RelayScan]) -> None:
    """
    Without the greeting, the password, the realm, or an offer of a copy: it ends, or gets the reason and nothing more.
    """
    assert asyncio.run(_talk(harness, b"".join(map(frame, messages))))


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2hi", b"GET / HTTP/1.1\r\n\r\n"])
def test_noise_is_dropped(harness: HubHarness, data: bytes) -> None:
    """
    Whatever is no message ends the connection.
    """
    assert asyncio.run(_talk(harness, data))


async def _talk(harness: HubHarness, data: bytes) -> bool:
    """Send bytes to a connection; whether it was ended, or got a refusal and then no answer to a probe."""

    written: list[bytes] = []

    class Transport(asyncio.Transport):
        ended = False

        def abort(self) -> None:
            self.ended = True

        def is_closing(self) -> bool:
            return self.ended

        def get_write_buffer_size(self) -> int:
            return 0

        def write(self, data: bytes | bytearray | memoryview) -> None:
            written.append(bytes(data))

    connection, transport = Connection(harness.hub, "acme", "secret"), Transport()
    connection.connection_made(transport)
    connection.data_received(data)
    connection.data_received(frame(Probe("v", INCARNATION, 5, OTHER, 10, False)))
    assert transport.ended or connection not in harness.hub.listeners
    return transport.ended or written in [[frame(Refusal(part))] for part in REFUSED]


def test_messages_are_cut_wherever_they_break() -> None:
    """
    Byte by byte or all at once, the same messages come out.
    """
    data = (
        frame(Hello(1, "acme"))
        + frame(RelayScan("f", 3))
        + frame(Probe("v", INCARNATION, 1, OTHER, 2, True, Crowd(1, 2, ())))
    )
    slow, quick = Frames(), Frames()
    assert [body for byte in data for body in slow.feed(bytes([byte]))] == list(quick.feed(data))
