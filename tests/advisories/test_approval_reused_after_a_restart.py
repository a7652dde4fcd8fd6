# SPDX-License-Identifier: Apache-2.0
"""A holder could use a one-call approval twice, if a service restarted and the mint's clock was ahead.

A store in memory refuses what was given before it began to remember.  What was given "20 s from now" was used, the
service started anew, and it counted as given since.
"""

import pytest

from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import MemoryNonces
from tests.support import AT, verifier
from tests.verifier.discharges import RULE, answering, refund, requiring, sent

AHEAD = 20_000


@pytest.mark.parametrize("restart", range(1, AHEAD + 4000, 2999))
def test_of_two_starts_of_a_service_one_takes_it(restart: int) -> None:
    """
    Tried at every second, before the restart and after it: it is used once at most, and used when its time has come.
    """
    token, codes = requiring(), []
    made = answering(Caveat(allow=(RULE,), exp=AT + 600_000, once=("a-1", AT + AHEAD), task="a-1"))
    checked = verifier(nonces=MemoryNonces(now_ms=AT - 60_000))
    for after in range(0, AHEAD + 9000, 1000):
        if after - 1000 < restart <= after:
            checked = verifier(nonces=MemoryNonces(now_ms=AT + restart))
        request = refund(at=AT + after)
        codes.append(checked.decide(sent(token, [made], request), request).code)
    assert codes[: AHEAD // 1000] == ["store_unavailable"] * (AHEAD // 1000)
    assert codes.count("ok") == 1
    assert codes[AHEAD // 1000] == "ok"


def test_a_name_whose_time_has_not_come_spends_none() -> None:
    """
    Of two in one credential the first is not used up by that; the refusal names the time to call again.
    """
    checked = verifier()
    token = requiring().attenuate(Caveat(once=("n", AT)))
    made = answering(Caveat(once=("a-1", AT + 500)))
    found = checked.decide(sent(token, [made]), refund())
    assert (found.code, found.failures[0].place) == ("store_unavailable", "caveat 4")
    assert "500 ms" in found.failures[0].came
    later = refund(at=AT + 500)
    assert checked.decide(sent(token, [made], later), later).code == "ok"
