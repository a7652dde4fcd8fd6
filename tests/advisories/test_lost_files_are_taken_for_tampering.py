# SPDX-License-Identifier: Apache-2.0
"""A mint that lost only its ``log/`` folder halted its log, as if its database had been changed.

Files are made from the database whenever they are missing or damaged.  Only a database that contradicts what was signed
halts a mint: it reports that in words of its own, its proxy removes it, and the command that it names mends it.
"""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, select, update

from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.paths import ENTRIES, WIDTH, files_of
from arx_caps.audit.merkle.tiles import TileWriter, lacks
from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import CHECKPOINT, RECORD, STATE
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.audit import log
from arx_caps.mint.context import HALTED
from arx_caps.mint.keys.log_key import read_log_key
from arx_caps.settings.realm import Realm
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import Harness
from tests.mint.rolling import WITHIN_S, Fleet, fleet, send
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.servers
MANY = 300  # more than a tile


@pytest.fixture
def made(tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey) -> Iterator[Fleet]:
    """Two mints that have signed some hundred records, and published them in a folder each."""
    with fleet(tmp_path, realm_name, postgres, valkey.url) as found:
        put(found, 0, 1, MANY)
        for which in (0, 1):
            until(lambda which=which: found.size(which) > MANY, WITHIN_S)
        yield found


def put(made: Fleet, which: int, first: int, count: int = 1) -> int:
    """Send a service's records to one of the mints, and return what it answers."""
    batch = batch_of([decision(n, facts(f"s-{n % 5}")) for n in range(count)], first)
    with httpx.Client(timeout=30) as client:
        answer = send(made.mints[which], made.realms[which], made.key, batch, client)
    assert answer is not None
    return answer.status_code


def whole(made: Fleet, which: int) -> int:
    """Return how many records a mint's folder has, every one of them held to the signature."""
    realm = made.realms[which]
    return verify(realm.log_dir, Trust(read_log_key(realm.log_key_path))).records


@pytest.mark.slow
def test_a_lost_folder_is_made_again(made: Fleet) -> None:
    """While the mint is stopped behind another one, or runs: it signs on, and has every file again."""
    made.mints[0].stop()
    shutil.rmtree(made.realms[0].log_dir)
    before = made.size(1)
    assert put(made, 1, MANY + 1, 3) == 200
    until(lambda: made.size(1) >= before + 3, WITHIN_S)
    made.mints[0].start()
    until(lambda: made.size(0) >= before + 3, WITHIN_S)
    assert made.log(0) == (200, "ok")
    assert whole(made, 0) >= MANY + 3

    made.realms[0].log_dir.rename(made.realms[0].folder / "lost")  # at once: the mint may be writing to it
    assert put(made, 0, MANY + 4) == 200
    until(lambda: made.size(0) >= before + 4, WITHIN_S)
    assert made.log(0) == (200, "ok")
    assert whole(made, 0) >= MANY + 4


@pytest.mark.nightly
def test_damaged_files_are_made_again(made: Fleet) -> None:
    """While the mint starts: a full tile is missing; every bundle is cut, and the tile at the right edge missing."""
    folder = made.realms[0].log_dir
    for number, damage in enumerate((lose_tile, cut_all)):
        made.mints[0].stop()
        before = made.size(0)
        damage(folder, before)
        made.mints[0].start()
        assert put(made, 0, MANY + 1 + number) == 200
        until(lambda before=before: made.size(0) > before, WITHIN_S)
        assert made.log(0) == (200, "ok")
        until(lambda: holds(made, 0), WITHIN_S)
        assert (folder / "tile/0/000").is_file()


