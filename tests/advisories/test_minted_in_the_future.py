# SPDX-License-Identifier: Apache-2.0
"""A holder of an audience key could mint tokens with invalid names, or that outlive the realm's longest life.

The verifier held ``exp - iat`` to the realm's limit, and ``iat`` to nothing: minted thirty days ahead, a token of one
day was good for thirty days at once, as its kill is remembered for one.  Agent, session, task and policy could be any
text, control characters and line breaks among them, and went so into targets and records.  It takes
the audience key, or a mint that errs.
"""

from typing import Any

import pytest

from arx_verifier.errors import SettingsError
from arx_verifier.token.keyring import KeyRing
from tests.support import ANYTHING, AT, KEY, REALM, access, mint, sign, verifier

DAY_MS = 86_400_000
APART_MS = 60_000  # two clocks, each 30 s off the store's


@pytest.mark.parametrize(
    ("ahead", "came"),
    [
        (APART_MS + 1, "2027-01-15 08:01:00.001Z, 60 s later"),
        (DAY_MS, "2027-01-16 08:00:00.000Z, 24 hours later"),
        (29 * DAY_MS, "2027-02-13 08:00:00.000Z, 29 days later"),
    ],
)
def test_a_token_from_the_future_is_not_valid_yet(ahead: int, came: str) -> None:
    """With a proof and without, seen before or not, and the refusal names ``iat``."""
    token = mint(ANYTHING, iat=AT + ahead, exp=AT + ahead + DAY_MS)
    checked = verifier()
    for text in (token.encode(), sign(token, access())):
        decision = checked.decide(text, access())
        assert decision.code == "not_yet_valid"
        values = [(failure.place, failure.rule, failure.came) for failure in decision.failures]
        assert values == [("identifier", "iat", f"{came}: set the clocks")]


def test_clocks_may_differ() -> None:
    """As far as the mint's clock and the verifier's may be apart there is no reason to refuse."""
    assert verifier().decide(mint(ANYTHING, iat=AT + APART_MS).encode(), access()).code == "ok"


@pytest.mark.parametrize(
    "named",
    [
        {"agent": "Acme/support"},
        {"agent": "acme//support"},
        {"agent": "acme/support\n"},
        {"agent": "a/" * 8 + "a"},
        {"session": "s 1"},
        {"session": "s-1\n"},
        {"session": "s\0"},
        {"session": "s-1 t-1", "task": "t-1"},
        {"session": "x" * 65},
        {"task": "t-\u00e9"},
        {"task": "t:1"},
        {"task": "t" * 65},
        {"policy": "p p"},
        {"policy": "p" * 65},
    ],
    ids=str,
)
def test_what_is_no_name_is_malformed(named: dict[str, Any]) -> None:
    """An identifier's names are those of SPEC 4.4."""
    assert verifier().decide(mint(ANYTHING, **named).encode(), access()).code == "malformed"


@pytest.mark.parametrize("kid", ["", "k1", "K1.0", "k1.00", "k1.0 ", "k" * 17 + ".0"])
def test_a_key_has_a_key_id(kid: str) -> None:
    """Its target is what freezes it."""
    with pytest.raises(SettingsError, match="cannot name an audience key"):
        KeyRing({kid: KEY}, realm=REALM)
