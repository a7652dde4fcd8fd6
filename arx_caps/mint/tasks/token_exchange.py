# SPDX-License-Identifier: Apache-2.0
"""Exchange a token that a service got for one of another service. CONTROL 2.6, RFC 8693."""

# The new token has all of the presented one: identifier, session, task, links, and every caveat that holders added. The
# mint's grant for the one service is replaced by its grant for the other, attenuations of the agent remain, and the
# service is a hop of its own in the chain. So a kill of the presented token revokes the new one, and conjunction of
# caveats makes it no wider.

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from arx_caps.mint.context import (
    Born,
    BudgetParts,
    ClientParts,
    HasDatabase,
    HasRealm,
    IssuingParts,
    OAuthParts,
    TaskParts,
)
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import AgentRow, GrantRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.tasks.discharge import require_approvals
from arx_caps.mint.tasks.liveness import require_unrevoked
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import meta_of, model_of, write_bundle_of
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, GrantError, MalformedTokenError, refusal
from arx_verifier.token import call_proof, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.holder import audience_public, unbound
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import HOP_BYTES, CaveatLike, Identifier, Macaroon, read_identifier
from arx_verifier.token.wire import ThirdPartyPacket
from arx_verifier.verification.authenticate import prove
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import Refused

Row: TypeAlias = Mapping[str, Any] | None
SERVICES: Final = "service/"  # prefix of a service's name as a hop in a chain


class ExchangedToken(NamedTuple):
    """An exchanged token and its bundle (secrets), its link, and its expiry, ms since the Unix epoch."""

    token: str
    bundle: str
    link: str
    expires_at: int


class PresentedTask(NamedTuple):
    """The task of a token that a service was called with.

    Attributes:
        chain: The verified chain of the token.
        task: The task's row.
        session: The session's row.
        until: When the token expires, ms since the Unix epoch.
    """

    chain: ProvenChain
    task: TaskRow
    session: SessionRow
    until: int


class _RawCaveat(NamedTuple):
    """A caveat of the presented token, byte for byte."""

    raw: bytes

    def encode(self) -> bytes:
        return self.raw

    def delegated_to(self, to: str, hop: str, key: str | None = None, sig: str | None = None) -> "_RawCaveat":  # noqa: ARG002 - as ``Caveat`` has it
        raise AttenuationError("a presented caveat is copied, not delegated")


def exchange(mint: OAuthParts, unit: UnitOfWork, service: str, text: str, audience: str, public: str) -> ExchangedToken:
    """Exchange a token that a service was called with.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        service: The authenticated service.
        text: The token that it was called with, a secret.
        audience: The service that it must call.
        public: The service's own key, to which the new token is bound if the presented one is bound.

    Raises:
        TokenError: The presented token is invalid, or was exchanged for this audience before.
        GrantError: ``exchange_not_allowed``: the task's template does not allow the exchange.
        AccessError: The holders' caveats leave no room for a further hop.
        UnavailableError: The kill epoch is unknown now.
    """
    born = mint.kills.born()  # before the presented token is read
    text = text.partition(wire.JOINT)[0]  # without discharges: an approval is of one call of one tool
    parent = _prove(mint, service, text)
    mint.kills.require(Born(*parent.identifier.born), parent.targets)
    granted, _, _, agent = _require_granted(mint, born, parent, service, audience)
    _use_call(unit, service, text, audience)
    kid, key = mint.key_schedule.audience_key(audience)
    mint.kills.require(born, (f"key:{kid}",))
    about = {"model": model_of(agent), "meta": meta_of(agent)}
    identifier = msgspec.structs.replace(parent.identifier, aud=audience, kid=kid, born=born[:2], iat=now_ms(), **about)
    if identifier.holder is not None:
        # The holders signed for the presented token alone. The mint has checked that, and vouches for it.
        vouched = len(parent.facts.named) + 1
        identifier = msgspec.structs.replace(identifier, holder=public, aud_key=audience_public(key), vouched=vouched)
    to = SERVICES + service
    hops = [name for name in parent.facts.named if name.startswith(SERVICES)]
    own = _with_hops(granted, audience, (*hops, to))
    required = granted.approvals.get(audience, ())
    before, task = granted.approvals.get(service, ()), str(identifier.task)
    mints = [terms.third_party(parent.identifier.kid, task) for terms in before]
    kept = _holders_caveats(text, len(granted.caveats(service)), mints)
    # The mint writes the agent's attenuations itself: a service that can make the presented token could omit them.
    caveats = (*own, *granted.taken(service, audience))
    try:
        made = _mint_token(mint, identifier, key, caveats, required, kept)
        made = made.attenuate(Caveat(to=to, hop=wire.text_of(os.urandom(HOP_BYTES))))
    except (AttenuationError, MalformedTokenError) as error:
        raise GrantError(f"the exchanged token would not fit: {error}", code="bad_parameters") from error
    child = prove_own(mint, made, audience, kid, key)
    link = child.facts.links[-1]
    facts: dict[str, Any] = {"service": service, "audience": audience, "session": identifier.session}
    facts |= {"task": identifier.task}
    facts |= {"link": link, "of": (parent.facts.links or (identifier.id,))[-1], "expires_at": child.exp}
    more = [raw.decode() for raw in made.packets[len(caveats) + len(required) :] if isinstance(raw, bytes)]
    recipe = {"identifier": made.identifier.decode(), "caveats": [caveat.encode().decode() for caveat in caveats]}
    unit.recipe = recipe | {"needs": msgspec.to_builtins(required), "more": more, "targets": child.targets}
    unit.record(Event.of("token.exchanged", f"service:{service}", **facts))
    return _exchanged(mint, identifier, made, child)


