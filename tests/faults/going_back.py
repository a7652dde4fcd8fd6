# SPDX-License-Identifier: Apache-2.0
"""A store that is put back to before a kill that went past the mint, with real processes; who knew of it differs.

As a program it plays rounds of every kind of target and every way of knowing: ``python -m tests.faults.going_back
--runs 20``.  A round holds every verifier, a new one included, to the bound, and the audit log to one entry a number.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.cli import exit_codes
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.audit.log import open_store
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.token.targets import subject_target
from arx_verifier.token.wire import text_of
from tests.cli.helpers import arx
from tests.faults.witness import Witness
from tests.mint.harness import make_realm
from tests.mint.processes import MintProcess
from tests.servers import until
from tests.support import ANYTHING, mint

BOUND_MS: Final = 2_000  # a lease, and the second in which the mint ends the history
PERSON: Final = ("https://id.example", "ada")
LINK: Final = text_of(b"\3" * 16)
KID, OTHER = "k9.0", "session:s-bbbbbbbbbbbbbbbb"
FACTS: Final[dict[str, Any]] = {
    "agent": "acme/support/worker",
    "id": LINK,
    "kid": KID,
    "session": "s-aaaaaaaaaaaaaaaa",
    "subject": PERSON,
    "task": "t-aaaaaaaaaaaaaaaa",
}
TARGETS: Final = {
    "session": "session:s-aaaaaaaaaaaaaaaa",
    "agent": "agent:acme/support",
    "subject": subject_target(*PERSON),
    "task": "task:t-aaaaaaaaaaaaaaaa",
    "key": f"key:{KID}",
    "link": f"link:{LINK}",
    "realm": "realm",
}
FROZEN: Final = ("agent", "subject", "key", "realm")  # what a kill of it refuses from then on as well
# Who knows of the kill when the store is back: the mint that runs; its database; a verifier alone, as the mint was away
# when it was made; the audit log alone, as the mint's database was put back too.
KNOWN: Final = ("view", "database", "verifier", "log")


class Round:
    """One realm with its store, its mint and its verifiers."""

    def __init__(self, folder: Path, known: str) -> None:
        self.folder, self.known = folder, known
        self.server = EmbeddedValkey(folder / "store")
        self.server.start()
        self.realm: Realm = make_realm(folder / "realm")
        self.mint = MintProcess(self.realm, self.server.url)
        self.verifiers: list[Witness] = []

    def close(self) -> None:
        """End everything."""
        for verifier in self.verifiers:
            verifier.close()
        self.mint.kill()
        self.server.stop()

    def verifier(self, name: str) -> Witness:
        """Start a verifier."""
        self.verifiers.append(Witness(self.server.url, self.realm.name, name, kid=KID))
        return self.verifiers[-1]

    def token(self) -> str:
        """A token that names every target, born now."""
        with RevocationStore(self.server.url, self.realm.name) as store:
            header, now = store.header(), time.time_ns() // 1_000_000
        born = (header.incarnation, header.seq)
        return mint(ANYTHING, realm=self.realm.name, born=born, iat=now, exp=now + 600_000, **FACTS).encode()

    def kill(self, target: str) -> int:
        """Kill past the mint, by the command; returns when it had returned, boot clock, ns."""
        store = ("--store", self.server.url, "--realm", self.realm.name)
        done = arx("kill", target, "--direct", "--reason", "past the mint", "--yes", *store)
        assert done.exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), done
        return boot_clock()

    def keep(self) -> None:
        """Keep what is on the disks now."""
        shutil.copytree(self.server.data_dir / "appendonlydir", self.folder / "older")
        if self.known == "log":
            for path in self.realm.folder.glob("mint.db*"):
                shutil.copy2(path, self.folder)

    def stop_store(self) -> None:
        """kill -9."""
        os.kill(self.server.server_pid, signal.SIGKILL)
        until(lambda: not self.server.running)
        self.server.stop()

    def put_back(self) -> None:
        """Start the store with what was kept."""
        written = self.server.data_dir / "appendonlydir"
        shutil.rmtree(written)
        shutil.copytree(self.folder / "older", written)
        self.server.start()

    def put_database_back(self) -> None:
        """Have the mint's database as it was kept; the audit log has one of its own."""
        for path in self.realm.folder.glob("mint.db*"):
            path.unlink()
        for path in self.folder.glob("mint.db*"):
            shutil.copy2(path, self.realm.folder)

    def number(self) -> int:
        """The last number that the store gave: a kill takes one, or two with its window of memory."""
        with RevocationStore(self.server.url, self.realm.name) as store:
            return store.header().seq

    def numbers(self) -> list[int]:
        """The numbers of all kills in the audit log."""
        with contextlib.closing(open_store(self.realm)) as log:
            rows = [log.record(index) for index in range(log.standing().tree.size)]
            events = [read_event(row.kept, None) for row in rows if row is not None and is_event(row.kept)]
        return [event.number for event in events if event.kind in ("store.kill", "store.freeze", "store.kill+freeze")]


