# SPDX-License-Identifier: Apache-2.0
"""Backups of a realm: whole at one moment, private, refused after any change, and restored whole or not at all."""

import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.store.tables import RECORD
from arx_caps.database.engines import database_errors, open_engine
from arx_caps.mint.audit.feeds import EventFeed
from arx_caps.mint.audit.log import open_store
from arx_caps.mint.backup import restorer, tables
from arx_caps.mint.backup.archive import BLOCK, ArchiveReader, ArchiveWriter
from arx_caps.mint.backup.manifest import read_manifest, write_manifest
from arx_caps.mint.backup.restorer import Secrets, restore_backup, try_backup
from arx_caps.mint.backup.tables import ROWS
from arx_caps.mint.backup.writer import make_backup
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.backups import BACKUP, DRILL
from arx_caps.mint.db.tables import FREEZES, HIGH_WATER, HOLDER_KEYS, META, METADATA, OUTBOX, ROOT_KEYS
from arx_caps.mint.keys.reseal import lock_folder
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError, SettingsError, StoreError
from tests.audit.batches import batch_of, decision, facts
from tests.mint.harness import log_signer, make_realm, roots_of
from tests.postgres import Postgres

pytestmark = pytest.mark.spec("CONTROL 8.1")

BATCHES: Final = [
    batch_of([decision(n, facts(f"s-{n % 7}")) for n in range(first, first + 50)], first)
    for first in range(1, 1001, 50)
]
REFUSED: Final = (TamperedError, IncompleteError, SettingsError)


class Site(NamedTuple):
    """A realm whose log has signed records, and where it can be restored to.

    Attributes:
        realm: The realm.
        empty: Makes an empty database; None for SQLite.
    """

    realm: Realm
    empty: Callable[[], str] | None

    @property
    def secrets(self) -> Secrets:
        return Secrets(None, self.realm.root_key_path)

    def back_up(self, name: str = "backup") -> Path:
        out = self.realm.folder.parent / name
        make_backup(self.realm, roots_of(self.realm), out)
        return out

    def restore(self, file: Path, name: str = "restored", **more: Any) -> Realm:
        folder = self.realm.folder.parent / name
        database = None if self.empty is None else self.empty()
        restore_backup(file, folder, more.pop("secrets", self.secrets), database=database, **more)
        return Realm.open(folder)


