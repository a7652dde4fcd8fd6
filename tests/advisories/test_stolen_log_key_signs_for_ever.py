# SPDX-License-Identifier: Apache-2.0
"""No command replaced the log's key, and after a theft the realm had to begin anew, as readers knew one key alone.

A next key is announced by a record that the old key signs, or, after a theft, given by the realm's owner.  Readers
refuse one that neither did.
"""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import update

from arx_caps.audit.ingest.entries import make_note
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.key_change import KEY_CHANGES, announce, encode_changes, follow_changes, read_changes
from arx_caps.audit.merkle.keys import make_key, read_signer
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.mirror import copy_log
from arx_caps.audit.merkle.note import Signer, VerifierKey
from arx_caps.audit.merkle.tiles import fetch_from
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.shipping import fork_detection
from arx_caps.audit.shipping.fork_detection import PINNED_FILE, Seen
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import RECORD
from arx_caps.audit.witness.witness import KEY_FILE, Request, Witness
from arx_caps.cli import exit_codes
from arx_caps.mint.keys import log_key_change
from arx_caps.mint.keys.log_key import open_log, open_log_key, read_log_key, read_log_keys
from arx_caps.mint.keys.log_key_change import LogKeyChange, change_log_key
from arx_caps.settings.realm import Realm
from arx_verifier.errors import AuditError, SettingsError
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import signer
from tests.cli.helpers import arx
from tests.mint.harness import log_signer, make_realm, roots_of
from tests.realm_folder import ARX, RealmFolder
from tests.servers import child, free_ports

pytestmark = pytest.mark.spec("LOG 1.12")


def grow(realm: Realm, boot: str) -> None:
    """Have a mint sign five records of one run."""
    log = open_log(realm, roots_of(realm))
    log.start()
    log.take(batch_of([decision(n, facts()) for n in range(5)], boot=boot), "statement")
    log.step()
    log.close()


def change(realm: Realm, *, stolen: bool = False) -> LogKeyChange:
    return change_log_key(realm, roots_of(realm), by="host:uid-0", reason="a test", stolen=stolen)


def fork(realm: Realm, folder: Path, by: Signer, changes: LogKeys | None = None) -> Publisher:
    """Return the log of a thief, who has a copy of the realm's log and signs with a key of their own choice."""
    folder.mkdir()
    shutil.copy(realm.audit_path, folder / "audit.db")
    return Publisher(LogStore(f"sqlite:///{folder}/audit.db"), by, folder / "log", keys=changes)


def note_change(store: LogStore, values: dict[str, object]) -> None:
    with store.writing() as log:
        log.note(make_note("log.key_changed", "host:uid-0", log.now_ms, values, values))


def forge_change(thief: Publisher, stolen: Signer, new: VerifierKey) -> LogKeys:
    """Announce a thief's key as the mint would, with the stolen key."""
    note_change(thief._store, {**announce(stolen, new)})
    thief.step()
    size = thief._store.size()
    row = thief._store.record(size - 1)
    assert row is not None
    proof = thief.prove(size - 1, bytes(row.kept), None).encode().decode()
    return LogKeys.of(stolen.key).then(new, size, proof)


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    """A realm whose log has five signed records, and whose mint is stopped."""
    made = make_realm(tmp_path / "realm")
    grow(made, "b1")
    return made


