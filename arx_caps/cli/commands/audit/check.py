# SPDX-License-Identifier: Apache-2.0
"""``arx audit check``: questions are answered from the database, and its rows are what was signed.  SPEC 17.11."""

import contextlib
from pathlib import Path
from typing import Any, NoReturn

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import database_option, realm_dir_option
from arx_caps.cli.progress import Progress
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError


@click.command("check")
@realm_dir_option
@database_option
@common_options
@pass_console
def check_command(console: Console, realm_dir: Path, database: str | None) -> None:
    """Check the rows of the log's database against the signed files, on the mint's host.

    For whoever does not trust those who keep the database: a row that was edited, removed, moved or filed as something
    else is named.  The mint may run; it does the same by itself, some rows a second.  Services' records are held to
    what their services signed for as well, as far as their keys are enrolled.  Exits with 0 when all holds, 1 when
    something is not what was signed, 3 when a file is missing.
    """
    from arx_caps.audit.integrity import check_batches, check_rows, rows_of
    from arx_caps.audit.merkle import IncompleteError, NoteError, TamperedError, read_signer
    from arx_caps.mint.audit.log import open_store
    from arx_caps.mint.db.state import MintState

    realm = Realm.open(realm_dir)
    key = read_signer(realm.log_key_path, "log").key
    try:
        with open_store(realm, database) as store, Progress(console) as progress:
            store.create()
            rows = rows_of(store, realm.log_dir, key)
            check_rows(rows, progress.tell)
            with contextlib.closing(MintState(database or realm.database_url)) as state:
                answered = check_batches(store, rows.size, state.find_key, progress.tell)
    except (TamperedError, IncompleteError, NoteError) as error:
        hint = "`arx audit reindex` makes the rows again; `arx audit verify` checks the files alone"
        show_failure(console, "audit-checked", error, hint)
    value = {"outcome": "holds", "origin": key.name, "records": rows.size} | answered._asdict()
    shown = [("log", key.name), ("rows", rows.size), ("batches signed for", answered.held)]
    for name, count, why in (
        (
            "taken back",
            answered.recovered,
            "by `arx audit reindex`; what their services signed went with the old database",
        ),
        ("not known", answered.unknown, "no key, no statement, or pruned"),
    ):
        shown += [(name, f"{count} batches: {why}")] if count else []
    console.data("audit-checked", value, lambda: f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(shown)}")


def show_failure(console: Console, kind: str, error: ArxError, hint: str = "") -> NoReturn:
    """Print what does not hold, and exit with 1 where it was altered, 3 where something is missing."""
    value: dict[str, Any] = {"outcome": error.code, "problem": str(error)}
    if error.code == "tampered":
        value |= {"first_bad": getattr(error, "first", None), "last_bad": getattr(error, "last", None)}
    told = click.style(error.code.upper(), fg="red", bold=True)
    console.data(kind, value, f"{told}: {plain(error)}")
    if hint:
        console.hint(hint)
    raise click.exceptions.Exit(exit_codes.INCOMPLETE if error.code == "incomplete" else exit_codes.DENIED)
