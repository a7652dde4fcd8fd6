# SPDX-License-Identifier: Apache-2.0
"""``arx audit``: the audit log.  LOG 1.

``verify`` needs only the files and a key: an auditor runs it without a realm, a mint or a network.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, operator_options, realm_dir_option
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.commands.audit.commits import commits_command
from arx_caps.cli.commands.audit.effects import effects_command
from arx_caps.cli.commands.audit.export import copy_command, export_command
from arx_caps.cli.commands.audit.integrity import (
    check_command,
    reindex_command,
    rotate_key_command,
    show_failure,
)
from arx_caps.cli.commands.audit.retention import erase_command, prune_command
from arx_caps.cli.commands.audit.top import top_command
from arx_caps.cli.commands.audit.trail import runs_command, tail_command, trail_command
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options
from arx_caps.cli.parse import read_key
from arx_caps.cli.terminal import Console, Progress, pairs, plain
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm

if TYPE_CHECKING:
    from arx_caps.audit.merkle.delegations import SignedBy, SignedDelegation

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("audit", cls=Verbs)
def audit_command() -> None:
    """Query, verify, export, check and prune the audit log."""


@audit_command.command("key")
@realm_dir_option
@command_options
def key_command(console: Console, realm_dir: Path) -> None:
    """Print the log's public key, for `arx audit verify --key`.

    Give it to auditors separately from the files that they verify.
    """
    from arx_caps.mint.keys.log_key import read_log_keys  # the mint's parts are optional to install

    keys = read_log_keys(Realm.open(realm_dir).log_key_path)
    before = [{"key": str(era.key), "last": era.last, "announced": era.change is not None} for era in keys.eras[:-1]]
    console.data("audit-key", {"origin": keys.key.name, "key": str(keys.key), "before": before}, str(keys.key))


@audit_command.command("prove")
@click.argument("record", metavar="ID")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="file to write [ID.tlog-proof]")
@operator_options
def prove_command(console: Console, place: Place, record: str, out: Path | None) -> None:
    """Write a record of the mint's log with its inclusion proof.  ID is the id of a decision, or an index.

    The file has the record, its index and the log's signature; `arx audit verify` checks it offline with the log's key,
    and the signatures of the holders of a bound task.
    It may contain personal data.
    """
    from arx_caps.audit.merkle.errors import NoteError
    from arx_caps.audit.merkle.proof import SUFFIX, RecordProof

    raw = place.mint().fetch(f"/v1/audit/proofs/{quote(record)}")
    try:
        proof = RecordProof.parse(raw)
    except NoteError as error:
        raise Stop(
            f"invalid answer: expected a proof of a mint of this version: {error}",
            exit_codes.UNREACHABLE,
            code="malformed",
        ) from None
    path = out or Path(re.sub(r"[^A-Za-z0-9._-]", "_", record) + SUFFIX)
    write_private(path, raw.decode())
    # The proof is not verified here: only an auditor with the log's key from another source can do that.
    value = {"file": str(path), "index": proof.index, "body": proof.body is not None}
    without = "" if proof.body is not None else ", without its body, which was erased"
    console.data("audit-proof", value, f"{path}: record {proof.index}{without}")
    console.hint(f"verify it with `arx audit verify {path} --key VKEY`; `arx audit key` prints the key")


@audit_command.command("verify")
@click.argument("path", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--key", required=True, metavar="VKEY", help="public key of the log, or a file with it")
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="VKEY",
    help="public key of a witness that must have cosigned; repeatable",
)
@click.option(
    "--checkpoint", "held", type=_file, help="file with an earlier checkpoint, with which the log must be consistent"
)
@click.option(
    "--checkpoint-key", metavar="VKEY", help="public key that signed the earlier checkpoint, if it has changed [--key]"
)
@click.option(
    "--key-changes",
    type=_file,
    help="file of changes of the key, beside the log's checkpoint; a folder has its own",
)
@click.option("--realm", metavar="NAME", help="realm of the log, for a proof of a bound task's call [from its origin]")
@click.option("--from", "since", type=click.IntRange(0), default=0, help="index before which records may be pruned [0]")
@command_options
def verify_command(
    console: Console,
    /,
    path: Path,
    key: str,
    witnesses: tuple[str, ...],
    held: Path | None,
    checkpoint_key: str | None,
    key_changes: Path | None,
    realm: str | None,
    since: int,
) -> None:
    """Verify a proof, an exported selection, or a folder of a log's files, offline.

    Of a proof of a bound task's call, the signatures of its delegations and of the call are checked as well, by the
    holders' public keys.

    A next key of the log is followed if the given one has announced it.

    Exit code 0: verified; 1: the content differs from what was signed, and the first such record is named; 3: a part is
    missing, and the rest is verified.
    """
    from arx_caps.audit.merkle.delegations import check_call, check_delegations, realm_of
    from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
    from arx_caps.audit.merkle.verification import verify

    trust = _trust(key, witnesses, (held, checkpoint_key), since, key_changes)
    try:
        with Progress(console) as progress:
            checked = verify(path, trust, progress.show)
        realm = realm or realm_of(checked.checkpoint.origin)
        record = None if checked.proof is None or realm is None else (checked.proof.kept, checked.proof.index, realm)
        signed = () if record is None else check_delegations(*record)
        call = None if record is None else check_call(*record)
    except (TamperedError, IncompleteError, NoteError) as error:
        show_failure(console, "audit-verified", error)
    value = {"outcome": "holds", **checked.to_dict()}
    if checked.proof is not None:
        value["delegations"] = None if realm is None else [each._asdict() for each in signed]
        value["call"] = None if call is None else call._asdict()
        value["decision"] = _decision_in(checked.proof)
    console.data("audit-verified", value, lambda: _shown(checked, trust.key, signed, call, value.get("decision")))
    if checked.proof is not None and realm is None:
        console.hint(
            "give --realm NAME to check the delegations of a bound task: the log is not called after its realm"
        )


def _trust(
    key: str,
    witnesses: tuple[str, ...],
    before: tuple[Path | None, str | None],
    since: int,
    key_changes: Path | None,
) -> Any:
    """Return the trust anchors; a mistake in them is an error of usage, not a finding about the log."""
    from arx_caps.audit.merkle.checkpoint import open_checkpoint
    from arx_caps.audit.merkle.errors import NoteError, TamperedError
    from arx_caps.audit.merkle.key_change import read_changes
    from arx_caps.audit.merkle.note import LOG, WITNESS
    from arx_caps.audit.merkle.verification import Trust

    held, held_key = before
    log, seen_by = read_key(key, "--key", LOG), tuple(read_key(each, "--witness", WITNESS) for each in witnesses)
    try:
        signed_by = log if held_key is None else read_key(held_key, "--checkpoint-key", LOG)
        seen = None if held is None else open_checkpoint(held.read_bytes(), signed_by)
    except (NoteError, TamperedError) as error:
        raise Stop(f"{held}: {error}", code="checkpoint") from None
    try:
        changes = () if key_changes is None else read_changes(key_changes.read_bytes())
    except NoteError as error:
        raise Stop(f"{key_changes}: {error}", code="key") from None
    return Trust(log, seen_by, seen, since, changes)


def _decision_in(proof: Any) -> dict[str, Any] | None:
    """Return what a proven record states of its call; None for an event, or for a record of a later version."""
    from arx_verifier.errors import AuditError
    from arx_verifier.journal.decision import unpack_record

    try:
        decision = unpack_record(proof.kept, proof.body)
    except AuditError:
        return None
    facts = {"outcome": decision.outcome, "code": decision.code, "tool": decision.tool, "agent": decision.facts.agent}
    # As text: what a service sent need not be JSON, and a parser could hide a member that is there twice.
    return facts | {"arguments": decision.arguments.decode("utf-8", "replace") if decision.arguments else None}


def _shown(
    checked: Any,
    key: Any,
    signed: "Sequence[SignedDelegation]",
    call: "SignedBy | None",
    decision: dict[str, Any] | None,
) -> str:
    """Return the result as text."""
    last = checked.checkpoint.size - 1
    facts = [
        ("log", checked.checkpoint.origin),
        ("signed", f"{checked.checkpoint.size} records, root {checked.checkpoint.root.hex()}"),
        *([] if checked.key == key else [("by the key", f"{checked.key}, which the given one has announced")]),
        ("checked", f"record {checked.first}" if checked.kind == "proof" else f"{checked.records} records"),
        *(("pruned", f"records {first} to {last}, as allowed") for first, last in checked.gone),
        *((f"seen by {witness.name}", show_time(at * 1000)) for witness, at in checked.seen.items()),
    ]
    if decision is not None:
        facts.append(("decision", plain("{outcome} {code}: {tool}, by {agent}".format(**decision))))
        if decision["arguments"] is not None:
            facts.append(("arguments", plain(decision["arguments"])))
    for each in signed:
        facts.append(("signed by", f"{plain(each.by)}, key {each.by_key}"))
        facts.append(("delegation", f"to {plain(each.to)}, key {each.key}, link:{each.link}"))
    if call is not None:
        facts.append(("call by", f"{plain(call.by)}, key {call.by_key}"))
        facts.append(("call", plain(call.call)))
    if checked.proof is not None and checked.proof.body is None:
        facts.append(("body", "not in the file: it was erased, or is withheld; the record itself is as it was signed"))
    if checked.kind == "selection":
        facts.append(("note", f"a selection does not prove that it has every matching record of 0 to {last}"))
    return f"{click.style('HOLDS', fg='green', bold=True)}\n{pairs(facts)}"


for _command in (
    trail_command,
    tail_command,
    top_command,
    runs_command,
    effects_command,
    commits_command,
    export_command,
    copy_command,
    check_command,
    prune_command,
    erase_command,
    reindex_command,
    rotate_key_command,
):
    audit_command.add_command(_command)