def test_readers_follow_an_announced_key(realm: Realm, tmp_path: Path) -> None:
    """
    With the old key alone they verify all that either signed, also a copy; what the old one signed stays valid.
    """
    old, first, words = log_signer(realm), tmp_path / "first", ("--realm-dir", str(realm.folder))
    (tmp_path / "held").write_bytes((realm.log_dir / "checkpoint").read_bytes())
    log = open_log(realm, roots_of(realm))
    first.write_bytes(log.prove(0).encode())
    log.close()
    done = arx("audit", "rotate-key", "--reason", "a test", "--yes", *words, "--json")
    assert done.exit_code == exit_codes.OK
    assert (done.json["old"], done.json["announced"]) == (str(old.key), True)
    assert log_signer(realm).key == read_log_key(realm.log_key_path) == VerifierKey.parse(done.json["new"])
    for boot in ("b2", "b3"):
        grow(realm, boot)
    copy_log(fetch_from(realm.log_dir), tmp_path / "copy")
    for folder in (realm.log_dir, tmp_path / "copy"):
        seen = arx(
            "audit", "verify", str(folder), "--key", str(old.key), "--checkpoint", str(tmp_path / "held"), "--json"
        )
        assert (seen.json["outcome"], seen.json["key"], seen.json["records"]) == ("holds", done.json["new"], 16)
        assert verify(folder, Trust(read_log_key(realm.log_key_path))).records == 16
    assert verify(first, Trust(old.key)).records == 1
    log = open_log(realm, roots_of(realm))
    (tmp_path / "last").write_bytes(log.prove(15).encode())
    log.close()
    with pytest.raises(TamperedError, match="no trusted key"):
        verify(tmp_path / "last", Trust(old.key))
    last = ("audit", "verify", str(tmp_path / "last"), "--key", str(old.key))
    assert arx(*last).exit_code == exit_codes.DENIED
    assert arx(*last, "--key-changes", str(realm.log_dir / KEY_CHANGES)).exit_code == exit_codes.OK
    before = arx("audit", "key", *words, "--json").json["before"]
    assert before == [{"key": str(old.key), "last": done.json["last"], "announced": True}]


def test_keys_change_again_and_again(realm: Realm) -> None:
    """
    The first key leads to the third, and the second too; each signs nothing but the sizes of its time.
    """
    keys = [read_log_key(realm.log_key_path)]
    for boot in ("b2", "b3"):
        change(realm)
        keys.append(read_log_key(realm.log_key_path))
        grow(realm, boot)
    assert len(set(keys)) == 3
    for key in keys:
        assert verify(realm.log_dir, Trust(key)).key == keys[2]
    changes = read_changes((realm.log_dir / KEY_CHANGES).read_bytes())
    assert [era.key for era in follow_changes(keys[0], changes).eras] == keys
    assert follow_changes(keys[1], changes).eras[0].key == keys[1]
    with pytest.raises(TamperedError):
        verify(realm.log_dir, Trust(signer(9, keys[0].name).key))


def test_after_a_theft_the_owner_names_the_key(realm: Realm, tmp_path: Path) -> None:
    """
    The old key announces nothing: readers refuse the new one until they get it out of band, and compare the history.
    """
    old, held = read_log_key(realm.log_key_path), tmp_path / "held"
    held.write_bytes((realm.log_dir / "checkpoint").read_bytes())
    done = change(realm, stolen=True)
    grow(realm, "b2")
    assert not (realm.log_dir / KEY_CHANGES).exists()
    with pytest.raises(TamperedError, match="no trusted key"):
        verify(realm.log_dir, Trust(old))
    words = ("audit", "verify", str(realm.log_dir), "--key", str(done.new), "--checkpoint", str(held))
    assert arx(*words).exit_code == exit_codes.USAGE
    assert arx(*words, "--checkpoint-key", str(old)).exit_code == exit_codes.OK


