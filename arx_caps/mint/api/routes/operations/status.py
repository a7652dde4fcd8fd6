# SPDX-License-Identifier: Apache-2.0
"""Route of the realm's state: whether anything is refused and why, the verifiers, and the audit log.  CONTROL 4.5."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from arx_caps.audit.query.top_names import series
from arx_caps.mint.api.endpoint import Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.context import VERSION, HasLog, MintContext, StoreParts
from arx_caps.revocation.wire import Header, VerifierSeen, VerifierState, state_of
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.journal.writer import audience_of

RATES_MS: Final = 4 * 60_000  # whole minutes are kept: 4 to 5 minutes are added up
MAX_SERVICES: Final = 1000  # that are looked for among the verifiers
_Result = TypeVar("_Result")


class VerifierShown(msgspec.Struct, frozen=True, kw_only=True):
    """A verifier process: its service, what it has applied, and how long ago it asked, ms.

    ``relay_of`` is the number of verifiers behind a relay, or None.  ``watches_until`` is the end of the time in which
    it lets calls go on that it would refuse, ms since the Unix epoch, or None.
    """

    id: str
    service: str | None
    applied: int
    behind: int
    age_ms: int
    state: VerifierState
    relay_of: int | None
    watches_until: int | None = None


class StoreShown(msgspec.Struct, frozen=True, kw_only=True):
    """The revocation store: its history and last number, and its lease, ms; ``error`` if it does not answer."""

    seq: int | None
    incarnation: str | None
    lease_ms: int | None
    error: str | None


class RatesShown(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions of the last minutes: how many were allowed and refused over how long, ms."""

    allowed: int
    refused: int
    over_ms: int


class LogShown(msgspec.Struct, frozen=True, kw_only=True):
    """The audit log: its records, how many of them are signed, and since when; times are ms since the Unix epoch.

    ``halted`` says how the database contradicts what was signed; ``failing``, why the last step did not append or sign.
    """

    size: int | None
    signed: int
    signed_at: int | None
    halted: str | None
    failing: str | None


class StatusShown(RouteAnswer, frozen=True, kw_only=True):
    """The state of the realm, as this mint sees it, with the verifiers that asked within the last 10 minutes.

    ``because`` says why this mint grants nothing now.  ``services_never_seen`` are enrolled, but the store knows no
    verifier of theirs.  Of ``services_never_shipped`` a verifier is live, and the log has no record.  A number is None
    while the database or the store does not answer.
    """

    realm: str
    version: str
    ready: bool
    because: list[str]
    policy: str
    applied: int
    view_age_ms: int
    store: StoreShown
    verifiers: list[VerifierShown]
    services_never_seen: list[str]
    services_never_shipped: list[str]
    sessions: int | None
    tasks: int | None
    approvals_waiting: int | None
    rates: RatesShown | None
    log: LogShown
    at_ms: int


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/status", "arx.status.read")
def show_status(call: RouteCall) -> StatusShown:
    """Return the state of the realm: what is refused and why, the verifiers, the audit log."""
    return status_of(call.mint)


def status_of(mint: MintContext) -> StatusShown:
    """Return the state of the realm, also while the database or the store does not answer."""
    header, seen, error = _store(mint)
    services = [row.audience for row in _or_none(lambda: mint.db.services.list(limit=MAX_SERVICES)) or ()]
    verifiers = [_verifier(one, header) for one in seen if header is not None]
    met = {audience_of(one.id) for one in seen}
    running = sorted({str(one.service) for one in verifiers if one.state == "live" and one.service in services})
    sent = _or_none(lambda: mint.log.store.last_sent(running))
    _, applied, age_ms = mint.epochs.view()
    because, publisher = mint.ready(), mint.log.publisher
    return StatusShown(
        realm=mint.realm.name,
        version=VERSION,
        ready=not because,
        because=because,
        policy=mint.policies.loaded.digest,
        applied=max(applied, 0),
        view_age_ms=int(age_ms),
        store=StoreShown(
            seq=header.seq if header is not None else None,
            incarnation=header.incarnation if header is not None else None,
            lease_ms=header.lease_ms if header is not None else None,
            error=error,
        ),
        # Those that need a look come first.
        verifiers=sorted(verifiers, key=lambda one: (one.state == "live", one.behind == 0, one.id)),
        services_never_seen=sorted(name for name in services if name not in met) if error is None else [],
        services_never_shipped=[] if sent is None else [name for name in running if name not in sent],
        sessions=_or_none(mint.db.sessions.count_alive),
        tasks=_or_none(mint.db.tasks.count_alive),
        approvals_waiting=_or_none(mint.db.approvals.count_waiting),
        rates=_or_none(lambda: _rates(mint)),
        log=LogShown(
            size=_or_none(mint.log.store.size),
            signed=publisher.size,
            signed_at=_or_none(mint.log.store.signed_ms),
            halted=publisher.halted,
            failing=mint.log.failing,
        ),
        at_ms=now_ms(),
    )


def _store(mint: StoreParts) -> tuple[Header | None, Sequence[VerifierSeen], str | None]:
    try:
        return mint.store.header(), mint.store.verifiers(), None
    except ArxError as error:
        return None, (), str(error)


def _rates(mint: HasLog) -> RatesShown:
    now = now_ms()
    with mint.log.store.reading() as c:
        found = series(c, since_ms=now - RATES_MS)
    return RatesShown(allowed=found.total.allow, refused=found.total.refused, over_ms=max(now - found.since_ms, 1))


def _verifier(seen: VerifierSeen, header: Header) -> VerifierShown:
    return VerifierShown(
        id=seen.id,
        service=audience_of(seen.id),
        applied=seen.applied,
        behind=max(0, header.seq - seen.applied),
        age_ms=seen.age_ms,
        state=state_of(seen.age_ms, header.lease_ms),
        relay_of=seen.behind,
        watches_until=seen.watches_until,
    )


def _or_none(read: Callable[[], _Result]) -> _Result | None:
    try:
        return read()
    except ArxError:
        return None
