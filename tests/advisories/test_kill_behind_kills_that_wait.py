# SPDX-License-Identifier: Apache-2.0
"""A kill waited for a thread, while others waited for the confirmation of a verifier that had stopped.

Each call that waits for confirmations kept one of the 32 threads for kills until the last lease had ended: with a lease
of 8 s, or after a failover of the store, the next kill came into force that much later.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.revocation.follower import Follower
from tests.mint.harness import open_live
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.7")]

LEASE_MS = 10_000  # longer than a loaded machine needs for the calls
OTHERS = 40  # more than there are threads for kills
TARGET = "session:s-abcdefghijklmnop"


@pytest.mark.slow
def test_kills_that_wait_for_a_verifier(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> None:
    """The next kill is in force at once; those that wait for a stopped verifier answer, and all are in force."""
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, lease_ms=LEASE_MS) as live:
        until(lambda: live.client.get("/readyz").status_code == 200)
        operator, store = live.operator(), live.mint.store
        follower = Follower(live.mint.store_url, realm_name, "orders-1")
        try:
            assert follower.catch_up(0, 0, 10)
            born = follower.view()[:2]
            keys = store.keys
            asked = (keys.header, keys.kills, keys.freezes, keys.log, keys.probes, keys.acks)
            store.exchange.call("arx1_probe", asked, "late-1", born[0], 0, "", 10)  # and it never asks again

            def kill(target: str, *, wait: bool) -> tuple[int, str]:
                body = {"targets": [target], "reason": "runs wild", "wait": wait}
                answer = operator.call("POST", "/v1/kills", body)
                return answer.status_code, answer.json().get("status")

            with ThreadPoolExecutor(OTHERS + 1) as pool:
                others = [
                    pool.submit(kill, f"session:s-abcdefghijklmn{chr(97 + n // 26)}{chr(97 + n % 26)}", wait=True)
                    for n in range(OTHERS)
                ]

                until(lambda: store.header().seq >= born[1] + 32)  # as many as there are threads for
                began = time.monotonic()
                last = pool.submit(kill, TARGET, wait=False)
                until(lambda: follower.check(*born, (TARGET,)) is not None, LEASE_MS / 1000)
                assert time.monotonic() - began < LEASE_MS / 2000
                assert last.result(60)[0] == 200
                assert {other.result(2 * LEASE_MS / 1000)[0] for other in others} == {200}
            answered = {other.result()[1] for other in others}
            assert answered <= {"partial", "unconfirmed"}, answered
        finally:
            follower.close()
