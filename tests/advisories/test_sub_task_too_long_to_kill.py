# SPDX-License-Identifier: Apache-2.0
"""A holder could name a sub-task whose target is longer than the store takes, so that no kill could name it.

Found in ARx before its first release: a holder could name a sub-task in letters of four bytes each, whose target is
longer than the 96 bytes that the kill store takes, so that no kill could name it.
"""

import pytest

from arx_verifier.token.caveats import Caveat
from arx_verifier.token.targets import MAX_TARGET_BYTES
from tests.support import ANYTHING, access, mint, unchecked, verifier


@pytest.mark.parametrize("task", ["\U0001f600" * 64, "é", "a b", "a\n", "a/b", "", "x" * 65])
def test_a_sub_task_that_no_kill_could_name_is_refused(task: str) -> None:
    """
    A sub-task is 1 to 64 plain characters, else the token is malformed.
    """
    assert verifier().decide(mint(ANYTHING, unchecked(Caveat, task=task)).encode(), access()).code == "malformed"


def test_the_longest_sub_task_has_a_target() -> None:
    """
    The longest name that is accepted fits into a target.
    """
    assert verifier().decide(mint(ANYTHING, Caveat(task="x" * 64)).encode(), access()).code == "ok"
    assert len("task:" + "x" * 64) <= MAX_TARGET_BYTES
