# SPDX-License-Identifier: Apache-2.0
"""A frozen operator could load a policy or prune the log, while the mint had no live view of the store.

With an old view of kills and freezes a mint lets operators look and end things.  It let them put a policy in force too,
which stayed in force, and take records out of the audit log for good.
"""

import pytest

from arx_verifier.revocation.epoch import EpochRefusal
from tests.mint.harness import Harness


@pytest.mark.sqlite
def test_nothing_for_good_is_done_on_an_old_view(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy and the log wait for a live view; reading does not."""
    operator = unit.operator()
    text = unit.realm.policy_path.read_text() + "\n# another\n"
    digest = unit.mint.policy.digest
    stale = EpochRefusal("stale", None, "the lease ran out")
    monkeypatch.setattr(unit.mint.epochs, "check", lambda *_, **__: stale)
    for path, body in (
        ("/v1/policies", {"policy": text}),
        ("/v1/audit/prune", {"before": 1, "reason": "x"}),
        ("/v1/audit/erase", {"before": 1, "reason": "x"}),
    ):
        answer = operator.call("POST", path, body)
        assert (answer.status_code, answer.json()["code"]) == (503, "stale"), path
    assert unit.mint.policy.digest == digest
    assert operator.call("GET", "/v1/policies").status_code == 200
