# SPDX-License-Identifier: Apache-2.0
"""``arx audit export`` and ``arx audit copy``: write records, or the log's files.  LOG 1.3, 3.

An export is written line by line, in the order of the log; ``--resume`` continues an interrupted one.
"""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.log_query import PAGE, Asking, question_options
from arx_caps.cli.terminal import Console, Progress, pairs
from arx_caps.settings.realm import Realm


@click.command("copy")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--remote",
    is_flag=True,
    help="copy from the mint, as an operator; each file is a recorded call [the realm's folder]",
)
@operator_options
def copy_command(console: Console, place: Place, directory: Path, *, remote: bool) -> None:
    """Copy the log's files, of one checkpoint, from the realm's `log` folder or from the mint.

    The mint may run meanwhile.  An older copy in DIRECTORY is updated, if the log is consistent with it.

    Exit code 1: the log is not consistent with the older copy; 3: a file is missing.
    """
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.audit.merkle.mirror import copy_log
    from arx_caps.audit.merkle.tiles import fetch_from

    fetch = _from_mint(place) if remote else fetch_from(Realm.open(place.realm_dir).log_dir)
    try:
        with Progress(console) as progress:
            copied = copy_log(fetch, directory, progress.show)
    except OSError as error:
        raise Stop(
            f"{directory}: {error.strerror}",
            hint="repair it and run the same command again: copied files stay",
            code="file",
        ) from error
    except (TamperedError, NoteError) as error:
        raise Stop(str(error), exit_codes.DENIED, hint="keep both copies as evidence", code=error.code) from None
    except IncompleteError as error:
        raise Stop(str(error), exit_codes.INCOMPLETE, code=error.code) from None
    head = copied.head
    value = {
        "folder": str(directory),
        "origin": head.origin,
        "size": head.size,
        "files": copied.files,
        "gone": copied.gone,
    }
    shown = [("log", head.origin), ("records", head.size), ("files", copied.files)]
    shown += [("pruned bundles", copied.gone)] if copied.gone else []
    console.data("audit-copy", value, lambda: pairs(shown))
    console.hint(f"verify it with `arx audit verify {directory} --key VKEY`")


def _from_mint(place: Place) -> Callable[[str], bytes | None]:
    mint = place.mint()

    def fetch(path: str) -> bytes | None:
        try:
            return mint.fetch(f"/v1/audit/log/{path}")
        except Stop as error:
            if error.code == "not_found":
                return None
            raise

    return fetch


_LAST_BYTES = 1024 * 1024  # longer than any line


@click.command("export")
@question_options
@click.option(
    "--format",
    "form",
    type=click.Choice(("jsonl", "csv", "ocsf", "selection")),
    default="jsonl",
    show_default=True,
    help="format of the file",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="file to write (mode 0600)")
@click.option("--resume", is_flag=True, help="continue after the last complete line of an interrupted file")
@operator_options
def export_command(console: Console, place: Place, asking: Asking, form: str, out: Path, resume: bool) -> None:
    """Write the records that match all filters to a file, in the log's order.

    jsonl and csv: one record per line; ocsf: events of OCSF 1.8; selection: records with their inclusion proofs, for
    `arx audit verify`.  With --resume, give the same filters and format.

    \b
        arx audit export --format csv --since 2026-01-01T00:00:00Z --out decisions.csv
    """
    from arx_caps.audit.query.export import form_of

    if out.exists() and not resume:
        raise Stop(f"{out}: the file exists", hint="continue it with --resume, or choose another name", code="file")
    mint = place.mint()
    # The first page gives the log's name for the head of the file, and the total for the progress bar.
    first = asking.page(mint, limit=1)
    try:
        with os.fdopen(_opened(out, again=resume and out.exists()), "r+b") as file:
            if form == "selection":
                held, pages = _selected(file, asking, mint)
            else:
                writes = form_of(form, origin=first["origin"], version=version("arx-caps"))
                after, held = _resumed(file, writes)
                file.write(b"" if file.tell() else writes.head.encode())
                pages = _lines(asking, mint, writes, after)
            written = _write(console, file, pages, held, first["total"])
    except OSError as error:
        raise Stop(f"{out}: {error.strerror}", hint="repair it and continue with --resume", code="file") from error
    value = {"file": str(out), "format": form, "records": held + written, "written": written, "origin": first["origin"]}
    console.data("audit-export", value, lambda: pairs([(name, value[name]) for name in ("file", "format", "records")]))


