# SPDX-License-Identifier: Apache-2.0
"""The journal: what was acknowledged is there, in order, and nothing that happens to its files ends the process."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.decisions import ChainFacts, Decision
from arx_verifier.errors import AuditError, SettingsError
from arx_verifier.replay import Damage
from arx_verifier.segment import HEADER_BYTES, denied_in, is_last
from arx_verifier.spool import Journal, prune_journal, read_journal
from tests.servers import until

T0 = 1_700_000_000_000
FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
KIB = 1024


def allow(i: int = 0, **more: Any) -> Decision:
    return Decision("ok", T0 + i, FACTS, f"tool.{i}", **more)


def deny(i: int = 0, **more: Any) -> Decision:
    return Decision("expired", T0 + i, FACTS, f"tool.{i}", **more)


def small(folder: Path, **more: Any) -> Journal:
    return Journal(folder, "v1", "orders", **({"segment_bytes": 64 * KIB, "max_bytes": 64 * KIB * 64} | more))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arxj"))


def test_decisions_come_back_in_order_and_in_full(tmp_path: Path) -> None:
    """Over many segments each decision is read back once, with its place, and the files take what they hold."""
    journal = small(tmp_path / "j")
    written = [allow(i, salt=b"s" * 16, args_digest=b"d" * 32) for i in range(3000)]
    assert [journal.append(decision) for decision in written] == list(range(1, 3001))
    journal.close()
    journal.close()
    assert len(files(tmp_path / "j")) > 5
    assert list(read_journal(tmp_path)) == written
    assert (written[7].verifier, written[7].boot, written[7].id) == ("v1", journal.boot, f"{journal.boot}-8")
    assert files(tmp_path / "j")[-1].stat().st_size < 64 * KIB


def test_nothing_is_opened_before_the_first_decision(tmp_path: Path) -> None:
    """Making a journal touches no file; the folder it makes is for its user alone."""
    journal = small(tmp_path / "j")
    journal.close()
    assert not (tmp_path / "j").exists()
    journal.append(allow())
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    assert files(tmp_path / "j")[0].stat().st_mode & 0o777 == 0o600
    journal.close()


def test_a_closed_journal_opens_again(tmp_path: Path) -> None:
    """A decision after closing begins another run: what was ended in order stays whole."""
    journal = small(tmp_path)
    journal.append(allow(1))
    journal.close()
    first = journal.boot
    assert journal.append(allow(2)) == 1
    assert journal.boot != first
    journal.close()
    assert [(decision.tool, decision.sequence) for decision in read_journal(tmp_path)] == [("tool.1", 1), ("tool.2", 1)]
    assert all(is_last(path.read_bytes()) for path in files(tmp_path))


def test_sizes_and_modes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """A journal too small for a record, or of an unknown mode, does not start."""
    for wrong in ({"segment_bytes": 4096}, {"segment_bytes": 64 * KIB + 1}, {"max_bytes": 1}, {"mode": "loose"}):
        with pytest.raises(SettingsError):
            small(tmp_path, **wrong)


def test_a_full_journal_refuses_allows_and_tells_why(tmp_path: Path) -> None:
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
    """Pruning closed files lets a full journal go on, at the latest a second later."""
    old = small(tmp_path, max_bytes=128 * KIB)
    old.append(allow())
    old.close()
    assert prune_journal(tmp_path, T0) == 0
    journal = small(tmp_path, max_bytes=64 * KIB)
    with pytest.raises(AuditError):
        journal.append(allow())
    assert prune_journal(tmp_path, time.time_ns() // 1_000_000 + 10_000) > 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert journal.append(allow(1)) == 1
            break
        except AuditError:
            threading.Event().wait(0.05)
    journal.close()
    assert [decision.tool for decision in read_journal(tmp_path)] == ["tool.1"]


def test_denials_use_a_quarter_and_are_counted_beyond(tmp_path: Path) -> None:
    """Whoever is refused cannot use up the room of those who are allowed; what has no record is counted."""
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
    """Eight workers, or a worker that dies and starts anew, give whoever is refused no more room than one has."""
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
    told = sum(decision.code == "expired" for decision in read)
    counted = sum(each.times for decision in read for each in decision.counts)
    assert told + counted == 8 * 2000 + 20


def test_a_file_that_goes_just_before_the_end_is_told(tmp_path: Path) -> None:
    """Deleted within the second before the journal closes or begins another file: the gap is told all the same."""
    journal = small(tmp_path)
    journal.append(allow(0))
    files(tmp_path)[0].unlink()
    journal.close()
    [gap] = [decision.gap for decision in read_journal(tmp_path) if decision.gap]
    assert gap[:4] == ("lost", 1, 1, 1)
    full = small(tmp_path / "full")
    full.append(allow(0))
    files(tmp_path / "full")[0].unlink()
    while not files(tmp_path / "full"):
        last = full.append(allow(1))
    full.close()
    gaps = [decision.gap for decision in read_journal(tmp_path / "full") if decision.gap]
    assert [gap[:4] for gap in gaps] == [("lost", 1, last - 2, last - 2)]


def test_a_journal_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    """A file in the folder's place: allows are refused with the reason, denials and counts are not in the way."""
    (tmp_path / "j").write_text("")
    journal = small(tmp_path / "j")
    for _ in range(3):
        with pytest.raises(AuditError, match="cannot be written"):
            journal.append(allow())
    assert journal.append(deny()) == 0
    journal.count("malformed", None)
    journal.close()


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
        assert (done.returncode, done.stderr) == (0, "")
        recorded, refused, after = map(int, done.stdout.split())
        assert recorded > 100
        assert refused == 50
        assert after > recorded
        read = list(read_journal(disk))
        assert sum(decision.allowed for decision in read) == after
        assert "audit_unavailable" in {decision.code for decision in read}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_best_effort_goes_on_without_room_and_records_the_gap(tmp_path: Path) -> None:
    """Calls go ahead without a record, are counted, and one record tells how many and when once there is room."""
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


