# SPDX-License-Identifier: Apache-2.0
"""Two mints of a realm, a folder each, restarted in turn while services send: ``python -m tests.mint.rolling``.

Each round stops one, has the other take and sign more, starts the first again, and waits until that has signed or
published as much.  No batch may stay unanswered, and no mint may halt.
"""

import argparse
import contextlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.shipping.batch import HEADER, MEDIA_TYPE, PATH, Batch, sign_batch
from arx_caps.audit.store.log_store import LogStore
from arx_caps.credentials.jose import SigningKey, make_dpop
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.keys.log_key import read_log_key
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import Realm
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import ISSUER, now_ms
from tests.mint.processes import MintProcess
from tests.postgres import Postgres
from tests.servers import free_ports, until

RECORDS = 7  # of a batch
WITHIN_S = 60.0


def send(mint: MintProcess, realm: Realm, key: SigningKey, batch: Batch, client: httpx.Client) -> httpx.Response | None:
    """Post a batch as a service does; None when the mint did not answer."""
    body = batch.encode()
    statement = sign_batch(key, batch, body, realm=realm.name, issuer=ISSUER, now=now_ms())
    proof = make_dpop(key, method="POST", url=ISSUER + PATH, now=now_ms())
    headers = {"Content-Type": MEDIA_TYPE, "DPoP": proof, HEADER: statement}
    try:
        return client.post(mint.url + PATH, content=body, headers=headers)
    except httpx.TransportError:
        return None


class Sender(threading.Thread):
    """A service that sends batch after batch, each to one mint after the other until one takes it."""

    def __init__(self, fleet: "Fleet", boot: str) -> None:
        super().__init__(daemon=True)
        self.taken, self.refused = 0, 0
        self.failed: BaseException | None = None
        self._fleet, self._boot, self._over = fleet, boot, threading.Event()

    def run(self) -> None:
        try:
            with httpx.Client(timeout=10) as client:
                while not self._over.is_set():
                    self._send(client)
        except BaseException as error:
            self.failed = error

    def _send(self, client: httpx.Client) -> None:
        chain = facts(f"s-{self.taken}")
        batch = batch_of([decision(n, chain) for n in range(RECORDS)], self.taken + 1, self._boot)
        mints = itertools.cycle(self._fleet.mints)
        for mint in itertools.islice(mints, 2000):
            answer = send(mint, self._fleet.realms[0], self._fleet.key, batch, client)
            if answer is not None and answer.status_code == 200 and answer.json()["high_water"] == batch.last:
                self.taken = batch.last
                return
            self.refused += answer is not None
        raise AssertionError("no mint takes the batch")

    def end(self) -> int:
        """Stop, and return how many records were taken."""
        self._over.set()
        self.join()
        assert self.failed is None, self.failed
        return self.taken


class Fleet:
    """Two mints of a realm: one PostgreSQL, one store, and copies of settings, policy and keys."""

    def __init__(self, folder: Path, name: str, database: str, store: str) -> None:
        (port,) = free_ports(1)  # nothing listens there: `arx audit reindex` asks
        settings = {"name": name, "issuer": ISSUER, "listen": f"127.0.0.1:{port}", "database": database}
        first = init_realm(folder / "a", **settings)
        (folder / "b").mkdir(mode=0o700)
        for each in ("realm.toml", "policy.toml"):
            shutil.copy2(first.folder / each, folder / "b" / each)
        shutil.copytree(first.folder / "keys", folder / "b" / "keys")
        self.realms = [Realm.open(folder / "a"), Realm.open(folder / "b")]
        self.key = SigningKey.generate()
        with MintDatabase(database) as db, db.write() as c:
            add_key(c, "service:orders", self.key.public)
        self.mints: list[MintProcess] = []
        for realm in self.realms:
            self.mints.append(MintProcess(realm, store))

    def size(self, which: int) -> int:
        """Return how many records a mint's published checkpoint has; 0 where there is none."""
        path = self.realms[which].log_dir / "checkpoint"
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return 0
        return open_checkpoint(raw, read_log_key(self.realms[which].log_key_path)).checkpoint.size

    def signs(self, which: int, more: int = 1) -> None:
        """Wait until a mint publishes more than now."""
        before = self.size(which)
        until(lambda: self.size(which) >= before + more, WITHIN_S)

    def log(self, which: int) -> tuple[int, str]:
        """Return how a mint's ``/readyz`` answers: the status, and what it says of the log."""
        answer = httpx.get(self.mints[which].url + "/readyz")
        return answer.status_code, answer.json()["log"]

    def roll(self, which: int) -> None:
        """Restart one of the mints, behind what the other one signs meanwhile."""
        self.mints[which].stop()
        self.signs(1 - which, 3)
        ahead = self.size(1 - which)
        self.mints[which].start()
        until(lambda: self.size(which) >= ahead or self.log(which)[1] == "halted", WITHIN_S)
        assert self.log(which)[1] == "ok"

    def check(self, records: dict[str, int]) -> None:
        """Require that the log has these records of each run, once, and that both folders hold."""
        for mint in self.mints:
            mint.stop()
        with LogStore(self.realms[0].database_url) as store:
            for boot, count in records.items():
                assert [len(store.find(boot, sequence)) for sequence in (1, count)] == [1, 1]
                assert store.find(boot, count + 1) == []
        trust = Trust(read_log_key(self.realms[0].log_key_path))
        for realm in self.realms:
            assert verify(realm.log_dir, trust).records > 0

    def close(self) -> None:
        for mint in self.mints:
            mint.kill()


@contextlib.contextmanager
def fleet(folder: Path, name: str, postgres: Postgres, store: str) -> Iterator[Fleet]:
    """Run two mints on a database of their own."""
    database = postgres.database(template="made")
    made = Fleet(folder, name, database, store)
    try:
        yield made
    finally:
        made.close()
        postgres.drop(database)


def roll(made: Fleet, rounds: int, senders: int = 2) -> int:
    """Restart the mints in turn under load; return how many records were taken, none of them lost."""
    working = [Sender(made, f"boot-{number}") for number in range(senders)]
    for sender in working:
        sender.start()
    try:
        for number in range(rounds):
            made.signs(number % 2)
            made.roll(number % 2)
    finally:
        taken = {f"boot-{number}": sender.end() for number, sender in enumerate(working)}
    made.check(taken)
    return sum(taken.values())


def main() -> None:
    """Run as many rounds as asked, and say what came of them."""
    from arx_caps.embedded import EmbeddedValkey
    from tests.postgres import running

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arx-rolling-")))
        postgres = stack.enter_context(running())
        with MintDatabase(postgres.database(name="made")) as db:
            db.create()
        valkey = stack.enter_context(EmbeddedValkey(folder / "valkey"))
        made = stack.enter_context(fleet(folder, "rolling", postgres, valkey.url))
        print(f"{rounds} rolling restarts: {roll(made, rounds):,} records taken, 0 lost, 0 halts")


if __name__ == "__main__":
    main()
