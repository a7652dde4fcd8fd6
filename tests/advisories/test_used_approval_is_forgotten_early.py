# SPDX-License-Identifier: Apache-2.0
"""A holder could use a one-call approval again, by attenuation a token to one second first.

A name was remembered until the end of the token that it was used with, and a holder chooses that end: the token as it
was, or a later grant of the same task, outlived what was remembered.
"""

from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import MemoryNonces
from tests.support import AT, mint, verifier
from tests.verifier.discharges import APPROVED, answering, refund, requiring, sent


def test_the_end_of_a_token_frees_no_name() -> None:
    """
    First with a token of one second, then with the same token unnarrowed, and with a longer one of the task.
    """
    checked, good = verifier(nonces=MemoryNonces(now_ms=AT - 60_000)), answering(APPROVED)
    whole, longer = requiring(), requiring(mint(exp=AT + 3_600_000))
    assert checked.decide(sent(whole.attenuate(Caveat(exp=AT + 1000)), [good]), refund()).code == "ok"
    for at in (AT, AT + 1001, AT + 30_000, AT + 59_999):
        for token in (whole, longer):
            request = refund(at=at)
            assert checked.decide(sent(token, [good], request), request).code == "already_used"


def test_neither_does_an_earlier_time_that_a_holder_writes() -> None:
    """
    A name that a holder used up itself, as if it had been given long ago, leaves one call at most, as it was meant.
    """
    checked, token = verifier(nonces=MemoryNonces(now_ms=AT - 90_000_000)), requiring()
    old = token.attenuate(Caveat(once=("a-1", AT - 86_400_000 + 500)))
    assert checked.decide(sent(old, [answering()]), refund()).code == "ok"
    codes = []
    for at in (AT, AT + 61_000, AT + 200_000):
        request = refund(at=at)
        codes.append(checked.decide(sent(token, [answering(Caveat(once=("a-1", AT)))], request), request).code)
    assert codes.count("ok") <= 1
