# SPDX-License-Identifier: Apache-2.0
"""Shipping: each record reaches the receiver once and in order, or is declared lost; an outage only grows the spool."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.audit.ship import Shipper
from arx_caps.audit.wire import Batch
from arx_verifier.segment import HEADER_BYTES
from tests.audit.receiver import REALM, Receiver
from tests.servers import until
from tests.verifier.test_spool import T0, allow, deny, files, small

KIB = 1024
Make = Callable[..., Shipper]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def shipper(receiver: Receiver) -> Iterator[Make]:
    """Makes shippers to the receiver, and ends them."""
    made: list[Shipper] = []

    def make(folder: Path, **more: Any) -> Shipper:
        about = {"audience": "orders", "realm": REALM, "issuer": receiver.issuer, "key": receiver.key}
        made.append(Shipper(folder, **about | more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tools(numbers: range) -> list[str]:
    return [f"tool.{number}" for number in numbers]


def test_all_records_arrive_in_order_and_their_files_go(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Over many files and batches: whole, once, with their bodies; an ended run is closed and its files are freed."""
    journal = small(tmp_path)
    for i in range(3000):
        journal.append(allow(i, peer="10.0.0.1"))
    journal.append(deny(7))
    assert shipper(tmp_path).once()
    assert receiver.tools == tools(range(3000))
    assert len(files(tmp_path)) == 1
    assert receiver.closed == set()
    journal.close()
    assert shipper(tmp_path).once()
    assert files(tmp_path) == []
    assert receiver.closed == {journal.boot}
    (records,) = receiver.records.values()
    assert [record.sequence for record in records] == list(range(1, 3002))
    assert {record.rest.peer for record in records[:3000] if record.rest} == {"10.0.0.1"}
    assert records[-1].call.code == "expired"
    assert receiver.gaps == {}