@pytest.mark.parametrize("stolen", [False, True])
def test_a_thief_of_the_old_key_signs_nothing_more(stolen: bool, realm: Realm, tmp_path: Path) -> None:
    """
    No change of their own convinces a reader who has the new key, a held checkpoint or a witness.
    """
    thief_has = log_signer(realm)
    thief = fork(realm, tmp_path / "thief", thief_has)
    done = change(realm, stolen=stolen)
    grow(realm, "b2")
    held = open_checkpoint((realm.log_dir / "checkpoint").read_bytes(), done.new)
    own = signer(9, thief_has.key.name)
    keys = forge_change(thief, thief_has, own.key)
    further = fork_on(thief, own, keys)
    assert verify(further.folder, Trust(thief_has.key)).key == own.key  # a reader that knows nothing else believes it
    for trust in (
        Trust(done.new),
        Trust(thief_has.key, held=held),
        Trust(thief_has.key, changes=read_changes(encode_changes(read_log_keys(realm.log_key_path))), held=held),
    ):
        with pytest.raises(TamperedError):
            verify(further.folder, trust)
    witness = make_key(tmp_path / "witness.json", "witness.example/w")
    with pytest.raises(IncompleteError, match="has not cosigned"):
        verify(further.folder, Trust(thief_has.key, (witness,)))


def fork_on(thief: Publisher, own: Signer, keys: LogKeys) -> Publisher:
    """Continue a thief's log with the key that it announced."""
    further = Publisher(thief._store, own, thief.folder, keys=keys)
    note_change(thief._store, {"made": "up"})
    further.step()
    assert further.halted is None
    return further


def test_a_follower_refuses_the_old_key_afterwards(realm: Realm, tmp_path: Path) -> None:
    """
    A checkpoint by the old key beyond its change is refused by each reader that knows the change, also by the mint.
    """
    thief_has = log_signer(realm)
    change(realm)
    thief = fork(realm, tmp_path / "thief", thief_has)
    note_change(thief._store, {"made": "up"})
    thief.step()
    raw, keys = (thief.folder / "checkpoint").read_bytes(), read_log_keys(realm.log_key_path)
    assert open_checkpoint(raw, thief_has.key)
    with pytest.raises(TamperedError, match="not signed by the key of its time"):
        open_checkpoint(raw, keys)
    with pytest.raises(TamperedError, match="not signed by the key of its time"):
        open_checkpoint(raw, follow_changes(thief_has.key, read_changes(encode_changes(keys))))
    thief._store.close()
    shutil.copy(tmp_path / "thief" / "audit.db", realm.audit_path)
    log = open_log(realm, roots_of(realm))
    log.start()
    assert "not signed by the key of its time" in str(log.publisher.halted)
    log.close()


@pytest.mark.parametrize("forged", ["no signature", "signature of another", "of another key", "of another log"])
def test_a_writer_of_the_database_announces_nothing(forged: str, realm: Realm, tmp_path: Path) -> None:
    """
    The mint signs each record of its database: a record of a change counts only with a signature of its own.
    """
    old, own = log_signer(realm), signer(9, log_signer(realm).key.name)
    values: dict[str, object] = {
        "no signature": {"new": str(own.key), "old": str(old.key)},
        "signature of another": {**announce(own, own.key), "old": str(old.key)},
        "of another key": {**announce(signer(8, old.key.name), own.key)},
        "of another log": {**announce(old, signer(9, "mint.example/other/log").key)},
    }[forged]
    publisher = fork(realm, tmp_path / "copy", old)
    note_change(publisher._store, values)
    publisher.step()
    size = publisher._store.size()
    row = publisher._store.record(size - 1)
    assert row is not None
    proof = publisher.prove(size - 1, bytes(row.kept), None).encode().decode()
    with pytest.raises(TamperedError if forged != "no signature" else NoteError):
        follow_changes(old.key, [proof])


def test_only_the_last_record_of_a_key_announces_the_next(realm: Realm, tmp_path: Path) -> None:
    """
    A change that the old key went on after, a record of another kind, and a proof of another log are refused.
    """
    old = log_signer(realm)
    publisher = fork(realm, tmp_path / "copy", old)
    keys = forge_change(publisher, old, signer(9, old.key.name).key)
    note_change(publisher._store, {"made": "up"})
    publisher.step()
    size = publisher._store.size()
    for index, error in ((size - 2, TamperedError), (size - 1, NoteError), (0, NoteError)):
        row = publisher._store.record(index)
        assert row is not None
        with pytest.raises(error):
            follow_changes(old.key, [publisher.prove(index, bytes(row.kept), None).encode().decode()])
    assert (
        follow_changes(signer(8, old.key.name).key, [era.change for era in keys.eras if era.change]).eras[0].last
        is None
    )
    for raw in (b"", b"{}", b'{"schema":"arx/log-key-changes/2","changes":[]}', b'{"schema":1}'):
        with pytest.raises(NoteError):
            read_changes(raw)


