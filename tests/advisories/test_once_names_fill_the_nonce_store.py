# SPDX-License-Identifier: Apache-2.0
"""A holder could stop every call of a service for a day, by filling its nonce store with ``once`` names.

A call's nonce is kept for 15 s, such a name for 24 h, and a holder may write as many as the token has room for: a store
of half a million was full after some ten thousand calls.
"""

from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import MemoryNonces
from tests.support import ANYTHING, AT, access, mint, sign, verifier

CAPACITY = 400


def test_names_leave_room_for_calls() -> None:
    """
    They take half of a store at most; a caller that fills it stops one-time names, and no other call.
    """
    nonces = MemoryNonces(now_ms=AT - 60_000, capacity=CAPACITY)
    checked, codes = verifier(nonces=nonces), []
    for number in range(40):
        names = [Caveat(once=(f"n{number}.{each}", AT)) for each in range(8)]
        codes.append(checked.decide(sign(mint(ANYTHING, *names), access()), access()).code)
    assert codes == ["ok"] * 25 + ["store_unavailable"] * 15
    assert [checked.decide(sign(mint(), access()), access()).code for _ in range(60)] == ["ok"] * 60
    later = access(at=AT + 60_000)
    assert checked.decide(sign(mint(ANYTHING, Caveat(once=("more", AT))), later), later).code == "store_unavailable"


def test_room_comes_back() -> None:
    """
    After its day a name is forgotten, and nothing that a purge looks through grows with the seconds of a day.
    """
    nonces = MemoryNonces(now_ms=AT, capacity=CAPACITY)
    for number in range(CAPACITY // 2):
        assert nonces.spend(f"n{number}", AT + 3_600_000 + number * 1000, AT)
    assert nonces.spend("more", AT + 3_600_000, AT) is None
    assert len(nonces._by_minute) <= CAPACITY // 2 // 60 + 2
    assert not nonces.spend("n199", AT + 3_600_000 + 199_000, AT + 3_600_000 + 198_000)
    assert nonces.spend("more", AT + 9_000_000, AT + 4_000_000)
    assert len(nonces) == 1
