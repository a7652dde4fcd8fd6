# SPDX-License-Identifier: Apache-2.0
"""``arx backup`` and ``arx restore``: a realm in one file, and back.  CONTROL 8."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import database_option, password_in, realm_dir_option
from arx_caps.cli.access.secure_files import passphrase_option, read_passphrase
from arx_caps.cli.access.silence import require_silence
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options
from arx_caps.cli.terminal import Console, Progress, pairs
from arx_caps.credentials.secret_source import is_set
from arx_caps.settings.durations import show_span, show_time
from arx_caps.settings.realm import ROOT_KEY_VARIABLE, Realm
from arx_verifier.clock import now_ms

if TYPE_CHECKING:
    from arx_caps.mint.backup.manifest import Manifest
    from arx_caps.mint.backup.restorer import Restored, Secrets

MIB: Final = 1024 * 1024
URLS: Final = ("postgresql://", "postgresql+psycopg://")
_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_root_key_option = click.option(
    "--root-key-file",
    type=_file,
    help="the realm's keys/root.key, which no backup has; it wins over ARX_ROOT_KEY [ARX_ROOT_KEY_FILE]",
)


@click.group("backup", cls=Verbs, default_verb="make")
def backup_command() -> None:
    """Back up a realm while its mints serve, and try a backup; without a verb, make one."""


@backup_command.command("make")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="file to make (mode 0600)")
@click.option("--replace", "replaces", is_flag=True, help="replace an existing file")
@passphrase_option
@database_option
@realm_dir_option
@command_options
def make_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    passphrase_file: str | None,
    out: Path,
    *,
    replaces: bool,
) -> None:
    """Back up settings, policy, sealed keys, databases and the signed log into one file, on the mint's host.

    The mints may serve meanwhile.  The file is there once it is whole.  It has neither `keys/root.key`, which opens it,
    nor the revocation store.  Keep it as private as the database: it has names and purposes in clear.

    \b
        arx backup --out acme-2026-12-01.arx-backup
        arx backup drill acme-2026-12-01.arx-backup
    """
    from arx_caps.mint.backup.writer import make_backup
    from arx_caps.mint.db.events import Event
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.db.repositories.operations.backups import BACKUP
    from arx_caps.mint.keys.root_keys import RootKeys

    realm = Realm.open(realm_dir, database)
    passphrase = read_passphrase(passphrase_file)
    roots = RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    with _findings(), Progress(console, noun="MiB") as progress:
        made = make_backup(
            realm, roots, out, replace=replaces, progress=lambda done, of: progress.show(done // MIB, of // MIB)
        )
    manifest = made.manifest
    facts = {"records": manifest.records, "signed": manifest.signed}
    with MintDatabase(realm.database_url, writer="backup") as db:
        db.backups.note(BACKUP, manifest.at_ms, Event.of("realm.backed_up", _host(), **facts))
    value = {"file": str(out), "bytes": made.bytes} | _about(manifest)
    rows = [("file", out), ("size", f"{made.bytes / MIB:,.1f} MiB"), ("records", manifest.records)]
    console.data("backup", value, lambda: pairs([*rows, ("signed", manifest.signed)]))
    console.hint(f"try it with `arx backup drill {out}`; keep `keys/root.key` or the passphrase apart from it")


@backup_command.command("drill")
@click.argument("file", type=_file)
@_root_key_option
@passphrase_option
@database_option
@realm_dir_option
@command_options
def drill_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    passphrase_file: str | None,
    root_key_file: Path | None,
    file: Path,
) -> None:
    """Restore the backup FILE into a temporary place, check it as `arx audit check` does, and remove it.

    The mints may serve meanwhile.  The place is a folder below TMPDIR, and for PostgreSQL a schema of the realm's
    database.

    Exit code 1: the backup was changed; 3: a part is missing.
    """
    from arx_caps.mint.backup.restorer import try_backup
    from arx_caps.mint.db.events import Event
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.db.repositories.operations.backups import DRILL

    realm = Realm.open(realm_dir, database)
    key_file = root_key_file
    if key_file is None and realm.root_key_path.exists() and not is_set(ROOT_KEY_VARIABLE):
        key_file = realm.root_key_path
    with _findings(), Progress(console) as progress:
        tried = try_backup(file, _secrets(passphrase_file, key_file), realm=realm, progress=progress.show)
    with MintDatabase(realm.database_url, writer="backup") as db:
        facts = {"backup_at": tried.manifest.at_ms, "records": tried.manifest.records}
        db.backups.note(DRILL, now_ms(), Event.of("realm.drilled", _host(), **facts))
    value = {"outcome": "holds"} | _about(tried.manifest) | _checked(tried)
    rows = [("backup of", _age(tried.manifest)), ("records", tried.manifest.records)]
    rows += [("checked", tried.checked.records), ("signed batches", tried.checked.answered.held)]
    console.data("backup-drill", value, lambda: f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(rows)}")


@click.command("restore")
@click.argument("file", type=_file)
@click.option(
    "--into",
    "places",
    multiple=True,
    required=True,
    metavar="DIR|URL",
    help="folder of the realm, new or empty; and for a backup of PostgreSQL the URL of an empty database, its password "
    "in ARX_DATABASE_PASSWORD",
)
@click.option(
    "--keep-operator-keys",
    is_flag=True,
    help="keep the keys of operators: none was removed, and none was stolen, since the backup",
)
@_root_key_option
@passphrase_option
@command_options
def restore_command(
    console: Console,
    file: Path,
    places: tuple[str, ...],
    passphrase_file: str | None,
    root_key_file: Path | None,
    *,
    keep_operator_keys: bool,
) -> None:
    """Restore the backup FILE of `arx backup` into an empty place, after all of it was checked.

    What was killed, frozen or removed after the backup is unknown.  So every token of before is revoked, the realm is
    frozen until `arx thaw realm`, and operators need new keys.  Stop every mint of the realm first.

    \b
        arx restore acme.arx-backup --into .arx --root-key-file root.key
        arx operator recover --key-out .arx/operator.key
        arx up
        arx kill agent:acme/support/stolen --reason "again: key stolen"
        arx thaw realm --reason "repeated what was lost"

    Exit code 1: the backup was changed; 3: a part is missing.  In both cases nothing was restored.
    """
    from arx_caps.mint.backup.restorer import restore_backup

    folder, database = _split(places)
    with _findings(), Progress(console) as progress:
        restored = restore_backup(
            file,
            folder,
            _secrets(passphrase_file, root_key_file),
            database=database,
            keep_operator_keys=keep_operator_keys,
            before=require_silence,
            progress=progress.show,
        )
    revoked = restored.revoked
    assert revoked is not None
    value = {"folder": str(folder)} | _about(restored.manifest) | _checked(restored) | {"revoked": revoked._asdict()}
    console.data("restored", value, lambda: _report(restored, folder))
    if not keep_operator_keys:
        console.hint(f"make an operator's key: `arx operator recover --realm-dir {folder} --key-out FILE`")
    console.hint("before `arx thaw realm`: repeat kills, and remove keys, of after the backup (docs/operations.md)")


def _split(places: tuple[str, ...]) -> tuple[Path, str | None]:
    """Return the folder and the database that a restore goes into."""
    urls = [place for place in places if "://" in place]
    folders = [Path(place) for place in places if "://" not in place]
    if len(folders) != 1 or len(urls) > 1:
        raise click.UsageError("expected one --into DIR, and for a backup of PostgreSQL one --into URL")
    if urls and not urls[0].startswith(URLS):
        raise click.UsageError("expected --into postgresql://USER@HOST/NAME, or a folder alone for SQLite")
    if urls and password_in(urls[0]):
        raise click.UsageError("other users can read a password here: set ARX_DATABASE_PASSWORD instead")
    return folders[0], urls[0] if urls else None


def _secrets(passphrase_file: str | None, key_file: Path | None) -> "Secrets":
    from arx_caps.mint.backup.restorer import Secrets

    return Secrets(read_passphrase(passphrase_file), key_file)


@contextlib.contextmanager
def _findings() -> Iterator[None]:
    """End the command with 1 for what was changed, and with 3 for what is missing."""
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError

    try:
        yield
    except (TamperedError, NoteError) as error:
        hint = "keep the file as evidence, and use another backup"
        raise Stop(str(error), exit_codes.DENIED, hint=hint, code=error.code) from None
    except IncompleteError as error:
        raise Stop(str(error), exit_codes.INCOMPLETE, code=error.code) from None


def _host() -> str:
    return f"host:uid-{os.getuid()}"


def _about(manifest: "Manifest") -> dict[str, Any]:
    names = ("realm", "issuer", "version", "at_ms", "system", "records", "signed", "incarnation", "seq", "services")
    return {name: getattr(manifest, name) for name in names}


def _checked(restored: "Restored") -> dict[str, Any]:
    return {"checked": restored.checked.records} | restored.checked.answered._asdict()


def _age(manifest: "Manifest") -> str:
    return f"{show_time(manifest.at_ms)}, {show_span(max(0, now_ms() - manifest.at_ms))} ago"


def _report(restored: "Restored", folder: Path) -> str:
    manifest, revoked = restored.manifest, restored.revoked
    assert revoked is not None
    services = ", ".join(manifest.services) or "none"
    rows = [
        ("restored", f"the realm {manifest.realm} into {folder}"),
        ("backup of", _age(manifest)),
        ("checked", f"{restored.checked.records} of {manifest.records} records are as they were signed"),
        ("lost", f"all since: records from {manifest.records} on, kills from number {manifest.seq + 1} on"),
        ("revoked", f"every token: {revoked.sessions} open sessions, {revoked.tasks} tasks"),
        ("frozen", f"the realm, until `arx thaw realm`; {revoked.frozen} freezes of the backup stay"),
        ("operators", f"{revoked.operator_keys} keys removed" if revoked.operator_keys else None),
        ("services", f"{services}: they ship again what their journals have"),
    ]
    return pairs(rows)
