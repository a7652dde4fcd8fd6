# SPDX-License-Identifier: Apache-2.0
"""Routes of tool services: enrolment, their own keys, and their audience keys.  CONTROL 3.

``arx_caps.service.enrolment`` is the other side: with an enrolment token a service enrols a key of its own, and it
fetches its audience keys by that key.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from http.client import SERVICE_UNAVAILABLE
from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import require_row, show_row
from arx_caps.mint.context import HasDatabase, HasKeySchedule, HasRealm, LivenessParts, LogParts, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.services import SERVICES_ORDER, InvitationRow, bad_enrolment
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.db.tables import SERVICES, ServiceRow
from arx_caps.mint.identity.authenticate import JOIN, describe_caller, record_outcome
from arx_caps.mint.identity.operator_role import role_of
from arx_caps.mint.identity.operator_token import require_rules_allow
from arx_verifier import names
from arx_verifier.clock import now_ms
from arx_verifier.errors import REASONS, ArxError, GrantError, RequestError, StoreError
from arx_verifier.memory.memory import MEMORY_AUDIENCE
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.store_url import without_login
from arx_verifier.token import wire

ENROLMENT_PREFIX: Final = "arxe1_"  # secret scanners find leaked tokens by it
INVITATION_BYTES: Final = 32
ENROLMENT_MS: Final = 15 * 60 * 1000  # enough to carry it to the service's machine
WRITE: Final = "arx.services.write"
READ: Final = "arx.services.read"
FETCH: Final = "arx.keys.fetch"

Kid = Annotated[str, Meta(min_length=1, max_length=64)]


class ServiceBody(Body, frozen=True):
    """A tool service."""

    audience: str


class JoinBody(Hidden, Body, frozen=True):
    """An enrolment token; the key to enrol is the one that signed the call's proof."""

    enrolment: Annotated[str, Meta(max_length=100)]


class ServicePatchBody(Body, frozen=True):
    """A key of the service to remove."""

    remove_kid: Kid


class ServiceInvited(Hidden, RouteAnswer, frozen=True):
    """An enrolment token, a secret; its audience, its expiry, and whether the policy has it."""

    enrolment: str
    audience: str
    issuer: str
    expires_at: int
    in_policy: bool


class ServiceJoined(RouteAnswer, frozen=True):
    """The service whose key was enrolled, and the key's thumbprint."""

    audience: str
    kid: str


class AudienceKey(Hidden, RouteAnswer, frozen=True):
    """One audience key, a secret, and since when services may fetch it, ms since the Unix epoch."""

    kid: str
    key: str
    published_at: int


class AudienceKeys(RouteAnswer, frozen=True):
    """The keys of one audience, and the settings that a service needs; the memory keys for the audience ``memory``."""

    realm: str
    audience: str
    keys: tuple[AudienceKey, ...]
    max_ttl_ms: int
    refresh_ms: int
    store: str
    ledger: str | UnsetType = UNSET
    memory: tuple[AudienceKey, ...] | UnsetType = UNSET


class OwnKey(RouteAnswer, frozen=True):
    """A key of a service, by its thumbprint: when it last signed a call, to a minute, and of which version of ARx."""

    kid: str
    added_at: int
    used_at: int | UnsetType = UNSET
    version: str | UnsetType = UNSET


class ServiceShown(RouteAnswer, frozen=True):
    """A service; no task has a token for it unless ``in_policy``.  ``shipped_at`` is null if it never shipped."""

    audience: str
    enrolled_at: int
    enrolled_by: str
    keys: tuple[OwnKey, ...]
    in_policy: bool
    shipped_at: int | UnsetType | None = UNSET


class Services(Paged, frozen=True):
    """A page of services by audience; ``total`` counts all."""

    services: list[ServiceShown]
    total: int


_NOT_JOINED: Final = (
    "bad_enrolment",
    "key_enrolled",
    "revoked",
    *(code for code, reason in REASONS.items() if reason.status == SERVICE_UNAVAILABLE),
)
ENDPOINTS, endpoint = collect(Endpoint)


def invited_again(call: RouteCall, made: Made) -> ServiceInvited:
    """Answer a repeat of an invitation, while its token is valid."""
    mint, facts, recipe = call.mint, made.facts, made.recipe or {}
    _, secret = mint.key_schedule.enrolment(recipe["invitation"], recipe["root"])
    token = ENROLMENT_PREFIX + wire.text_of(secret)
    if mint.db.services.invitation(_enrolment_digest(token)) is None:
        raise GrantError("the enrolment token of this call was used or has expired; make another one", code="conflict")
    members = {"audience": facts["audience"], "expires_at": facts["expires_at"]}
    members |= {"in_policy": facts["audience"] in mint.policies.loaded.audiences}
    return ServiceInvited(enrolment=token, issuer=mint.realm.issuer, **members)


