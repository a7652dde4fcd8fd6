# SPDX-License-Identifier: Apache-2.0
"""A keeper of the audit log must not change, drop or reorder records, or show two histories.

Seen in the field: trails that are rows in a database which their operator can edit; hash chains that the operator
recomputes after the edit; a proof scheme of a database's own that did not check its middle, so that two histories both
verified.  Here an auditor makes the check, from the files, with a key and a checkpoint that they kept.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
from sqlalchemy import delete, select, update

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.audit.merkle.paths import ENTRIES, Tile, pack_entries, unpack_entries
from arx_caps.audit.merkle.tree import Frontier, Tree, check_consistency, consistency_proof, leaf_hash
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.shipping.batch import sign_batch
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import BATCH, RECORD, STATE
from arx_caps.cli import exit_codes
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.keys.log_key import read_log_key
from arx_verifier.errors import AuditError
from tests.audit.batches import BOOT, batch_of, decision, facts
from tests.audit.world import LOG, checkpoint_of, records, write
from tests.cli.helpers import arx
from tests.mint.harness import ISSUER, LOOKUP, Harness, local_mint, log_signer, now_ms
from tests.postgres import Postgres

KEPT = records(40)
CHANGED = [*KEPT[:20], b"nothing happened", *KEPT[21:]]


@pytest.mark.parametrize(
    "shown",
    [CHANGED, KEPT[1:], KEPT[:20] + KEPT[21:], [*KEPT[:20], KEPT[21], KEPT[20], *KEPT[22:]], KEPT[:39]],
    ids=["changed", "no head", "no middle", "swapped", "no tail"],
)
def test_a_keeper_who_owns_the_log_s_key_is_found_by_a_kept_checkpoint(tmp_path: Path, shown: list[bytes]) -> None:
    """Every file is written anew and signed with the log's own key: by itself that log holds, and yet it is found."""
    log = write(tmp_path, shown)
    assert verify(log.folder, Trust(LOG.key)).records == len(shown)
    seen = open_checkpoint(checkpoint_of(KEPT), LOG.key)
    with pytest.raises(TamperedError, match=r"two histories|rolled back"):
        verify(log.folder, Trust(LOG.key, held=seen))


def test_no_proof_joins_two_histories() -> None:
    """Whatever hashes of either history a keeper offers, the one does not continue the other."""
    one, two = Tree(map(leaf_hash, KEPT)), Tree(map(leaf_hash, [*CHANGED, b"more"]))
    for old in range(21, 41):
        for source in (one, two):
            size = min(source.size, 41)
            proof = consistency_proof(source.subtree, old, size)
            with pytest.raises(TamperedError):
                check_consistency(old, one.root(old), two.size, two.root(), proof)
    check_consistency(20, one.root(20), two.size, two.root(), consistency_proof(two.subtree, 20, two.size))


# The mint's own log: what a keeper of its database or its files can do to it.


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A mint with a log of events, calls and a service's decisions, allowed and refused, signed."""
    settings = unit.realm.folder / "realm.toml"  # whatever runs on this machine, no mint of this realm does
    document = settings.read_text().replace('listen = "127.0.0.1:8700"', 'listen = "127.0.0.1:9"')
    settings.write_text(document)
    unit.mint.log.start()
    holder, session = unit.session()
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    chain = facts(session["id"], "t-1", "helper", subject=("https://idp.example", "ada"), tasks=("sub",), model="m")
    calls = [decision(1, chain), decision(2, chain, "expired", args_digest=b"d" * 32), decision(3, facts(), "revoked")]
    batch, key = batch_of(calls), SigningKey.generate()
    with unit.mint.db.write() as c:
        add_key(c, "service:orders", key.public)
    statement = sign_batch(key, batch, batch.encode(), realm="acme", issuer=ISSUER, now=now_ms())
    unit.mint.log.take(batch, statement)
    unit.mint.log.step()
    return unit


def key_of(harness: Harness) -> VerifierKey:
    return read_log_key(harness.realm.log_key_path)