def exchange_again(mint: OAuthParts, recipe: Mapping[str, Any]) -> ExchangedToken:
    """Sign an exchanged token again, for a service that lost the answer. CONTROL 4.4.

    Args:
        mint: The mint.
        recipe: The content of the token, whose link is the first one's.

    Raises:
        TokenError: The token has expired, was revoked or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    identifier = read_identifier(recipe["identifier"].encode())
    assert isinstance(identifier, Identifier)
    kid, key = mint.key_schedule.audience_key(identifier.aud)
    mint.kills.require(Born(*identifier.born), (*recipe["targets"], f"key:{kid}"))
    _open_rows(mint, identifier)
    own = msgspec.structs.replace(identifier, kid=kid)
    if own.holder is not None:
        own = msgspec.structs.replace(own, aud_key=audience_public(key))
    caveats, more = ([_RawCaveat(text.encode()) for text in recipe.get(name, ())] for name in ("caveats", "more"))
    made = _mint_token(mint, own, key, caveats, recipe.get("needs", ()), more)
    child = prove_own(mint, made, own.aud, kid, key)
    if child.exp <= now_ms():
        raise refusal("expired")
    return _exchanged(mint, own, made, child)


def _mint_token(
    mint: HasRealm,
    identifier: Identifier,
    key: bytes,
    caveats: Sequence[CaveatLike],
    needs: Sequence[Any],
    kept: Sequence[CaveatLike],
) -> Macaroon:
    """Mint a token like one of a task, and add the caveats of the presented token's holders."""
    made = Macaroon.mint(identifier, key=key, realm=mint.realm.name, caveats=tuple(caveats))
    made = require_approvals(made, identifier.kid, key, str(identifier.task), needs)
    return made.attenuate(*kept) if kept else made


def _holders_caveats(text: str, own: int, mints: Sequence[ThirdPartyCaveat]) -> list[CaveatLike]:
    """Return the caveats that holders added to a presented token, after the mint's own.

    Args:
        text: The token.
        own: The number of caveats that the mint's grant has in it.
        mints: The third-party caveats that the mint requires in it; the first of each is the mint's.

    Raises:
        GrantError: ``exchange_not_allowed``: a holder added a third-party caveat.
    """
    held = list(Macaroon.parse(text).packets[own:])
    for raw in [third_party.encode() for third_party in mints]:
        indexes = (
            index
            for index, packet in enumerate(held)
            if isinstance(packet, ThirdPartyPacket) and packet.identifier == raw
        )
        index = next(indexes, None)
        if index is not None:
            del held[index]
    # Signed delegations as those of a bearer token: the signatures are for the presented token.
    kept: list[CaveatLike] = [_RawCaveat(unbound(raw)[0]) for raw in held if isinstance(raw, bytes)]
    # Its discharge is bound to the presented token, so no holder could give one for another token.
    if len(kept) != len(held):
        raise GrantError(
            "a holder of this token requires a discharge of its own, which no other token can require",
            code="exchange_not_allowed",
        )
    return [caveat for caveat in kept if not _is_call(caveat.encode())]


