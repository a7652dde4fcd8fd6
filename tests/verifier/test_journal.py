# SPDX-License-Identifier: Apache-2.0
"""Writing a journal: what was acknowledged is there, in order, and nothing that befalls its files ends the process."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.errors import AuditError, SettingsError
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.segment import HEADER_BYTES, is_last
from tests.servers import run_together
from tests.verifier.journals import KIB, T0, allow, deny, files, small

pytestmark = pytest.mark.spec("15.3")


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


def test_a_file_that_goes_just_before_the_end_is_recorded(tmp_path: Path) -> None:
    """Deleted within the second before the journal closes or begins another file: the gap is recorded all the same."""
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


@pytest.mark.spec("12.4")
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.rename(path.parent / "elsewhere")])
def test_a_deleted_file_is_noticed_within_a_second(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """A journal does not go on writing to a file that is gone: a new one follows, and the gap is recorded."""
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


@pytest.mark.spec("12.4")
def test_a_cut_file_is_noticed_within_a_second(tmp_path: Path) -> None:
    """A file that another process cut is left before it is written to again."""
    journal = small(tmp_path)
    journal.append(allow(0))
    os.truncate(files(tmp_path)[0], HEADER_BYTES)
    journal.append(allow(1100))
    journal.close()
    read = list(read_journal(tmp_path))
    assert [decision.tool for decision in read if decision.allowed] == ["tool.1100"]
    assert [decision.gap[:4] for decision in read if decision.gap] == [("lost", 1, 1, 1)]


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
    """A fork shares no file with its parent: both runs are whole, in any order of writes."""
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

    run_together(*(partial(write, start) for start in range(0, 800, 100)))
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


@pytest.mark.spec("12.2")
def test_unproven_refusals_are_counted_in_the_journal(tmp_path: Path) -> None:
    """Junk makes a record a second at most; closing records the rest."""
    journal = small(tmp_path, clock=lambda: T0)
    for _ in range(500):
        journal.count("bad_signature", "10.0.0.1")
    journal.close()
    read = list(read_journal(tmp_path))
    assert [decision.outcome for decision in read] == ["counted", "counted"]
    assert sum(counted.times for decision in read for counted in decision.counts) == 500
