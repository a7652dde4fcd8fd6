# SPDX-License-Identifier: Apache-2.0
"""Routes of the audit log: where services' records come in, and where its files and proofs can be had.  LOG 1, 2."""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from arx_caps.audit.ingest import run_of
from arx_caps.audit.merkle import CHECKPOINT, NoteError, Tile, fetch_from
from arx_caps.audit.shipping import Batch, LogWord, Statement, hold_statement, open_statement
from arx_caps.audit.shipping import batch as wire
from arx_caps.jose import BAD_PROOF
from arx_caps.mint.api.endpoint import Bytes, Endpoint, File, RouteAnswer, RouteCall
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.identity.authenticate import SHIP, CallCredentials, read_proof, record_refusal
from arx_verifier.errors import GrantError
from arx_verifier.request import AccessRequest

READ: Final = "arx.audit.read"
TEXT: Final = "text/plain; charset=utf-8"
BINARY: Final = "application/octet-stream"


class Marked(RouteAnswer, frozen=True, omit_defaults=True):
    """How far the log has a run; where it was asked for, its record there (``leaf``), and the log's own word."""

    verifier: str
    boot: str
    high_water: int
    leaf: str = ""
    log: LogWord | None = None


class Sender(NamedTuple):
    """Who sends a batch: its statement, and which size of the log it has seen, or None if it does not ask."""

    statement: Statement
    seen: int | None


def admit_service(mint: MintContext, call: CallCredentials, headers: Mapping[str, str]) -> Sender:
    """Prove that a batch is an enrolled service's before its body is read."""
    try:
        proof = read_proof(call, None)
        statement = open_statement(headers.get(wire.HEADER, ""), mint.db.holder_keys.find, now=now_ms())
        if proof.key.kid != statement.key.kid:
            raise GrantError("the proof is not by the key that signed the batch", code=BAD_PROOF)
    except GrantError as error:
        mint.decisions.count(error.code, call.peer)
        raise
    # In memory: a batch may come again, and nothing is taken twice.
    with record_refusal(mint, statement.audience, proof.key.kid, AccessRequest(SHIP, {}, now_ms(), call.peer)):
        mint.db.proofs.spend_here("proof", proof.key.kid, proof.jti, proof.until)
    mint.log.turns.announce(*_turn_of(statement))
    seen = headers.get(wire.SEEN_HEADER, "")
    return Sender(statement, int(seen) if re.fullmatch("[0-9]{1,18}", seen, re.ASCII) else None)


def take_decisions(call: RouteCall) -> Marked:
    """Take a service's records into the log, wholly or not at all, and say how far its run is."""
    turns, turn = call.mint.log.turns, _turn_of(call.admitted.statement)
    try:
        return _take_batch(call)
    finally:
        turns.done(*turn)


def _turn_of(statement: Statement) -> tuple[str, int]:
    """Return the run and the first sequence that a statement names, as far as it does."""
    boot, first = statement.claims.get("boot"), statement.claims.get("first")
    return run_of(statement.audience, str(boot)), first if type(first) is int else 0


def _take_batch(call: RouteCall) -> Marked:
    statement, seen = call.admitted
    body: bytes = call.body.content
    realm, log = call.mint.realm, call.mint.log
    with record_refusal(call.mint, statement.audience, statement.key.kid, AccessRequest(SHIP, {}, now_ms(), call.peer)):
        batch = Batch.decode(body)
        leaves = hold_statement(statement, batch, body, realm=realm.name, issuer=realm.issuer)
        mark = log.take(batch, statement.text, leaves)
    leaf = None if batch.records else log.store.leaf_at(batch, mark)
    word = None if seen is None else log.publisher.word(seen)
    return Marked(verifier=batch.verifier, boot=batch.boot, high_water=mark, leaf=(leaf or b"").hex(), log=word)


def get_checkpoint(call: RouteCall) -> File:
    """Give the log's last checkpoint, a signed note."""
    return File(content=_log_file(call, CHECKPOINT), media_type=TEXT)


def get_tile(call: RouteCall) -> File:
    """Give a tile of the log, or a bundle of its records without their bodies."""
    try:
        tile = Tile.parse("tile/" + call.path["path"])
    except NoteError as error:
        raise GrantError(str(error), code="not_found") from error
    return File(content=_log_file(call, tile.path), media_type=BINARY)


def get_proof(call: RouteCall) -> File:
    """Give a record with the proof that it is in the log; it is checked offline (``arx audit verify``)."""
    log = call.mint.log
    return File(content=log.prove(log.find(call.path["path"])).encode(), media_type=TEXT)


def _log_file(call: RouteCall, path: str) -> bytes:
    found = fetch_from(call.mint.realm.log_dir)(path)
    if found is None:
        raise GrantError("the log has no such file; a checkpoint's size says which there are", code="not_found")
    return found


_ABSENT: Final = ("not_found",)
ENDPOINTS: Final = (
    Endpoint("GET", "/v1/audit/log/checkpoint", READ, get_checkpoint, problems=_ABSENT),
    Endpoint("GET", "/v1/audit/log/tile/{path:path}", READ, get_tile, problems=_ABSENT),
    Endpoint("GET", "/v1/audit/proofs/{path:path}", READ, get_proof, problems=(*_ABSENT, "incomplete", "tampered")),
    Endpoint(
        "POST",
        wire.PATH,
        None,
        take_decisions,
        Bytes,
        callers=("service",),
        problems=(wire.BAD_BATCH,),
        media_type=wire.MEDIA_TYPE,
        limit=wire.MAX_BYTES,
        admit=admit_service,
    ),
)
