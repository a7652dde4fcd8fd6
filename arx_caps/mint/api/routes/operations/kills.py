# SPDX-License-Identifier: Apache-2.0
"""Routes of kills, freezes and thaws: make, preview, list and follow them.  SPEC 10, CONTROL 4.7."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import KillShown, require_row, show_kill, show_row
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.repositories.operations.epoch import FREEZES_ORDER
from arx_caps.mint.db.repositories.operations.kills import KILLS_ORDER, KillRow
from arx_caps.mint.db.tables import KILLS, Freeze
from arx_caps.mint.identity.operator_role import actions_of_operator, may
from arx_caps.mint.revocation.freezes import ended_of
from arx_caps.mint.revocation.revoker import Op
from arx_caps.mint.tasks import preview
from arx_caps.revocation.targets import KINDS, parse_target, parse_targets
from arx_caps.revocation.wire import UsedProof
from arx_verifier.errors import ArxError, RequestError
from arx_verifier.token.targets import MAX_TARGET_BYTES

MAX_TARGETS: Final = 1000  # the bound of one step of the store, so that a kill is in force as a whole or not at all
FIRST_TARGETS: Final = 20  # targets of a kill in a list
_DIGITS: Final = 16  # of a number that JSON carries exactly

TargetText = Annotated[str, Meta(max_length=MAX_TARGET_BYTES)]
Targets = Annotated[tuple[TargetText, ...], Meta(min_length=1, max_length=MAX_TARGETS)]


class TargetsBody(Body, frozen=True):
    """Targets to freeze or thaw, and the reason."""

    targets: Targets
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    wait: bool = True  # for the verifiers' confirmations; the kill is in force either way


class ThawBody(TargetsBody, frozen=True):
    """Targets to thaw, and the reason; what they wrote into memories before ``memory_before`` is trusted again."""

    memory_before: Annotated[int, Meta(ge=0, lt=2**48)] | None = None  # ms since the Unix epoch


class ClearBody(TargetsBody, frozen=True):
    """Targets whose entries from before a time, or all until now, are trusted again, and the reason."""

    before: Annotated[int, Meta(ge=0, lt=2**48)] | None = None  # ms since the Unix epoch


class KillBody(TargetsBody, frozen=True):
    """Targets to kill, and the reason; with ``freeze`` each of them is frozen as well."""

    freeze: bool = False


class FreezesQuery(PageQuery, frozen=True):
    """The freezes to list: all but the taints of memories, or those of one kind of target, ``memory`` for taints."""

    kind: Annotated[str, Meta(max_length=16)] | None = None


class KillsQuery(PageQuery, frozen=True):
    """The kills to list: all, or those with one target."""

    target: TargetText | None = None


class FreezeShown(msgspec.Struct, frozen=True, kw_only=True):
    """A target that is refused now, and the number, time, actor and reason of its freeze.

    ``op`` is ``kill+freeze`` if a kill left the freeze.  With ``lasting``, a thaw does not last: what the target names
    has ended for good.  ``seq`` is 0 if the store's log had the entry no more.
    """

    target: str
    op: Literal["freeze", "kill+freeze"]
    frozen_at: int
    by: str
    reason: str
    seq: int
    lasting: bool


class Freezes(Paged, frozen=True):
    """A page of the freezes in force, the newest first; ``total`` counts all."""

    freezes: list[FreezeShown]
    total: int


class KillTarget(msgspec.Struct, frozen=True):
    """A target, and what was done to it."""

    target: str
    op: str


class ConfirmationsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The verifiers' confirmations of a kill, as of ``took_ms`` after it; its report has the same members.

    Those in ``watching`` let calls go on in watch mode, and never confirm.

    ``settled_at`` is the time of the final record, ms since the Unix epoch, and null before.
    """

    status: Literal["confirmed", "partial", "unconfirmed", "unknown"]
    verifiers: int
    confirmed: int
    unreachable: list[str]
    fenced_in_ms: int | None
    took_ms: float
    durable: bool | None
    summary: str
    settled_at: int | None
    watching: list[str] = msgspec.field(default_factory=list)