@endpoint(
    "POST", "/v1/services/invitations", WRITE, ServiceBody, status=201, again=invited_again, makes="service.invited"
)
def invite_service(call: RouteCall) -> ServiceInvited:
    """Make an enrolment token: its first user, within 15 minutes, enrols a key of this service."""
    mint, audience, by = call.mint, _require_name(call.body.audience), call.authenticated.actor
    # Derived from a root key, so that a repeat returns the same token although the database has only its digest.
    invitation = wire.text_of(secrets.token_bytes(INVITATION_BYTES))
    root, secret = mint.key_schedule.enrolment(invitation)
    token, until = ENROLMENT_PREFIX + wire.text_of(secret), now_ms() + ENROLMENT_MS
    call.unit.recipe = {"invitation": invitation, "root": root}
    event = Event.of("service.invited", by, audience=audience, expires_at=until)
    mint.db.services.invite(call.unit, audience, _enrolment_digest(token), until, by, event)
    return ServiceInvited(
        enrolment=token,
        audience=audience,
        issuer=mint.realm.issuer,
        expires_at=until,
        in_policy=audience in mint.policies.loaded.audiences,
    )


def joined_again(call: RouteCall, made: Made) -> ServiceJoined:
    """Answer a repeat of an enrolment, while the key is enrolled."""
    audience = made.facts["audience"]
    kid = call.signed.key.kid
    if call.mint.db.holder_keys.holder_of(kid) != f"service:{audience}":
        raise bad_enrolment()
    return ServiceJoined(audience=audience, kid=kid)


@endpoint(
    "POST",
    "/v1/services/keys",
    None,
    JoinBody,
    status=201,
    problems=_NOT_JOINED,
    again=joined_again,
    makes="service.joined",
)
def join_service(call: RouteCall) -> ServiceJoined:
    """Enrol the proof's key for the service of the enrolment token, and use the token up."""
    mint, proof = call.mint, call.signed
    digest = _enrolment_digest(call.body.enrolment)
    invited = mint.db.services.invitation(digest)
    if invited is None:
        # Counted, not recorded, and the proof is not spent: a stranger must not fill journal or database.
        mint.decisions.count("bad_enrolment", call.peer)
        raise bad_enrolment()
    # Recorded as a call of the service: the holder of the token becomes that service.
    facts = describe_caller(mint, f"service:{invited.audience}", kid=proof.key.kid)
    with record_outcome(mint, facts, AccessRequest(JOIN, {}, now_ms(), call.peer)):
        _require_inviter(mint, invited)
        call.unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    audience = mint.db.services.join(call.unit, digest, proof.key)
    return ServiceJoined(audience=audience, kid=proof.key.kid)


@endpoint("GET", "/v1/keys", FETCH, callers=("service",), problems=("replayed", "not_found"))
def list_keys(call: RouteCall) -> AudienceKeys:
    """Return the keys of the caller's audience, all of which it must accept."""
    mint, audience = call.mint, call.authenticated.name
    keys = mint.key_schedule.audience_keys(audience)
    answer = AudienceKeys(
        realm=mint.realm.name,
        audience=audience,
        keys=_show_keys(keys),
        memory=_show_keys(_memory_keys(mint, audience)) or UNSET,
        max_ttl_ms=mint.realm.max_ttl_ms,
        refresh_ms=mint.realm.key_refresh_ms,
        store=_store(mint),
        ledger=_ledger_url(mint),
    )
    # Noted before the answer arrives.  A lost answer is fetched again within one interval, and a new key waits for two.
    mint.db.keys.note_fetch(call.authenticated.key, audience, keys)
    return answer


@endpoint("GET", "/v1/services/{audience}", READ, problems=("not_found",))
def get_service(call: RouteCall) -> ServiceShown:
    """Return one service."""
    return _show(call.mint, _row(call.mint, call.path["audience"]))


