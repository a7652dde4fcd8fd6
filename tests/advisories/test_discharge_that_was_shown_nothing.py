# SPDX-License-Identifier: Apache-2.0
"""A holder's discharge without caveats could count as one that was shown the marks of the discharge behind it."""

import json
from typing import Any

import pytest

from tests.vectors import make_vectors
from tests.vectors.mark_vectors import approvals
from tests.vectors.subject import call_before, request_of, verifier_of

pytestmark = pytest.mark.spec("21.8")


def test_a_discharge_without_caveats_counts_for_no_mark() -> None:
    """Its caveat is that of a holder: the mint's own discharges each have one."""
    vector: dict[str, Any] = json.loads(json.dumps(make_vectors.whole(approvals()["approve-shown-to-another"])))
    checked = verifier_of(vector)
    call_before(checked, vector)
    decision = checked.decide(vector["token"], request_of(vector))
    assert decision.code == "missing_discharge"
    assert "untrusted by web.get" in str(decision.failures[0].expected)
