# SPDX-License-Identifier: Apache-2.0
"""A holder could stop every call of all workers for a day, by filling the Redis that they share.

Room for calls was left in memory alone (``test_once_names_fill_the_nonce_store``): one-time names filled a
server of 4 MB in 2 000 calls, and from then on no call's nonce found room.
"""

import secrets
import time
from typing import Any

import pytest

from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from tests.support import ANYTHING, access, mint, sign, verifier

MOST_BYTES = 128 * 1024  # beside what the empty server takes
NAME = "n" * 50


@pytest.mark.servers
def test_names_leave_room_for_calls_in_a_shared_store(own_valkey: Any) -> None:
    """
    They are refused once half of the memory is taken, calls are not; with more memory they are taken again.
    """
    store = RedisNonces(
        own_valkey.url, f"a72:{secrets.token_hex(4)}:", timeout_s=10
    )  # a slow answer is none that is full
    store.spend(secrets.token_bytes(8), 2, 1)  # it looks at its server's start when it connects
    now = time.time_ns() // 1_000_000
    life = {"iat": now - 1000, "exp": now + 60_000}
    checked, request = verifier(nonces=store), access(at=now)

    def code(*caveats: Caveat) -> str:
        return checked.decide(sign(mint(ANYTHING, *caveats, **life), request), request).code

    assert code(Caveat(once=("first", now))) == "ok"
    used = store._client.redis.info("memory")["used_memory"]
    store._client.redis.config_set("maxmemory", 2 * used + MOST_BYTES)
    codes = []
    for number in range(3000):
        codes.append(code(*[Caveat(once=(f"{NAME}.{number}.{each}", now)) for each in range(8)]))
        if codes[-1] != "ok":
            break
    assert (codes[0], codes[-1]) == ("ok", "store_unavailable")
    assert [code() for _ in range(200)] == ["ok"] * 200
    assert code(Caveat(once=("first", now))) == "store_unavailable"
    store._client.redis.config_set("maxmemory", 8 * used + 8 * MOST_BYTES)
    assert [code(Caveat(once=(name, now))) for name in ("first", "second")] == ["already_used", "ok"]
    store.close()
