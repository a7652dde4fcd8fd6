# SPDX-License-Identifier: Apache-2.0
"""Shipping: each record reaches the receiver once and in order; an outage only grows the journal."""

import logging
import os
import threading
from pathlib import Path

import pytest

from arx_caps.audit.shipping.batch import Batch
from tests.audit.receiver import Receiver
from tests.audit.shipping import KIB, Make, receiver, shipper, tools
from tests.servers import until
from tests.verifier.journals import allow, deny, files, small

pytestmark = pytest.mark.spec("LOG 2.4")

__all__ = ["receiver", "shipper"]  # fixtures


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


@pytest.mark.spec("LOG 2.3")
def test_a_batch_that_overtakes_is_sent_again(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """Two batches are under way at a time; one that comes before its turn is not taken, and all arrive in order."""
    journal, answered = small(tmp_path), threading.Event()
    for i in range(1600):
        journal.append(allow(i))
    journal.close()
    take, waited = receiver.take, list[bool]()

    def late(batch: Batch) -> int:
        if batch.first == 1 and batch.records and not waited:
            waited.append(answered.wait(60))  # the one behind it is answered first
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


@pytest.mark.spec("LOG 2.3")
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


def test_an_outage_only_grows_the_journal(
    tmp_path: Path, receiver: Receiver, shipper: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost and nothing is forgotten while the mint is away; the log reports how full it is, and the end."""
    caplog.set_level(logging.WARNING, "arx_caps.audit.shipping.shipper")
    receiver.refuse = 503
    journal = small(tmp_path, max_bytes=10 * 64 * KIB)
    sender = shipper(tmp_path)
    sender.start()
    for i in range(4200):
        journal.append(allow(i))
    until(lambda: sender.status.alarm >= 80 and sender.status.failing_ms > 0)
    assert "refuses by order" in str(sender.status.error)
    receiver.refuse = None
    until(lambda: len(receiver.tools) == 4200)
    until(lambda: sender.status.error is None)
    journal.close()
    until(lambda: files(tmp_path) == [])
    until(lambda: sender.status.fill == 0.0)
    sender.close()
    assert receiver.tools == tools(range(4200))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("not shipped" in line for line in lines) == 1
    assert "records are shipped again" in lines
    assert any("% of its" in line for line in lines)


def test_closing_sends_what_a_program_recorded_last(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """A short program ends between two scans of its journal, and nothing may run after it that would send the rest."""
    journal = small(tmp_path)
    sender = shipper(tmp_path)
    sender.start()
    for i in range(1200):  # several batches
        journal.append(allow(i))
    journal.close()
    sender.close()
    assert receiver.tools == tools(range(1200))


def test_a_missing_mint_is_waited_for(tmp_path: Path, receiver: Receiver, shipper: Make) -> None:
    """The status explains a failed connection, and the records stay."""
    journal = small(tmp_path)
    journal.append(allow(0))
    receiver.close()
    sender = shipper(tmp_path)
    assert not sender.once()
    assert "does not answer" in str(sender.status.error)
    assert len(files(tmp_path)) == 1
    journal.close()


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