def test_a_service_pins_the_next_key(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An announced one by itself, one after a theft as its operator names it, and never one of before or a thief's.
    """
    monkeypatch.setattr(fork_detection, "EVERY_S", 0.0)
    seen, thief_has = Seen(tmp_path), log_signer(realm)
    assert alarm_after_answer(seen, realm) is None
    thief = fork(realm, tmp_path / "thief", thief_has)
    change(realm)
    assert alarm_after_answer(seen, realm) is None  # still a checkpoint of the old key
    grow(realm, "b2")
    assert alarm_after_answer(seen, realm) is None
    assert json.loads((tmp_path / "log.seen").read_bytes())["key"] == str(read_log_key(realm.log_key_path))
    note_change(thief._store, {"made": "up"})
    thief.step()
    seen.asks()
    word = thief.word(0)
    assert word is not None
    seen.take(word)
    assert "has not announced" in str(seen.alarm)
    done = change(realm, stolen=True)
    grow(realm, "b3")
    assert "has not announced" in str(alarm_after_answer(seen, realm))
    assert "has not announced" in str(alarm_after_answer(Seen(tmp_path), realm))
    (tmp_path / PINNED_FILE).write_text(f"{done.new}\n")
    assert alarm_after_answer(seen, realm) is None
    assert alarm_after_answer(Seen(tmp_path), realm) is None


def alarm_after_answer(seen: Seen, realm: Realm) -> str | None:
    """Answer a service as the mint does, and return its alarm."""
    size = seen.asks()
    log = open_log(realm, roots_of(realm))
    word = log.publisher.word(size or 0)
    log.close()
    assert word is not None
    seen.take(word)
    return seen.alarm


def test_a_witness_cosigns_the_key_that_its_operator_names(realm: Realm, tmp_path: Path) -> None:
    """
    Not an unannounced one, and from then on none of before, which only explains what it has seen.
    """
    make_key(tmp_path / KEY_FILE, "witness.example/w")
    old = read_log_key(realm.log_key_path)
    assert ask(Witness(tmp_path, [old]), realm, 0) == 200
    before = (realm.log_dir / "checkpoint").read_bytes()
    done = change(realm)
    size = open_checkpoint(before, old).checkpoint.size
    grow(realm, "b2")
    assert ask(Witness(tmp_path, [old]), realm, size) == 403
    with pytest.raises(SettingsError, match="damaged"):
        Witness(tmp_path, [done.new])
    both = Witness(tmp_path, [old, done.new])
    assert ask(both, realm, size) == 200
    assert both.add_checkpoint(Request(0, (), open_checkpoint(before, old).note).encode(), 1).status == 403


def ask(witness: Witness, realm: Realm, old: int) -> int:
    """Send a witness the published checkpoint."""
    log = open_log(realm, roots_of(realm))
    head = log.publisher.published()
    assert head is not None
    proof = log.publisher.files(head.size).consistency(old)
    note = open_checkpoint((realm.log_dir / "checkpoint").read_bytes(), log.publisher.keys).note
    log.close()
    return witness.add_checkpoint(Request(old, tuple(proof), note).encode(), 1).status


@pytest.mark.parametrize("stolen", [False, True])
def test_an_interrupted_change_goes_on(stolen: bool, realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ended before the file is replaced, the old key signs; the same command then makes the same key the next one.
    """
    old = read_log_key(realm.log_key_path)
    with monkeypatch.context() as patch:
        patch.setattr(log_key_change, "replace_log_key", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            change(realm, stolen=stolen)
    assert read_log_key(realm.log_key_path) == old
    beside = realm.log_key_path.with_suffix(".next")
    made = read_log_key(beside)
    done = change(realm, stolen=stolen)
    assert (done.old, done.new, beside.exists()) == (old, made, False)
    grow(realm, "b2")
    assert verify(realm.log_dir, Trust(done.new if stolen else old)).key == done.new


def test_nothing_changes_without_a_witness_or_with_other_rows(realm: Realm, tmp_path: Path) -> None:
    """
    A reader may require the witness of the change; and a database that is not what was signed is repaired first.
    """
    key = make_key(tmp_path / KEY_FILE, "witness.example/w")
    port = free_ports(1)[0]
    watched = dataclasses.replace(realm, witnesses=(f"http://127.0.0.1:{port} {key}",))
    old = read_log_key(realm.log_key_path)
    with pytest.raises(AuditError, match="a reader may require a witness"):
        change(watched)
    log = open_log(realm, roots_of(realm))
    with log.store.writing() as writing:
        writing.connection.execute(update(RECORD).where(RECORD.c.idx == 0).values(kept=b"another"))
    log.close()
    shutil.rmtree(realm.log_dir)
    with pytest.raises(AuditError, match="contradicts what was signed"):
        change(realm)
    assert read_log_key(realm.log_key_path) == old
    assert read_signer(tmp_path / KEY_FILE).key == key


def test_what_is_in_clear_in_the_file_is_bound(realm: Realm) -> None:
    """
    A thief who edits a former key, its last size or its change has a file that does not open.
    """
    change(realm)
    file = json.loads(realm.log_key_path.read_text())
    former, newest = file["keys"]
    for forged in (former | {"last": 10_000}, former | {"change": None}, former | {"key": newest["key"]}):
        realm.log_key_path.write_text(json.dumps(file | {"keys": [forged, newest]}))
        with pytest.raises(SettingsError, match="or was changed"):
            open_log_key(realm.log_key_path, roots_of(realm))


@pytest.mark.servers
@pytest.mark.slow
def test_a_mint_signs_with_the_new_key(tmp_path: Path) -> None:
    """
    The command refuses while the mint runs; the next start signs with the new key, by the same passphrase.
    """
    (tmp_path / "passphrase").write_text("a passphrase")
    (tmp_path / "passphrase").chmod(0o600)
    folder = RealmFolder(tmp_path)
    by = ("--passphrase-file", str(tmp_path / "passphrase"))
    folder.arx("init", str(tmp_path / "realm"), "--listen", f"127.0.0.1:{free_ports(1)[0]}", *by)
    old = folder.arx("audit", "key")["key"]
    rotate = ("audit", "rotate-key", "--reason", "a test", "--yes", *by)

    def run_mint(*words: str) -> None:
        with child([*ARX, "up", "--json", *by], env=folder.environment, stdout=subprocess.PIPE, text=True) as up:
            assert up.stdout is not None
            assert json.loads(up.stdout.readline())["ready"]
            for each in words:
                with pytest.raises(RuntimeError, match="nothing was changed: a server answers"):
                    folder.arx(*json.loads(each))
            folder.arx("health")
            folder.arx("audit", "check")
            up.terminate()
            up.wait(60)

    run_mint(json.dumps(rotate))
    new = folder.arx(*rotate)["new"]
    run_mint()
    log = str(tmp_path / "realm" / "log")
    seen = folder.arx("audit", "verify", log, "--key", old)
    assert (seen["key"], seen["outcome"]) == (new, "holds")
    folder.arx(*rotate, "--stolen")
    run_mint()
    with pytest.raises(RuntimeError, match="no trusted key"):
        folder.arx("audit", "verify", log, "--key", new)
    folder.arx("audit", "verify", log, "--key", folder.arx("audit", "key")["key"])
