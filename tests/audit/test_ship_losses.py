# SPDX-License-Identifier: Apache-2.0
"""What cannot be shipped is declared lost and nothing else is: files gone or damaged, processes killed."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arx_verifier.journal.segment import HEADER_BYTES
from tests.audit.receiver import Receiver
from tests.audit.shipping import Make, receiver, shipper, spoil_record, tools
from tests.servers import until
from tests.verifier.journals import T0, allow, files, small

pytestmark = pytest.mark.spec("LOG 2.4")

__all__ = ["receiver", "shipper"]  # fixtures


@pytest.mark.spec("LOG 2.3")
def test_a_receiver_that_went_back_gets_all_again(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Restored from a backup it wants older records: those that exist are sent again, the others are declared lost."""
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
    """Records that a user removed before they were sent are declared lost; those that were sent are not."""
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
    """A record without its checksum is declared lost, its neighbours arrive, and the file is kept for the operator."""
    journal = small(tmp_path)
    for i in range(5):
        journal.append(allow(i))
    journal.close()
    (path,) = files(tmp_path)
    spoil_record(path)
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
    spoil_record(path)
    assert shipper(tmp_path).once()
    assert receiver.gaps == {journal.boot: [(3, 3)]}
    assert files(tmp_path) == []


_SERVICE = """
import os
import sys
from pathlib import Path
from tests.verifier.journals import allow, small
journal = small(Path(sys.argv[1]), max_bytes=1 << 30)
i = 0
while True:
    os.write(1, b"%d\\n" % journal.append(allow(i)))
    i += 1
"""


@pytest.mark.servers
def test_what_a_killed_service_answered_arrives(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Killed in the midst of a record, while it is being shipped: every answered record arrives, and no end is sent."""
    dice = random.Random(5)
    answered: dict[str, int] = {}
    sender = shipper(tmp_path)
    sender.start()
    for _ in range(4):
        command = [sys.executable, "-c", _SERVICE, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        output = child.stdout.readline()
        boots = {path.name.split("-")[1] for path in files(tmp_path)} - set(answered)
        threading.Timer(dice.uniform(0.05, 0.2), child.send_signal, [signal.SIGKILL]).start()
        lines = (output + child.stdout.read()).splitlines(keepends=True)
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
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.credentials.keyfile import KeyFile
key = KeyFile.load(sys.argv[2]).key
sender = Shipper(Path(sys.argv[1]), audience="orders", realm="acme", issuer=sys.argv[3], key=key)
sender.run(threading.Event())
"""


@pytest.mark.slow
@pytest.mark.servers
def test_a_killed_shipper_sends_nothing_twice_and_forgets_nothing(
    tmp_path: Path, receiver: Receiver, shipper: Make
) -> None:
    """Killed again and again between sending and freeing, another one goes on where the receiver is."""
    from arx_caps.credentials.keyfile import KeyFile

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
    """Cut by a user while it is written: the journal goes on in another file, and the mint hears what is lost."""
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
