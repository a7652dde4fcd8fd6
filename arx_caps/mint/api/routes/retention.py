# SPDX-License-Identifier: Apache-2.0
"""Routes that delete: old records of the audit log, and data of a person in mint and log.  LOG 1.9.

Each needs an action of its own, which only the role ``admin`` has, and is itself a record of the log.
"""

from typing import Annotated, Final

from msgspec import Meta

from arx_caps.audit.integrity import index_at, prune
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.tasks.erase import erase_before, erase_person
from arx_verifier.errors import RequestError

_SUBJECT: Final = r"^subject:[0-9a-f]{32}$"
_Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class PruneBody(Body, frozen=True):
    """Records that came before a time, ms since the Unix epoch, and why they go."""

    before: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    reason: _Reason


class EraseBody(Body, frozen=True):
    """A person's target, ``subject:…``, or a time before which all bodies go; and why."""

    reason: _Reason
    subject: Annotated[str, Meta(pattern=_SUBJECT)] | None = None
    before: Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class Pruned(RouteAnswer, frozen=True):
    """The first record that is still there, and how many went."""

    first: int
    pruned: int


class Erased(RouteAnswer, frozen=True):
    """How many bodies of the log were erased, and in how many sessions and events of the mint's database."""

    erased: int
    sessions: int
    events: int


def prune_log(call: RouteCall) -> Pruned:
    """Take records that came before a time out of the log, in whole blocks of 256; every proof still holds."""
    log, body = call.mint.log, call.body
    log.require_whole()
    before = log.store.first()
    index = index_at(log.store, body.before)
    first = prune(log.store, log.publisher.folder, index, by=call.by.by, reason=body.reason)
    return Pruned(first=first, pruned=max(0, first - before))


def erase_bodies(call: RouteCall) -> Erased:
    """Erase what is told of a person, or all that is told of records before a time; the records stay."""
    mint, body, by = call.mint, call.body, call.by.by
    if (body.subject is None) == (body.before is None):
        raise RequestError("say either subject or before")
    if body.subject is not None:
        gone = erase_person(mint, body.subject, by=by, reason=body.reason)
    else:
        gone = erase_before(mint, body.before, by=by, reason=body.reason)
    return Erased(erased=gone.bodies, sessions=gone.sessions, events=gone.events)


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/audit/prune", "arx.audit.prune", prune_log, PruneBody),
    Endpoint("POST", "/v1/audit/erase", "arx.audit.erase", erase_bodies, EraseBody, problems=("conflict",)),
)
