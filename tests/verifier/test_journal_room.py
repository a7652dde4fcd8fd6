# SPDX-License-Identifier: Apache-2.0
"""A journal's room: what it does when there is none, who may use how much of it, and when it warns."""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.segment import denied_in
from tests.servers import until
from tests.verifier.journals import FACTS, KIB, T0, allow, deny, files, small

pytestmark = pytest.mark.spec("15.3")


@pytest.mark.spec("11")
def test_a_full_journal_refuses_allows_and_names_why(tmp_path: Path) -> None:
    """When the budget is used up an allow is refused, and the refusal itself still fits."""
    journal = small(tmp_path, max_bytes=64 * KIB)
    with pytest.raises(AuditError, match="has used") as caught:
        [journal.append(allow(i)) for i in range(10_000)]
    assert caught.value.code == "audit_unavailable"
    assert journal.append(Decision("audit_unavailable", T0, FACTS, "tool")) > 0
    with pytest.raises(AuditError, match="has used"):
        journal.append(allow())
    journal.close()
    codes = [decision.code for decision in read_journal(tmp_path)]
    assert codes[-1] == "audit_unavailable"
    assert set(codes[:-1]) == {"ok"}


def test_room_given_back_is_used_again(tmp_path: Path) -> None:
    """Removed files let a full journal go on, at the latest a second later; it counted what it refused."""
    old = small(tmp_path, max_bytes=128 * KIB)
    old.append(allow())
    old.close()
    [closed] = files(tmp_path)
    journal = small(tmp_path, max_bytes=64 * KIB)
    with pytest.raises(AuditError):
        journal.append(allow())
    closed.unlink()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert journal.append(allow(1)) == 1
            break
        except AuditError:
            threading.Event().wait(0.05)
    journal.close()
    records = list(read_journal(tmp_path))
    assert [decision.tool for decision in records] == ["tool.1", ""]
    assert {counted.code for counted in records[1].counts} == {"audit_unavailable"}


def test_denials_use_a_quarter_and_are_counted_beyond(tmp_path: Path) -> None:
    """Refused callers cannot use up the room of those who are allowed; a refusal without a record is counted."""
    journal = small(tmp_path, max_bytes=256 * KIB)
    results = [journal.append(deny(i, peer="10.0.0.9")) for i in range(3000)]
    kept = results.count(0)
    assert 0 < kept < 3000
    assert journal.append(allow(9)) > 0
    journal.close()
    read = list(read_journal(tmp_path))
    assert sum(1 for decision in read if decision.code == "expired") == 3000 - kept
    assert sum(path.stat().st_size for path in files(tmp_path)) < 130 * KIB


def test_all_that_write_to_a_folder_share_the_denials_quarter(tmp_path: Path) -> None:
    """Eight workers, or a worker that dies and starts anew, give refused callers no more room than one has."""
    journals = [small(tmp_path, max_bytes=64 * 64 * KIB) for _ in range(8)]
    for i in range(2000):
        for journal in journals:
            journal.append(deny(i))
    for _ in range(20):
        again = small(tmp_path, max_bytes=64 * 64 * KIB)
        assert again.append(deny()) == 0
        again.close()
    taken = sum(map(denied_in, files(tmp_path)))
    share = 16 * 64 * KIB
    assert share * 0.95 < taken < share + 8 * KIB
    assert sum(path.stat().st_size for path in files(tmp_path)) < 3 * share
    assert all(journal.append(allow(i)) for i, journal in enumerate(journals))
    for journal in journals:
        journal.close()
    read = list(read_journal(tmp_path))
    records = sum(decision.code == "expired" for decision in read)
    counted = sum(each.times for decision in read for each in decision.counts)
    assert records + counted == 8 * 2000 + 20


def test_a_full_disk_refuses_before_it_can_end_the_process(tmp_path: Path) -> None:
    """Room is taken when a segment is made: when there is none that is a refusal, and no half-made file stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = small(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * KIB, hard))
    try:
        with pytest.raises(AuditError, match="cannot be written"):
            journal.append(allow())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_full_refuses_and_the_process_lives(tmp_path: Path) -> None:
    """A disk of 1 MiB that others fill too: refusals with their reason, no signal; room again, and it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.verifier.small_disk", disk], capture_output=True, text=True, check=False
        )
        full, again = done.stderr.splitlines()
        assert (done.returncode, "ENOSPC" in full, again.endswith(" is written again")) == (0, True, True)
        recorded, refused, after = map(int, done.stdout.split())
        assert recorded > 100
        assert refused == 50
        assert after > recorded
        read = list(read_journal(disk))
        assert sum(decision.allowed for decision in read) == after
        assert "audit_unavailable" in {decision.code for decision in read}
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.spec("12.4")
def test_best_effort_goes_on_without_room_and_records_the_gap(tmp_path: Path) -> None:
    """Calls go ahead without a record, are counted, and one record has how many and when once there is room."""
    old = small(tmp_path)
    old.append(allow())
    old.close()
    (filler,) = files(tmp_path)
    os.truncate(filler, 64 * KIB)
    journal = small(tmp_path, mode="best_effort", max_bytes=2 * 64 * KIB)
    written = [journal.append(decision) for decision in map(allow, range(500))]
    dropped = written.count(0)
    assert 0 < dropped < 500
    filler.unlink()
    until(lambda: journal.append(allow(600)) > 0)
    journal.close()
    read = list(read_journal(tmp_path))
    (gap,) = [decision.gap for decision in read if decision.gap is not None]
    assert (gap.why, gap.first, gap.last, gap.since) == ("dropped", 0, 0, T0 + written.index(0))
    assert gap.times >= dropped
    assert T0 + 499 <= gap.until <= T0 + 600
    assert sum(decision.allowed for decision in read) == 500 - dropped + 1


@pytest.mark.spec("12.4")
def test_best_effort_records_its_gap_when_it_closes(tmp_path: Path) -> None:
    """Where room never came back the gap is in the part that was kept free."""
    journal = small(tmp_path, mode="best_effort", max_bytes=64 * KIB)
    dropped = [journal.append(allow(i)) for i in range(800)].count(0)
    journal.close()
    assert [decision.gap.times for decision in read_journal(tmp_path) if decision.gap] == [dropped]


def test_a_filling_journal_warns_at_each_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At 50, 80 and 95 % of its budget there is one warning each, before anything is refused."""
    journal = small(tmp_path, max_bytes=20 * 64 * KIB)
    with pytest.raises(AuditError):
        [journal.append(allow(i)) for i in range(20_000)]
    *warned, full = [record.getMessage() for record in caplog.records]
    half, most, all_ = [int(value.partition(" is at ")[2].split()[0]) for value in warned]
    assert "calls are refused (audit_unavailable)" in full
    assert 50 <= half < 80 <= most < 95 <= all_ <= 100
    assert journal.fill == 1.0
    journal.close()


def test_a_flood_of_junk_leaves_the_room_of_others(tmp_path: Path, monkeypatch: Any) -> None:
    """Forged tokens from countless peers for days, and no sender ships: the journal never gets beyond a quarter."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    journal = small(tmp_path, max_bytes=16 * 64 * KIB)
    for second in range(1500):
        now[0] += 1
        for peer in range(80):
            journal.count("bad_signature", f"2001:db8:{second:x}:{peer:x}:aaaa:bbbb:cccc:dddd")
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5 * 64 * KIB
    assert journal.append(allow()) > 0
    journal.close()
