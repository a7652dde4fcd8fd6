# SPDX-License-Identifier: Apache-2.0
"""A call was refused as one of an ended connection if the mint had seen a kill that its gateway had not seen yet."""

import pytest

from arx_caps.credentials.account_token import LentToken
from arx_caps.gateway.upstream.person_credential import lives
from arx_verifier.clock import now_ms
from arx_verifier.journal.record import ChainFacts
from arx_verifier.revocation.epoch import EpochTable, Lease, boot_clock
from arx_verifier.token.targets import subject_target

pytestmark = pytest.mark.spec("CONTROL 9.3")
PERSON = ("https://login.example", "ann")
FACTS = ChainFacts(agent="acme/support", session="s-1", subject=PERSON)


def view() -> EpochTable:
    """A view of five entries."""
    epochs = EpochTable()
    epochs.adopt("history", 5, {}, {})
    epochs.renew("history", 5, Lease(2**62, 2**62, boot_clock()), now_ms() * 1_000_000)
    return epochs


def lent(born: int, history: str = "history", lasts_ms: int = 60_000) -> LentToken:
    """What a mint has lent at an entry of a history."""
    return LentToken("canary", now_ms() + lasts_ms, "c-1", "ann-t", ("read",), (history, born))


@pytest.mark.parametrize("born", [5, 6, 9])
def test_a_token_of_a_mint_that_is_ahead_is_used(born: int) -> None:
    """Another kill that this view sees later ends nothing of it."""
    epochs = view()
    assert lives(lent(born), FACTS, epochs)
    epochs.apply(6, "kill", "agent:acme/other")
    assert lives(lent(born), FACTS, epochs)


@pytest.mark.parametrize("target", ["realm", "connection:c-1", subject_target(*PERSON)])
@pytest.mark.parametrize("op", ["kill", "freeze"])
def test_what_the_view_has_ends_it(op: str, target: str) -> None:
    """A kill after it was lent, also one that came out of order; a freeze at any time."""
    epochs = view()
    epochs.apply(8, op, target)
    assert not lives(lent(5), FACTS, epochs)
    assert not lives(lent(7), FACTS, epochs)


def test_another_history_and_the_end_of_its_time_end_it() -> None:
    """As before."""
    assert not lives(lent(5, "another"), FACTS, view())
    assert not lives(lent(9, "another"), FACTS, view())
    assert not lives(lent(9, lasts_ms=-1), FACTS, view())
