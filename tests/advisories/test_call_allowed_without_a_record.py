# SPDX-License-Identifier: Apache-2.0
"""A caller who fills the disk must not get a call allowed without a record."""

import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import Journal
from arx_verifier.verification.verifier import Verifier
from tests.disks import small_disk
from tests.support import ANYTHING, AT, access, mint, verifier

KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    yield from small_disk(tmp_path / "disk", "256k")


def journal_in(folder: Path) -> Journal:
    return Journal(folder, "v1", "orders", segment_bytes=64 * KIB, max_bytes=1024 * KIB)


def decide(checked: Verifier) -> Decision:
    return checked.decide(mint(ANYTHING).encode(), access(at=AT))


def until_allowed(checked: Verifier) -> None:
    deadline = time.monotonic() + 20
    while not decide(checked).allowed:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_disk_that_fills_up_refuses_and_recovers(disk: Path) -> None:
    """Every allow has its record; without room each call is refused, and allowed again once there is some."""
    journal = journal_in(disk / "j")
    checked = verifier(decisions=journal)
    codes = [decide(checked).code for _ in range(3000)]
    assert codes[0] == "ok"
    assert codes[-1] == "audit_unavailable"
    assert checked.readiness().fill < 1  # the budget was not the limit: the disk was
    read = list(read_journal(disk / "j"))
    assert sum(decision.allowed for decision in read) == codes.count("ok")
    assert any(decision.code == "audit_unavailable" for decision in read)
    min((disk / "j").glob("*.arxj")).unlink()
    until_allowed(checked)
    checked.close()


def test_a_disk_that_is_full_at_start_refuses_and_does_not_crash(disk: Path) -> None:
    """Nothing is allowed, no half-made file stays, and refusals are reported once there is room."""
    (disk / "filler").write_bytes(b"x" * 230 * KIB)
    checked = verifier(decisions=journal_in(disk / "j"))
    assert {decide(checked).code for _ in range(5)} == {"audit_unavailable"}
    assert list((disk / "j").iterdir()) == []
    (disk / "filler").unlink()
    until_allowed(checked)
    checked.close()
    read = list(read_journal(disk / "j"))
    counted = {counted.code: counted.times for decision in read for counted in decision.counts}
    assert counted["audit_unavailable"] >= 5


def test_a_journal_made_read_only_refuses(disk: Path) -> None:
    """A file system that takes nothing any more: no allow, at the latest when the next file is needed."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    checked = verifier(decisions=journal_in(disk / "j"))
    assert decide(checked).code == "audit_unavailable"
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    until_allowed(checked)
    checked.close()


def test_a_user_without_room_refuses(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk where nothing can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checked = verifier(decisions=journal_in(tmp_path / "j"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * KIB, hard))
    try:
        assert decide(checked).code == "audit_unavailable"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    until_allowed(checked)
    checked.close()