@pytest.fixture
def site(database: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    realm = make_realm(tmp_path / "realm", database=database)
    fill(realm, 10)
    if database is None:
        return Site(realm, None)
    server: Postgres = request.getfixturevalue("postgres")
    return Site(realm, server.database)


@pytest.fixture
def postgres_site(postgres: Postgres, tmp_path: Path) -> Iterator[Site]:
    url = postgres.database(template="made")
    realm = make_realm(tmp_path / "realm", database=url)
    fill(realm, 2)
    yield Site(realm, postgres.database)
    postgres.drop(url)


def fill(realm: Realm, batches: int) -> None:
    """Take and sign batches of 50 records."""
    with open_store(realm) as store:
        store.create()
        for batch in BATCHES[:batches]:
            store.take(batch, None)
        Publisher(store, log_signer(realm), realm.log_dir).step()


def rows_of(realm: Realm) -> dict[str, list[Any]]:
    """Return every row of the mint's and the log's tables, but what a restore changes."""
    changed = {HIGH_WATER.name, FREEZES.name, HOLDER_KEYS.name, "outbox", "console_sessions", "enrolments"}
    found = {}
    with MintDatabase(realm.database_url) as db, open_store(realm) as store, db.read() as mint, store.reading() as log:
        for table in ROWS.values():
            if table.name not in changed:
                c = mint if table.name in METADATA.tables else log
                found[table.name] = sorted(map(repr, c.execute(select(*table.c))))
    return found


@pytest.mark.spec("CONTROL 8.2")
def test_a_restored_realm_has_every_row(site: Site) -> None:
    """
    What is restored are all rows, settings and files of before; the file is private and has no secret that opens it.
    """
    file = site.back_up()
    assert file.stat().st_mode & 0o777 == 0o600
    raw = file.read_bytes()
    assert site.realm.root_key_path.read_bytes().strip() not in raw
    assert b"operator.key" not in raw
    assert [*file.parent.glob(".*")] == []
    before = rows_of(site.realm)
    restored = site.restore(file)
    assert rows_of(restored) == before
    for name in ("policy.toml", "keys/root.json", "keys/log.json", "log/checkpoint"):
        assert (restored.folder / name).read_bytes() == (site.realm.folder / name).read_bytes()
    with tarfile.open(file) as archive:  # other programs can look into it
        assert "manifest.json" in archive.getnames()
    with MintDatabase(restored.database_url) as db:
        number = db.outbox.last()
        db.record(Event.of("mint.tested", "test"))
        assert db.outbox.last() == number + 1


@pytest.mark.slow
def test_a_backup_is_of_one_moment_while_records_come(site: Site) -> None:
    """
    While batches are taken and signed, each backup restores to a log that is a beginning of the whole one.
    """
    begun, done = threading.Event(), threading.Event()

    def take() -> None:
        with open_store(site.realm) as store:
            publisher = Publisher(store, log_signer(site.realm), site.realm.log_dir)
            for batch in BATCHES[10:]:
                store.take(batch, None)
                publisher.step()
                begun.set()
        done.set()

    taking = threading.Thread(target=take)
    taking.start()
    assert begun.wait(60)
    files = [site.back_up("b-0"), site.back_up("b-1")]
    taking.join(60)
    assert done.is_set()
    with open_store(site.realm) as store:
        whole = _leaves(store)
    for number, file in enumerate(files):
        with open_store(site.restore(file, f"restored-{number}")) as store:
            some = _leaves(store)
        assert 500 < len(some) <= 1000
        assert some == whole[: len(some)]


def _leaves(store: LogStore) -> list[bytes]:
    with store.reading() as c:
        return [bytes(kept) for kept in c.execute(select(RECORD.c.kept).order_by(RECORD.c.idx)).scalars()]


@pytest.mark.spec("CONTROL 8.2")
def test_a_restored_realm_trusts_nothing_that_may_have_been_revoked(site: Site) -> None:
    """
    The realm is frozen, its history is one that no store has, invitations and operators' keys are gone.
    """
    with MintDatabase(site.realm.database_url) as db, db.write() as c:
        c.execute(HIGH_WATER.insert().values(realm="acme", incarnation="A" * 22, seq=7, chain="x", max_ttl_ms=1))
    file = site.back_up()
    for name, keep, keys in (("without", False, 0), ("with", True, 1)):
        restored = site.restore(file, name, keep_operator_keys=keep)
        with MintDatabase(restored.database_url) as db:
            assert db.epoch.freezes() == {"realm"}
            mark = db.epoch.high_water("acme")
            assert mark is not None
            assert (mark.seq, mark.incarnation == "A" * 22) == (7, False)
            assert db.count(HOLDER_KEYS, HOLDER_KEYS.c.holder.startswith("operator:")) == keys
            assert [event.kind for event in db.outbox.since(0)][-1] == "realm.restored"


@pytest.mark.spec("CONTROL 8.3")
def test_a_drill_leaves_nothing_and_its_age_is_known(site: Site, tmp_path: Path, monkeypatch: Any) -> None:
    """
    A drill restores into a temporary place, checks it and removes it, beside a realm that is in use.
    """
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = site.back_up()
    there, before = sorted(tmp_path.iterdir()), rows_of(site.realm)
    tried = try_backup(file, site.secrets, realm=site.realm)
    assert (tried.manifest.records, tried.checked.records) == (500, 500)
    assert (sorted(tmp_path.iterdir()), rows_of(site.realm)) == (there, before)
    with MintDatabase(site.realm.database_url) as db:
        assert db.backups.ages() == (None, None)
        db.backups.note(BACKUP, tried.manifest.at_ms, Event.of("realm.backed_up", "test"))
        ages = db.backups.ages()
        assert ages.backup is not None
        assert 0 <= ages.backup < 600
        assert ages.drill is None
        db.backups.note(DRILL, 0, Event.of("realm.drilled", "test"))
        assert (db.backups.ages().drill or 0) > 1e9
        assert db.count(META, META.c.name == "last_backup") == 1


def positions(file: Path) -> list[int]:
    """Every byte of some headers, of padding and of the manifest's end, and some of each part."""
    size = file.stat().st_size
    with file.open("rb") as content:
        archive = ArchiveReader(content)
        starts = [at for at, _ in archive._places.values()]
        ends = [at + length for at, length in archive._places.values()]
    found = {*range(BLOCK), *range(starts[-1] - BLOCK, size, 7)}
    for start, end in zip(starts, ends, strict=True):
        found |= {start - BLOCK, start - BLOCK + 130, start - BLOCK + 156, start - 1, start, (start + end) // 2, end}
    return sorted(at for at in found if at < size)


@pytest.mark.slow
@pytest.mark.sqlite
def test_a_changed_byte_is_refused_wherever_it_is(tmp_path: Path) -> None:
    """
    In a header, a hash, a database, a key, padding or behind the end: nothing is restored.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    fill(site.realm, 2)
    file = site.back_up()
    raw = file.read_bytes()
    for at in positions(file):
        with file.open("r+b") as changed:
            changed.seek(at)
            changed.write(bytes([raw[at] ^ 1]))
        with pytest.raises(REFUSED):
            site.restore(file)
        assert not (tmp_path / "restored").exists(), at
        with file.open("r+b") as changed:
            changed.seek(at)
            changed.write(raw[at : at + 1])
    for length in (*range(0, len(raw), len(raw) // 40), len(raw) - 1):
        file.write_bytes(raw[:length])
        with pytest.raises(REFUSED):
            site.restore(file)
    for more in (b"x", bytes(BLOCK), raw):
        file.write_bytes(raw + more)
        with pytest.raises(REFUSED):
            site.restore(file)
    file.write_bytes(raw)
    assert site.restore(file).name == "acme"


@pytest.mark.spec("CONTROL 8.2")
def test_a_changed_row_is_refused_on_each_database(site: Site) -> None:
    """
    A changed byte of a database's part is found before a mint could read it, and the place stays empty.
    """
    file = site.back_up()
    with file.open("r+b") as content:
        archive = ArchiveReader(content)
        name = "audit.db" if site.empty is None else f"tables/{RECORD.name}"
        at, size = archive._places[name]
        content.seek(at + size // 2)
        byte = content.read(1)
        content.seek(at + size // 2)
        content.write(bytes([byte[0] ^ 1]))
    url = None if site.empty is None else site.empty()
    with pytest.raises(ArxError):
        restore_backup(file, site.realm.folder.parent / "restored", site.secrets, database=url)
    assert not (site.realm.folder.parent / "restored").exists()
    if url is not None:
        with MintDatabase(url) as db:
            assert db.revision() is None


def _member(name: str, kind: bytes, link: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        about = tarfile.TarInfo(name)
        about.type, about.linkname, about.mode = kind, link, 0o600
        archive.addfile(about)
    return made.getvalue()[:BLOCK]


EVIL: Final = {
    "above": _member("../evil", tarfile.REGTYPE),
    "far above": _member("keys/../../evil", tarfile.REGTYPE),
    "absolute": _member("/tmp/evil", tarfile.REGTYPE),
    "hidden": _member(".ssh", tarfile.REGTYPE),
    "symbolic link": _member("log", tarfile.SYMTYPE, "/etc"),
    "hard link": _member("policy.toml", tarfile.LNKTYPE, "/etc/passwd"),
    "folder": _member("keys", tarfile.DIRTYPE),
    "device": _member("policy.toml", tarfile.CHRTYPE),
    "pipe": _member("policy.toml", tarfile.FIFOTYPE),
    "long name": _member("a" * 100, tarfile.REGTYPE),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("header", EVIL.values(), ids=EVIL.keys())
def test_an_archive_of_links_and_paths_is_refused(tmp_path: Path, header: bytes) -> None:
    """
    A path out of the folder, a link, a folder or a device is refused while the archive is read, and writes nothing.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    file = site.back_up()
    file.write_bytes(header + file.read_bytes())
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(TamperedError):
        site.restore(file)
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["keys/root.key", "operator.key", "log/evil", "log/tile/x/evil", "valkey/valkey.conf"])
def test_a_part_that_no_backup_has_is_refused(tmp_path: Path, name: str) -> None:
    """
    Even with the key that authenticates backups, a part can go to no other place than its own.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    file = _made_again(site, site.back_up(), extra=name)
    with pytest.raises(TamperedError, match="a backup has no part"):
        site.restore(file)
    assert not (tmp_path / "restored").exists()


def _made_again(site: Site, file: Path, extra: str = "", roots: Any = None) -> Path:
    """Write a backup anew, with a further part, or authenticated by other keys."""
    again = file.with_name("again")
    with file.open("rb") as content, again.open("w+b") as made:
        source, writer = ArchiveReader(content), ArchiveWriter(made)
        manifest = read_manifest(source, roots_of(site.realm))
        for name in manifest.files:
            writer.add(name, [source.small(name)])
        if extra:
            writer.add(extra, [b"evil"])
        values = {name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"files": writer.parts}
        write_manifest(writer, type(manifest)(**values), roots or roots_of(site.realm))
    return again


@pytest.mark.sqlite
def test_a_backup_of_another_realm_is_refused(tmp_path: Path) -> None:
    """
    Another realm's keys do not open it, its manifest is not authentic, and a drill compares the name.
    """
    site, other = Site(make_realm(tmp_path / "realm"), None), Site(make_realm(tmp_path / "b" / "realm"), None)
    file = site.back_up()
    with pytest.raises(SettingsError, match="do not open"):
        site.restore(file, secrets=other.secrets)
    with pytest.raises(SettingsError, match="no secret"):
        site.restore(file, secrets=Secrets(None, None))
    with pytest.raises(TamperedError, match="changed, or is that of another realm"):
        site.restore(_made_again(site, file, roots=roots_of(other.realm)))
    third = make_realm(tmp_path / "c" / "realm", name="third")
    with pytest.raises(SettingsError, match="of the realm acme, not of third"):
        try_backup(file, site.secrets, realm=third)


def test_no_backup_is_made_of_another_database_than_the_mints_use(tmp_path: Path) -> None:
    """A file of SQLite elsewhere is not in a backup, and the folder's own one would be an old or an empty one."""
    realm = make_realm(tmp_path / "realm")
    fill(realm, 10)
    other = Realm.open(realm.folder, f"sqlite:///{tmp_path / 'elsewhere.db'}")
    with pytest.raises(SettingsError, match=r"the mints use .*elsewhere\.db"):
        make_backup(other, roots_of(realm), tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    make_backup(Realm.open(realm.folder, realm.database_url), roots_of(realm), tmp_path / "backup")


@pytest.mark.spec("CONTROL 8.2")
def test_a_place_in_use_is_not_overwritten(site: Site) -> None:
    """
    A folder with a file, a database with a table, and an existing backup stay as they are.
    """
    file = site.back_up()
    parent, empty = site.realm.folder.parent, site.empty
    with pytest.raises(SettingsError, match="not overwritten"):
        site.back_up()
    make_backup(site.realm, roots_of(site.realm), file, replace=True)
    with pytest.raises(SettingsError, match="not empty"):
        restore_backup(file, site.realm.folder, site.secrets, database=None if empty is None else empty())
    if empty is None:
        with pytest.raises(SettingsError, match="is of SQLite"):
            restore_backup(file, parent / "new", site.secrets, database="postgresql://arx@127.0.0.1/arx")
    else:
        with pytest.raises(SettingsError, match="not empty: it has the table"):
            restore_backup(file, parent / "new", site.secrets, database=site.realm.database_url)
        with pytest.raises(SettingsError, match="expected an empty database"):
            restore_backup(file, parent / "new", site.secrets)
    assert not (parent / "new").exists()


# In a process of its own, which kills itself at a step.
DYING: Final = """
import os, signal, sys
from pathlib import Path
import arx_caps.mint.backup.{module} as module
from arx_caps.mint.backup.restorer import Secrets, restore_backup
from arx_caps.mint.backup.writer import make_backup
from arx_caps.settings.realm import Realm
from tests.mint.harness import roots_of

owner = module if {owner!r} == "" else getattr(module, {owner!r})
real, left = getattr(owner, {name!r}), [{after}]

def dying(*arguments, **named):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)

setattr(owner, {name!r}, dying)
realm = Realm.open({realm!r})
if {restores}:
    secrets = Secrets(None, realm.root_key_path)
    restore_backup(Path({file!r}), Path({folder!r}), secrets, database={database!r})
else:
    make_backup(realm, roots_of(realm), Path({file!r}))
"""


def die(**at: Any) -> None:
    """Run a backup or a restore that is killed at a step."""
    code = DYING.format(**({"owner": "", "after": 0, "restores": False, "folder": "", "database": None} | at))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "at",
    [
        {"module": "writer", "owner": "ArchiveWriter", "name": "add", "after": 5},
        pytest.param({"module": "writer", "name": "_add_databases"}, marks=pytest.mark.nightly),
        pytest.param({"module": "writer", "name": "write_manifest"}, marks=pytest.mark.nightly),
        {"module": "writer", "name": "_publish"},
    ],
    ids=lambda at: at["name"],
)
def test_a_killed_backup_leaves_no_file(site: Site, at: dict[str, Any]) -> None:
    """
    Killed at any step, there is no backup under the name; the next one is whole, and nothing is left beside it.
    """
    out = site.realm.folder.parent / "backup"
    die(**at, realm=str(site.realm.folder), file=str(out))
    assert not out.exists()
    file = site.back_up()
    assert [*out.parent.glob(".*")] == []
    assert try_backup(file, site.secrets, realm=site.realm).checked.records == 500


@pytest.mark.slow
@pytest.mark.spec("CONTROL 8.2")
@pytest.mark.parametrize(
    "at",
    [
        {"module": "restorer", "name": "_extract", "after": 3},
        pytest.param({"module": "restorer", "name": "check_log"}, marks=pytest.mark.nightly),
        pytest.param({"module": "restorer", "name": "revoke_unknown"}, marks=pytest.mark.nightly),
        {"module": "restorer", "owner": "os", "name": "sync"},
    ],
    ids=lambda at: at["name"],
)
def test_a_killed_restore_leaves_no_realm(site: Site, at: dict[str, Any]) -> None:
    """
    Killed at any step, no realm is in the folder and no table where a mint looks; the next restore works.
    """
    file, folder = site.back_up(), site.realm.folder.parent / "restored"
    url = None if site.empty is None else site.empty()
    die(**at, restores=True, realm=str(site.realm.folder), file=str(file), folder=str(folder), database=url)
    with pytest.raises(SettingsError, match="there is no realm"):
        Realm.open(folder)
    if url is not None:
        with MintDatabase(url) as db:
            assert db.revision() is None
    with pytest.raises(SettingsError, match="was interrupted"):
        restore_backup(file, folder, site.secrets, database=url)
    restore_backup(file, folder.with_name("again"), site.secrets, database=url)
    assert rows_of(Realm.open(folder.with_name("again"))) == rows_of(site.realm)


@pytest.mark.sqlite
def test_one_process_writes_a_backup(tmp_path: Path) -> None:
    """
    A second process for the same file is refused, and does not disturb the first; so is a folder that others can open.
    """
    from arx_caps.mint.backup.writer import _beside

    site = Site(make_realm(tmp_path / "realm"), None)
    with _beside(tmp_path / "backup") as folder:
        (folder / "archive").write_bytes(b"half")
        with pytest.raises(SettingsError, match="another process writes"):
            site.back_up()
        assert (folder / "archive").read_bytes() == b"half"
    (tmp_path / ".backup.part").mkdir(mode=0o755)
    with pytest.raises(SettingsError, match="not private"):
        site.back_up()
    (tmp_path / ".backup.part").rmdir()
    (tmp_path / ".backup.part").symlink_to(tmp_path / "realm")
    with pytest.raises(SettingsError, match="cannot be written"):
        site.back_up()
    assert (tmp_path / "realm" / "realm.toml").exists()


@pytest.mark.sqlite
def test_a_host_without_the_logs_files_makes_no_backup(tmp_path: Path) -> None:
    """
    A log that was signed is backed up with its files, or not at all.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    fill(site.realm, 1)
    site.realm.log_dir.rename(tmp_path / "away")
    with pytest.raises(IncompleteError, match="run this on a host where a mint"):
        site.back_up()
    assert not (tmp_path / "backup").exists()


@pytest.mark.spec("CONTROL 8.2")
@pytest.mark.parametrize("ahead", [1, 2])
def test_a_restored_realm_signs_its_first_events(site: Site, ahead: int) -> None:
    """
    Where the log has events that the mint's database lacks, those of the restore and of the recovery enter the log.
    """
    with MintDatabase(site.realm.database_url) as db, open_store(site.realm) as store:
        for _ in range(5):
            db.record(Event.of("mint.tested", "test"))
        EventFeed(db)(store)
        last = db.outbox.last() - ahead
        with db.write() as c:  # as a copy that was made before that of the log
            c.execute(delete(OUTBOX).where(OUTBOX.c.id > last))
            if db.system == "sqlite":
                c.execute(text("UPDATE sqlite_sequence SET seq = :last WHERE name = 'outbox'"), {"last": last})
            else:
                c.execute(text("SELECT setval('outbox_id_seq', :last)"), {"last": last})
        Publisher(store, log_signer(site.realm), site.realm.log_dir).step()
    restored = site.restore(site.back_up())
    with MintDatabase(restored.database_url) as db, open_store(restored) as store:
        db.record(Event.of("operator.recovered", "test"))
        feed = EventFeed(db)
        feed.begin(store)
        feed(store)
        kinds = [read_event(kept, None).kind for kept in _leaves(store) if is_event(kept)]
    assert [kinds.count(kind) for kind in ("mint.tested", "realm.restored", "operator.recovered")] == [5, 1, 1]


@pytest.mark.servers
@pytest.mark.spec("CONTROL 8.2")
def test_a_database_that_the_settings_do_not_name_is_restored(postgres_site: Site) -> None:
    """
    A realm whose database is given by the environment alone is restored, and names its new database from then on.
    """
    site, settings = postgres_site, postgres_site.realm.folder / "realm.toml"
    written = settings.read_text()
    settings.write_text(re.sub(r"^database.*\n", "", written, flags=re.MULTILINE))
    assert Realm.open(site.realm.folder).database is None
    restored = site.restore(site.back_up())
    assert restored.database not in (None, site.realm.database)
    assert rows_of(restored) == rows_of(site.realm)
    settings.write_text(written.replace("database =", '"database" ='))
    with pytest.raises(SettingsError, match="cannot name another database"):
        try_backup(site.back_up("quoted"), site.secrets, realm=site.realm)


@pytest.mark.servers
@pytest.mark.spec("CONTROL 8.3")
def test_a_drill_holds_no_lock_that_a_mint_starts_with(postgres_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While a drill copies rows, another process can take each lock of a mint that starts, or adds a webhook.
    """
    site, refused = postgres_site, list[int]()
    file, real, engine = site.back_up(), restorer.copy_in, open_engine(site.realm.database_url)

    def look(*arguments: Any) -> None:
        with engine.begin() as c:
            for number in (0x617278, 0x617279, 0x61727A):
                if not c.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({number})").scalar():
                    refused.append(number)
        real(*arguments)

    monkeypatch.setattr(restorer, "copy_in", look)
    assert try_backup(file, site.secrets, realm=site.realm).checked.records == 100
    assert refused == []
    engine.dispose()


@pytest.mark.servers
def test_a_copy_that_fails_is_an_error_of_the_database(postgres_site: Site) -> None:
    """
    A failure of COPY is mapped as each other failure of the database, and a changed row is a changed backup.
    """
    engine = open_engine(postgres_site.realm.database_url)
    table = next(iter(ROWS.values()))
    with pytest.raises(SQLAlchemyError), engine.connect() as c:
        tables.copy_in(c, table, [b"no rows of COPY"])
    with engine.connect() as c:
        c.exec_driver_sql("SET search_path TO nowhere")
        with pytest.raises(StoreError), database_errors("it"):
            list(tables.copy_out(c, table))
    engine.dispose()
    file = postgres_site.back_up()
    with file.open("r+b") as content:
        at, _ = ArchiveReader(content)._places[f"tables/{RECORD.name}"]
        content.seek(at)
        content.write(b"X")  # of the signature that COPY begins with
    with pytest.raises(TamperedError, match="is not what was backed up"):
        try_backup(file, postgres_site.secrets, realm=postgres_site.realm)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.spec("CONTROL 8.2")
def test_tables_without_their_folder_are_not_used(postgres_site: Site) -> None:
    """
    Killed between the tables' move and the folder's, a restore leaves no realm; the next one names what to do.
    """
    site = postgres_site
    file, folder, url = site.back_up(), site.realm.folder.parent / "restored", site.empty()  # type: ignore[misc]
    at = {"module": "restorer", "owner": "Path", "name": "rename", "restores": True}
    die(**at, realm=str(site.realm.folder), file=str(file), folder=str(folder), database=url)
    with pytest.raises(SettingsError, match="there is no realm"):
        Realm.open(folder)
    with pytest.raises(SettingsError, match="not empty: it has the table") as refused:
        restore_backup(file, folder.with_name("again"), site.secrets, database=url)
    assert "drop this database" in str(refused.value.hint)
    with MintDatabase(url) as db:
        assert db.epoch.freezes() == {"realm"}  # what it would mean to a mint that is given this database


@pytest.mark.sqlite
@pytest.mark.spec("CONTROL 8.3")
def test_a_drill_writes_no_key_and_opens_every_sealed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The secret that opens the keys is not beside the database of a drill; a row of another seal fails the drill.
    """
    site, seen = Site(make_realm(tmp_path / "realm"), None), list[str]()
    fill(site.realm, 1)
    real = restorer.check_log

    def look(store: LogStore, folder: Path, *more: Any) -> Any:
        seen.extend(path.name for path in folder.parent.rglob("*"))
        return real(store, folder, *more)

    monkeypatch.setattr(restorer, "check_log", look)
    try_backup(site.back_up(), site.secrets, realm=site.realm)
    assert "root.json" in seen
    assert "root.key" not in seen
    restored = site.restore(tmp_path / "backup")
    assert restored.root_key_path.read_bytes() == site.realm.root_key_path.read_bytes()
    foreign = roots_of(make_realm(tmp_path / "b" / "realm")).make("k2")
    with MintDatabase(site.realm.database_url) as db, db.write() as c:
        row = {"created_at": 1, "mints_from": None, "waits": 1, "used_at": 0, **foreign._asdict()}
        c.execute(insert(ROOT_KEYS).values(row))
    with pytest.raises(SettingsError, match="k2 of the database does not open"):
        try_backup(site.back_up("foreign"), site.secrets, realm=site.realm)


@pytest.mark.sqlite
def test_no_backup_is_made_while_keys_are_resealed(tmp_path: Path) -> None:
    """
    A backup beside a reseal is refused, and a reseal beside a backup; two backups at once are made.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    with lock_folder(site.realm.root_path.parent), pytest.raises(SettingsError, match="another process reseals"):
        site.back_up()
    assert not (tmp_path / "backup").exists()
    with lock_folder(site.realm.root_path.parent, shared=True):
        site.back_up()
        with pytest.raises(SettingsError, match="reseals or backs up"), lock_folder(site.realm.root_path.parent):
            pass


@pytest.mark.sqlite
def test_a_named_key_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A key file that the operator names opens the backup, whatever the environment has.
    """
    site, other = Site(make_realm(tmp_path / "realm"), None), make_realm(tmp_path / "b" / "realm")
    file = site.back_up()
    monkeypatch.setenv("ARX_ROOT_KEY", other.root_key_path.read_text().strip())
    assert try_backup(file, site.secrets, realm=site.realm).manifest.realm == "acme"
    with pytest.raises(SettingsError, match="do not open"):
        try_backup(file, Secrets(None, None), realm=site.realm)
    monkeypatch.delenv("ARX_ROOT_KEY")
    monkeypatch.setenv("ARX_ROOT_KEY_FILE", str(other.root_key_path))
    assert site.restore(file).name == "acme"


@pytest.mark.sqlite
def test_a_stolen_root_key_authenticates_no_backup(tmp_path: Path) -> None:
    """
    Who has every root key, and not the secret that seals them, cannot make a backup that is taken for one.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    roots = roots_of(site.realm)
    stolen = RootKeys(roots._roots, realm="acme", seals=[bytes(32)])
    assert stolen.mint_key("k1") == roots.mint_key("k1")
    with pytest.raises(TamperedError, match="changed, or is that of another realm"):
        site.restore(_made_again(site, site.back_up(), roots=stolen))


@pytest.mark.sqlite
def test_root_keys_that_are_no_file_of_keys_are_refused(tmp_path: Path) -> None:
    """
    Root keys that no parser can read are refused.
    """
    site = Site(make_realm(tmp_path / "realm"), None)
    file = site.back_up()
    for raw in (b"[" * 1024 * 1024, b"[]", json.dumps({"realm": 7}).encode()):
        with file.open("rb") as content, (tmp_path / "deep").open("w+b") as made:
            source, writer = ArchiveReader(content), ArchiveWriter(made)
            for name in source.names:
                writer.add(name, [raw if name == "keys/root.json" else source.small(name)])
            writer.finish()
        with pytest.raises(REFUSED):
            site.restore(tmp_path / "deep")
    assert not (tmp_path / "restored").exists()


@pytest.mark.servers
def test_a_drill_says_which_database_it_needs(postgres_site: Site, tmp_path: Path) -> None:
    """
    A drill of a backup of PostgreSQL without that database names the options of a drill, and none of a restore.
    """
    file, alone = postgres_site.back_up(), make_realm(tmp_path / "c" / "realm")
    with pytest.raises(SettingsError, match="is of another kind") as refused:
        try_backup(file, postgres_site.secrets, realm=alone)
    assert "--database" in str(refused.value.hint)
    assert "--into" not in str(refused.value.hint)