class KillRecord(RouteAnswer, frozen=True, kw_only=True):
    """A kill, freeze or thaw by an operator or the mint; ``op`` is ``each`` if its targets have different ones.

    A list has the first 20 targets.  ``confirmations`` are null in a list until they are final.
    """

    seq: int
    incarnation: str
    op: Literal["kill", "freeze", "kill+freeze", "thaw", "each"]
    targets: list[KillTarget]
    target_count: int
    at_ms: int
    by: str
    reason: str
    confirmations: ConfirmationsShown | None


class Kills(Paged, frozen=True):
    """A page of kills, freezes and thaws, the newest first; ``total`` counts all."""

    kills: list[KillRecord]
    total: int


class PreviewBody(Body, frozen=True):
    """Targets, and what would be done to them."""

    targets: Targets
    op: Literal["kill", "kill+freeze", "freeze", "thaw"] = "kill"


class PreviewTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target: what would be done to it, and what the mint knows of it.

    ``unknown`` is one that looks mistyped; ``meant`` is a similar one, ``note`` says what is odd.
    """

    target: str
    op: str
    state: Literal["live", "frozen", "over", "unknown"]
    note: str | None
    meant: str | None


class ServiceWaited(msgspec.Struct, frozen=True):
    """A service, and how many of its verifiers must confirm; 0 if the store knows none of them."""

    service: str
    verifiers: int


class KillPreview(preview.Extent, RouteAnswer, frozen=True, kw_only=True):
    """What a kill of these targets would end, and who must confirm it.

    ``tokens`` are those that the mint issued, and an estimate; ``delegations`` those that the audit log has.  Without
    ``exact``, sessions and tasks that were killed before are counted as well.  ``error`` is why the verifiers are
    unknown.
    """

    targets: list[PreviewTarget]
    verifiers: int | None
    services: list[ServiceWaited]
    lease_ms: int | None
    error: str | None


READ_KILLS: Final = "arx.kills.read"
READ_FREEZES: Final = "arx.freezes.read"
ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/kills", "arx.kill", KillBody, one_change=True, urgent=True)
def kill_targets(call: RouteCall) -> KillShown:
    """Revoke everything born so far in these targets; targets that live on are frozen, too."""
    return _change_targets(call, "kill+freeze" if call.body.freeze else "kill", proof=call.unit.take_proof())


@endpoint("POST", "/v1/freezes", "arx.freeze", TargetsBody, one_change=True, urgent=True)
def freeze_targets(call: RouteCall) -> KillShown:
    """Refuse these targets until a thaw."""
    return _change_targets(call, "freeze", proof=call.unit.take_proof())


@endpoint("POST", "/v1/freezes/thaw", "arx.thaw", ThawBody)
def thaw_freezes(call: RouteCall) -> KillShown:
    """End the freezes of these targets."""
    return _change_targets(call, "thaw", memory_before=call.body.memory_before)


@endpoint("POST", "/v1/memory/clear", "arx.thaw", ClearBody)
def clear_memory(call: RouteCall) -> KillShown:
    """Trust what these targets wrote into memories before a time; what is frozen stays frozen."""
    return _change_targets(call, "clear", memory_before=call.body.before)


def _change_targets(
    call: RouteCall, op: Op, *, memory_before: int | None = None, proof: UsedProof | None = None
) -> KillShown:
    body: TargetsBody = call.body
    about: dict[str, Any] = {"reason": body.reason, "by": call.authenticated.actor, "wait": body.wait}
    return show_kill(call.mint.revoker.end(op, body.targets, memory_before=memory_before, proof=proof, **about))


@endpoint("POST", "/v1/kills/preview", "arx.kills.preview", PreviewBody)
def preview_kill(call: RouteCall) -> KillPreview:
    """Return what a kill or freeze would end, without doing it."""
    mint, body = call.mint, call.body
    parsed = parse_targets(body.targets)
    paths = preview.agents_for(mint, parsed)
    looked, extent = preview.look_up(mint, parsed, paths), preview.measure(mint, parsed, paths)
    waited, error = preview.waits_or_why(mint)
    # A kill must be no way to ask for the names of agents.
    names = may(actions_of_operator(mint, call.authenticated.name), "arx.agents.read")
    targets = [
        show_row(
            PreviewTarget,
            each._asdict(),
            target=str(each.target),
            op=each.target.kill_op if body.op == "kill" else body.op,
            meant=each.meant if names else None,
        )
        for each in looked
    ]
    services = (
        [] if waited is None else [ServiceWaited(name, waited.services[name]) for name in sorted(waited.services)]
    )
    return KillPreview(
        targets=targets,
        **msgspec.structs.asdict(extent),
        verifiers=None if waited is None else waited.verifiers,
        services=services,
        lease_ms=None if waited is None else waited.lease_ms,
        error=error,
    )


@endpoint("GET", "/v1/freezes", READ_FREEZES, query=FreezesQuery)
def list_freezes(call: RouteCall) -> Freezes:
    """List what is refused now: by whom, since when, and why."""
    mint, query = call.mint, call.query
    if query.kind is not None and query.kind not in KINDS:
        raise RequestError(f"invalid kind: expected one of {', '.join(KINDS)}")
    rows = mint.db.epoch.frozen(kind=query.kind, after=query.after, limit=query.limit + 1)
    # A thaw gives a deactivated agent its status back; the rest is frozen again.
    ended = {target for target in ended_of(mint.db) if not target.startswith("agent:")} if rows else set()
    page = page_of(rows, FREEZES_ORDER, lambda row: _show_freeze(row, ended), limit=query.limit)
    return Freezes(freezes=page.shown, total=mint.db.epoch.count_frozen(query.kind), next=page.next)


def _show_freeze(row: Freeze, ended: set[str]) -> FreezeShown:
    lasting = row.target in ended
    return show_row(FreezeShown, row, frozen_at=row.at_ms, reason=row.why, lasting=lasting)


@endpoint("GET", "/v1/kills", READ_KILLS, query=KillsQuery)
def list_kills(call: RouteCall) -> Kills:
    """List the kills, freezes and thaws by operators and the mint."""
    mint, query = call.mint, call.query
    target = None if query.target is None else str(parse_target(query.target))
    rows = mint.db.kills.list(target=target, after=query.after, limit=query.limit + 1)
    page = page_of(rows, KILLS_ORDER, lambda row: _show_kill(mint, row, FIRST_TARGETS), limit=query.limit)
    return Kills(kills=page.shown, total=mint.db.count(KILLS), next=page.next)


@endpoint("GET", "/v1/kills/{seq}", READ_KILLS, problems=("not_found",))
def get_kill(call: RouteCall) -> KillRecord:
    """Return one kill, freeze or thaw, with its confirmations as they are now."""
    mint, seq = call.mint, call.path["seq"]
    # A number that no kill can have is not looked up.
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < _DIGITS else 0
    row = mint.db.kills.find(number)
    if row is None:
        # Another mint or an operator wrote it a moment ago: this mint reads the store's log ten times a second.
        with contextlib.suppress(ArxError):
            mint.freezes.follow_store()
        row = mint.db.kills.find(number) or mint.freezes.find_step(number)
    return _show_kill(mint, require_row(row, "kill"), None)


def _show_kill(mint: MintContext, row: KillRow, most: int | None) -> KillRecord:
    # In a list only what is final: each look is a question to the store.
    report = mint.confirmations.look_or_guess(row) if most is None or row.report is not None else None
    return show_row(
        KillRecord,
        row,
        reason=row.why,
        targets=[KillTarget(target, op) for op, target in row.targets[:most]],
        target_count=len(row.targets),
        confirmations=None if report is None else _show_report(report, row.settled_at),
    )


def _show_report(report: Mapping[str, Any], settled_at: int | None) -> ConfirmationsShown:
    return show_row(ConfirmationsShown, report, settled_at=settled_at)


def progress_of(mint: MintContext) -> dict[int, ConfirmationsShown]:
    """Return the confirmations of the newest kills and of all whose confirmations are not final, by number."""
    return {
        row.seq: _show_report(mint.confirmations.look_or_guess(row), row.settled_at) for row in mint.db.kills.progress()
    }
