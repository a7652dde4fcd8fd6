# SPDX-License-Identifier: Apache-2.0
"""In tenuo 0.3.3, a caller could present the same proof again for about two minutes.

ARx: each call is spent once among all verifiers of a service, and a nonce store that could have forgotten it refuses.
"""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.verification.nonces import MemoryNonces, RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.support import AT, access, mint, sign, verifier


def test_the_same_call_twice_is_refused() -> None:
    """At one verifier, for as long as the call could be accepted, and afterwards because it is too old."""
    checked, token = verifier(), sign(mint(), access())
    assert checked.decide(token, access()).code == "ok"
    for later in (0, 1, 5_000, 10_000):
        assert checked.decide(token, access(at=AT + later)).code == "replayed"
    assert checked.decide(token, access(at=AT + 10_001)).code == "proof_invalid"


def test_a_restarted_service_accepts_nothing_from_before() -> None:
    """What a store in memory has forgotten was signed before it started, and is refused."""
    token = sign(mint(), access())
    assert verifier().decide(token, access()).code == "ok"
    restarted = verifier(nonces=MemoryNonces(now_ms=AT + 1))
    assert restarted.decide(token, access(at=AT + 2)).code == "proof_invalid"


class Restarted(MemoryNonces):
    """A shared store that was restarted unseen: the next use finds out, and moves ``not_before_ms``."""

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Notice the restart on the way."""
        self.not_before_ms = AT + 1
        return super().spend(key, expires_ms, now_ms)


def test_a_shared_store_that_restarted_opens_no_gap() -> None:
    """The first call after the restart is held to it as well: the limit is read after the store was asked."""
    token = sign(mint(), access())
    assert verifier().decide(token, access()).code == "ok"
    assert verifier(nonces=Restarted(now_ms=AT - 60_000)).decide(token, access(at=AT + 2)).code == "proof_invalid"


@pytest.fixture
def workers(valkey: EmbeddedValkey) -> Iterator[list[Verifier]]:
    """Two workers of a service, which share what was spent."""
    prefix = f"arx:nonce:{secrets.token_hex(6)}:"
    stores = [RedisNonces(valkey.url, prefix) for _ in range(2)]
    yield [verifier(nonces=store) for store in stores]
    for store in stores:
        store.close()


@pytest.mark.servers
def test_two_verifiers_share_what_was_spent(workers: list[Verifier]) -> None:
    """The same call at two workers of a service: the second refuses, whichever it is."""
    now = time.time_ns() // 1_000_000 + 30_000  # after the server's start, whichever connection asks for it
    parent = mint(iat=now, exp=now + 60_000)
    for first in (0, 1):
        request = access(at=now)
        token = sign(parent, request)
        assert workers[first].decide(token, request).code == "ok"
        assert workers[1 - first].decide(token, request).code == "replayed"
        assert workers[first].decide(token, request).code == "replayed"


@pytest.mark.servers
def test_one_of_many_at_once_wins(workers: list[Verifier]) -> None:
    """The same call at two workers at the same moment is allowed once."""
    now = time.time_ns() // 1_000_000 + 30_000  # after the server's start, whichever connection asks for it
    parent = mint(iat=now, exp=now + 60_000)
    request = access(at=now)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            token = sign(parent, request)
            codes = threads.map(lambda n, token=token: workers[n % 2].decide(token, request).code, range(4))
            assert sorted(codes) == ["ok", "replayed", "replayed", "replayed"]
