# SPDX-License-Identifier: Apache-2.0
"""Decide on a disk that is full, in a process of its own: ``python -m tests.verifier.small_disk FOLDER``.

Says how many decisions were recorded before the disk was full, how many were refused then, and how many were recorded
in all once there was room again.
"""

import sys
import time
from pathlib import Path

from arx_verifier.errors import AuditError
from arx_verifier.journal.writer import Journal
from tests.support import ANYTHING, AT, access, mint, verifier

KIB = 1024


def main() -> None:
    """Fill the disk, be refused, make room, go on."""
    disk = Path(sys.argv[1])
    other = disk / "something else"
    other.write_bytes(bytes(300 * KIB))
    checked = verifier(decisions=Journal(disk / "j", "v1", "orders", segment_bytes=128 * KIB, max_bytes=1 << 30))
    token, request = mint(ANYTHING).encode(), access(at=AT)
    recorded = 0
    while checked.decide(token, request).allowed:
        recorded += 1
    refused = [checked.decide(token, request).code for _ in range(50)].count("audit_unavailable")
    other.unlink()
    after, until = recorded, time.monotonic() + 10
    while after == recorded and time.monotonic() < until:
        after += checked.decide(token, request).allowed
    checked.close()
    print(recorded, refused, after)


if __name__ == "__main__":
    try:
        main()
    except AuditError as error:
        sys.exit(str(error))