def _exchanged(mint: ClientParts, identifier: Identifier, made: Macaroon, child: ProvenChain) -> ExchangedToken:
    token, audience = made.encode(), identifier.aud
    origins = {audience: mint.policy.audiences.get(audience, ())}
    bundle = write_bundle_of(mint.realm, identifier.agent, identifier.task, origins, {audience: token})
    return ExchangedToken(token, bundle, child.facts.links[-1], child.exp)


def read_presented(mint: TaskParts, service: str, text: str) -> PresentedTask:
    """Return the task of a token that a service was called with, which lives; the token is not used up.

    Args:
        mint: The mint.
        service: The authenticated service.
        text: The token that it was called with, a secret.

    Raises:
        TokenError: The token is invalid, or its task is over or frozen.
        GrantError: ``exchange_not_allowed``: it differs from what the mint granted.
        UnavailableError: The kill epoch is unknown now.
    """
    born = mint.kills.born()  # before the presented token is read
    chain = _prove(mint, service, text.partition(wire.JOINT)[0])
    mint.kills.require(Born(*chain.identifier.born), chain.targets)
    _, task, session, _ = _require_granted(mint, born, chain, service)
    return PresentedTask(chain, task, session, chain.exp)


def _prove(mint: IssuingParts, service: str, text: str) -> ProvenChain:
    """Verify a presented token as the service has done, except for its arguments and nonce.

    Raises:
        TokenError: The token is invalid.
    """
    call, now = call_proof.split_call(text), now_ms()
    keys = {kid: key for kid, (key, _) in mint.key_schedule.audience_keys(service).items()}
    ring = KeyRing(keys, realm=mint.realm.name, max_ttl_ms=mint.realm.max_ttl_ms)
    proven = _require_valid(prove(text, call, service, ring))
    early, late = mint.epochs.times_ms(now)
    if late >= proven.exp:
        raise refusal("expired")
    if early < proven.nbf:
        raise refusal("not_yet_valid")
    if call is None and proven.needs_call:
        raise refusal("proof_missing")
    refused = proven.judge_holder(call) if call is not None else None
    if refused is not None:
        raise refusal(refused.code, refused.failures)
    if call is not None and not -call_proof.MAX_AHEAD_MS <= now - call.issued_at <= call_proof.MAX_AGE_MS:
        raise refusal("proof_invalid")
    return proven


def _require_granted(
    mint: BudgetParts, born: Born, parent: ProvenChain, service: str, audience: str | None = None
) -> tuple[StoredGrant, TaskRow, SessionRow, AgentRow]:
    """Return the stored grant of a presented token, and the rows of its task, session and agent.

    Args:
        mint: The mint.
        born: The place in the kill epoch before the token was read.
        parent: The token's verified chain.
        service: The authenticated service.
        audience: The audience for which it exchanges the token; None if it exchanges none.

    Raises:
        GrantError: ``exchange_not_allowed``: the grant does not allow this exchange, or the token does not match it.
        TokenError: The task, its session or its agent is over or frozen.
    """
    row = mint.db.grants.find(parent.identifier.id)
    task, session, agent = _open_rows(mint, parent.identifier)
    granted = StoredGrant.read(row.content) if row is not None else None
    if audience is not None and (granted is None or audience not in granted.targets(service)):
        template = granted.template if granted is not None else "NAME"
        raise GrantError(
            f"{service} may not exchange this token for one for {audience}; it would take exchange = "
            f'{{ {service} = ["{audience}"] }} of [task.{template}] in the policy, when the task was granted',
            code="exchange_not_allowed",
        )
    # A service that verifies a token can also make one. Its claims are compared with what the mint stored, or a service
    # could get a token in the name of any agent or person.
    if (
        row is None
        or granted is None
        or task is None
        or session is None
        or agent is None
        or not _matches_grant(parent.identifier, row, task, session, granted)
        or not _can_vouch(mint, parent, granted, service)
        # A service can make each MAC of a call, and a token without ``require``.  It can make no signature.
        or (granted.needs_signature(service) and not parent.needs_signature)
    ):
        raise GrantError("this token does not match what the mint granted to its task", code="exchange_not_allowed")
    # The maker of the presented token chose its birth, so kills are checked from the births that the mint stored.
    links = [target for target in parent.targets if target.startswith("link:")]
    require_unrevoked(mint.kills, born, task, session, links)
    return granted, task, session, agent