def test_best_effort_tells_its_gap_when_it_closes(tmp_path: Path) -> None:
    """Where room never came back the gap stands in the part that was kept free."""
    journal = small(tmp_path, mode="best_effort", max_bytes=64 * KIB)
    dropped = [journal.append(allow(i)) for i in range(800)].count(0)
    journal.close()
    assert [decision.gap.times for decision in read_journal(tmp_path) if decision.gap] == [dropped]


def test_a_filling_journal_warns_at_each_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At 50, 80 and 95 % of its budget there is one warning each, before anything is refused."""
    journal = small(tmp_path, max_bytes=20 * 64 * KIB)
    with pytest.raises(AuditError):
        [journal.append(allow(i)) for i in range(20_000)]
    half, most, all_ = [int(record.getMessage().partition(" is at ")[2].split()[0]) for record in caplog.records]
    assert 50 <= half < 80 <= most < 95 <= all_ <= 100
    assert journal.fill == 1.0
    journal.close()


def test_a_flood_of_junk_leaves_the_room_of_others(tmp_path: Path, monkeypatch: Any) -> None:
    """Forged tokens from countless peers for days, and nobody ships: the journal never gets beyond a quarter."""
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


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.rename(path.parent / "elsewhere")])
def test_a_deleted_file_is_noticed_within_a_second(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """A journal does not go on writing to a file that is gone: a new one follows, and the gap is told."""
    journal = small(tmp_path)
    journal.append(allow(0))
    journal.append(allow(1))
    spoil(files(tmp_path)[0])
    journal.append(allow(1100))
    journal.append(allow(1101))
    journal.close()
    read = list(read_journal(tmp_path))
    assert [decision.tool for decision in read if decision.allowed] == ["tool.1100", "tool.1101"]
    assert [decision.gap[:4] for decision in read if decision.gap] == [("lost", 1, 2, 2)]
    assert read[0].outcome == "gap"


def test_a_cut_file_is_noticed_within_a_second(tmp_path: Path) -> None:
    """A file that somebody cut is left before it is written to again."""
    journal = small(tmp_path)
    journal.append(allow(0))
    os.truncate(files(tmp_path)[0], HEADER_BYTES)
    journal.append(allow(1100))
    journal.close()
    read = list(read_journal(tmp_path))
    assert [decision.tool for decision in read if decision.allowed] == ["tool.1100"]
    assert [decision.gap[:4] for decision in read if decision.gap] == [("lost", 1, 1, 1)]


def test_a_missing_file_in_between_is_told(tmp_path: Path) -> None:
    """Records that are gone from the middle are named; those pruned from the start are not missed."""
    journal = small(tmp_path)
    for i in range(2000):
        journal.append(allow(i))
    journal.close()
    first, second, *_ = files(tmp_path)
    first.unlink()
    assert next(read_journal(tmp_path)).sequence > 1
    files(tmp_path)[1].unlink()
    with pytest.raises(AuditError, match=r"decisions \d+ to \d+ of run .* are missing"):
        list(read_journal(tmp_path))
    assert second.exists()


def test_every_changed_byte_is_damage_with_its_place(tmp_path: Path) -> None:
    """Whatever byte of a closed journal is changed, the reader names the file and does not make decisions up."""
    journal = small(tmp_path)
    for i in range(5):
        journal.append(allow(i))
    journal.close()
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    good = list(read_journal(tmp_path))
    spared = set(range(8, 16)) | set(range(HEADER_BYTES - 200, HEADER_BYTES))  # state, and zeros behind the header
    for at in sorted(set(range(len(whole))) - spared):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        damages: list[Damage] = []
        read = list(read_journal(tmp_path, on_damage=damages.append))
        assert damages or read == good, at  # padding
        assert all(decision in good for decision in read)
        assert all(damage.file == path for damage in damages)
    path.write_bytes(whole[:HEADER_BYTES] + b"\0\0\0\0" + whole[HEADER_BYTES + 4 :])
    with pytest.raises(AuditError, match="has no length"):
        list(read_journal(tmp_path))


def test_a_record_cut_short_by_death_is_passed_over(tmp_path: Path) -> None:
    """At every point of writing a record, dying leaves a journal that reads to the last acknowledged one."""
    journal = small(tmp_path / "whole")
    journal.append(allow(0))
    (path,) = files(tmp_path / "whole")
    end = len(path.read_bytes().rstrip(b"\0"))
    begin = (end + 3) & ~3
    journal.append(allow(1))
    whole = path.read_bytes()
    journal.close()
    torn = tmp_path / "torn"
    torn.mkdir()
    stop = len(whole.rstrip(b"\0"))
    for cut in range(begin + 4, stop + 1):
        unfinished = whole[:begin] + b"\0\0\0\0" + whole[begin + 4 : cut]
        (torn / path.name).write_bytes(unfinished.ljust(len(whole), b"\0"))
        assert [decision.sequence for decision in read_journal(torn)] == [1]
        small(torn / "x").close()
    successor = small(torn)
    successor.append(allow(2))
    successor.close()
    assert (torn / path.name).stat().st_size == begin
    assert [decision.tool for decision in read_journal(torn)] == ["tool.0", "tool.2"]


@pytest.mark.servers
def test_nothing_answered_is_missing_when_the_process_is_killed() -> None:
    """Killed at any moment, deciding in threads, a process leaves a record of every decision that it answered.

    Hundreds of runs: ``python -m tests.verifier.killing --runs 500``.
    """
    command = [sys.executable, "-m", "tests.verifier.killing", "--runs", "24", "--seed", "7", "strict", "durable"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[4:]]
    assert [(way, killed, missing) for way, killed, _, missing, *_ in rows] == [
        ("| strict", "24", "0"),
        ("| durable", "24", "0"),
    ]
    assert all(int(answered) > 24 for _, _, answered, *_ in rows)


def test_a_forked_child_writes_a_run_of_its_own(tmp_path: Path) -> None:
    """A fork shares no file with its parent: both runs are whole, whoever writes when."""
    journal = small(tmp_path)
    journal.append(allow(0))
    child = os.fork()
    if child == 0:
        sequence = journal.append(allow(1))
        journal.close()
        os._exit(sequence)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    journal.append(allow(2))
    journal.close()
    read = list(read_journal(tmp_path))
    assert [(decision.tool, decision.sequence) for decision in read] == [("tool.0", 1), ("tool.1", 1), ("tool.2", 2)]
    assert len({decision.boot for decision in read}) == 2


@pytest.mark.parametrize("mode", ["strict", "durable"])
def test_threads_share_a_journal(tmp_path: Path, mode: str) -> None:
    """Eight threads at once: each decision has its own place and none is lost, over segments and in both modes."""
    journal = small(tmp_path, mode=mode)
    assert journal.waits == (mode == "durable")

    def write(start: int) -> None:
        for i in range(start, start + 100):
            journal.append(allow(i))

    threads = [threading.Thread(target=write, args=(start,)) for start in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    read = list(read_journal(tmp_path))
    assert {decision.tool for decision in read} == {f"tool.{i}" for i in range(800)}
    assert sorted(decision.sequence for decision in read) == list(range(1, 801))


def test_a_disk_that_does_not_keep_a_durable_record_refuses_it(tmp_path: Path, monkeypatch: Any) -> None:
    """A failed sync is a refusal, and the next decision begins a new file."""
    journal = small(tmp_path, mode="durable")
    journal.append(allow(0))

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(AuditError, match="not kept"):
            journal.append(allow(1))
    assert journal.append(allow(2)) == 3
    journal.close()
    assert len(files(tmp_path)) == 2


def test_following_sees_what_is_written_later(tmp_path: Path) -> None:
    """A follower yields what is there, then what comes, also from a run that starts later, each once."""
    stop = threading.Event()
    one = small(tmp_path / "a")
    one.append(allow(0))
    seen = read_journal(tmp_path, follow=True, poll_s=0.01, stop=stop)
    assert next(seen).tool == "tool.0"
    one.append(allow(1))
    assert next(seen).tool == "tool.1"
    two = small(tmp_path / "b")
    two.append(allow(2))
    assert next(seen).tool == "tool.2"
    for i in range(3, 1500):
        one.append(allow(i))
    one.close()
    two.close()
    assert [next(seen).tool for _ in range(3, 1500)] == [f"tool.{i}" for i in range(3, 1500)]
    stop.set()
    assert list(seen) == []


def test_unproven_refusals_are_counted_in_the_journal(tmp_path: Path) -> None:
    """Junk makes a record a second at most; closing tells the rest."""
    journal = small(tmp_path, clock=lambda: T0)
    for _ in range(500):
        journal.count("bad_signature", "10.0.0.1")
    journal.close()
    read = list(read_journal(tmp_path))
    assert [decision.outcome for decision in read] == ["counted", "counted"]
    assert sum(counted.times for decision in read for counted in decision.counts) == 500


def test_what_is_not_a_journal_is_named(tmp_path: Path) -> None:
    """A foreign file among the segments is damage at its first byte; the others are read."""
    journal = small(tmp_path)
    journal.append(allow(0))
    journal.close()
    (tmp_path / "00-other.arxj").write_bytes(b"junk" * 100)
    damages: list[Damage] = []
    assert len(list(read_journal(tmp_path, on_damage=damages.append))) == 1
    assert [(damage.file.name, damage.offset) for damage in damages] == [("00-other.arxj", 0)]
    with pytest.raises(AuditError, match="not a journal segment"):
        list(read_journal(tmp_path))
