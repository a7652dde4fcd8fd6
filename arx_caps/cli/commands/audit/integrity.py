# SPDX-License-Identifier: Apache-2.0
"""``arx audit check`` and ``arx audit reindex``: the log's database against its files.  LOG 1.10, 1.11."""

import contextlib
import os
from pathlib import Path
from typing import Any, NoReturn

import click
import httpx

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import database_option, realm_dir_option
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options, yes_option
from arx_caps.cli.terminal import Console, Progress, pairs, plain
from arx_caps.http.client import open_client
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError


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
    from arx_caps.audit.integrity import check_batches, check_rows, rows_of
    from arx_caps.audit.merkle import IncompleteError, NoteError, TamperedError
    from arx_caps.mint.audit.log import open_store
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.keys.log_key import read_log_key

    realm = Realm.open(realm_dir)
    key = read_log_key(realm.log_key_path)
    try:
        with open_store(realm, database) as store, Progress(console) as progress:
            store.create()
            rows = rows_of(store, realm.log_dir, key)
            check_rows(rows, progress.show)
            with contextlib.closing(MintDatabase(database or realm.database_url)) as db:
                answered = check_batches(store, rows.size, db.holder_keys.find, progress.show)
    except (TamperedError, IncompleteError, NoteError) as error:
        hint = "rebuild the rows with `arx audit reindex`; verify the files alone with `arx audit verify`"
        show_failure(console, "audit-checked", error, hint)
    value = {"outcome": "holds", "origin": key.name, "records": rows.size} | answered._asdict()
    shown = [("log", key.name), ("rows", rows.size), ("signed batches", answered.held)]
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


TIMEOUT_S = 2.0


@click.command("reindex")
@click.option("--reason", required=True, help="reason, recorded in the audit log; name no person in it")
@click.option("--replace", is_flag=True, help="delete records that the database has instead of signed ones")
@yes_option
@realm_dir_option
@database_option
@command_options
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
    from arx_caps.audit.integrity import reindex
    from arx_caps.audit.merkle import IncompleteError, NoteError, TamperedError
    from arx_caps.mint.audit.log import open_store
    from arx_caps.mint.keys.log_key import read_log_key

    realm = Realm.open(realm_dir)
    key = read_log_key(realm.log_key_path)
    _require_silence(realm)
    console.confirm("every mint must be stopped; rebuild the rows from the files?", yes=yes)
    with open_store(realm, database) as store, Progress(console) as progress:
        store.create()
        settings: dict[str, Any] = {"by": f"host:uid-{os.getuid()}", "reason": reason, "replace": replace}
        try:
            done = reindex(store, realm.log_dir, key, **settings, progress=progress.show)
        except (TamperedError, NoteError, IncompleteError) as error:
            code = exit_codes.INCOMPLETE if isinstance(error, IncompleteError) else exit_codes.DENIED
            raise Stop(f"nothing was changed: {error}", code, code=error.code) from None
    summary = f"recovered {done.recovered} records, reindexed {done.mended}" if any(done) else "no record was missing"
    console.data("audit-reindexed", done._asdict(), f"{summary}; start the mint")


def _require_silence(realm: Realm) -> None:
    """Raise if a server answers at this realm's address; mints on other hosts cannot be checked from here.

    Raises:
        Stop: A server answers, which may be the mint.
    """
    host, _, port = realm.listen.rpartition(":")
    here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        with open_client("http:", timeout=TIMEOUT_S) as client:
            client.get(f"http://{here}:{port}/healthz")
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return
    except httpx.HTTPError:
        pass  # a server accepted the connection
    hint = f"stop the mint on every host; if it is of another realm, correct `listen` in {realm.folder / 'realm.toml'}"
    raise Stop(f"nothing was changed: a server answers at {realm.listen}", hint=hint)
