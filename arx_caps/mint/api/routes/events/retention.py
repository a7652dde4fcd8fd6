# SPDX-License-Identifier: Apache-2.0
"""Routes that delete old records of the log, or a person's data in mint and log.  LOG 1.9."""

from typing import Annotated, Final

from msgspec import Meta

from arx_caps.audit.integrity.retention import index_at, prune
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.connections.end import end_accounts
from arx_caps.mint.tasks.erase import erase_before, erase_person
from arx_verifier.errors import RequestError

# The hashed target and not the person's name, which the record of the erasure would keep.
_SUBJECT: Final = r"^subject:[0-9a-f]{32}$"
_Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class PruneBody(Body, frozen=True):
    """A time, ms since the Unix epoch, before which records are pruned, and the reason."""

    before: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    reason: _Reason


class EraseBody(Body, frozen=True):
    """A person's target ``subject:…``, or a time (ms) before which bodies go; and the reason."""

    reason: _Reason
    subject: Annotated[str, Meta(pattern=_SUBJECT)] | None = None
    before: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class Pruned(RouteAnswer, frozen=True):
    """The first record that is left, and how many were pruned."""

    first: int
    pruned: int


class Erased(RouteAnswer, frozen=True):
    """How many bodies of the log were erased, and how many rows of sessions and events."""

    erased: int
    sessions: int
    events: int


# Actions of their own, which only the role ``admin`` allows.
ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/audit/prune", "arx.audit.prune", PruneBody)
def prune_log(call: RouteCall) -> Pruned:
    """Prune records before a time from the log, in whole blocks of 256."""
    log, body = call.mint.log, call.body
    # Pruning a tampered log would delete the evidence.  Hashes stay, so that every inclusion proof still verifies.
    log.require_whole()
    before = log.store.first()
    index = index_at(log.store, body.before)
    # Whole blocks only: the tiles above them keep the hashes that inclusion proofs need.
    first = prune(log.store, log.publisher.folder, index, by=call.authenticated.actor, reason=body.reason)
    return Pruned(first=first, pruned=max(0, first - before))


@endpoint("POST", "/v1/audit/erase", "arx.audit.erase", EraseBody, problems=("conflict",))
def erase_bodies(call: RouteCall) -> Erased:
    """Erase the bodies of records about a person, or before a time; the records stay."""
    mint, body, by = call.mint, call.body, call.authenticated.actor
    if (body.subject is None) == (body.before is None):
        raise RequestError("invalid erasure: expected either subject or before; send exactly one")
    if body.subject is not None:
        subject, reason = body.subject, body.reason
        erased = erase_person(
            mint, subject, by=by, reason=reason, end_accounts=lambda: end_accounts(mint, subject, by, reason)
        )
    else:
        erased = erase_before(mint, body.before, by=by, reason=body.reason)
    return Erased(erased=erased.bodies, sessions=erased.sessions, events=erased.events)
