# SPDX-License-Identifier: Apache-2.0
"""A caller could make a refusal raise, with an argument too large or too deeply nested to print.

Found in ARx before its first release: a refused call with an integer of thousands of digits or a deeply nested list,
made in process, raised from ``decide``; a verifier whose clock was late accepted a token that the store had already
taken for expired, and whose kill it might therefore have forgotten.
"""

from typing import Any

import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import shorten
from arx_verifier.revocation.epoch import EpochTable, Lease
from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, AT, INCARNATION, access, mint, verifier


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    made: Any = []
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), nested(100_000), {"a": nested(5)}, object(), "x" * 10**6],
    ids=str.split("huge negative deep shallow object long"),
)
def test_a_refusal_can_report_any_value(value: Any) -> None:
    """
    Whatever an argument is, the call is refused with its reason, in one short line.
    """
    token = mint(Caveat(allow=(Rule(tool="*", args={"a": "x"}),))).encode()
    decision = verifier().decide(token, access(args={"a": value}))
    assert decision.code == "argument_not_allowed"
    assert len(shorten(value)) <= 80
    assert "\n" not in shorten(value)


def test_a_late_clock_does_not_keep_a_token_alive() -> None:
    """
    What the store's clock calls expired is expired, because the store may have forgotten its kill.
    """
    late = EpochTable(boot=lambda: 0, wall=lambda: AT * 10**6)
    late.adopt(INCARNATION, 0, {}, {})
    late.renew(INCARNATION, 0, Lease(2**62, 2**62, 0), store_ns=(AT + 5_000) * 10**6)
    token = mint(ANYTHING, Caveat(exp=AT + 4_000)).encode()
    assert verifier(epochs=late).decide(token, access(at=AT)).code == "expired"


def test_an_early_clock_does_not_start_a_token_early() -> None:
    """
    What the store's clock calls not yet valid is not.
    """
    early = EpochTable(boot=lambda: 0, wall=lambda: AT * 10**6)
    early.adopt(INCARNATION, 0, {}, {})
    early.renew(INCARNATION, 0, Lease(2**62, 2**62, 0), store_ns=(AT - 5_000) * 10**6)
    token = mint(ANYTHING, Caveat(nbf=AT - 1_000)).encode()
    assert verifier(epochs=early).decide(token, access(at=AT)).code == "not_yet_valid"
