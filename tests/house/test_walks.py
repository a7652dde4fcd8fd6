# SPDX-License-Identifier: Apache-2.0
"""A call goes through few files: ``python -m tests.house.walks`` shows the walks of other calls too."""

from pathlib import Path

from tests.house.walks import PRODUCT, first_call, seen_call

# A change that needs more says why, and raises the bound with it.
MOST_SEEN, MOST_FIRST = 24, 30


def test_a_call_enters_few_files(tmp_path: Path) -> None:
    """A guarded call whose token was seen, and one whose token was not: from the middleware to the decision."""
    seen, first = seen_call(tmp_path), first_call(tmp_path)
    for path in ("enforcement/asgi/asgi.py", "verification/verifier.py"):
        assert PRODUCT[0] + path in seen.files
    assert len(seen.files) <= MOST_SEEN, sorted(seen.files)
    assert len(first.files) <= MOST_FIRST, sorted(first.files)