@pytest.mark.sqlite
def test_damaged_files_are_made_again_while_the_mint_runs(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within some rounds, whether records come or not; what it signs meanwhile is not held up."""
    monkeypatch.setattr(log, "REST_S", 0.0)
    monkeypatch.setattr(log, "PAUSE_S", 0.0)
    running, folder = unit.mint.log, unit.realm.log_dir
    running.start()
    trust = Trust(read_log_key(unit.realm.log_key_path))
    running.take(batch_of([decision(n, facts()) for n in range(MANY)]), "statement")
    for number, damage in enumerate((lose_tile, cut_all, lose_tile, cut_all)):
        running.step()
        size = verify(folder, trust).records
        damage(folder, size)
        if number > 1:
            running.take(batch_of([decision(7, facts())], 1, f"another-{number}"), "statement")
        now = size + (number > 1)

        def is_whole(now: int = now) -> bool:
            running.step()  # beside the log's own thread, which may find some of the damage before the rest
            with contextlib.suppress(IncompleteError, TamperedError):
                return verify(folder, trust).records == now and not lacks(folder, now, 0)
            return False

        until(is_whole)
        assert running.publisher.halted is None


def lose_tile(folder: Path, _: int) -> None:
    """Lose a full tile, without which the records still show that they are whole."""
    (folder / "tile/0/000").unlink()


def cut_all(folder: Path, size: int) -> None:
    """Cut every bundle, the one at the right edge as well, and lose the tile there."""
    for tile in files_of(size):
        if tile.level == ENTRIES:
            bundle = folder / tile.path
            bundle.write_bytes(bundle.read_bytes()[:-1])
        elif tile.level == 0 and tile.width < WIDTH:
            (folder / tile.path).unlink()
    with pytest.raises((IncompleteError, TamperedError)):
        TileWriter.resume(folder, size)


def holds(made: Fleet, which: int) -> bool:
    """Return whether a mint has every file, each as it was signed."""
    try:
        return whole(made, which) > MANY
    except (IncompleteError, TamperedError):
        return False


def rewrite(made: Fleet) -> None:
    """Change a record as its keeper can, and everything in the database that depends on it."""
    with LogStore(made.realms[0].database_url) as store, store.writing() as log:
        c = log.connection
        forged = batch_of([decision(7, facts("s-9"), "revoked")]).records[0]
        c.execute(update(RECORD).where(RECORD.c.idx == 5).values(kept=forged.kept, body=forged.body, code="revoked"))
        leaves = [leaf_hash(bytes(kept)) for kept in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]
        c.execute(update(STATE).values(edge=b"".join(Frontier.of(leaves).edge)))
        c.execute(delete(CHECKPOINT))


def shorten(made: Fleet) -> None:
    """Put the database back to before the last records, as a backup does."""
    with LogStore(made.realms[0].database_url) as store, store.writing() as log:
        c = log.connection
        size = c.execute(select(STATE.c.size)).scalar_one() - 20
        c.execute(delete(RECORD).where(RECORD.c.idx >= size))
        leaves = [leaf_hash(bytes(kept)) for kept in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]
        c.execute(update(STATE).values(size=size, edge=b"".join(Frontier.of(leaves).edge)))
        c.execute(delete(CHECKPOINT))


def reindexed(realm: Realm, *options: str) -> subprocess.CompletedProcess[str]:
    """Type what a halted mint names."""
    command = [sys.executable, "-m", "arx_caps.cli", "audit", "reindex", "--reason", "mended", "--yes", *options]
    return subprocess.run([*command, "--realm-dir", str(realm.folder)], capture_output=True, text=True)


@pytest.mark.nightly
def test_only_a_database_that_contradicts_the_signature_halts(made: Fleet, tmp_path: Path) -> None:
    """``/readyz`` and the answer to a sender report it; the command that they name is typed, and both sign again."""
    for change in (shorten, rewrite):
        for mint in made.mints:
            mint.stop()
        change(made)
        for mint in made.mints:
            mint.start()
        for which in (0, 1):
            until(lambda which=which: made.log(which) == (503, "halted"), WITHIN_S)
            answer = httpx.get(made.mints[which].url + "/readyz").json()
            assert HALTED in answer["because"]
            assert put(made, which, MANY + 1) == 503
        for mint in made.mints:
            mint.stop()
        for realm in made.realms:  # as the mint's log says
            done = reindexed(realm, *(["--replace"] if change is rewrite else []))
            assert done.returncode == 0, done.stderr
        assert re.search(r"no record was missing", done.stdout)  # the first one mended it for both
        for which, mint in enumerate(made.mints):
            before = made.size(which)  # without the record of what was mended
            mint.start()
            until(lambda which=which, before=before: made.size(which) > before, WITHIN_S)
            assert made.log(which) == (200, "ok")
            assert whole(made, which) > MANY