@endpoint("PUT", "/v1/services/{audience}", WRITE)
def put_service(call: RouteCall) -> ServiceShown:
    """Enrol a tool service without a key, or find it; a repeat changes nothing and records nothing."""
    mint, audience, by = call.mint, _require_name(call.path["audience"]), call.authenticated.actor
    mint.db.services.ensure(audience, by, Event.of("service.enrolled", by, audience=audience))
    return _show(mint, _row(mint, audience))


@endpoint("GET", "/v1/services", READ, query=PageQuery)
def list_services(call: RouteCall) -> Services:
    """List the services."""
    mint, limit = call.mint, call.query.limit
    rows = mint.db.services.list(after=call.query.after, limit=limit + 1)
    shown = _show_all(mint, rows)
    page = page_of(rows, SERVICES_ORDER, lambda row: shown[row.audience], limit=limit)
    return Services(services=page.shown, total=mint.db.count(SERVICES), next=page.next)


@endpoint("PATCH", "/v1/services/{audience}", WRITE, ServicePatchBody, problems=("not_found",))
def patch_service(call: RouteCall) -> ServiceShown:
    """Remove a key of a service: it fetches no more keys and signs no more batches."""
    mint, kid = call.mint, call.body.remove_kid
    audience = _row(mint, call.path["audience"]).audience
    event = Event.of("service.keys_changed", call.authenticated.actor, audience=audience, removed=kid)
    # A service may be left without a key: after a theft, its last key must be removable.
    mint.db.holder_keys.change(f"service:{audience}", None, kid, event, keep_one=False)
    return _show(mint, _row(mint, audience))


def _require_inviter(mint: LivenessParts, invited: InvitationRow) -> None:
    """Require that the operator that made an enrolment token may still make one."""
    # Otherwise an operator could keep access by tokens it made before it was removed, frozen or demoted.
    row = mint.db.operators.find(invited.by.removeprefix("operator:"))
    if row is None or row.status != "active":
        raise bad_enrolment()
    mint.kills.require(mint.kills.born(), (invited.by,))
    try:
        role = role_of(mint, row)
        require_rules_allow(f"role {role.name}", role.rules, WRITE, {"audience": invited.audience})
    except ArxError as error:
        raise bad_enrolment() from error


def _require_name(audience: str) -> str:
    if not names.is_audience(audience):
        raise RequestError("invalid audience: expected [a-z0-9][a-z0-9._-]{0,63}, not starting with arx")
    return audience


def _row(mint: HasDatabase, audience: str) -> ServiceRow:
    return require_row(mint.db.services.find(audience), "service")


def _store(mint: MintContext) -> str:
    # The mint's own login may kill and thaw.  A service reads the store with a login of its own, or none.
    return without_login(mint.store_url)


def _ledger_url(mint: HasRealm) -> str | UnsetType:
    return UNSET if mint.realm.ledger is None else without_login(mint.realm.ledger)


def _memory_keys(mint: HasKeySchedule, audience: str) -> dict[str, tuple[bytes, int]]:
    return mint.key_schedule.memory_keys() if audience == MEMORY_AUDIENCE else {}


def _show_keys(keys: Mapping[str, tuple[bytes, int]]) -> tuple[AudienceKey, ...]:
    return tuple(AudienceKey(kid=kid, key=wire.text_of(key), published_at=at) for kid, (key, at) in keys.items())


def _show(mint: LogParts, row: ServiceRow) -> ServiceShown:
    return _show_all(mint, [row])[row.audience]


def _show_all(mint: LogParts, rows: Sequence[ServiceRow]) -> dict[str, ServiceShown]:
    """Return what is shown of services, by audience."""
    # One query for a page of services, not one for each of them.
    keys = mint.db.holder_keys.by_holder(f"service:{row.audience}" for row in rows)
    versions = mint.db.holder_keys.versions(key.kid for of in keys.values() for key in of)
    try:
        sent = mint.log.store.last_sent([row.audience for row in rows])
    except StoreError:  # services can be listed and removed while the log does not answer
        sent = None
    return {
        row.audience: show_row(
            ServiceShown,
            row,
            in_policy=row.audience in mint.policies.loaded.audiences,
            shipped_at=UNSET if sent is None else sent.get(row.audience),
            keys=tuple(
                show_row(
                    OwnKey,
                    key,
                    used_at=UNSET if key.used_at is None else key.used_at,
                    version=versions.get(key.kid, UNSET),
                )
                for key in keys[f"service:{row.audience}"]
            ),
        )
        for row in rows
    }


def _enrolment_digest(token: str) -> str:
    # JSON may carry half of a surrogate pair: any text has a digest, and a wrong one is just not found.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
