# SPDX-License-Identifier: Apache-2.0
"""A journal that Node writes, read and shipped by Python.  SPEC 15.3."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.quota import finish_stale
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import AWAITED, ChainFacts, EffectRecord, Gap, ProvenHolder, SignedCall
from arx_verifier.journal.tally import RefusalCount
from arx_verifier.journal.writer import Journal
from tests.audit.receiver import REALM, Receiver
from tests.audit.shipping import receiver
from tests.cli.helpers import service_file
from tests.servers import child, until
from tests.typescript.node import PROGRAMS, node
from tests.verifier.journals import files

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("15.3")]

__all__ = ["receiver"]  # fixtures


class Drawn:
    """A source of random decisions.

    Args:
        seed: The same decisions come of the same seed.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._facts = [self._chain() for _ in range(100)]

    def next(self) -> Decision:
        """Return a decision with members of each length that MessagePack writes otherwise."""
        pick = self._random.choice
        code = pick(("ok", "ok", "effect", "expired", "argument_not_allowed", "counted", "gap"))
        made = Decision(code, self._number(), pick(self._facts), self._text())
        made.args_digest, made.salt = self._random.randbytes(pick((0, 32))), self._random.randbytes(16)
        made.incarnation, made.applied, made.age_ms = self._text(), self._number(), pick((-1, self._number()))
        made.peer, made.request_id, made.traceparent = (pick((None, self._text())) for _ in range(3))
        if code == "counted":
            made.counts = tuple(RefusalCount(self._text(), self._text(), self._number()) for _ in range(pick((1, 20))))
        elif code == "gap":
            made.gap = Gap(pick(("lost", "dropped")), *(self._number() for _ in range(5)))
        elif code == "effect":
            size, digest = pick((-1, self._number())), self._random.randbytes(pick((0, 32)))
            of, result = f"run-{1 + self._number()}", pick(("done", "failed", "unknown"))
            made.effect = EffectRecord(result, of, self._number(), size, digest, self._number())
            made.external_id = pick((None, self._text()))
        elif code != "ok":
            made.failures = tuple(Failure(*(self._text() for _ in range(4))) for _ in range(pick((0, 1, 17))))
        if code == "ok":
            made.effect = pick((None, AWAITED))
        if code == "ok" and pick((False, True)):
            made.signed = SignedCall(*(self._random.randbytes(length) for length in (32, pick((100, 300)), 64)))
        return made

    def _chain(self) -> ChainFacts:
        texts = [self._text() for _ in range(8)]
        holder = ProvenHolder(self._text(), self._random.randbytes(32), self._random.randbytes(64))
        return ChainFacts(
            "acme/support", texts[0], (texts[1],), (texts[2],), texts[3], kid="k", model=texts[4],
            holders=self._random.choice(((), (holder,))), subject=(texts[5], texts[6]), meta=(("owner", texts[7]),),
            caveats=(("a",), tuple(texts)),
        )  # fmt: skip

    def _number(self) -> int:
        return self._random.getrandbits(self._random.choice((1, 7, 8, 16, 31, 32, 33, 53)))

    def _text(self) -> str:
        length = self._random.choice((0, 5, 31, 32, 90, 300))
        return "".join(self._random.choices("ab \x00\x7f\u0080é\ue000\U0001f600", k=length))


@pytest.mark.parametrize("count", [1_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_each_side_reads_what_the_other_wrote(tmp_path: Path, count: int) -> None:
    """Node reads each record that Python wrote, and writes it again; Python reads the same decisions."""
    folders, drawn = (tmp_path / "python", tmp_path / "node"), Drawn(count)
    journal = Journal(folders[0], "orders-python", "orders")
    for sequence in range(1, count + 1):
        assert journal.append(drawn.next()) == sequence
    journal.close()
    copy = [str(node()), str(PROGRAMS / "journal_copy.ts"), *map(str, folders)]
    assert subprocess.run(copy, stdout=subprocess.PIPE, check=True).stdout == b"%d\n" % count
    numbers = zip(*map(by_sequence, folders), range(1, count + 1), strict=True)
    for mine, theirs, sequence in numbers:
        assert (mine.sequence, theirs.verifier) == (sequence, "orders-node")
        theirs.boot, theirs.verifier = mine.boot, mine.verifier
        assert mine == theirs


def by_sequence(folder: Path) -> list[Decision]:
    """The decisions of a journal with one run."""
    return sorted(read_journal(folder), key=lambda decision: decision.sequence)


def writer(folder: Path, mode: str = "strict") -> list[str]:
    return [str(node()), str(PROGRAMS / "journal_writer.ts"), str(folder), mode]


def last_of(output: bytes) -> tuple[str, int]:
    """The run, and its last record that was acknowledged."""
    whole = [line for line in output.splitlines(keepends=True) if line.endswith(b"\n")]
    boot, last = whole[-1].split()
    return boot.decode(), int(last)


@pytest.mark.parametrize("mode", ["strict", "durable"])
def test_its_records_are_read_and_its_files_are_left_alone(tmp_path: Path, mode: str) -> None:
    """While it lives no other writer cuts a file; after a kill each acknowledged record is there."""
    with child(writer(tmp_path, mode), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        segment = files(tmp_path)[-1]
        size = segment.stat().st_size
        finish_stale(tmp_path)
        assert segment.stat().st_size == size
        process.kill()
        boot, last = last_of(first + process.stdout.read())
    read = [decision.sequence for decision in read_journal(tmp_path)]
    assert read == list(range(1, len(read) + 1))
    assert len(read) - last in (0, 1)
    finish_stale(tmp_path)
    assert files(tmp_path)[-1].stat().st_size <= size
    assert (tmp_path / f"{boot}.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.nightly)])
def test_kills_under_load_lose_nothing(tmp_path: Path, receiver: Receiver, kills: int) -> None:
    """With `arx ship` beside it, killed as well: each acknowledged record arrives, once."""
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
        for turn in range(kills):
            process = running.enter_context(child(writer(folder), stdout=subprocess.PIPE))
            assert process.stdout is not None
            first = process.stdout.readline()
            threading.Timer(dice.uniform(0.02, 0.2), process.kill).start()
            boot, last = last_of(first + process.stdout.read())
            written[boot] = last
            process.wait()
            if turn % 10 == 9:
                shipper.kill()
                shipper.wait()
                shipper = running.enter_context(child(ship, stderr=subprocess.DEVNULL, env=environment))
        until(lambda: files(folder) == [], 600)
        shipper.kill()
    assert len(written) == kills
    assert receiver.gaps == {}
    assert list(folder.glob("*.damaged")) == []
    for boot, last in written.items():
        sequences = [record.sequence for record in receiver.records[boot]]
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) - last in (0, 1)  # one more was written whose acknowledgement the kill stopped
