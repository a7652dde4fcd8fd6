# SPDX-License-Identifier: Apache-2.0
"""``arx audit``: the audit log.  LOG 1.

``prove`` asks the mint.  ``verify`` needs nothing but the files and a key: an auditor runs it without realm,
mint or network.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.commands.audit.export import copy_command, export_command
from arx_caps.cli.commands.audit.integrity import check_command, reindex_command, show_failure
from arx_caps.cli.commands.audit.retention import erase_command, prune_command
from arx_caps.cli.commands.audit.trail import runs_command, tail_command, trail_command
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, common_options, pass_console
from arx_caps.cli.parse import read_key
from arx_caps.cli.place import Place, operator_options, realm_dir_option
from arx_caps.cli.secure_files import write_private
from arx_caps.cli.terminal import Console, Progress, pairs
from arx_caps.durations import show_time
from arx_caps.realm import Realm

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("audit", cls=Verbs)
def audit_command() -> None:
    """Ask the audit log, and check it and proofs of it offline."""


@audit_command.command("key")
@realm_dir_option
@common_options
@pass_console
def key_command(console: Console, realm_dir: Path) -> None:
    """Print the log's public key, as `arx audit verify --key` takes it.

    Whoever will check the log must get it from you, and not with the files that are checked.
    """
    from arx_caps.audit.merkle import read_signer

    key = read_signer(Realm.open(realm_dir).log_key_path, "log").key
    console.data("audit-key", {"origin": key.name, "key": str(key)}, str(key))


@audit_command.command("prove")
@click.argument("record", metavar="ID")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="the file to write; else ID.tlog-proof")
@operator_options
@common_options
@pass_console
def prove_command(console: Console, place: Place, record: str, out: Path | None) -> None:
    """Get a record of the mint's log with the proof that it is there.  ID is a decision's id, or an index.

    The file holds the record, its place and the log's signature: whoever has the log's key checks it offline with `arx
    audit verify`.  It tells whom the record is about; keep it accordingly.
    """
    from arx_caps.audit.merkle import SUFFIX, NoteError, RecordProof

    raw = place.mint().fetch(f"/v1/audit/proofs/{quote(record)}")
    try:
        proof = RecordProof.parse(raw)
    except NoteError as error:
        raise Stop(
            f"what answers is no mint of this version: {error}", exit_codes.UNREACHABLE, code="malformed"
        ) from None
    path = out or Path(re.sub(r"[^A-Za-z0-9._-]", "_", record) + SUFFIX)
    write_private(path, raw.decode())
    value = {"file": str(path), "index": proof.index, "body": proof.body is not None}
    console.data("audit-proof", value, f"{path}: record {proof.index}")
    console.hint(f"check it with `arx audit verify {path} --key VKEY`; `arx audit key` prints the key")


@audit_command.command("verify")
@click.argument("path", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--key", required=True, metavar="VKEY", help="the log's public key, or a file that holds it")
@click.option(
    "--witness", "witnesses", multiple=True, metavar="VKEY", help="a witness that must have cosigned; may repeat"
)
@click.option("--checkpoint", "held", type=_file, help="a checkpoint seen before: the log must continue it")
@click.option("--from", "since", type=click.IntRange(0), default=0, help="records before this index may be gone")
@common_options
@pass_console
def verify_command(
    console: Console, path: Path, key: str, witnesses: tuple[str, ...], held: Path | None, since: int
) -> None:
    """Check a proof, an exported selection, or a folder with a log's files, offline.

    Exits with 0 when everything holds, 1 when something is not what was signed (the first record concerned is named),
    3 when nothing contradicts the signature but something is not there.
    """
    from arx_caps.audit.merkle import IncompleteError, NoteError, TamperedError, verify

    trust = _trust(key, witnesses, held, since)
    try:
        with Progress(console) as progress:
            checked = verify(path, trust, progress.tell)
    except (TamperedError, IncompleteError, NoteError) as error:
        show_failure(console, "audit-verified", error)
    console.data("audit-verified", {"outcome": "holds", **checked.to_dict()}, lambda: _shown(checked))


def _trust(key: str, witnesses: tuple[str, ...], held: Path | None, since: int) -> Any:
    """Gather what the one who checks brought along; a mistake in it is no finding about the log."""
    from arx_caps.audit.merkle import LOG, WITNESS, NoteError, TamperedError, Trust, open_checkpoint

    log, seen_by = read_key(key, "--key", LOG), tuple(read_key(each, "--witness", WITNESS) for each in witnesses)
    try:
        seen = None if held is None else open_checkpoint(held.read_bytes(), log)
        return Trust(log, seen_by, seen, since)
    except (NoteError, TamperedError) as error:
        raise Stop(f"{held}: {error}", code="checkpoint") from None


def _shown(checked: Any) -> str:
    """Return the result as text."""
    last = checked.checkpoint.size - 1
    facts = [
        ("log", checked.checkpoint.origin),
        ("signed", f"{checked.checkpoint.size} records, root {checked.checkpoint.root.hex()}"),
        ("checked", f"record {checked.first}" if checked.kind == "proof" else f"{checked.records} records"),
        *(("gone", f"records {first} to {last}, as allowed") for first, last in checked.gone),
        *((f"seen by {key.name}", show_time(at * 1000)) for key, at in checked.seen.items()),
    ]
    if checked.kind == "selection":
        facts.append(("note", f"a selection cannot show that nothing was left out of 0 to {last}"))
    return f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(facts)}"


for _command in (
    trail_command,
    tail_command,
    runs_command,
    export_command,
    copy_command,
    check_command,
    prune_command,
    erase_command,
    reindex_command,
):
    audit_command.add_command(_command)
