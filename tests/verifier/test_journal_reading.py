# SPDX-License-Identifier: Apache-2.0
"""Reading a journal back: what was damaged or is missing is named, and no decision is made up."""

import threading
from pathlib import Path

import pytest

from arx_verifier.errors import AuditError
from arx_verifier.journal.reader import Damage, read_journal
from arx_verifier.journal.segment import HEADER_BYTES
from tests.verifier.journals import allow, files, small

pytestmark = pytest.mark.spec("15.3")


def test_a_missing_file_in_between_is_recorded(tmp_path: Path) -> None:
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


def test_following_sees_what_is_written_later(tmp_path: Path) -> None:
    """A follower yields what exists, then what comes, also from a run that starts later, each once."""
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
