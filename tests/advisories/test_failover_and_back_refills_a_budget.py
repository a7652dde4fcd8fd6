# SPDX-License-Identifier: Apache-2.0
"""A task could spend its budget twice: at a server that took over, and at the primary that came back as it was.

A primary that is cut off, and not restarted, cannot see that another server took draws.  Now its callers remember the
newest beginning that they saw, and the mint keeps it in its database.
"""

import contextlib
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arx_caps.mint.db.mint_database import MintDatabase
from arx_verifier.errors import StoreError
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import LOST, WAKING, Ledger, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.faults.test_budget_races import turn
from tests.ledgers import only_bucket
from tests.servers import free_ports, until
from tests.topologies.fleet import Server, replicated, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

HEADER, MINUTE_MS = "arx:budget:{acme}:h", 60_000


class Pair:
    """A primary and its replica, and the address of the ledger."""

    def __init__(self, folder: Path, primary: Server, replica: Server) -> None:
        self.folder, self.primary, self.replica, self.place = folder, primary, replica, folder / "ledger"
        self.place.symlink_to(folder / "a.sock")
        self.database = f"sqlite:///{folder}/mint.db"
        with MintDatabase(self.database) as db:
            db.create()

    def verifier(self) -> RedisLedger:
        """Return the ledger of a verifier that has just started."""
        ledger = RedisLedger(f"unix://{self.place}", "acme", timeout_s=1)
        ledger.start()
        return ledger

    def mint_looks(self) -> None:
        """Start a mint of this database, which looks, and end it."""
        with (
            MintDatabase(self.database) as db,
            closing(RedisLedger(f"unix://{self.place}", "acme", timeout_s=1)) as one,
        ):
            one.recall(db.ledger.beginning, db.ledger.note)
            one.start()

    def take_over(self) -> None:
        """Cut the primary off, and let the replica take over."""
        self.primary.signal(signal.SIGSTOP)
        self.replica.ask("REPLICAOF", "NO", "ONE")
        turn(self.place, self.folder / "b.sock")

    def a_minute_later(self) -> int:
        """Let the margin of the server that took over be over; return when a pool can be opened there."""
        since = int(self.replica.ask("HGET", HEADER, "since"))
        self.replica.ask("HSET", HEADER, "since", since - MINUTE_MS - 1)
        return since - MINUTE_MS + 1

    def come_back(self) -> None:
        """End the server that took over, and go on with the primary; the other one is its replica again."""
        self.replica.kill()
        self.primary.signal(signal.SIGCONT)
        turn(self.place, self.folder / "a.sock")
        wait_for(self.primary)

    def replica_returns(self) -> None:
        """Let the other one be the replica again."""
        self.replica.start()
        wait_for(self.replica)
        replicated(self.primary, 1, 60)


