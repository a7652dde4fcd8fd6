# SPDX-License-Identifier: Apache-2.0
"""A caller could make a refusal take ten times as long as a grant, with arguments that no rule names.

Since refused arguments were reported once, each of a hundred thousand arguments that a rule does not name was put into
words, and all but 32 were thrown away: a request of a megabyte held an event loop for ten times as long as its grant.
"""

import pytest

from arx_verifier.constraints import rule as constraints
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import MAX_TOLD, Rule
from arx_verifier.token.caveats import Caveat
from tests.support import access, mint, verifier

MANY = {f"a{number}": number for number in range(5000)}
ATTENUATIONS = {
    "not named": Rule(tool="*", args={"zz": Constraint(max=9)}),
    "named, and more": Rule(tool="*", args={"a1": Constraint(max=0), "a2": Constraint(max=0)}),
    "too large": Rule(tool="*", args={f"a{number}": Constraint(max=0) for number in range(1, 200)}, open=True),
}


@pytest.mark.parametrize("rule", ATTENUATIONS.values(), ids=ATTENUATIONS.keys())
@pytest.mark.parametrize("seen", [False, True], ids=["first sight", "parent seen"])
def test_a_refusal_puts_into_words_what_it_reports(rule: Rule, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any request, a record waits for one value, and an answer for no more than a refusal can report."""
    written: list[object] = []
    shorten = constraints.shorten
    monkeypatch.setattr(constraints, "shorten", lambda value: (written.append(value), shorten(value))[1])
    token, checked = mint().attenuate(Caveat(allow=(rule,))).encode(), verifier()
    for _ in range(1 + seen):
        written.clear()
        decision = checked.decide(token, access(args=MANY))
    assert decision.code == "argument_not_allowed"
    assert len(decision.failures) == len(written) == 1
    assert decision.failures[0].rule.partition(" ")[0] in MANY
    assert len(decision.all_failures()) == MAX_TOLD
    assert len(written) <= 1 + 2 * MAX_TOLD
