# SPDX-License-Identifier: Apache-2.0
"""A caller could repeat a call that it made less than a second before the nonce store restarted without its data.

Redis says in whole seconds how long it has run, so that its start was taken for up to a second earlier than it was.
"""

import shutil
import time
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.verification.nonces import RedisNonces
from tests.servers import until
from tests.support import access, mint, sign, verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.3")]


def until_up(server: EmbeddedValkey, seconds: int) -> None:
    with redis.Redis.from_url(server.url) as raw:
        until(lambda: raw.info("server")["uptime_in_seconds"] >= seconds)


def judged(server: EmbeddedValkey, token: str, at: int) -> str:
    """What a worker says that has just connected."""
    store = RedisNonces(server.url, "arx:nonce:orders:")
    try:
        return verifier(nonces=store).decide(token, access(at=at)).code
    finally:
        store.close()


def test_a_call_is_not_repeated_after_a_restart(tmp_path: Path) -> None:
    """One from shortly before is refused in the store's next second, too; one from after it is allowed."""
    server = EmbeddedValkey(tmp_path / "store")
    server.start()
    try:
        until_up(server, 2)
        until(lambda: 300 < time.time_ns() // 1_000_000 % 1000 < 400)  # the restart is within the same second
        now = time.time_ns() // 1_000_000
        token = sign(mint(iat=now, exp=now + 60_000), access(at=now))
        assert judged(server, token, now) == "ok"
        server.stop()
        shutil.rmtree(server.data_dir / "appendonlydir")
        server.start()
        until_up(server, 1)
        assert judged(server, token, now) == "proof_invalid"
        until_up(server, 2)
        now = time.time_ns() // 1_000_000
        token = sign(mint(iat=now, exp=now + 60_000), access(at=now))
        assert judged(server, token, now) == "ok"
    finally:
        server.stop()