@pytest.fixture(params=[(), ("--min-replicas-to-write", "1")], ids=["alone", "with min-replicas"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    ports = free_ports(2)
    kept = ("--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0")
    primary, replica = (
        Server(
            tmp_path / name,
            port,
            *kept,
            *("--unixsocket", str(tmp_path / f"{name}.sock")),
            *(request.param if name == "a" else ("--replicaof", f"127.0.0.1 {ports[0]}")),
        )
        for name, port in zip("ab", ports, strict=True)
    )
    with running(primary, replica):
        replicated(primary, 1, 60)
        yield Pair(tmp_path, primary, replica)


def pool(opened: int, cost: int = 100, name: str = "p") -> PoolDraw:
    """What a call asks of a pool of 100."""
    return PoolDraw(f"t/-/{name}/usd/task", 100, 0, opened, cost, cost)


def ask(ledger: Ledger, draw: PoolDraw) -> Taken | Short:
    """Draw at the server that the address leads to now: a call on a connection to the other one is refused."""
    answers: list[Taken | Short] = []

    def draws() -> bool:
        with contextlib.suppress(StoreError):
            answers.append(ledger.take("draw", "", [draw]))
        return bool(answers)

    until(draws)
    return answers[0]


def is_lost(answer: Taken | Short) -> bool:
    """Whether the pool is exhausted, as what was drawn is not known."""
    return isinstance(answer, Short) and answer.remaining == LOST


@pytest.mark.parametrize("mode", ["strict", "leased"])
def test_a_verifier_that_saw_the_other_server(pair: Pair, mode: str) -> None:
    """Strict or leased; also when the other server comes back a second time, and each time after."""
    pair.mint_looks()
    seen = pair.verifier()
    ledger: Ledger = LeasedLedger(seen) if mode == "leased" else seen
    pair.take_over()
    assert is_lost(ask(ledger, pool(0)))
    opened = pair.a_minute_later()
    assert isinstance(ask(ledger, pool(opened)), Taken)
    pair.come_back()
    pair.replica_returns()
    assert is_lost(ask(ledger, pool(opened)))
    ledger.close()


def test_a_verifier_that_started_since(pair: Pair) -> None:
    """The mint has seen the other server, and was restarted too: what it noted is in its database."""
    pair.mint_looks()
    with closing(pair.verifier()) as ledger:
        pair.take_over()
        pair.mint_looks()
        assert is_lost(ask(ledger, pool(0)))
        opened = pair.a_minute_later()
        assert isinstance(ask(ledger, pool(opened)), Taken)
    pair.come_back()
    pair.replica_returns()
    pair.mint_looks()
    with closing(pair.verifier()) as ledger:
        assert is_lost(ask(ledger, pool(opened)))


def test_a_verifier_that_asks_before_the_mint(pair: Pair) -> None:
    """It has just started, and remembers nothing: the server was silent, and gives nothing before the others looked."""
    pair.mint_looks()
    with closing(pair.verifier()) as ledger:
        pair.take_over()
        pair.mint_looks()
        assert is_lost(ask(ledger, pool(0)))
        opened = pair.a_minute_later()
        assert isinstance(ask(ledger, pool(opened)), Taken)
    pair.come_back()
    pair.replica_returns()
    seen = int(pair.primary.ask("HGET", HEADER, "seen"))
    pair.primary.ask("HSET", HEADER, "seen", seen - MINUTE_MS)  # it was away for that minute
    with closing(RedisLedger(f"unix://{pair.place}", "acme", timeout_s=1)) as ledger:
        first = ask(ledger, pool(opened))
        assert isinstance(first, Short)
        assert (first.remaining, 0 < first.wait_ms <= 5_000) == (WAKING, True)
        pair.mint_looks()
        assert is_lost(ask(ledger, pool(opened)))


def test_a_server_that_was_only_silent_gives_again(pair: Pair) -> None:
    """No caller has seen another one: after five seconds it goes on with what it had."""
    pair.mint_looks()
    ledger = RedisLedger(f"unix://{pair.place}", "acme", timeout_s=1)
    since = int(pair.primary.ask("HGET", HEADER, "since"))
    until(lambda: isinstance(ask(ledger, pool(since + 1, 1)), Taken))
    pair.primary.ask("HSET", HEADER, "seen", int(pair.primary.ask("HGET", HEADER, "seen")) - MINUTE_MS)
    assert ask(ledger, pool(since + 1, 1)).remaining == WAKING
    until(lambda: isinstance(ask(ledger, pool(since + 1, 1)), Taken))
    assert int(pair.primary.ask("HGET", HEADER, "number")) == 1
    ledger.close()


def test_two_servers_by_turns(pair: Pair) -> None:
    """Both are alive, and the address leads to one and then to the other: each turn is a beginning of its own."""
    pair.mint_looks()
    ledger = pair.verifier()
    pair.take_over()
    assert is_lost(ask(ledger, pool(0)))
    opened = pair.a_minute_later()
    pair.primary.signal(signal.SIGCONT)
    pair.primary.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    for turns, name in enumerate("baba"):
        turn(pair.place, pair.folder / f"{name}.sock")
        ledger._client.redis.connection_pool.disconnect()
        answer = ask(ledger, pool(opened, 1))
        assert isinstance(answer, Taken) if turns == 0 else is_lost(answer), turns
    numbers = [int(server.ask("HGET", HEADER, "number")) for server in (pair.primary, pair.replica)]
    assert numbers == [5, 4]
    ledger.close()


def test_a_verifier_without_calls_remembers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks by itself while the other server is the ledger, so that its first call finds the pool exhausted."""
    monkeypatch.setattr("arx_verifier.ledger.redis_ledger.LOOK_S", 0.05)
    pair.mint_looks()
    idle = pair.verifier()
    pair.take_over()
    with closing(pair.verifier()) as ledger:
        opened = pair.a_minute_later()
        assert isinstance(ask(ledger, pool(opened)), Taken)
        until(lambda: only_bucket(idle).remembered == only_bucket(ledger).remembered)
    pair.come_back()
    pair.replica_returns()
    assert is_lost(ask(idle, pool(opened)))
    idle.close()