def kept_in(harness: Harness) -> list[bytes]:
    """The records as the files have them."""
    records, whole = unpack_entries((harness.realm.log_dir / bundle(harness)).read_bytes())
    assert whole
    return records


def bundle(harness: Harness) -> str:
    head = open_checkpoint((harness.realm.log_dir / "checkpoint").read_bytes(), key_of(harness)).checkpoint
    return Tile(ENTRIES, 0, head.size).path


def altered(value: Any) -> Iterator[Any]:
    """Each copy of a record with one of its members, at whatever depth, made another."""
    if isinstance(value, list):
        for at, member in enumerate(value):
            for other in altered(member):
                yield [*value[:at], other, *value[at + 1 :]]
        yield [*value, "more"]
        return
    if value is None or isinstance(value, bool):
        yield "something"
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, bytes):
        yield bytes([value[0] ^ 1]) + value[1:] if value else b"x"
    else:
        yield value + "x"


def found_by_command(harness: Harness, path: Path, *options: str) -> dict[str, Any]:
    ran = arx("audit", "verify", str(path), "--key", str(key_of(harness)), "--json", *options)
    assert ran.exit_code == exit_codes.DENIED, ran.out
    return ran.json


def test_each_member_of_each_record_is_held(unit: Harness) -> None:
    """Whatever is changed in whichever record, the check names that very record."""
    folder, kept = unit.realm.log_dir, kept_in(unit)
    file, tried = folder / bundle(unit), 0
    for index, record in enumerate(kept):
        for other in altered(msgpack.unpackb(record)):
            shown = msgpack.packb(other)
            assert shown != record
            file.write_bytes(pack_entries([*kept[:index], shown, *kept[index + 1 :]]))
            with pytest.raises(TamperedError) as caught:
                verify(folder, Trust(key_of(unit)))
            assert caught.value.first == index
            tried += 1
    assert tried > 100
    assert found_by_command(unit, folder)["first_bad"] == len(kept) - 1