def _matches_grant(
    identifier: Identifier,
    grant: GrantRow,
    task: TaskRow,
    session: SessionRow,
    granted: StoredGrant,
) -> bool:
    """Return whether an identifier is the one that the mint wrote into the tokens of a grant."""
    subject = subject_of(session)
    # The holder of an exchanged token is the service that exchanged it.
    holder = identifier.holder if identifier.vouched is None else granted.holder
    stored = (
        *(grant.task, grant.policy, grant.expires_at, granted.depth),
        *(task.session, task.agent, (subject.issuer, subject.name) if subject is not None else None),
        granted.holder,
        granted.holder is not None,
    )
    presented = (
        *(identifier.task, identifier.policy, identifier.exp, identifier.depth),
        *(identifier.session, identifier.agent, identifier.subject),
        holder,
        identifier.holder is not None,
    )
    return presented == stored


def _can_vouch(mint: HasDatabase, parent: ProvenChain, granted: StoredGrant, service: str) -> bool:
    """Return whether the mint can have exchanged a presented token: its holder is a service that may do so.

    Else a service could write that the mint vouches for a key of its own, and sign calls with that.
    """
    holder, vouched = parent.identifier.holder, parent.identifier.vouched
    if vouched is None:
        return True
    by = parent.facts.named[vouched - 1].removeprefix(SERVICES)
    keys = mint.db.holder_keys.list(f"service:{by}")
    return service in granted.targets(by) and any(key.x == holder for key in keys)


def _open_rows(mint: HasDatabase, identifier: Identifier) -> tuple[TaskRow | None, SessionRow | None, AgentRow | None]:
    """Return the rows of a task, its session and its agent.

    Raises:
        TokenError: One of them is over, or the agent is deactivated.
    """
    task, session = mint.db.tasks.find(str(identifier.task)), mint.db.sessions.find(identifier.session)
    agent = mint.db.agents.find(identifier.agent)
    if (task is not None and task.status != "open") or (session is not None and session.status != "open"):
        raise refusal("revoked")
    if agent is not None and agent.status != "active":
        raise refusal("frozen")
    return task, session, agent


def _use_call(unit: UnitOfWork, service: str, text: str, audience: str) -> None:
    """Use the call proof of a presented token, once for each audience."""
    call = call_proof.split_call(text)
    if call is not None:
        name = wire.text_of(call.signature[:16])  # a part: the database must not have a usable signature
        unit.spend("exchange", f"{service}>{audience}", name, call.issued_at + call_proof.KEEP_MS)


def _with_hops(granted: StoredGrant, audience: str, hops: tuple[str, ...]) -> list[CaveatLike]:
    """Return the mint's caveats for an audience, which also allow the services as hops."""
    # The mint's own caveats alone: if the agent attenuated its task by ``delegate_to``, no service may exchange it.
    mints = len(granted.own[audience])
    return [
        msgspec.structs.replace(caveat, delegate_to=(*caveat.delegate_to, *hops))
        if caveat.delegate_to is not None and index < mints
        else caveat
        for index, caveat in enumerate(granted.caveats(audience))
    ]


def prove_own(mint: HasRealm, made: Macaroon, audience: str, kid: str, key: bytes) -> ProvenChain:
    """Verify a new token as the other service will, so that an unusable one is refused now.

    Args:
        mint: The mint.
        made: The token.
        audience: The other service.
        kid: The id of the key that signed it.
        key: That key, a secret.

    Raises:
        ArxError: The verifier would refuse it.
    """
    keys = KeyRing({kid: key}, realm=mint.realm.name, max_ttl_ms=mint.realm.max_ttl_ms)
    return _require_valid(prove(made.encode(), None, audience, keys))


def _require_valid(proven: ProvenChain | Refused) -> ProvenChain:
    refused = proven if isinstance(proven, Refused) else proven.refused
    if refused is not None:
        raise refusal(refused.code, refused.failures)
    assert not isinstance(proven, Refused)
    return proven


def _is_call(raw: bytes) -> bool:
    return raw.startswith(b'{"call":')


def audience_of(origins: Mapping[str, Any], resource: str) -> str | None:
    """Return the audience of an origin, or None."""
    origin = resource.rstrip("/")
    return next((audience for audience, listed in origins.items() if origin in listed), None)
