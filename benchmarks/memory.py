# SPDX-License-Identifier: Apache-2.0
"""By how much a fresh process grows: python -m benchmarks.memory parents|calls|kills COUNT.  Prints bytes.

``parents`` are that many parents of three delegations, each of one call; ``calls`` that many calls of one parent, whose
nonces are in both.  Counted is anonymous memory: the journal's mapped files are not.
"""

import sys
import tempfile
from pathlib import Path

from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import call_proof
from benchmarks.kill_mass import target
from benchmarks.world import AT, FIELDS, REQUEST, handed, verifier


def anonymous() -> int:
    """Return the process's anonymous memory, bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def kept(parents: int, calls: int) -> int:
    """Decide so often, about so many parents; returns the growth."""
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        checked = verifier(Path(folder), cache_bytes=1 << 40)
        signer = call_proof.CallSigner(handed(3), "orders")
        assert checked.decide(signer.sign(FIELDS, AT), REQUEST).code == "ok"
        before = anonymous()
        for number in range(calls):
            if parents > 1:
                signer = call_proof.CallSigner(handed(3, number), "orders")
            assert checked.decide(signer.sign(FIELDS, AT), REQUEST).code == "ok"
        grown = anonymous() - before
        checked.close()
        return grown


def killed(count: int) -> int:
    """Apply so many kills; returns the growth."""
    epochs = UnsafeLocalEpochs()
    before = anonymous()
    for first in range(0, count, 1_000):
        epochs.kill(*(target(number) for number in range(first, first + 1_000)))
    assert epochs.seq == count
    return anonymous() - before


def main() -> None:
    """Measure what is named."""
    what, count = sys.argv[1], int(sys.argv[2])
    print(killed(count) if what == "kills" else kept(count if what == "parents" else 1, count))


if __name__ == "__main__":
    main()
