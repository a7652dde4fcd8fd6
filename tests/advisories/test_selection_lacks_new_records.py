# SPDX-License-Identifier: Apache-2.0
"""An exported selection lacked records that a query had just shown: those that no checkpoint covered yet.

An operator who exported evidence of what had just occurred got a file that verified, without these records.  On a busy
host, where the mint signs late, it had none.
"""

from base64 import b64decode

import pytest

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.merkle.proof import RecordProof
from tests.audit.batches import decision, facts
from tests.mint.harness import Harness
from tests.mint.test_trail import ask, indices, take, unit

__all__ = ["unit"]


@pytest.mark.spec("LOG 3.3")
def test_a_selection_has_what_the_log_has(unit: Harness) -> None:
    """The mint signs first; a page under the size of an older checkpoint stays as it is."""
    operator = unit.operator()
    unit.mint.log.step()
    key = unit.mint.log.publisher.signer.key
    older = open_checkpoint(ask(operator, prove=0)["checkpoint"].encode(), key).checkpoint
    take(unit, [decision(6, facts("s-9", "t-9"))], 6)
    assert ask(operator, session="s-9", prove=older.size)["records"] == []
    shown = indices(ask(operator, session="s-9"))
    answer = ask(operator, session="s-9", prove=0)
    assert indices(answer) == shown
    assert len(shown) == 1
    signed = open_checkpoint(answer["checkpoint"].encode(), key)
    [record] = answer["records"]
    path = tuple(map(b64decode, record["path"]))
    proof = RecordProof(b64decode(record["kept"]), b64decode(record["body"]), record["index"], path, signed.note)
    proof.check_under(signed)


def test_a_log_that_cannot_sign_proves_what_it_signed(unit: Harness) -> None:
    """A halt of the log takes no evidence away."""
    operator = unit.operator()
    unit.mint.log.step()
    before = indices(ask(operator, session="s-1", prove=0))
    take(unit, [decision(6, facts("s-1", "t-1"))], 6)
    unit.mint.log.publisher.halt(TamperedError("its rows do not give its stored tree"))
    assert indices(ask(operator, session="s-1", prove=0)) == before
