# SPDX-License-Identifier: Apache-2.0
"""A caller could repeat a call that cost nothing, after the store of calls and budgets had lost its data.

Where one server keeps both, the ledger's connection spends the call.  Only a connection of the used calls noted when
the server had started, so that a call from before was taken for a new one.
"""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.request import AccessRequest
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from arx_verifier.verification.verifier import Verifier
from tests.ledgers import new_ledger
from tests.servers import until
from tests.support import ANYTHING, access, mint, sign, verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.3", "17.5")]

PATIENT_S = 10.0

Decide = Callable[[Verifier, str, AccessRequest], str]


def up(server: EmbeddedValkey, seconds: int) -> None:
    """Wait until a server has run for so long."""
    with redis.Redis.from_url(server.url) as raw:
        until(lambda: raw.info("server")["uptime_in_seconds"] >= seconds)


def free_call(service: Verifier, decide: Decide) -> tuple[str, AccessRequest]:
    """Sign a call that costs nothing, and have it accepted."""
    opened = now_ms()
    parent = mint(ANYTHING, iat=opened - 1000, exp=opened + 600_000).attenuate(
        Caveat(spend=("p", "calls", "3", "task", opened))
    )
    request = access(at=opened + 1)
    token = sign(parent, request)
    assert decide(service, token, request) == "ok"
    assert decide(service, token, request) == "replayed"
    return token, request


@pytest.mark.parametrize("asks", ["threads", "event loop"])
def test_a_call_from_before_a_restart_is_refused(tmp_path: Path, asks: str) -> None:
    """The store has lost it and names its start: the call is refused, and one from after the start is accepted."""
    server = EmbeddedValkey(tmp_path / "store")
    server.start()
    try:
        with (
            asyncio.Runner() as loop,
            closing(new_ledger(server.url, "acme", PATIENT_S)) as ledger,
            closing(RedisNonces(server.url, "arx:nonce:acme:orders:", timeout_s=PATIENT_S)) as nonces,
        ):
            service = verifier(nonces=nonces, ledger=ledger, costs={"*": {"calls": 0}})

            def decide(service: Verifier, token: str, request: AccessRequest) -> str:
                if asks == "threads":
                    return service.decide(token, request).code
                return loop.run(service.decide_async(token, request)).code

            up(server, 2)
            ledger.start()
            assert ledger.keeps_calls_of(nonces)
            token, request = free_call(service, decide)
            server.stop()
            shutil.rmtree(server.data_dir / "appendonlydir")
            server.start()
            codes: list[str] = []
            until(lambda: codes.append(decide(service, token, request)) or codes[-1] != "store_unavailable")
            assert codes[-1] == "proof_invalid"
            up(server, 2)
            free_call(service, decide)
    finally:
        server.stop()
