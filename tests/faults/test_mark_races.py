# SPDX-License-Identifier: Apache-2.0
"""64 processes race reads and refunds in common sessions, at each decider and door: no refund after a read.

Each process notes its calls with the times at which they began and ended.  A refund that began after an allowed read
had ended is later in the ledger's order as well, and must be refused.
"""

import contextlib
import os
import random
import signal
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import pytest

from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.faults.test_budget_races import PROCESSES, Race, turn, two  # noqa: F401 - a fixture
from tests.gateway.mark_doors import Ask, authzen, door, ext_authz, ext_mcp, forward_auth
from tests.ledgers import new_ledger
from tests.servers import until
from tests.topologies.fleet import Server, replicated, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("21.4")]

NOTE: Final = struct.Struct("<IBBQQ")  # session, whether it read, whether it was allowed, its begin and end, ns
SESSION_MS: Final = 100
OPEN: Final = 10  # sessions that are used at a time
READS: Final = 0.02
KINDS: Final = ("verifier", "forward-auth", "ext-authz", "ext-mcp", "authzen", "http", "mcp")
# What opens a session sets a mark of its own: the ledger has then something to keep when its server is restarted.
ROWS: Final = {
    "marks": [["call", "seen", "session", ["orders.get"]], ["call", "begun", "session", ["orders.refund"]]],
    "after": [[["seen"], ["orders.refund"]]],
}
REALM: Final = UnsafeTestRealm("orders")
DECIDERS: Final = {"forward-auth": forward_auth, "ext-authz": ext_authz, "ext-mcp": ext_mcp, "authzen": authzen}


class Note(NamedTuple):
    """A call."""

    session: int
    reads: int
    allowed: int
    began: int
    ended: int


class Forgetful(InMemoryDecisions):
    """Keeps no decision: there will be many."""

    def append(self, decision: Any) -> int:
        """Take it and let it go."""
        return 1


@contextlib.contextmanager
def asking(kind: str, ledger: RedisLedger) -> Iterator[Ask]:
    """A way to ask, whose answer is whether the call was allowed."""
    REALM.decisions = Forgetful()
    verifier = REALM.verifier = Verifier(
        audience="orders",
        keys=KeyRing({"k1.0": REALM._key}, realm="test"),
        epochs=REALM.epochs,
        decisions=REALM.decisions,
        ledger=ledger,
    )
    if kind == "verifier":
        yield (
            lambda caller, tool: (
                verifier.decide(caller.token(f"orders.{tool}"), AccessRequest(f"orders.{tool}", {}, now_ms())).allowed
            )
        )
    elif kind in DECIDERS:
        ask = DECIDERS[kind](REALM)
        yield lambda caller, tool: allows(kind, ask(caller, tool))
    else:
        with tempfile.TemporaryDirectory() as folder, door(kind, REALM, Path(folder)) as ask:
            yield lambda caller, tool: allows(kind, ask(caller, tool))


def allows(kind: str, answer: Any) -> bool:
    """Whether an answer of a decider or door is an allow."""
    if kind in ("forward-auth", "http"):
        return bool(answer.status_code == 200)
    if kind == "ext-authz":
        return bool(answer.status.code == 0)
    if kind == "ext-mcp":
        return not answer.HasField("error")
    return bool(answer["decision"]) if kind == "authzen" else "isError" not in answer.text


def call(place: Path, used: Path, opened: int, kind: str) -> NoReturn:
    """Read and refund in the sessions that are open, for ever.

    Args:
        place: A link to the ledger's socket, which a failover turns.
        used: Where it notes its calls.
        opened: When the first session was opened.
        kind: How it asks.
    """
    try:
        random_, file = random.Random(os.getpid()), os.open(used, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with asking(kind, new_ledger(f"unix://{place}", "race", 5)) as ask:
            while True:
                now = (now_ms() - opened) // SESSION_MS
                session = max(0, now - random_.randrange(OPEN))
                reads = kind != "http" and random_.random() < READS
                caller = caller_of(session, opened)
                began = time.monotonic_ns()
                allowed = ask(caller.delegate("test/helper") if reads else caller, "get" if reads else "refund")
                os.write(file, NOTE.pack(session, reads, allowed, began, time.monotonic_ns()))
                time.sleep(random_.random() / 25)  # its work
    finally:
        os._exit(3)


def caller_of(session: int, opened: int) -> UnsafeCaller:
    """The agent of a session."""
    REALM.opened = opened + session * SESSION_MS
    return REALM.caller(Rule(tool="*"), session=f"s-{session:016d}", task=f"t-{session:016d}", marks=ROWS)


def notes(files: Sequence[Path]) -> list[Note]:
    """Return all calls that were noted in files."""
    return [Note(*each) for path in files if path.exists() for each in NOTE.iter_unpack(path.read_bytes())]


def late(found: list[Note]) -> list[Note]:
    """Return the refunds that were allowed though they began after an allowed read had ended."""
    read: dict[int, int] = {}
    for note in found:
        if note.reads and note.allowed:
            read[note.session] = min(note.ended, read.get(note.session, note.ended))
    return [each for each in found if each.allowed and not each.reads and each.began > read.get(each.session, 1 << 63)]


def restart(server: Server, ledger: RedisLedger) -> None:
    """End the ledger's server and start it again as the supervisor of ``arx up`` does."""
    assert ledger.seal("the-end")
    server.signal(signal.SIGTERM)
    assert server.process is not None
    server.process.wait()
    server.start()
    wait_for(server)
    assert ledger.open("the-end")


def raced(primary: Server, replica: Server, place: Path, folder: Path, calls: int) -> Race:
    """Race for so many calls before a restart, between it and a failover, and after that."""
    ledger = new_ledger(f"unix://{place}", "race", 5)
    ledger.start()
    race, random_ = Race(folder, place, now_ms() + 5, KINDS, call), random.Random(9)

    def so_many() -> bool:
        race.kill_one(random_)
        assert race.failed == 0
        return race.used() >= due * NOTE.size

    for _ in range(PROCESSES):
        race.start()
    race.begin()
    due = calls
    until(so_many, 600)
    restart(primary, ledger)
    due = race.used() // NOTE.size + calls
    until(so_many, 600)
    replicated(primary, 1)
    primary.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    turn(place, folder / "b.sock")
    due = race.used() // NOTE.size + calls
    until(so_many, 600)
    race.wait(0)
    ledger.close()
    return race


@pytest.mark.parametrize("calls", [2_000, pytest.param(30_000, marks=pytest.mark.nightly)])
def test_no_refund_follows_a_read(two: tuple[Server, Server, Path], tmp_path: Path, calls: int) -> None:  # noqa: F811
    """Processes are killed all the time, the ledger is restarted, and its replica takes over."""
    race = raced(*two, tmp_path, calls)
    found = notes(race.files)
    of = Counter((("refund", "read")[note.reads], ("refused", "allowed")[note.allowed]) for note in found)
    print(f"{race.killed} killed, {len(found)} calls: {dict(of)}")
    assert late(found) == []
    read = {note.session for note in found if note.reads and note.allowed}
    refunded = {note.session for note in found if note.allowed and not note.reads}
    assert len(read & refunded) > 10, "the race is between the two"
    assert of["refund", "refused"] > 100
    for place, kind in enumerate(KINDS):
        assert any(note.allowed for note in notes(race.files[place :: len(KINDS)])), kind
