# SPDX-License-Identifier: Apache-2.0
"""Records as people read them, in the console and on a terminal."""

import pytest

from arx_caps.text.record_text import shorten_middle, why_of
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import COUNTED, GAP, UNPROVEN, Decision
from arx_verifier.journal.record import EffectRecord, Gap
from arx_verifier.journal.tally import RefusalCount
from tests.audit.batches import START_MS, decision, facts

FAILURES = (Failure("caveat 2", "amount range", "[1,20]", "50"), Failure("caveat 3", "tool", "a", "b"))
COUNTS = (RefusalCount("bad_signature", "10.0.0.9", 900), RefusalCount("malformed", "10.0.0.9", 2))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (decision(1, facts()), ""),
        (
            Decision("argument_not_allowed", START_MS, facts(), "pay", failures=FAILURES),
            "argument_not_allowed: amount must be between 1 and 20, got 50",
        ),
        (Decision("ok", START_MS, facts(), "web.get", marks=("untrusted", "private")), "sets untrusted, private"),
        (Decision("ok", START_MS, facts(), "web.get", marks=("saved",), box="none"), "sets saved; box: none"),
        (Decision("ok", START_MS, facts(), "web.get", box="bubblewrap"), ""),
        (Decision("already_used", START_MS, facts(), "web.get", marks=("private",)), "already_used; sets private"),
        (
            Decision("effect", START_MS, facts(), "db", effect=EffectRecord("done", "b-1"), marks=("saved",)),
            "done, of b-1; sets saved",
        ),
        (Decision("revoked", START_MS, facts(), "pay", ends=2), "revoked"),
        (Decision(COUNTED, START_MS, UNPROVEN, counts=COUNTS), "900 bad_signature, 2 malformed"),
        (
            Decision(GAP, 0, UNPROVEN, gap=Gap("lost", 3, 9, 7, 0, 61_999)),
            "7 lost, 1970-01-01 00:00:00Z to 1970-01-01 00:01:01Z",
        ),
    ],
)
def test_a_record_has_its_reason(made: Decision, why: str) -> None:
    """An allow has none but its marks, a refusal its code and first failure; counts and gaps have their numbers."""
    assert why_of(made.to_dict()) == why


@pytest.mark.parametrize(
    ("longest", "shown"),
    [(9, "s-0123456"), (8, "s-01…456"), (7, "s-0…456"), (3, "s…6"), (2, "s…"), (1, "…")],
)
def test_an_id_keeps_both_ends(longest: int, shown: str) -> None:
    """A text that is too long has exactly as many characters as there is room for."""
    assert shorten_middle("s-0123456", longest) == shown
