# SPDX-License-Identifier: Apache-2.0
"""Two mints on one PostgreSQL write one log: one order, one history, files at each of them."""

from functools import partial
from pathlib import Path

import pytest

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.batches import batch_of, decision, facts, sources_of
from tests.audit.world import LOG
from tests.postgres import Postgres
from tests.servers import run_together

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 1.1", "LOG 1.8")]
ROUNDS, AT_ONCE = 12, 50
STARTS = range(1, ROUNDS * AT_ONCE, AT_ONCE)
BOTH = [batch_of([decision(n, facts(f"s-{n % 7}")) for n in range(AT_ONCE)], at, "both") for at in STARTS]


def write(url: str, folder: Path, name: str, seen: list[bytes]) -> None:
    """Send records of a run of its own, and of one that both send, and sign after each batch."""
    with LogStore(url) as store:
        store.create()
        publisher = Publisher(store, LOG, folder)
        for at, both in zip(STARTS, BOTH, strict=True):
            made = [decision(n, facts(f"s-{n % 7}")) for n in range(AT_ONCE)]
            assert store.take(batch_of(made, at, name), "s") == at + AT_ONCE - 1
            store.take(both, "s")
            publisher.step()
            assert publisher.halted is None
            seen.append((folder / "checkpoint").read_bytes())


@pytest.mark.slow
def test_two_writers_make_one_log(postgres: Postgres, tmp_path: Path) -> None:
    """No record is there twice, no two checkpoints contradict each other, and both sets of files are the same log."""
    url, seen = postgres.database(), ([], [])  # type: tuple[list[bytes], list[bytes]]
    names = ("one", "two")
    run_together(*(partial(write, url, tmp_path / name, name, shown) for name, shown in zip(names, seen, strict=True)))
    with LogStore(url) as store:
        marks = {source.boot: source.high_water for source in sources_of(store)}
        assert marks == dict.fromkeys((*names, "both"), ROUNDS * AT_ONCE)
        assert store.size() == 3 * ROUNDS * AT_ONCE
        for name in names:
            Publisher(store, LOG, tmp_path / name).step()
            for raw in (*seen[0], *seen[1]):
                assert verify(tmp_path / name, Trust(LOG.key, held=open_checkpoint(raw, LOG.key)))
    one, two = ((tmp_path / name / "checkpoint").read_bytes() for name in names)
    assert one == two
    assert len(seen[0]) == len(seen[1]) == ROUNDS
    postgres.drop(url)
