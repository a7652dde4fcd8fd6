# SPDX-License-Identifier: Apache-2.0
"""``arx audit check`` and ``arx audit reindex``: the log's database against its files.  LOG 1.10, 1.11."""

import contextlib
import os
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import database_option, realm_dir_option
from arx_caps.cli.access.secure_files import passphrase_option, read_passphrase
from arx_caps.cli.access.silence import require_silence
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options, options_of, reason_option, yes_option
from arx_caps.cli.terminal import Console, Progress, pairs, plain
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError

# Of a command that changes the log on the mint's host, while no mint runs.
_host_options: Final = options_of(yes_option, realm_dir_option, database_option, command_options)


@click.command("check")
@realm_dir_option
@database_option
@command_options
def check_command(console: Console, realm_dir: Path, database: str | None) -> None:
    """Check the rows of the log's database against the signed files, on the mint's host.

    Names a row that was edited, removed, moved or indexed wrongly, or whose body is gone without an erasure.  Records
    of services are also compared with the services' signatures, if their keys are enrolled.  The mint may run; it does
    the same check, some rows per second.

    Exit code 0: all rows match; 1: a row differs from what was signed; 3: a file is missing.
    """
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.mint.audit.log import check_log, open_store
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.keys.log_key import read_log_keys

    realm = Realm.open(realm_dir, database)
    keys = read_log_keys(realm.log_key_path)
    try:
        with open_store(realm) as store, Progress(console) as progress:
            store.create()
            with contextlib.closing(MintDatabase(realm.database_url)) as db:
                records, answered = check_log(store, realm.log_dir, keys, db, progress.show)
    except (TamperedError, IncompleteError, NoteError) as error:
        hint = "rebuild the rows with `arx audit reindex`; verify the files alone with `arx audit verify`"
        show_failure(console, "audit-checked", error, hint)
    value = {"outcome": "holds", "origin": keys.key.name, "records": records} | answered._asdict()
    shown = [("log", keys.key.name), ("rows", records), ("signed batches", answered.held)]
    for name, count, why in (
        (
            "recovered",
            answered.recovered,
            "by `arx audit reindex`; the services' signatures were lost with the old database",
        ),
        ("unknown", answered.unknown, "no key, no signature, or pruned"),
    ):
        shown += [(name, f"{count} batches: {why}")] if count else []
    console.data("audit-checked", value, lambda: f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(shown)}")


def show_failure(console: Console, kind: str, error: ArxError, hint: str = "") -> NoReturn:
    """Print a failed check, and exit with 1 if the content was altered, 3 if a part is missing."""
    value: dict[str, Any] = {"outcome": error.code, "problem": str(error)}
    if error.code == "tampered":
        value |= {"first_bad": getattr(error, "first", None), "last_bad": getattr(error, "last", None)}
    label = click.style(error.code.upper(), fg="red", bold=True)
    console.data(kind, value, f"{label}: {plain(error)}")
    if hint:
        console.hint(hint)
    raise click.exceptions.Exit(exit_codes.INCOMPLETE if error.code == "incomplete" else exit_codes.DENIED)


@click.command("reindex")
@reason_option
@click.option("--replace", is_flag=True, help="delete records that the database has instead of signed ones")
@_host_options
def reindex_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    reason: str,
    *,
    replace: bool,
    yes: bool,
) -> None:
    """Rebuild the rows of the log's database from the signed files: missing, edited, moved or removed rows.

    Use it after a restore from a backup, and for rows that `arx audit check` names.  Stop every mint, run this on every
    host with a `log` folder, then start the mints.  Bodies are recovered only if the database still has them.

    Exit code 1: the files differ from what was signed, or the database has another history; 3: the files lack a record.
    In both cases nothing was changed.
    """
    from arx_caps.audit.integrity.repair import reindex
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.mint.audit.log import open_store
    from arx_caps.mint.keys.log_key import read_log_keys

    realm = Realm.open(realm_dir, database)
    keys = read_log_keys(realm.log_key_path)
    require_silence(realm)
    console.confirm("every mint must be stopped; rebuild the rows from the files?", yes=yes)
    with open_store(realm) as store, Progress(console) as progress:
        store.create()
        settings: dict[str, Any] = {"by": f"host:uid-{os.getuid()}", "reason": reason, "replace": replace}
        try:
            done = reindex(store, realm.log_dir, keys, **settings, progress=progress.show)
        except (TamperedError, NoteError, IncompleteError) as error:
            code = exit_codes.INCOMPLETE if isinstance(error, IncompleteError) else exit_codes.DENIED
            raise Stop(f"nothing was changed: {error}", code, code=error.code) from None
    summary = f"recovered {done.recovered} records, reindexed {done.mended}" if any(done) else "no record was missing"
    console.data("audit-reindexed", done._asdict(), f"{summary}; start the mint")


@click.command("rotate-key")
@reason_option
@click.option("--stolen", is_flag=True, help="announce nothing with the old key, which a thief could do as well")
@passphrase_option
@_host_options
def rotate_key_command(
    console: Console,
    realm_dir: Path,
    database: str | None,
    passphrase_file: str | None,
    reason: str,
    *,
    stolen: bool,
    yes: bool,
) -> None:
    """Replace the key that signs the audit log.  Stop every mint first, and start them with the new keys/log.json.

    The old key signs a record that announces the new one, so that readers follow by themselves.  With --stolen it does
    not: give the new key to auditors, witnesses and services yourself.  Checkpoints and proofs of before stay valid.
    """
    from arx_caps.mint.keys.log_key_change import change_log_key
    from arx_caps.mint.keys.root_keys import RootKeys

    realm = Realm.open(realm_dir, database)
    passphrase = read_passphrase(passphrase_file)
    roots = RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
    require_silence(realm)
    console.confirm("every mint must be stopped; replace the key of the audit log?", yes=yes)
    done = change_log_key(realm, roots, by=f"host:uid-{os.getuid()}", reason=reason, stolen=stolen)
    value = {"old": str(done.old), "new": str(done.new), "last": done.last, "announced": not stolen}
    rows = [("new key", done.new), ("old key", done.old), ("signed until", f"{done.last} records")]
    console.data("audit-key-changed", value, lambda: pairs(rows))
    console.hint(f"copy {realm.log_key_path} to every mint of the realm, and start them; keep no copy of before")
    readers = "auditors, witnesses and services" if stolen else "witnesses, and auditors who ask"
    console.hint(f"give the new key to {readers} (docs/operations.md)")
