# SPDX-License-Identifier: Apache-2.0
"""A verifier that met its ledger without functions asked it two questions for each call, until its restart.

A server that was started without its data has no functions until one of its callers loads them.  The verifier took that
server for one with functions of an earlier version, which cannot spend a call and draw its cost at once.
"""

import asyncio
from contextlib import closing
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import acl
from arx_verifier.clock import now_ms
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import RedisNonces
from tests.ledgers import new_ledger
from tests.servers import until
from tests.support import ANYTHING, access, mint, sign, verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

PATIENT_S = 10.0


def asked(watching: Any) -> list[str]:
    """What clients have asked since the last look, without what functions and other clients of the test ask."""
    found = []
    while "SEEN" not in (each := watching.next_command())["command"]:
        if each["client_type"] != "lua":
            found.append(" ".join(each["command"].split()[:2]))
    return [words for words in found if words.startswith(("FCALL", "SET", "FUNCTION"))]


@pytest.mark.parametrize("asks", ["threads", "event loop"])
@pytest.mark.parametrize("loads", ["verifier", "another"])
def test_a_call_and_its_draw_are_one_question(own_valkey: EmbeddedValkey, loads: str, asks: str) -> None:
    """The verifier loads the functions, or another client does where the verifier may not: then it asks once."""
    with asyncio.Runner() as loop, redis.Redis.from_url(own_valkey.url, decode_responses=True) as admin:
        until(lambda: admin.info("server")["uptime_in_seconds"] > 1)
        rules = acl.rules("ledger", "acme", "secret")
        admin.execute_command("ACL", "SETUSER", "budgets", *rules, *(["+function|load"] if loads == "verifier" else []))
        url = own_valkey.url.replace("unix://", "unix://budgets:secret@")
        with (
            closing(RedisLedger(url, "acme", timeout_s=PATIENT_S)) as ledger,
            closing(RedisNonces(url, "arx:nonce:acme:orders:", timeout_s=PATIENT_S)) as nonces,
            admin.monitor() as watching,
        ):
            service = verifier(nonces=nonces, ledger=ledger, costs={"*": {"calls": 0}})

            def code() -> str:
                now = now_ms()
                parent = mint(ANYTHING, iat=now - 1000, exp=now + 600_000)
                request = access(at=now + 1)
                token = sign(parent.attenuate(Caveat(spend=("p", "calls", "3", "task", now))), request)
                if asks == "threads":
                    return service.decide(token, request).code
                return loop.run(service.decide_async(token, request)).code

            if loads == "another":
                assert code() == "store_unavailable"
                with closing(new_ledger(own_valkey.url, "acme", PATIENT_S)) as other:
                    other.load()
            assert code() == "ok"
            admin.echo("SEEN")
            before = asked(watching)
            assert before.count("FUNCTION LOAD") == 1, before  # a monitor shows no command that was refused
            assert [code() for _ in range(3)] == ["ok"] * 3
            assert ledger.keeps_calls_of(nonces)
            admin.echo("SEEN")
            assert asked(watching) == ["FCALL arx2_call"] * 3