def play(folder: Path, kind: str, known: str) -> float:
    """Play a round; returns how late a verifier accepted a killed token after the store was back, ms."""
    with running(folder, known) as world:
        knows = world.verifier("knows")
        killed = world.token()
        knows.watch(token=killed)
        knows.until("ok")
        if known == "log":
            world.mint.kill()
            world.keep()
            world.mint.start()
        else:
            world.keep()
        if known == "verifier":
            world.mint.kill()
        world.kill(TARGETS[kind])
        knows.until("frozen" if kind in FROZEN and kind == "key" else "revoked")
        if known != "verifier":
            until(lambda: world.numbers()[-1:] == [world.number()])
        lost = world.number()
        if known != "view":
            world.mint.kill()
        if known in ("database", "log"):
            knows.close()
        world.stop_store()
        new = world.verifier("new")
        new.watch(token=killed)
        if known == "log":
            world.put_database_back()
        world.put_back()
        if known in ("database", "log"):
            world.kill(OTHER)  # gets the number that the lost kill had
        if known != "view":
            world.mint.start()
        return follow(world, new, kind, boot_clock(), lost)


def follow(world: Round, new: Witness, kind: str, back: int, lost: int) -> float:
    """Watch what comes of it from when store and mint were back, boot clock, ns."""
    verifiers = [verifier for verifier in world.verifiers if world.known in ("view", "verifier") or verifier is new]
    for verifier in verifiers:
        verifier.until("revoked")
    late = max(verifier.last_accepted() for verifier in verifiers)
    late_ms = max(0.0, (late - back) / 1e6)
    assert late_ms < BOUND_MS, f"accepted {late_ms:.0f} ms after the store was back"
    # What is refused until a thaw is so in the new history too, where the mint's database or the audit log has it.
    wanted = "frozen" if kind in FROZEN and world.known != "verifier" else "ok"
    until(lambda: is_decided(world, new, wanted), 15)
    world.kill(OTHER)
    numbers = world.numbers
    before = numbers()
    until(lambda: len(numbers()) > len(before) or max(numbers(), default=0) > lost)
    assert len(set(numbers())) == len(numbers()), numbers()
    return late_ms


def is_decided(world: Round, verifier: Witness, wanted: str) -> bool:
    """Return the decision about a token that is born now."""
    verifier.watch(token=world.token())
    until(lambda: verifier.code() != "")
    return verifier.code() == wanted


@contextlib.contextmanager
def running(folder: Path, known: str) -> Iterator[Round]:
    """A round, ended however it ends."""
    world = Round(folder, known)
    try:
        yield world
    finally:
        world.close()


def main() -> None:
    """Play as many rounds as asked for, and end with 1 if one of them does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    kinds, failed = list(TARGETS), 0
    for number in range(given.runs):
        kind, known = kinds[number % len(kinds)], KNOWN[number % len(KNOWN)]
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = f"{play(Path(folder), kind, known):.0f} ms"
            except AssertionError as error:
                failed, outcome = failed + 1, f"FAILED: {error}"
        print(f"{number + 1}: {kind}, known to the {known}: {outcome}", flush=True)
    print(f"{given.runs - failed} of {given.runs}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
