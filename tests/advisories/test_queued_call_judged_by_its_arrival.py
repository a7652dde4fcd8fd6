# SPDX-License-Identifier: Apache-2.0
"""A caller could have a replayed or expired call accepted, because the wait in a queue did not count.

Where decisions wait for a disk or a shared store, they are made in threads, and a busy service queues them.  A copy of
a one-shot token that arrived within its ten seconds, and then waited until the first one's nonce had been forgotten,
was accepted a second time; a token whose time ran out in the queue was accepted as well.  And a running call looked at
this machine's clock alone when it asked again, so that a late clock kept a token alive that the store knew to be over.
"""

import asyncio
import time

import pytest

from arx_verifier.errors import ValidityError
from arx_verifier.revocation.epoch import EpochTable, Lease, boot_clock
from tests.support import AT, INCARNATION, PEER, access, mint, sign, verifier


class Forgetting:
    """A shared store that forgets on time, as Redis does."""

    waits = True

    def __init__(self) -> None:
        self.now_ms = AT
        self._until: dict[bytes | str, int] = {}

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:
        if self._until.get(key, 0) > self.now_ms:
            return False
        self._until[key] = self.now_ms + max(1, expires_ms - now_ms)
        return True

    def not_before(self, key: bytes | str) -> int:
        return 0

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread is had after six seconds."""
    clock = time.monotonic_ns
    late: list[int] = []

    async def to_thread(work):  # type: ignore[no-untyped-def]
        late.append(6_000_000_000)
        return work()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    monkeypatch.setattr("arx_verifier.verification.verifier.time.monotonic_ns", lambda: clock() + sum(late))


@pytest.mark.usefixtures("queue")
def test_a_copy_does_not_outwait_its_nonce() -> None:
    """It arrives in time, and is too old when it is judged."""
    nonces = Forgetting()
    checked = verifier(nonces=nonces)
    request = access()
    token = sign(mint(), request)
    assert checked.decide(token, request).code == "ok"
    nonces.now_ms = AT + 15_500
    assert asyncio.run(checked.decide_async(token, access(at=AT + 9_500))).code == "proof_invalid"


@pytest.mark.usefixtures("queue")
def test_a_token_may_expire_in_the_queue() -> None:
    """Its time is asked when it is judged."""
    checked = verifier(nonces=Forgetting())
    token = mint(exp=AT + 5_000).encode()
    assert asyncio.run(checked.decide_async(token, access())).code == "expired"
    assert checked.decide(token, access()).code == "ok"


def test_a_wait_changes_nothing_but_the_time() -> None:
    """The call stays what it was."""
    later = access("orders.get", {"a": 1}).after(1_999_999)
    assert (later.tool, later.args, later.at, later.peer) == ("orders.get", {"a": 1}, AT + 1, PEER)


def test_a_running_call_ends_by_the_clock_of_the_store() -> None:
    """A clock here that is late keeps nothing alive."""
    now = time.time_ns() // 1_000_000
    epochs = EpochTable()
    epochs.adopt(INCARNATION, 0, {}, {})
    epochs.renew(INCARNATION, 0, Lease(2**62, 2**62, boot_clock()), now * 1_000_000)
    checked = verifier(epochs=epochs)
    grant = checked.verify(mint(iat=now, exp=now + 20_000).encode(), access(at=now))
    grant.recheck()
    epochs.renew(INCARNATION, 0, Lease(2**62, 2**62, boot_clock()), (now + 25_000) * 1_000_000)
    with pytest.raises(ValidityError):
        grant.recheck()