def _opened(out: Path, *, again: bool) -> int:
    """Open the file: a new one, or an existing one if *again*; never through a symbolic link."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(out, flags if again else flags | os.O_CREAT | os.O_EXCL, 0o600)


def _write(console: Console, file: BinaryIO, pages: Iterator[list[bytes]], held: int, total: dict[str, Any]) -> int:
    """Write pages to a file and sync it; return the number of records."""
    written = 0
    with Progress(console) as progress:
        for lines in pages:
            file.write(b"".join(lines))
            written += len(lines)
            progress.show(held + written, total["records"] if total["exact"] else 0)
        file.flush()
        os.fsync(file.fileno())
    return written


def _lines(asking: Asking, mint: Caller, writes: Any, after: int) -> Iterator[list[bytes]]:
    for page in asking.rising(mint, after):
        yield [writes.line(record).encode() for record in page["records"]]


def _selected(file: BinaryIO, asking: Asking, mint: Caller) -> tuple[int, Iterator[list[bytes]]]:
    """Return the number of records in a selection, and the pages that follow, under its checkpoint."""
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError
    from arx_caps.audit.merkle.selection import read_selection

    last = None
    held, whole, file_end = 0, 0, file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        for each in read_selection(file) if file_end else ():
            last, held, whole = each, held + 1, file.tell()
    except IncompleteError:
        pass  # interrupted: the complete lines stay
    except NoteError as error:
        raise Stop(f"invalid file for --resume: expected a selection: {error}", code="file") from None
    else:
        if file_end:
            return held, iter(())
    file.seek(whole)
    file.truncate()
    checkpoint = None if last is None else last.note.encode().decode()
    return held, _proven(file, asking, mint, checkpoint, -1 if last is None else last.index, held)


def _proven(
    file: BinaryIO, asking: Asking, mint: Caller, checkpoint: str | None, after: int, count: int
) -> Iterator[list[bytes]]:
    from arx_caps.audit.merkle.checkpoint import Checkpoint
    from arx_caps.audit.merkle.note import Note
    from arx_caps.audit.merkle.selection import end_line, head_line, record_line

    if checkpoint is None:
        checkpoint = str(asking.page(mint, limit=1, prove=0)["checkpoint"])
        file.write(head_line(checkpoint))
    size = Checkpoint.parse(Note.parse(checkpoint.encode()).text).size
    while after < size - 1:
        page = asking.page(mint, limit=PAGE, after=after, prove=size)
        if not page["records"] and page["searched"] is None:
            break
        yield [record_line(*(each[name] for name in ("index", "kept", "body", "path"))) for each in page["records"]]
        count, after = count + len(page["records"]), page["next"]
    file.write(end_line(count))


def _resumed(file: BinaryIO, writes: Any) -> tuple[int, int]:
    """Cut a file after its last complete line; return the last index (-1: none) and the number of records.

    Raises:
        Stop: The file is no export in this format.
    """
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - _LAST_BYTES)
    file.seek(start)
    whole, newline, _ = file.read().rpartition(b"\n")
    file.truncate(start + len(whole) + len(newline))
    file.seek(0)
    head = file.readline().decode(errors="replace") if writes.head else ""
    if not newline or (writes.head and head == writes.head and b"\n" not in whole and start == 0):
        file.seek(0, os.SEEK_END)
        return -1, 0
    try:
        if head != writes.head:
            raise ValueError
        last = int(writes.index(whole.rpartition(b"\n")[2].decode()))
    except (ValueError, KeyError, TypeError):
        raise Stop(f"invalid file for --resume: expected an export in the format {writes.name}", code="file") from None
    count = sum(1 for _ in file)
    file.seek(0, os.SEEK_END)
    return last, count
