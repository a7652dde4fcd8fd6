# SPDX-License-Identifier: Apache-2.0
"""A journal's writer in a language without file locks was taken for dead: its file was cut, and records were lost."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.audit.shipping.journal_runs import JournalRuns
from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.journal.liveness import is_listening, is_written
from arx_verifier.journal.quota import finish_stale
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.segment import HEADER_BYTES, SegmentHeader, read_header
from arx_verifier.journal.writer import writers
from tests.audit.receiver import REALM, Receiver
from tests.audit.shipping import receiver
from tests.cli.helpers import service_file
from tests.servers import child, until
from tests.vectors.second_journal import SecondWriter, decision_of
from tests.verifier.journals import T0, allow, files, small

pytestmark = pytest.mark.spec("15.3")

__all__ = ["receiver"]  # fixtures

HERE = Path(__file__).parents[2]
_WITH_LOCK = """
import os, sys
from pathlib import Path
from tests.verifier.journals import allow, small
journal = small(Path(sys.argv[1]), max_bytes=1 << 30)
while True:
    os.write(1, f"{journal.boot} {journal.append(allow(0))}\\n".encode())
"""
KINDS = ([sys.executable, "-m", "tests.vectors.second_journal"], [sys.executable, "-c", _WITH_LOCK])


@contextlib.contextmanager
def second_writer(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Start a process that writes without a lock; yield it and its segment once that has a record, and stop it."""
    with child([*KINDS[0], str(folder)], stdout=subprocess.PIPE, cwd=HERE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process, files(folder)[-1]
        process.kill()
        process.wait()


def test_its_file_is_read_on_and_is_not_cut(tmp_path: Path) -> None:
    """A reader goes on where it was, and neither a new verifier nor a shipper touches the file, until its end."""
    writer = SecondWriter(tmp_path)
    stop = threading.Event()
    seen = read_journal(tmp_path, follow=True, poll_s=0.01, stop=stop)
    assert writer.write(decision_of("first", T0, bytes(16))) == 1
    assert next(seen).tool == "first"
    (path,) = files(tmp_path)
    size = path.stat().st_size
    other = small(tmp_path)
    other.append(allow(1))
    other.close()
    assert next(seen).tool == "tool.1"
    assert path.stat().st_size == size
    assert writers(tmp_path) == ["orders-2"]
    journal = JournalRuns(tmp_path, "orders")
    journal.look()
    run = journal.runs[writer.boot]
    run.next = 1
    batch = run.batch()
    assert batch is not None
    run.acknowledge(batch, batch.last)
    assert run.batch() is None
    run.free(0)
    assert path in files(tmp_path)
    assert writer.write(decision_of("second", T0, bytes(16))) == 2
    assert next(seen).tool == "second"
    batch = run.batch()
    assert batch is not None
    assert [batch.first, len(batch.records), batch.closed] == [2, 1, False]
    writer.close()
    run.acknowledge(batch, batch.last)
    batch = run.batch()
    assert batch is not None
    assert batch.closed
    run.acknowledge(batch, batch.last)
    assert run.batch() is None
    run.free(0)
    assert path not in files(tmp_path)
    stop.set()


@pytest.mark.servers
def test_a_stopped_process_with_a_full_queue_is_alive(tmp_path: Path) -> None:
    """It accepts no connection, so its queue fills, and it is still not dead; after a kill it is."""
    with second_writer(tmp_path) as (process, path), contextlib.ExitStack() as waiting:
        assert is_written(path)
        sock = path.with_name(f"{read_header(path.read_bytes()).boot}.sock")
        assert sock.stat().st_mode & 0o777 == 0o600
        for _ in range(50):  # its queue has room for five
            probe = waiting.enter_context(socket.socket(socket.AF_UNIX))
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                probe.connect(str(sock))
        with pytest.raises(BlockingIOError):
            probe.connect(str(sock))
        assert is_written(path)
        size = path.stat().st_size
        finish_stale(tmp_path)
        assert path.stat().st_size == size
        process.kill()
        process.wait()
        assert not is_written(path)
        records = len(list(read_journal(tmp_path)))
        finish_stale(tmp_path)
        assert path.stat().st_size < size
        assert len(list(read_journal(tmp_path))) == records >= 1


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_a_folder_longer_than_an_address_of_a_socket(tmp_path: Path, depth: int) -> None:
    """An address has 107 bytes of a path, and a folder may have more."""
    folder = tmp_path.joinpath(*["long-" * 16] * depth)
    folder.mkdir(parents=True)
    writer = SecondWriter(folder)
    (path,) = files(folder)
    assert is_written(path)
    before = sorted(Path("/proc/self/fd").iterdir())
    assert is_written(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    writer._socket.close()  # as a killed process
    assert not is_written(path)
    (folder / f"{writer.boot}.sock").unlink()
    assert not is_written(path)


def test_only_refused_old_sockets_are_removed(tmp_path: Path) -> None:
    """A verifier that starts removes what dead processes left, and nothing that a process listens on."""
    living, dead = SecondWriter(tmp_path), SecondWriter(tmp_path)
    dead._socket.close()
    sockets = {name: tmp_path / f"{name.boot}.sock" for name in (living, dead)}
    finish_stale(tmp_path)
    assert sockets[dead].exists()  # too young
    for path in sockets.values():
        os.utime(path, (1, 1))
    finish_stale(tmp_path)
    assert sockets[living].exists()
    assert not sockets[dead].exists()
    living.close()


def test_what_is_no_socket_is_asked_too(tmp_path: Path) -> None:
    """It shows a death only where the system says that nothing listens; anything else stops no other run."""
    path = tmp_path / "a.sock"
    assert not is_listening(path)
    path.touch()
    assert not is_listening(path)
    path.unlink()
    path.symlink_to("nowhere")
    assert not is_listening(path)
    path.unlink()
    path.symlink_to(path)
    assert is_listening(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert is_listening(path)
    assert not is_listening(path)


def test_a_socket_is_asked_for_no_other_name(tmp_path: Path) -> None:
    """A header whose run is a path is damaged, so that no other program's socket is connected to."""
    header = SegmentHeader("v", "orders", "../x", 1, T0, 0)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="header is damaged"):
        read_header(header.pack())
    path = tmp_path / "0.arxj"
    path.write_bytes(header.pack())
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "x.sock"))
        other.listen()
        (tmp_path / "sub").mkdir()
        path = path.rename(tmp_path / "sub" / path.name)
        assert not is_written(path)
        finish_stale(tmp_path / "sub")
        assert path.stat().st_size == HEADER_BYTES


