# SPDX-License-Identifier: Apache-2.0
"""X11.  Attack: whoever keeps the audit trail changes, drops or reorders what it says, or tells two stories.

Seen in the field: trails that are rows in a database which their operator can edit; hash chains that the operator
recomputes after the edit; a proof scheme of a database's own that did not check its middle, so that two histories both
verified.  Here the check is made by somebody else, from the files, with a key and a checkpoint that they kept.
"""

from pathlib import Path

import pytest

from arx_caps.audit.checkpoint import open_checkpoint
from arx_caps.audit.errors import TamperedError
from arx_caps.audit.tree import Tree, check_consistency, consistency_proof, leaf_hash
from arx_caps.audit.verify import Trust, verify
from tests.audit.world import LOG, checkpoint_of, records, write

KEPT = records(40)
CHANGED = [*KEPT[:20], b"nothing happened", *KEPT[21:]]


@pytest.mark.parametrize(
    "shown",
    [CHANGED, KEPT[1:], KEPT[:20] + KEPT[21:], [*KEPT[:20], KEPT[21], KEPT[20], *KEPT[22:]], KEPT[:39]],
    ids=["changed", "no head", "no middle", "swapped", "no tail"],
)
def test_a_keeper_who_owns_the_log_s_key_is_found_by_a_kept_checkpoint(tmp_path: Path, shown: list[bytes]) -> None:
    """Every file is written anew and signed with the log's own key: by itself that log holds, and yet it is found."""
    log = write(tmp_path, shown)
    assert verify(log.folder, Trust(LOG.key)).records == len(shown)
    seen = open_checkpoint(checkpoint_of(KEPT), LOG.key)
    with pytest.raises(TamperedError, match=r"two histories|rolled back"):
        verify(log.folder, Trust(LOG.key, held=seen))


def test_no_proof_joins_two_histories() -> None:
    """Whatever hashes of either history a keeper offers, the one does not continue the other."""
    one, two = Tree(map(leaf_hash, KEPT)), Tree(map(leaf_hash, [*CHANGED, b"more"]))
    for old in range(21, 41):
        for source in (one, two):
            size = min(source.size, 41)
            proof = consistency_proof(source.subtree, old, size)
            with pytest.raises(TamperedError):
                check_consistency(old, one.root(old), two.size, two.root(), proof)
    check_consistency(20, one.root(20), two.size, two.root(), consistency_proof(two.subtree, 20, two.size))
