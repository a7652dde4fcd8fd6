# SPDX-License-Identifier: Apache-2.0
"""A verifier went back to a history that had ended when another relay answered it, and then refused every call.

Two relays behind one address were enough: one dies, and the other has not heard yet that the store's history ended.
"""

import pytest

from arx_verifier.revocation.follower_core import MS, Following
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.relay_link import RelayAnswer
from tests.relay.crowd import INCARNATION, HubHarness, Peer, harness

pytestmark = pytest.mark.spec("10.7")

__all__ = ["harness"]  # fixtures

NEXT = HistoryPlace.begin("N" * 22, 6)


def test_a_view_does_not_return_to_a_history_that_has_ended(harness: HubHarness) -> None:
    """
    The relay without the end of the history answers after it has asked the store; the view is live then.
    """
    view = Following(boot=lambda: harness.now, wall=lambda: 1_800_000_000_000 * MS + harness.now)
    view.adopt(INCARNATION, 5, {}, {})
    view.adopt(*NEXT[:2], {}, {})  # by its first relay, which has ended
    view._place = NEXT
    view.begin()
    harness.wait(40)
    asked = view.ask()
    assert asked is not None
    peer = Peer(harness)
    answer = peer.probe(asked.place.seq, incarnation=NEXT.incarnation, chain=asked.place.chain, hurry=asked.hurry)
    if answer is not None:
        view.take_answer(answer.answer(), lambda _: {})
    assert view.view()[:2] == NEXT[:2]
    harness.wait(1)
    harness.state.incarnation, harness.state.applied = NEXT[:2]
    harness.hub.take_copy(NEXT)
    harness.grant()
    news = peer.got[-1]
    assert isinstance(news, RelayAnswer)
    view.take_answer(news.answer(), lambda _: {})
    assert view.check(NEXT.incarnation, NEXT.seq, ()) is None
