# SPDX-License-Identifier: Apache-2.0
"""Routes of the audit log: take in services' records; serve its files and proofs.  LOG 1, 2."""

import contextlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from arx_caps.audit.ingest.upload_order import run_of
from arx_caps.audit.merkle.errors import NoteError
from arx_caps.audit.merkle.key_change import KEY_CHANGES
from arx_caps.audit.merkle.paths import CHECKPOINT, Tile
from arx_caps.audit.merkle.tiles import fetch_from
from arx_caps.audit.shipping import batch as wire
from arx_caps.audit.shipping.batch import Batch, LogWord, Statement, hold_statement, open_statement
from arx_caps.credentials.jose import BAD_PROOF
from arx_caps.mint.api.endpoint import Bytes, Endpoint, File, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.views import show_row
from arx_caps.mint.audit.row_check import CheckOutcome, CheckState
from arx_caps.mint.context import HasLog, MintContext, RecordingParts
from arx_caps.mint.identity.authenticate import SHIP, CallCredentials, describe_caller, read_proof, record_refusal
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, StoreError
from arx_verifier.request import AccessRequest

READ: Final = "arx.audit.read"
TEXT: Final = "text/plain; charset=utf-8"
BINARY: Final = "application/octet-stream"


class Marked(RouteAnswer, frozen=True, omit_defaults=True):
    """The high-water mark of a run; on request, its record there and the log's statement."""

    verifier: str
    boot: str
    high_water: int
    leaf: str = ""
    log: LogWord | None = None


class LogCheck(RouteAnswer, frozen=True):
    """The last check of all rows against the signed files, or the one that runs: ``done`` of ``size`` records.

    Times are ms since the Unix epoch.  ``outcome`` is ``never``, ``running``, ``holds``, ``tampered``, ``failed`` or
    ``stopped``; ``problem`` says what differs.
    """

    outcome: CheckOutcome
    size: int
    done: int
    by: str
    started_at: int
    ended_at: int | None
    problem: str


class Sender(NamedTuple):
    """The sender of a batch.

    Attributes:
        statement: The statement that its key signed.
        seen: The size of the last checkpoint that it verified, or None.
        version: Its version of ARx; "" for another program.
    """

    statement: Statement
    seen: int | None
    version: str


_ABSENT: Final = ("not_found",)
ENDPOINTS, endpoint = collect(Endpoint)


def admit_service(mint: MintContext, call: CallCredentials, headers: Mapping[str, str]) -> Sender:
    """Authenticate the service that sends a batch, before the body is read.

    Raises:
        GrantError: Proof or statement are wrong, by different keys, or the proof was used.
    """
    try:
        proof = read_proof(call, None)
        statement = open_statement(headers.get(wire.HEADER, ""), mint.db.holder_keys.key_of, now=now_ms())
        if proof.key.kid != statement.key.kid:
            raise GrantError("invalid proof: expected the key that signed the batch, got another", code=BAD_PROOF)
    except GrantError as error:
        mint.decisions.count(error.code, call.peer)
        raise
    # Spent in memory only: a replayed batch adds nothing to the log, so its proof is not worth a transaction.
    with _record_refusal(mint, statement, call.peer):
        mint.db.proofs.spend_here("proof", proof.key.kid, proof.jti, proof.until)
    # Announced before the body arrives, so that batches of one run are taken in the order of their sequences.
    mint.log.turns.announce(*_turn_of(statement))
    # At most 18 digits fit into 64 bits; any other value is as good as none, because the header is only a request.
    seen = headers.get(wire.SEEN_HEADER, "")
    return Sender(statement, int(seen) if re.fullmatch("[0-9]{1,18}", seen, re.ASCII) else None, call.version)


@endpoint(
    "POST",
    wire.PATH,
    None,
    Bytes,
    callers=("service",),
    problems=(wire.BAD_BATCH,),
    media_type=wire.MEDIA_TYPE,
    limit=wire.MAX_BYTES,
    admit=admit_service,
)
def take_decisions(call: RouteCall) -> Marked:
    """Append a service's records to the log, all or none, and return the run's high-water mark."""
    turns, statement = call.mint.log.turns, call.admitted.statement
    turn = _turn_of(statement)
    try:
        marked = _take_batch(call)
    finally:
        # Also after a refusal: later batches of the run wait for this turn.
        turns.done(*turn)
    with contextlib.suppress(StoreError):  # the log has the batch, which must not be sent again for the sake of a note
        call.mint.db.holder_keys.note_use(statement.key.kid, call.admitted.version)
    return marked


