# SPDX-License-Identifier: Apache-2.0
"""A thief of a service's key could make the log drop the verifier's own records as repeats.

The mint passed over what it had the numbers of: the verifier's own records, which came a moment later, were absorbed as
if they had come twice, and their files went.  A machine that is resumed twice from one image did the same to itself.
Now no record of the verifier's is dropped: it keeps what the log does not have, alarms, and the log records that.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arx_caps.audit.ingest.entries import DISPUTED, EventRecord, is_event, read_event
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.credentials.jose import SigningKey
from arx_verifier.journal.writer import Journal
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import ISSUER, Harness
from tests.mint.test_audit_log import decisions_in, entries, key, send
from tests.verifier.journals import allow, files, small

__all__ = ["key"]
pytestmark = pytest.mark.realm(log=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A service's journal, with a run that goes on."""
    made = small(tmp_path / "journal")
    yield made
    made.close()


def shipper(harness: Harness, key: SigningKey, journal: Journal) -> Shipper:
    """A shipper that has just been started."""

    def forward(request: httpx.Request) -> httpx.Response:
        answer = harness.client.post(request.url.path, content=request.content, headers=dict(request.headers))
        return httpx.Response(answer.status_code, content=answer.content)

    client = httpx.Client(transport=httpx.MockTransport(forward))
    return Shipper(journal.folder, audience="orders", realm="acme", issuer=ISSUER, key=key, client=client)


def disputes(harness: Harness) -> list[EventRecord]:
    found = [read_event(kept, None) for kept in entries(harness) if is_event(kept)]
    return [each for each in found if each.kind == DISPUTED]


def forged(run: Journal, first: int, count: int = 3) -> Batch:
    """What the thief says that the run's next records are."""
    return batch_of([decision(n, facts()) for n in range(count)], first, run.boot, verifier="v1")


def test_records_that_another_sent_first_are_not_dropped(unit: Harness, key: SigningKey, journal: Journal) -> None:
    """The next batch of the verifier is refused, stays in its journal, and the log says once that there are two."""
    sender = shipper(unit, key, journal)
    journal.append(allow(1))
    assert sender.once()
    assert send(unit, key, forged(journal, 2)).json()["high_water"] == 4
    for i in range(2, 9):
        journal.append(allow(i))
    for _ in range(3):
        sender._retry_at.clear()
        assert not sender.once()
        assert "record 2 of this run is another one" in str(sender.status.error)
    assert len(files(journal.folder)) == 1
    (answer,) = disputes(unit)
    assert answer.named | {"leaf": ""} == {
        "verifier": "v1",
        "boot": journal.boot,
        "audience": "orders",
        "first": 2,
        "leaf": "",
    }
    assert len(decisions_in(unit)) == 4
    sender.close()


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead of it", "behind it"])
def test_a_shipper_that_starts_anew_does_not_believe_it_either(
    unit: Harness, key: SigningKey, journal: Journal, *, ahead: bool
) -> None:
    """It asks how far the mint is, and finds there what it never sent, or what was never made."""
    for i in range(2 if ahead else 9):
        journal.append(allow(i))
    assert send(unit, key, forged(journal, 1)).json()["high_water"] == 3
    sender = shipper(unit, key, journal)
    assert not sender.once()
    assert sender.status.code == "bad_mark"
    assert ("never wrote" if ahead else "another record 3") in str(sender.status.error)
    journal.append(allow(10))
    journal.append(allow(11))
    sender._retry_at.clear()
    assert not sender.once()
    journal.close()
    assert len(files(journal.folder)) == 1
    sender.close()


@pytest.mark.parametrize("far", [40, 10**12])
def test_records_that_another_declared_lost_are_not_dropped(
    unit: Harness, key: SigningKey, journal: Journal, far: int
) -> None:
    """However far the thief says that they are lost; the log has the loss, and that it was not one."""
    sender = shipper(unit, key, journal)
    journal.append(allow(1))
    assert sender.once()
    loss = Batch("v1", "orders", journal.boot, far, 2, (), closed=False)
    assert send(unit, key, loss).json()["high_water"] == far - 1
    for i in range(100):
        journal.append(allow(i))
    assert not sender.once()
    assert "record 2 of this run was declared lost before it came" in str(sender.status.error)
    sender.close()
    assert len(files(journal.folder)) == 1
    assert [each.named["first"] for each in disputes(unit)] == [2]


@pytest.mark.slow
def test_what_comes_again_is_absorbed_as_ever(unit: Harness, key: SigningKey, journal: Journal) -> None:
    """Whole, in part, cut short, out of order, ten times over, by two shippers of one journal: each record once."""
    made = [decision(n, facts()) for n in range(1, 21)]
    whole = batch_of(made)
    for first, last in [(1, 9), (1, 20), (3, 7), (12, 20), (9, 10), (1, 1)] * 10:
        part = whole._replace(first=first, records=whole.records[first - 1 : last])
        assert send(unit, key, part).status_code == 200
    one, two = (shipper(unit, key, journal) for _ in range(2))
    for i in range(60):
        journal.append(allow(i))
        assert (one if i % 3 else two).once()
    journal.close()
    assert one.once()
    assert two.once()
    assert files(journal.folder) == []
    assert [each.sequence for each in decisions_in(unit)] == [*range(1, 21), *range(1, 61)]
    assert disputes(unit) == []
    one.close()
    two.close()


def test_a_run_whose_disk_lost_its_end_is_kept_for_the_operator(
    unit: Harness, key: SigningKey, journal: Journal
) -> None:
    """After a power cut the mint may have more than the disk: that holds nothing up, and what is left is put aside."""
    for i in range(5):
        journal.append(allow(i))
    sender = shipper(unit, key, journal)
    assert sender.once()
    journal.close()
    (path,) = files(journal.folder)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tool.3") - 200
    raw[at:] = bytes(len(raw) - at)
    path.write_bytes(raw)
    again = shipper(unit, key, journal)
    again.once()
    assert files(journal.folder) == []
    assert len(list(journal.folder.glob("*.damaged"))) == 1
    assert disputes(unit) == []
    sender.close()
    again.close()