@pytest.mark.slow
@pytest.mark.servers
def test_both_kinds_of_writer_in_one_folder_lose_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """Under `arx ship`, with writers and shipper killed again and again: each acknowledged record arrives, once."""
    KeyFile("service", "orders", receiver.issuer, receiver.key).save(tmp_path / "orders.key")
    file, folder, dice = service_file(tmp_path / "orders.json"), tmp_path / "journal", random.Random(7)
    content = json.loads(file.read_text()) | {"realm": REALM, "issuer": receiver.issuer, "key_file": "orders.key"}
    file.write_text(json.dumps(content | {"journal": str(folder), "store": "unix:///none"}))
    folder.mkdir(mode=0o700)
    ship = [sys.executable, "-m", "arx_caps.cli", "ship", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    written: dict[str, int] = {}
    with contextlib.ExitStack() as running:
        shipper = running.enter_context(child(ship, stderr=subprocess.DEVNULL, env=environment))
        for turn in range(8):
            pair = [
                running.enter_context(child([*kind, str(folder)], stdout=subprocess.PIPE, cwd=HERE)) for kind in KINDS
            ]
            lines = [process.stdout.readline() for process in pair if process.stdout is not None]
            for process, line in zip(pair, lines, strict=True):
                threading.Timer(dice.uniform(0.1, 0.4), process.kill).start()
                assert process.stdout is not None
                whole = (line + process.stdout.read()).splitlines(keepends=True)
                boot, last = [line for line in whole if line.endswith(b"\n")][-1].split()
                written[boot.decode()] = int(last)
                process.wait()
            if turn % 3 == 2:
                shipper.kill()
                shipper.wait()
                shipper = running.enter_context(child(ship, stderr=subprocess.DEVNULL, env=environment))
        until(lambda: files(folder) == [])
        shipper.kill()
    assert len(written) == 16
    assert receiver.gaps == {}
    assert list(folder.glob("*.damaged")) == []
    for boot, last in written.items():
        sequences = [record.sequence for record in receiver.records[boot]]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) - last in (0, 1)  # one more was written whose acknowledgement the kill stopped
