# SPDX-License-Identifier: Apache-2.0
"""A keeper of the log's database and files could have the mint sign another history, without the log's key.

He stops the mint, takes every checkpoint away, or puts database and files back together to what they were, edits what
he likes, and starts it: to the mint it was a log of which little or nothing had been signed.  Others would have found
it, who had kept a checkpoint.  Now what was published is remembered beside the key, and the mint itself refuses.
"""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import BATCH, CHECKPOINT, RECORD, SOURCE, STATE
from arx_caps.mint.audit.log import AuditLog
from arx_caps.settings.realm import Realm
from tests.audit.batches import BOOT, batch_of, decision, facts
from tests.mint.harness import log_signer, make_realm

WHOLE = batch_of([decision(n, facts(f"s-{n % 5}")) for n in range(600)])


def started(realm: Realm) -> AuditLog:
    """The log of a mint that was started."""
    log = AuditLog(realm, log_signer(realm))
    log.start()
    return log


@pytest.fixture
def realm(tmp_path: Path, database: str | None) -> Realm:
    """A realm whose log was signed at 300 and at 600 records, and whose mint is stopped."""
    made = make_realm(tmp_path / "realm", database=database)
    log = started(made)
    for upto in (300, 600):
        log.take(WHOLE._replace(records=WHOLE.records[:upto]), "statement")
        log.step()
    log.close()
    return made


def open_log(realm: Realm) -> LogStore:
    return AuditLog(realm, log_signer(realm)).store


def edit(store: LogStore, upto: int, forged: int) -> None:
    """Have the database say that there are so many records, one of them another one, and that none was signed."""
    own = batch_of([decision(7, facts("s-9"), "revoked")], forged + 1).records[0]
    with store.writing() as log:
        c = log.connection
        c.execute(update(RECORD).where(RECORD.c.idx == forged).values(kept=own.kept, body=own.body, code="revoked"))
        c.execute(delete(RECORD).where(RECORD.c.idx >= upto))
        c.execute(delete(BATCH).where(BATCH.c.idx >= upto))
        c.execute(delete(CHECKPOINT))
        kept = [bytes(row.kept) for row in c.execute(RECORD.select().order_by(RECORD.c.idx))]
        edge = b"".join(Frontier.of(map(leaf_hash, kept)).edge)
        c.execute(update(STATE).values(size=upto, edge=edge))
        c.execute(update(SOURCE).where(SOURCE.c.boot == BOOT).values(high_water=upto))


@pytest.mark.parametrize(("upto", "forged"), [(600, 450), (600, 10), (300, 10), (300, 299)])
def test_a_mint_does_not_sign_another_history(realm: Realm, upto: int, forged: int) -> None:
    """Edited at the same size or cut, without a checkpoint anywhere: nothing is signed, taken or published."""
    with open_log(realm) as store:
        edit(store, upto, forged)
    shutil.rmtree(realm.log_dir)
    log = started(realm)
    log.step()
    assert log.publisher.halted is not None
    assert not (realm.log_dir / "checkpoint").exists()
    log.close()


def test_a_mint_goes_on_where_only_the_files_are_gone(realm: Realm) -> None:
    """The rows give what is remembered: the files are made again, and the log goes on."""
    signer = log_signer(realm)
    shutil.rmtree(realm.log_dir)
    with open_log(realm) as store, store.writing() as writing:
        writing.connection.execute(delete(CHECKPOINT))
    log = started(realm)
    log.step()
    assert log.publisher.halted is None
    seen = open_checkpoint(realm.log_key_path.with_suffix(".signed").read_bytes(), signer.key)
    assert verify(realm.log_dir, Trust(signer.key, held=seen)).records == 600
    log.close()


def test_what_is_remembered_is_what_was_published(realm: Realm) -> None:
    """One user's file, and never behind what any client has seen; another log's proves nothing."""
    memory = realm.log_key_path.with_suffix(".signed")
    assert memory.read_bytes() == (realm.log_dir / "checkpoint").read_bytes()
    assert memory.stat().st_mode & 0o777 == 0o600
    memory.write_bytes(b"nothing")
    log = started(realm)
    log.take(batch_of([decision(1, facts())], 601), "statement")
    log.step()
    assert memory.read_bytes() == (realm.log_dir / "checkpoint").read_bytes()
    log.close()
