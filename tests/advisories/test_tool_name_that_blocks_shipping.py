# SPDX-License-Identifier: Apache-2.0
"""A holder could stop a service's records from reaching the log, with a zero character in a tool's name.

A PostgreSQL keeps no zero character in a text: a mint on one answered such a batch as if its database were away.  The
service sent it for ever, its journal filled up, and it refused every call.  What the log asks by is cut and cleaned
now; the record itself is what was signed, byte by byte.  What only a thief of a service's key can send is refused.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from arx_caps.audit.shipping.batch import MAX_NUMBER, Batch
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import NODE, RECORD
from arx_verifier.errors import RequestError
from arx_verifier.journal.decision import unpack_record
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal
from tests.audit.batches import batch_of, decision, facts
from tests.servers import BOTH, empty_database
from tests.support import ANYTHING, AT, access, mint, verifier

pytestmark = pytest.mark.servers
STRANGE = ["a\0b", "\0", "x" * 5000, bytes(range(1, 128)).decode() * 40]


@pytest.fixture(params=BOTH)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogStore]:
    """An empty log, on either system."""
    for url in empty_database(request, tmp_path / "audit.db"):
        with LogStore(url) as made:
            made.create()
            yield made


def test_whatever_a_holder_calls_a_tool_gets_into_the_log(store: LogStore, tmp_path: Path) -> None:
    """A real verifier's records of such calls are taken, and say what was called."""
    checked = verifier(decisions=Journal(tmp_path / "j", "orders-1", "orders"))
    for tool in STRANGE:
        checked.decide(mint(ANYTHING).encode(), access(tool, at=AT))
    checked.close()
    made = list(read_journal(tmp_path / "j"))
    assert store.take(batch_of(made), "s") == len(made) == len(STRANGE)
    with store.reading() as c:
        rows = c.execute(select(RECORD.c.tool, RECORD.c.kept).order_by(RECORD.c.idx)).all()
    assert [unpack_record(bytes(row.kept), None).tool for row in rows] == [each.tool for each in made]
    assert rows[0].tool == "a\ufffdb"
    assert made[0].tool == "a\0b"


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_a_holder_calls_another_gets_into_the_log(store: LogStore, name: str) -> None:
    """Names in a chain are their writer's; two that look alike once they are cut stay two places."""
    chains: list[ChainFacts] = [facts("s-1", "t-1", name), facts("s-1", "t-1", name + "."), facts(name, name)]
    assert store.take(batch_of([decision(n, chain) for n, chain in enumerate(chains)]), "s") == 3
    with store.reading() as c:
        assert len(set(c.execute(select(NODE.c.path)).scalars())) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "b" * 129},
        {"boot": "b\0"},
        {"verifier": "v" * 201},
        {"first": 2**63 - 2, "lost_from": 1},
        {"records": (), "first": 2**63 + 5, "lost_from": 1},
        {"records": (), "first": MAX_NUMBER + 2},
    ],
    ids=str,
)
def test_what_no_number_or_name_is_is_refused(changes: dict[str, object]) -> None:
    """Before a database is asked: a refusal of the request, and no failure of the mint."""
    made = batch_of([decision(1, facts())])._replace(**changes)  # type: ignore[arg-type]
    with pytest.raises(RequestError):
        Batch.decode(made.encode())


def test_a_time_or_code_that_is_none_is_refused(store: LogStore) -> None:
    """Neither database would keep it."""
    for bad in (decision(2**62, facts()), decision(1, facts(), "c" * 65), decision(1, facts(), "\0")):
        with pytest.raises(RequestError):
            store.take(batch_of([bad]), "s")
    assert store.size() == 0