def test_what_is_left_out_or_moved_is_found(unit: Harness) -> None:
    """Head, middle and tail gone, two swapped: the check names the first place that differs from what was signed."""
    folder, kept = unit.realm.log_dir, kept_in(unit)
    file, last = folder / bundle(unit), len(kept) - 1
    for shown, first in (
        (kept[1:], 0),
        (kept[:4] + kept[5:], 4),
        ([*kept[:4], kept[5], kept[4], *kept[6:]], 4),
    ):
        file.write_bytes(pack_entries(shown))
        assert found_by_command(unit, folder)["first_bad"] == first
    file.write_bytes(pack_entries(kept[:-1]))
    ran = arx("audit", "verify", str(folder), "--key", str(key_of(unit)), "--json")
    assert (ran.exit_code, ran.json["outcome"], f"{last} to {last}" in ran.json["problem"]) == (
        exit_codes.INCOMPLETE,
        "incomplete",
        True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("change", ["kept", "body", "gone", "swapped"])
def test_rows_that_were_edited_are_neither_proven_nor_signed(unit: Harness, tmp_path: Path, change: str) -> None:
    """The database's keeper edits rows: no proof is made of them, and no files either when those are made again."""
    log = unit.mint.log
    index, other = log.store.find(BOOT, 1)[0], log.store.find(BOOT, 2)[0]
    row, second = log.store.record(index), log.store.record(other)
    assert row is not None
    assert second is not None
    log.close()  # it would go on writing its files, from what it signed before
    with log.store.writing() as writing:
        c, which = writing.connection, RECORD.c.idx == index
        if change == "gone":
            c.execute(delete(RECORD).where(which))
        elif change == "body":
            c.execute(update(RECORD).where(which).values(body=second.body))
        else:
            c.execute(update(RECORD).where(which).values(kept=second.kept, body=second.body))
        if change == "swapped":
            c.execute(update(RECORD).where(RECORD.c.idx == other).values(kept=row.kept, body=row.body))
    answer = unit.operator().call("GET", f"/v1/audit/proofs/{index}")
    assert answer.json()["code"] == ("not_found" if change == "gone" else "tampered")
    checked = arx("audit", "check", "--json", "--realm-dir", str(unit.realm.folder))
    assert (checked.exit_code, checked.json["outcome"], checked.json["first_bad"]) == (
        exit_codes.DENIED,
        "tampered",
        index,
    )
    mint = local_mint(unit.realm)
    mint.log.start()
    mint.log.step()  # the mint finds it as well: it signs and takes nothing until a person has looked
    assert f"record {index} of the database" in str(mint.log.failing)
    with pytest.raises(AuditError, match=f"record {index} of the database"):
        mint.log.take(batch_of([decision(9, facts())], 4), "statement")
    mint.close()
    if change == "body":
        return  # no leaf: it is held by the digest in its record alone
    shutil.rmtree(unit.realm.log_dir)
    again = Publisher(log.store, log_signer(unit.realm), unit.realm.log_dir)
    again.step()
    assert again.halted is not None
    assert not (unit.realm.log_dir / "checkpoint").exists()


def test_rows_that_were_edited_are_filed_anew(unit: Harness) -> None:
    """With the signed files at hand the log goes on: as it was signed, and the command says how much it mended."""
    log, folder = unit.mint.log, str(unit.realm.folder)
    index = log.store.find(BOOT, 1)[0]
    output = arx("audit", "check", "--json", "--realm-dir", folder).json
    assert (output["records"], output["held"], output["unknown"]) == (log.store.size(), 1, 0)
    with log.store.writing() as writing:
        writing.connection.execute(update(RECORD).where(RECORD.c.idx == index).values(tool="other", outcome=0))
    unit.mint.close()
    done = arx("audit", "reindex", "--reason", "rows were edited", "--yes", "--json", "--realm-dir", folder)
    assert (done.exit_code, done.json["recovered"], done.json["mended"]) == (exit_codes.OK, 0, 1)
    mint = local_mint(unit.realm)
    mint.log.start()
    mint.log.step()
    assert mint.log.publisher.halted is None
    row = mint.log.store.record(index)
    assert row is not None
    assert (row.tool, row.outcome, row.body is not None) == ("lookup", 1, True)
    mint.close()


def test_what_was_rewritten_before_it_was_signed_is_found(unit: Harness) -> None:
    """The mint is stopped before it signs, and row and tree are made to agree: no service has signed for that."""
    log, folder = unit.mint.log, str(unit.realm.folder)
    key, batch = SigningKey.generate(), batch_of([decision(4, facts()), decision(5, facts(), "expired")], 4)
    with unit.mint.db.write() as c:
        add_key(c, "service:orders", key.public)
    log.close()  # its thread would sign what is taken next before that is rewritten
    log.take(batch, sign_batch(key, batch, batch.encode(), realm="acme", issuer=ISSUER, now=now_ms()))
    forged = batch_of([decision(5, facts())], 5).records[0]
    with log.store.writing() as writing:
        c = writing.connection
        index = log.store.find(BOOT, 5)[0]
        c.execute(update(RECORD).where(RECORD.c.idx == index).values(kept=forged.kept, body=forged.body))
        c.execute(update(RECORD).where(RECORD.c.idx == index).values(code="ok", outcome=1))
        kept = [bytes(each) for each in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]
        c.execute(update(STATE).values(edge=b"".join(Frontier.of(map(leaf_hash, kept)).edge)))
    mint = local_mint(unit.realm)
    mint.log.start()
    assert mint.log.publisher.halted is None
    assert verify(unit.realm.log_dir, Trust(key_of(unit))).records > index
    output = arx("audit", "check", "--json", "--realm-dir", folder)
    assert (output.exit_code, output.json["first_bad"]) == (exit_codes.DENIED, index - 1)
    assert "records 4 to 5 of the batch" in output.json["problem"]
    with log.store.writing() as writing:
        writing.connection.execute(update(BATCH).where(BATCH.c.idx == index - 1).values(statement=None))
    output = arx("audit", "check", "--json", "--realm-dir", folder)
    assert (output.exit_code, output.json["held"], output.json["unknown"], output.json["recovered"]) == (
        exit_codes.OK,
        1,
        1,
        0,
    )
    mint.close()


def test_an_older_checkpoint_or_another_history_is_found(unit: Harness, tmp_path: Path) -> None:
    """Database and files are put back, or made anew with the log's own key: a kept checkpoint shows that."""
    log, folder, seen = unit.mint.log, unit.realm.log_dir, tmp_path / "seen"
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    log.take(batch_of([decision(4, facts())], 4), "statement")
    log.step()
    seen.write_bytes((folder / "checkpoint").read_bytes())
    answer = found_by_command(unit, older, "--checkpoint", str(seen))
    assert "rolled back" in answer["problem"]
    with LogStore(f"sqlite:///{tmp_path}/other.db") as other:
        other.create()
        other.take(batch_of([decision(n, facts(), "expired") for n in range(1, log.store.size() + 1)]), "statement")
        Publisher(other, log_signer(unit.realm), tmp_path / "other").step()
    answer = found_by_command(unit, tmp_path / "other", "--checkpoint", str(seen))
    assert "two histories" in answer["problem"]


def backed_up(harness: Harness, folder: Path, request: pytest.FixtureRequest) -> Callable[[], object]:
    """Make a backup of the log's database, and return how it is put back."""
    url = harness.realm.database
    if url is None:
        live, backup = harness.realm.audit_path, folder / "backup"
        with contextlib.closing(sqlite3.connect(live)) as source, contextlib.closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        return lambda: backup.replace(live)
    server: Postgres = request.getfixturevalue("postgres")
    return partial(server.put_back, server.backup(url), url)


def test_a_database_that_was_put_back_is_not_signed(
    unit: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The mint finds that more was signed than its database has: it signs nothing, takes nothing, and says why."""
    log, realm = unit.mint.log, unit.realm
    put_back = backed_up(unit, tmp_path, request)
    log.take(batch_of([decision(4, facts())], 4), "statement")
    log.step()
    unit.mint.close()
    put_back()
    signed = (realm.log_dir / "checkpoint").read_bytes()
    mint = local_mint(realm)
    mint.log.start()
    for _ in range(2):
        with pytest.raises(AuditError, match="older one, such as a backup"):
            mint.log.take(batch_of([decision(4, facts(), "expired")], 4), "statement")
        mint.log.step()
    assert (realm.log_dir / "checkpoint").read_bytes() == signed
    mint.close()
    done = arx("audit", "reindex", "--reason", "the disk broke", "--yes", "--json", "--realm-dir", str(realm.folder))
    assert (done.exit_code, done.json["recovered"] > 0) == (exit_codes.OK, True)
    mint = local_mint(realm)
    mint.log.start()
    assert mint.log.take(batch_of([decision(5, facts())], 5), "statement") == 5
    mint.log.step()
    seen = open_checkpoint(signed, key_of(unit))
    assert verify(realm.log_dir, Trust(key_of(unit), held=seen)).checkpoint.size > seen.checkpoint.size
    mint.close()


def test_a_withdrawal_differs_from_an_unanswered_loss(
    unit: Harness, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A service's statements are in the database alone: the log itself says which records came back without."""
    log, key = unit.mint.log, SigningKey.generate()
    put_back = backed_up(unit, tmp_path, request)
    batch = batch_of([decision(4, facts()), decision(5, facts())], 4)
    log.take(batch, sign_batch(key, batch, batch.encode(), realm="acme", issuer=ISSUER, now=now_ms()))
    log.step()
    unit.mint.close()
    put_back()
    folder = str(unit.realm.folder)
    assert (
        arx("audit", "reindex", "--reason", "the disk broke", "--yes", "--realm-dir", folder).exit_code == exit_codes.OK
    )
    output = arx("audit", "check", "--realm-dir", folder)
    assert "1 batches: by `arx audit reindex`" in output.out
    assert "not known" not in output.out
    output = arx("audit", "check", "--json", "--realm-dir", folder)
    assert (output.exit_code, output.json["held"], output.json["unknown"], output.json["recovered"]) == (
        exit_codes.OK,
        1,
        0,
        1,
    )