def test_a_batch_that_overtakes_is_sent_again(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Two batches are under way at a time; one that comes before its turn is not taken, and all arrive in order."""
    journal, answered = small(tmp_path), threading.Event()
    for i in range(1600):
        journal.append(allow(i))
    journal.close()
    take, waited = receiver.take, list[bool]()

    def late(batch: Batch) -> int:
        if batch.first == 1 and batch.records and not waited:
            waited.append(answered.wait(20))  # the one behind it is answered first
        mark = take(batch)
        if batch.first > 1:
            answered.set()
        return mark

    receiver.take = late  # type: ignore[method-assign]
    sender = shipper(tmp_path)
    assert sender.once()
    assert waited == [True]
    assert receiver.tools == tools(range(1600))
    assert (receiver.gaps, sender.status.shipped, files(tmp_path)) == ({}, 1600, [])


def test_what_was_sent_before_is_not_sent_again(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """A shipper that starts anew asks how far the receiver is and goes on there."""
    journal = small(tmp_path)
    for start in range(0, 900, 300):
        for i in range(start, start + 300):
            journal.append(allow(i))
        assert shipper(tmp_path).once()
    journal.close()
    assert receiver.tools == tools(range(900))
    assert receiver.gaps == {}


def test_a_full_journal_has_room_again_once_it_was_shipped(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """What the receiver has makes room, so that a verifier goes on for ever within its budget."""
    journal = small(tmp_path, max_bytes=4 * 64 * KIB)
    sender = shipper(tmp_path)
    for i in range(4000):
        journal.append(allow(i))
        if i % 400 == 0:
            assert sender.once()
    journal.close()
    assert sender.once()
    assert receiver.tools == tools(range(4000))


def test_an_outage_only_grows_the_spool(
    tmp_path: Path, receiver: Receiver, shipper: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost and nothing is forgotten while the mint is away; the fill is told, and so is the end of it."""
    caplog.set_level(logging.WARNING, "arx_caps.audit.ship")
    receiver.refuse = 503
    journal = small(tmp_path, max_bytes=10 * 64 * KIB)
    sender = shipper(tmp_path)
    sender.start()
    for i in range(4200):
        journal.append(allow(i))
    until(lambda: sender.status.alarm >= 80 and sender.status.failing_ms > 0)
    assert "told to refuse" in str(sender.status.error)
    receiver.refuse = None
    until(lambda: len(receiver.tools) == 4200)
    until(lambda: sender.status.error is None)
    journal.close()
    until(lambda: files(tmp_path) == [])
    until(lambda: sender.status.fill == 0.0)
    sender.close()
    assert receiver.tools == tools(range(4200))
    said = [record.getMessage() for record in caplog.records]
    assert sum("not shipped" in line for line in said) == 1
    assert "records are shipped again" in said
    assert any("% of its" in line for line in said)


def test_a_mint_that_is_not_there_is_waited_for(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """No connection at all is told in words, and the records stay."""
    journal = small(tmp_path)
    journal.append(allow(0))
    receiver.close()
    sender = shipper(tmp_path)
    assert not sender.once()
    assert "does not answer" in str(sender.status.error)
    assert len(files(tmp_path)) == 1
    journal.close()


def test_a_receiver_that_went_back_gets_all_again(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Restored from a backup it wants older records: what is there is sent again, what is gone is declared lost."""
    journal = small(tmp_path)
    for i in range(1000):
        journal.append(allow(i))
    sender = shipper(tmp_path)
    assert sender.once()
    oldest = files(tmp_path)[0]
    first = int(oldest.stem.rpartition("-")[2])
    receiver.forget(journal.boot, 990)
    journal.append(allow(1000))
    sender.once()
    until(sender.once)
    assert receiver.tools == tools(range(1001))
    receiver.forget(journal.boot, 10)
    journal.append(allow(1001))
    journal.close()
    until(lambda: sender.once() and not files(tmp_path))
    assert receiver.gaps == {journal.boot: [(11, first - 1)]}
    assert receiver.tools == tools(range(10)) + tools(range(first - 1, 1002))


def test_a_deleted_file_is_a_declared_gap(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """What somebody took away before it was sent is lost and said to be; what was sent is not."""
    journal = small(tmp_path)
    for i in range(1000):
        journal.append(allow(i))
    paths = files(tmp_path)
    begin, end = (int(path.stem.rpartition("-")[2]) for path in paths[1:3])
    paths[1].unlink()
    sender = shipper(tmp_path)
    assert sender.once()
    journal.close()
    assert sender.once()
    assert receiver.gaps == {journal.boot: [(begin, end - 1)]}
    assert sender.status.lost == end - begin
    assert receiver.tools == tools(range(begin - 1)) + tools(range(end - 1, 1000))


def test_damage_is_a_declared_gap_and_its_file_stays(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """A record without its checksum is declared lost, its neighbours arrive, and the file is kept for whoever looks."""
    journal = small(tmp_path)
    for i in range(5):
        journal.append(allow(i))
    journal.close()
    (path,) = files(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"tool.2") + 5] ^= 1
    path.write_bytes(raw)
    (tmp_path / "0-junk.arxj").write_bytes(b"junk" * 100)
    sender = shipper(tmp_path)
    assert sender.once()
    assert receiver.gaps == {journal.boot: [(3, 3)]}
    assert receiver.tools == ["tool.0", "tool.1", "tool.3", "tool.4"]
    assert files(tmp_path) == []
    assert sorted(path.name for path in tmp_path.glob("*.damaged")) == ["0-junk.damaged", path.stem + ".damaged"]


def test_damage_at_the_end_is_a_declared_gap(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Also where no record follows that would show it."""
    journal = small(tmp_path)
    for i in range(3):
        journal.append(allow(i))
    journal.close()
    (path,) = files(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"tool.2") + 5] ^= 1
    path.write_bytes(raw)
    assert shipper(tmp_path).once()
    assert receiver.gaps == {journal.boot: [(3, 3)]}
    assert files(tmp_path) == []


def test_files_can_be_kept_for_a_while(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """So that a mint that is restored from a backup can have them again."""
    journal = small(tmp_path)
    journal.append(allow(0))
    journal.close()
    sender = shipper(tmp_path, keep_ms=3_600_000)
    assert sender.once()
    assert len(files(tmp_path)) == 1
    os.utime(files(tmp_path)[0], (1, 1))
    assert sender.once()
    assert files(tmp_path) == []


def test_one_refused_run_does_not_hold_up_others(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """A run that the mint will not have is tried again and again; the others go through."""
    bad, good = small(tmp_path), small(tmp_path)
    bad.append(allow(1))
    good.append(allow(2))
    receiver.poison = bad.boot
    sender = shipper(tmp_path)
    sender.start()
    until(lambda: receiver.tools == ["tool.2"])
    good.append(allow(3))
    until(lambda: receiver.tools == ["tool.2", "tool.3"])
    until(lambda: "this run" in str(sender.status.error))
    receiver.poison = None
    until(lambda: sorted(receiver.tools) == ["tool.1", "tool.2", "tool.3"])
    sender.close()
    bad.close()
    good.close()


def test_another_service_s_records_are_left_alone(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Its key is another one: a shipper neither sends nor frees what it cannot answer for."""
    other = small(tmp_path)
    other.audience = "mail"
    other.append(allow(0))
    other.close()
    assert shipper(tmp_path).once()
    assert (receiver.posts, len(files(tmp_path))) == (0, 1)


def test_records_are_sent_while_they_come(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """A running journal is followed: the batches of a second are few."""
    journal = small(tmp_path)
    sender = shipper(tmp_path)
    sender.start()
    for i in range(200):
        journal.append(allow(i))
        threading.Event().wait(0.002)
    until(lambda: len(receiver.tools) == 200)
    assert receiver.posts < 60
    sender.close()
    journal.close()


_SERVICE = """
import os
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_spool import allow, small
journal = small(Path(sys.argv[1]), max_bytes=1 << 30)
i = 0
while True:
    os.write(1, b"%d\\n" % journal.append(allow(i)))
    i += 1
"""


@pytest.mark.servers
def test_what_a_killed_service_answered_arrives(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Killed in the midst of a record, while it is being shipped: all that was answered arrives, and no end is told."""
    dice = random.Random(5)
    answered: dict[str, int] = {}
    sender = shipper(tmp_path)
    sender.start()
    for _ in range(4):
        command = [sys.executable, "-c", _SERVICE, str(tmp_path), str(Path(__file__).parent.parent / "verifier")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        told = child.stdout.readline()
        boots = {path.name.split("-")[1] for path in files(tmp_path)} - set(answered)
        threading.Timer(dice.uniform(0.05, 0.2), child.send_signal, [signal.SIGKILL]).start()
        lines = (told + child.stdout.read()).splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        answered[boots.pop()] = max(int(line) for line in lines if line.endswith(b"\n"))
    until(lambda: files(tmp_path) == [])
    sender.close()
    assert receiver.closed == set()
    assert receiver.gaps == {}
    for boot, last in answered.items():
        sequences = [record.sequence for record in receiver.records[boot]]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) >= last


_SENDER = """
import sys
import threading
from pathlib import Path
import msgspec
from arx_caps.audit.ship import Shipper
from arx_caps.audit.wire import Batch
from arx_caps.keyfile import KeyFile
key = KeyFile.load(sys.argv[2]).key
sender = Shipper(Path(sys.argv[1]), audience="orders", realm="acme", issuer=sys.argv[3], key=key)
sender.run(threading.Event())
"""


@pytest.mark.servers
def test_a_killed_shipper_sends_nothing_twice_and_forgets_nothing(
    tmp_path: Path, receiver: Receiver, shipper: Make
) -> None:
    """Killed again and again between sending and freeing, another one goes on where the receiver is."""
    from arx_caps.keyfile import KeyFile

    key = tmp_path / "key.json"
    KeyFile("agent", "acme/x", receiver.issuer, receiver.key).save(key)
    journal = small(tmp_path / "j", max_bytes=1 << 30)
    for i in range(12_000):
        journal.append(allow(i))
    journal.close()
    dice = random.Random(3)
    while files(tmp_path / "j"):
        posts = receiver.posts
        child = subprocess.Popen([sys.executable, "-c", _SENDER, str(tmp_path / "j"), str(key), receiver.issuer])
        until(lambda posts=posts: receiver.posts > posts + dice.randrange(4, 14) or not files(tmp_path / "j"))  # type: ignore[misc]
        child.kill()
        child.wait()
    (records,) = receiver.records.values()
    assert [record.sequence for record in records] == list(range(1, 12_001))
    assert receiver.gaps == {}


def test_a_cut_live_file_is_declared(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Cut by somebody while it is written: the journal goes on in another file, and the mint hears what is lost."""
    journal = small(tmp_path)
    journal.append(allow(0))
    sender = shipper(tmp_path)
    assert sender.once()
    journal.append(allow(1))
    os.truncate(files(tmp_path)[0], HEADER_BYTES)
    journal.append(allow(1100))
    journal.close()
    assert sender.once()
    assert receiver.gaps == {journal.boot: [(2, 2)]}
    (records,) = receiver.records.values()
    gap = records[1].call.gap
    assert gap is not None
    assert (gap.why, gap.first, gap.last) == ("lost", 1, 2)
    assert records[1].call.at >= T0
