# SPDX-License-Identifier: Apache-2.0
"""A caller could pass a ``glob`` with a NUL or a line break, which the tool may read as another text.

``{"glob": "/data/*.txt"}`` took ``/data/secret\\0.txt``, which a reader in C ends at the NUL, and ``a\\nb.txt``, two
lines of a list of names.  ``subpath`` refused both, and took the separators of lines that only Unicode has.
"""

from typing import Any

import pytest

from arx_verifier.constraints.rule import read_rule
from arx_verifier.token.caveats import Caveat
from tests.support import access, mint, verifier

BREAKS = ["\0", "\n", "\r", "\r\n", "\x0b", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]


def code(constraint: Any, value: str) -> str:
    """Decide on a call with one argument, under one constraint."""
    rule = read_rule({"tool": "orders.get", "args": {"name": constraint}})
    return verifier().decide(mint(Caveat(allow=(rule,))).encode(), access(args={"name": value})).code


@pytest.mark.parametrize("odd", BREAKS, ids=ascii)
@pytest.mark.parametrize(
    ("constraint", "before", "behind"),
    [
        ({"glob": "/data/*.txt"}, "/data/secret", ".txt"),
        ({"glob": "/data/*"}, "/data/a", "b"),
        ({"glob": "*"}, "a", "b"),
        ({"glob": "a*b*c"}, "a", "bc"),
        ({"glob": "*/x-*"}, "a", "/x-1"),
        ({"subpath": "/data"}, "/data/a", "b"),
    ],
    ids=str,
)
def test_no_pattern_takes_it(constraint: Any, before: str, behind: str, odd: str) -> None:
    """Nor does its contrary: a form that the constraint does not speak of fails under ``not`` too."""
    assert code(constraint, before + "-" + behind) == "ok"
    assert code(constraint, before + odd + behind) == "argument_not_allowed"
    assert code({"not": {"glob": "other*"}}, before + odd + behind) == "argument_not_allowed"
