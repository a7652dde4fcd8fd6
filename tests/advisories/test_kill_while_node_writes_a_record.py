# SPDX-License-Identifier: Apache-2.0
"""A killed agent could still have a call allowed in Node, whose record had waited for the disk.

``decide`` of the verifier in TypeScript checked kills and lease before it wrote the record, and not again behind it, as
``authorize`` does.
"""

import pytest

from tests.typescript.node import run_tests


@pytest.mark.slow
@pytest.mark.spec("11")
def test_the_epoch_is_checked_behind_the_record() -> None:
    """An allow that was recorded gets a second record."""
    run_tests("advisories.test.ts", "a kill that comes while a record is written is in force")
