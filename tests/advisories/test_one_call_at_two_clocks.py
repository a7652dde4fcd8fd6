# SPDX-License-Identifier: Apache-2.0
"""A caller could have one call accepted twice, by two workers whose clocks were 5 s apart or more.

The store learned how long to remember a call by the clock of the worker that took it.  Where that one was ahead, the
store forgot the call while it was still good by the clock of the other.  Each clock may be as far from the revocation
store's as the feed tolerates, and so two of them twice as far from each other.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from arx_verifier.revocation.epoch import SKEW_MS
from arx_verifier.token.call_proof import MAX_AGE_MS, MAX_AHEAD_MS
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import ONCE_MS, RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.support import ANYTHING, access, mint, sign, verifier

PREFIX = "two-clocks:"
LATER_MS = 120_000  # behind the server's start, by every clock
SKEWS = (-SKEW_MS, -5_001, 0, 5_001, SKEW_MS)
PAIRS = list(itertools.product(SKEWS, SKEWS))


class Shared:
    """Two workers of a service with one store of used calls, whose time is moved by hand.

    Args:
        url: The store.
    """

    def __init__(self, url: str) -> None:
        self.stores = [RedisNonces(url, PREFIX) for _ in range(2)]
        self.workers: list[Verifier] = [verifier(nonces=store) for store in self.stores]
        self._redis = self.stores[0]._client.redis
        self._redis.config_set("appendfsync", "no")  # nothing of it has to outlive the server

    def pass_ms(self, ms: int) -> None:
        """Bring each key so much nearer to its end, as time would."""
        for key in self._redis.scan_iter(PREFIX + "*"):
            left = self._redis.pttl(key) - ms
            self._redis.pexpire(key, left) if left > 0 else self._redis.delete(key)


@pytest.fixture
def shared(own_valkey: Any) -> Iterator[Shared]:
    both = Shared(own_valkey.url)
    yield both
    for store in both.stores:
        store.close()


@pytest.mark.servers
def test_a_call_is_accepted_once_at_every_two_clocks(shared: Shared) -> None:
    """
    At the first worker as early or as late as it can be, at the second at every time at which it is good there.
    """
    signed_at = time.time_ns() // 1_000_000 + LATER_MS
    parent = mint(iat=signed_at - 120_000, exp=signed_at + 180_000)
    early, late, twice = signed_at - MAX_AHEAD_MS, signed_at + MAX_AGE_MS, []
    for (first, second), at, then in itertools.product(PAIRS, (early, late), (early, signed_at + 4_999, late)):
        passed = (then - second) - (at - first)  # in truth: each clock is off by its own skew
        if passed >= 0:
            call = sign(parent, access(at=signed_at))
            assert shared.workers[0].decide(call, access(at=at)).code == "ok"
            shared.pass_ms(passed)
            twice += [(first, second)] * (shared.workers[1].decide(call, access(at=then)).code != "replayed")
    assert twice == []


@pytest.mark.servers
def test_a_name_is_accepted_once_at_every_two_clocks(shared: Shared) -> None:
    """
    Used as early as it can be at the first worker, and tried at the second until its day is over there.
    """
    given_at = time.time_ns() // 1_000_000 + LATER_MS
    for number, (first, second) in enumerate(PAIRS):
        name = Caveat(once=(f"n{number}", given_at))
        token = mint(ANYTHING, name, iat=given_at - 1, exp=given_at + ONCE_MS - 1).encode()
        assert shared.workers[0].decide(token, access(at=given_at)).code == "ok"
        now = given_at - first
        for then in (given_at + ONCE_MS // 2, given_at + ONCE_MS - 2):
            shared.pass_ms((then - second) - now)
            now = then - second
            found = shared.workers[1].decide(token, access(at=then))
            assert (found.code, [each.came for each in found.failures]) == ("already_used", ["a further one"])
