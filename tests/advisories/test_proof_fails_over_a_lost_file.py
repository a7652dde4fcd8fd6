# SPDX-License-Identifier: Apache-2.0
"""A mint that lacked a file, or had a damaged one, could not prove records, for up to ten minutes.

A damaged file was a 500, ``tampered``, as if the record had been changed; a service whose batch was taken got it, too.
The answer now asks the caller to try again, and the files are made again at once.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.shipping.batch import SEEN_HEADER
from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.keys.log_key import read_log_key
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import Harness
from tests.mint.test_audit_log import send

pytestmark = [pytest.mark.sqlite, pytest.mark.realm(log=True)]

MADE = [decision(n, facts(f"s-{n % 5}")) for n in range(300)]


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A mint whose log has some hundred records, and has gone round all of them: the next time is ten minutes away."""
    unit.mint.log.take(batch_of(MADE), "statement")
    unit.mint.log.step()
    return unit


def other(path: Path) -> None:
    """Put other bytes in the place of a file's."""
    path.write_bytes(bytes(len(path.read_bytes())))


def cut(path: Path) -> None:
    """Cut a file."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [Path.unlink, cut, other])
def test_a_proof_is_had_again(unit: Harness, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Asked for one record or for many: ask again, and then it is there."""
    log, operator = unit.mint.log, unit.operator()
    key = read_log_key(unit.realm.log_key_path)
    many = {"prove": "301", "before": "200"}
    for path, query in (("/v1/audit/proofs/7", {}), ("/v1/audit/records", many)):
        log.step()
        damage(unit.realm.log_dir / "tile/0/000")
        answer = operator.call("GET", path, **query)
        assert (answer.status_code, answer.json()["code"]) == (503, "incomplete")
        assert int(answer.headers["Retry-After"]) >= 1
        log.step()
        assert operator.call("GET", path, **query).status_code == 200
    file = tmp_path / "proof"
    file.write_bytes(operator.call("GET", "/v1/audit/proofs/7").content)
    assert verify(file, Trust(key)).records == 1
    log.step()
    assert verify(unit.realm.log_dir, Trust(key)).records > 300


@pytest.mark.parametrize("damage", [Path.unlink, cut, other])
def test_a_service_gets_no_nonsense(unit: Harness, damage: Callable[[Path], object]) -> None:
    """Its batch is taken; the log's word comes with the next one, and proves what it says."""
    key = SigningKey.generate()
    with unit.mint.db.write() as c:
        add_key(c, "service:orders", key.public)
    log = unit.mint.log
    log.step()
    damage(unit.realm.log_dir / "tile/0/000")
    more = batch_of([decision(7, facts())], 1, "another")
    answer = send(unit, key, more, **{SEEN_HEADER: "100"})
    assert (answer.status_code, answer.json().get("log")) == (200, None)
    log.step()
    assert len(send(unit, key, more, **{SEEN_HEADER: "100"}).json()["log"]["consistency"]) > 1