def _turn_of(statement: Statement) -> tuple[str, int]:
    """Return the run and the first sequence in a statement, neither checked yet."""
    # Any JSON value may be here: they only order the queue, and ``hold_statement`` checks them with the batch.
    boot, first = statement.claims.get("boot"), statement.claims.get("first")
    return run_of(statement.audience, str(boot)), first if type(first) is int else 0


def _record_refusal(mint: RecordingParts, statement: Statement, peer: str | None) -> AbstractContextManager[None]:
    facts = describe_caller(mint, f"service:{statement.audience}", kid=statement.key.kid)
    return record_refusal(mint, facts, AccessRequest(SHIP, {}, now_ms(), peer))


def _take_batch(call: RouteCall) -> Marked:
    statement, seen, _ = call.admitted
    body: bytes = call.body.content
    realm, log = call.mint.realm, call.mint.log
    # Only a refusal is recorded: an accepted batch is in the log, with the service's signed statement.
    with _record_refusal(call.mint, statement, call.peer):
        batch = Batch.decode(body)
        # The whole body against the signed statement: a proxy could have changed it.
        leaves = hold_statement(statement, batch, body, realm=realm.name, issuer=realm.issuer)
        mark = log.take(batch, statement.text, leaves)
    leaf = None if batch.records else log.store.leaf_at(batch, mark)
    # The log's signed continuation of what the sender saw: a forked log cannot give one.
    word = None if seen is None else log.publisher.word(seen)
    return Marked(verifier=batch.verifier, boot=batch.boot, high_water=mark, leaf=(leaf or b"").hex(), log=word)


@endpoint("GET", "/v1/audit/log/checkpoint", READ, problems=_ABSENT)
def get_checkpoint(call: RouteCall) -> File:
    """Return the log's last checkpoint, a signed note."""
    return File(content=_log_file(call, CHECKPOINT), media_type=TEXT)


@endpoint("GET", "/v1/audit/log/key-changes", READ, problems=_ABSENT)
def get_key_changes(call: RouteCall) -> File:
    """Return the proofs of the log's announced changes of its key; not found without one."""
    return File(content=_log_file(call, KEY_CHANGES), media_type=BINARY)


@endpoint("GET", "/v1/audit/log/tile/{path:path}", READ, problems=_ABSENT)
def get_tile(call: RouteCall) -> File:
    """Return a tile of the log, or a bundle of its records without their bodies."""
    try:
        tile = Tile.parse("tile/" + call.path["path"])
    except NoteError as error:
        raise GrantError(str(error), code="not_found") from error
    return File(content=_log_file(call, tile.path), media_type=BINARY)


@endpoint("GET", "/v1/audit/proofs/{path:path}", READ, problems=(*_ABSENT, "incomplete", "tampered"))
def get_proof(call: RouteCall) -> File:
    """Return a record with its inclusion proof, for offline checks (``arx audit verify``)."""
    log = call.mint.log
    return File(content=log.prove(log.find(call.path["path"])).encode(), media_type=TEXT)


@endpoint("GET", "/v1/audit/check", READ)
def get_log_check(call: RouteCall) -> LogCheck:
    """Return the state of the last check of all rows."""
    return check_of(call.mint)


@endpoint("POST", "/v1/audit/check", READ)
def start_log_check(call: RouteCall) -> LogCheck:
    """Check all rows of the log against the signed files, unless a check runs, and return its state."""
    return _show_check(call.mint.log.check.start(call.authenticated.actor))


def check_of(mint: HasLog) -> LogCheck:
    """Return the state of the last check of all rows; for a page that shows how far it is."""
    return _show_check(mint.log.check.state)


def _show_check(state: CheckState) -> LogCheck:
    return show_row(LogCheck, state._asdict(), started_at=state.started_ms, ended_at=state.ended_ms)


def _log_file(call: RouteCall, path: str) -> bytes:
    content = fetch_from(call.mint.realm.log_dir)(path)
    if content is None:
        raise GrantError("no such file in the log; the size of a checkpoint determines its tiles", code="not_found")
    return content
