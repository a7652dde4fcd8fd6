# SPDX-License-Identifier: Apache-2.0
"""A task could spend its budget twice, if its ledger lost its disk and went on with a clock that was behind.

With the disk the latest time that the ledger saw is lost.  Now a ledger without data begins a minute after its clock.
"""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import EARLY, LOST, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.faults.shifted import shifted
from tests.ledgers import new_ledger
from tests.servers import free_ports, until
from tests.topologies.fleet import Server, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

HEADER, MINUTE_MS = "arx:budget:{acme}:h", 60_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(made := Server(tmp_path / "server", free_ports(1)[0], "--appendonly", "yes", "--save", "")):
        yield made


def drawn(server: Server) -> PoolDraw:
    """Draw all of a pool that was opened a few seconds ago, at a ledger that began a minute ago."""
    ledger = new_ledger(f"redis://127.0.0.1:{server.port}", "acme")
    ledger.start()
    since = int(server.ask("HGET", HEADER, "since"))
    server.ask("HSET", HEADER, "since", since - MINUTE_MS)
    pool = PoolDraw("t/-/p/usd/task", 100, 0, since - 5_000, 100, 100)
    assert isinstance(ledger.take("draw", "", [pool]), Taken)
    ledger.close()
    return pool


def first_answer(server: Server, pool: PoolDraw) -> Taken | Short:
    """Return the first answer to a draw that is not too early by the ledger's clock."""
    ledger, answers = RedisLedger(f"redis://127.0.0.1:{server.port}", "acme", timeout_s=5), list[Taken | Short]()

    def draws() -> bool:
        with contextlib.suppress(StoreError):
            answer = ledger.take("draw", "", [pool])
            if not isinstance(answer, Short) or answer.remaining != EARLY:
                answers.append(answer)
        return bool(answers)

    until(draws)
    ledger.close()
    return answers[0]


def test_another_disk_and_a_clock_that_is_behind(server: Server) -> None:
    """The clock is before the opening of the pool, and then after it: the pool is lost, and not full."""
    pool = drawn(server)
    server.kill()
    shutil.rmtree(server.folder)
    with shifted(server, "-8s"):
        answer = first_answer(server, pool)
        assert isinstance(answer, Short)
        assert answer.remaining == LOST


@pytest.mark.parametrize("command", [("FLUSHALL",), ("DEL", HEADER), ("FUNCTION", "FLUSH")])
def test_data_that_an_administrator_removed(server: Server, command: tuple[str, ...]) -> None:
    """The same process goes on without its data, its header, or with functions that were loaded again."""
    pool = drawn(server)
    server.ask(*command)
    answer = first_answer(server, pool._replace(cost=1, wanted=1))
    assert isinstance(answer, Short)
    assert answer.remaining == LOST


def test_a_restored_backup(server: Server, tmp_path: Path) -> None:
    """A copy of the data folder from before the draws, also on another host while the first one is only cut off."""
    pool = drawn(server)
    shutil.copytree(server.folder, tmp_path / "copy")
    other = Server(tmp_path / "copy", free_ports(1)[0], "--appendonly", "yes", "--save", "")
    server.signal(signal.SIGSTOP)
    with running(other):
        answer = first_answer(other, pool._replace(cost=1, wanted=1))
        assert isinstance(answer, Short)
        assert answer.remaining == LOST
