# SPDX-License-Identifier: Apache-2.0
"""``arx audit check``: questions are answered from the database, and its rows are what was signed.  SPEC 17.11."""

import contextlib
from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exits
from arx_caps.cli.audit_progress import Progress
from arx_caps.cli.frame import common_options, pass_console
from arx_caps.cli.output import Console, pairs, plain
from arx_caps.cli.place import database_option, realm_dir_option
from arx_caps.realm import Realm


@click.command("check")
@realm_dir_option
@database_option
@common_options
@pass_console
def check_command(console: Console, realm_dir: Path, database: str | None) -> None:
    """Hold the rows of the log's database to the signed files in the realm's `log` folder, on the mint's host.

    For whoever does not trust those who keep the database: a row that was edited, removed, moved or filed as something
    else is named.  The mint may run; it does the same by itself, some rows a second.  Services' records are held to
    what their services signed for as well, as far as their keys are enrolled.  Exits with 0 when all holds, 1 when
    something is not what was signed, 3 when a file is not there.
    """
    from arx_caps.audit.answered import hold_answered
    from arx_caps.audit.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.audit.keys import read_signer
    from arx_caps.audit.rows import hold_rows, rows_of
    from arx_caps.mint.log import open_store
    from arx_caps.mint.state import State

    realm = Realm.open(realm_dir)
    key = read_signer(realm.log_key_path, "log").key
    try:
        with open_store(realm, database) as store, Progress(console) as progress:
            store.create()
            rows = rows_of(store, realm.log_dir, key)
            hold_rows(rows, progress.tell)
            with contextlib.closing(State(database or realm.database_url)) as state:
                answered = hold_answered(store, rows.size, state.find_key, progress.tell)
    except (TamperedError, IncompleteError, NoteError) as error:
        value: dict[str, Any] = {"outcome": error.code, "problem": str(error)}
        if isinstance(error, TamperedError):
            value |= {"first_bad": error.first, "last_bad": error.last}
        told = click.style(error.code.upper(), fg="red", bold=True)
        console.data("audit-checked", value, f"{told}: {plain(error)}")
        console.hint("`arx audit recover` files the signed records anew; `arx audit verify` checks the files alone")
        click.get_current_context().exit(exits.INCOMPLETE if isinstance(error, IncompleteError) else exits.DENIED)
    value = {"outcome": "holds", "origin": key.name, "records": rows.size} | answered._asdict()
    shown = [("log", key.name), ("rows", rows.size), ("batches signed for", answered.held)]
    for name, count, why in (
        (
            "taken back",
            answered.recovered,
            "by `arx audit recover`; what their services signed went with the old database",
        ),
        ("not known", answered.unknown, "no key, no statement, or pruned"),
    ):
        shown += [(name, f"{count} batches: {why}")] if count else []
    console.data("audit-checked", value, lambda: f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(shown)}")
