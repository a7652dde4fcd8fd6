# SPDX-License-Identifier: Apache-2.0
"""Give a tool service a token for another service, on the same task and no wider.  CONTROL 2.6, RFC 8693.

The new token has all of the presented one: identifier, session, task, links, and every caveat that holders added.  The
mint's grant for the one service is replaced by its grant for the other; what the agent has attenuated there since stays
attenuated; and the service is named as a hop of its own.  So a kill of the presented token ends the new one, and
conjunction does the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.tasks.discharge import require_approvals, third_party_of
from arx_caps.mint.tasks.liveness import require_standing
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import meta_of, model_of, write_bundle_of
from arx_verifier.errors import AttenuationError, GrantError, MalformedTokenError, refusal
from arx_verifier.token import (
    CaveatLike,
    Identifier,
    KeyRing,
    Macaroon,
    ThirdPartyCaveat,
    ThirdPartyPacket,
    call_proof,
    read_identifier,
    wire,
)
from arx_verifier.verification import ProvenChain, Refused, prove

Row: TypeAlias = Mapping[str, Any] | None
SERVICES: Final = "service/"  # how a chain names a service that a token was exchanged by


class ExchangedToken(NamedTuple):
    """A token for another service, the same in a bundle, both secrets; its link, and when it ends, ms."""

    token: str
    bundle: str
    link: str
    expires_at: int


class _Kept(NamedTuple):
    """A caveat of the presented token, byte for byte."""

    raw: bytes

    def encode(self) -> bytes:
        return self.raw

    def delegated_to(self, to: str, hop: str) -> "_Kept":  # noqa: ARG002 - as ``Caveat`` has it
        raise AttenuationError("a caveat that is kept is not written anew")


def exchange(mint: MintContext, unit: UnitOfWork, service: str, text: str, audience: str) -> ExchangedToken:
    """Exchange a token that a service was called with.

    Args:
        mint: The mint.
        unit: The call's.
        service: The service that asks, proven.
        text: What it was called with, a secret.
        audience: The service that it must call.

    Raises:
        TokenError: The presented token is not alive, or was exchanged for this audience before.
        GrantError: ``exchange_not_allowed``: the task's template does not let this service.
        AccessError: What the holders of the presented token wrote leaves no room for a further hop.
        UnavailableError: The kill epoch is not known now.
    """
    born = mint.born()  # before the presented token is looked at
    text = text.partition(wire.JOINT)[0]  # what was approved was that call of that tool: it goes no further
    parent = _prove(mint, service, text)
    mint.require(Born(*parent.identifier.born), parent.targets)
    granted, agent = _granted(mint, born, parent, service, audience)
    _spend(unit, service, text, audience)
    kid, key = mint.key_schedule.audience_key(audience)
    mint.require(born, (f"key:{kid}",))
    about = {"model": model_of(agent), "meta": meta_of(agent)}
    identifier = msgspec.structs.replace(parent.identifier, aud=audience, kid=kid, born=born[:2], iat=now_ms(), **about)
    to = SERVICES + service
    hops = [name for name in parent.facts.named if name.startswith(SERVICES)]
    own = _welcoming(granted, audience, (*hops, to))
    needs = granted.needs()
    mints = [third_party_of(parent.identifier.kid, str(identifier.task), tools) for tools in needs.get(service, ())]
    kept = _kept(text, len(granted.caveats(service)), mints)
    # What the agent had taken away where the service was called is written by the mint, not copied: whoever can make
    # the presented token could leave it out.
    caveats = (*own, *granted.taken(service, audience))
    required = needs.get(audience, [])
    try:
        made = _made(mint, identifier, key, caveats, required, kept).delegate(to)
    except (AttenuationError, MalformedTokenError) as error:
        raise GrantError(f"the exchanged token would not fit: {error}", code="bad_parameters") from error
    child = _prove_own(mint, made, audience, kid, key)
    link = child.facts.links[-1]
    told: dict[str, Any] = {"service": service, "audience": audience, "session": identifier.session}
    told |= {"task": identifier.task}
    told |= {"link": link, "of": (parent.facts.links or (identifier.id,))[-1], "expires_at": child.exp}
    more = [raw.decode() for raw in made.packets[len(caveats) + len(required) :] if isinstance(raw, bytes)]
    recipe = {"identifier": made.identifier.decode(), "caveats": [each.encode().decode() for each in caveats]}
    unit.recipe = recipe | {"needs": required, "more": more, "targets": child.targets}
    unit.record(Event.of("token.exchanged", f"service:{service}", **told))
    return _given(mint, identifier, made, child)


def exchange_again(mint: MintContext, recipe: Mapping[str, Any]) -> ExchangedToken:
    """Sign once more what an exchange gave, for a service that lost the answer.  CONTROL 4.4.

    Args:
        mint: The mint.
        recipe: What the token says; its link is the first one's.

    Raises:
        TokenError: What was given is over, was killed or is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    identifier = read_identifier(recipe["identifier"].encode())
    assert isinstance(identifier, Identifier)
    kid, key = mint.key_schedule.audience_key(identifier.aud)
    mint.require(Born(*identifier.born), (*recipe["targets"], f"key:{kid}"))
    _running(mint, identifier)
    own = msgspec.structs.replace(identifier, kid=kid)
    caveats, more = ([_Kept(text.encode()) for text in recipe.get(name, ())] for name in ("caveats", "more"))
    made = _made(mint, own, key, caveats, recipe.get("needs", ()), more)
    child = _prove_own(mint, made, own.aud, kid, key)
    if child.exp <= now_ms():
        raise refusal("expired")
    return _given(mint, own, made, child)


def _made(
    mint: MintContext,
    identifier: Identifier,
    key: bytes,
    caveats: Sequence[CaveatLike],
    needs: Sequence[Sequence[str]],
    kept: Sequence[CaveatLike],
) -> Macaroon:
    """Make a token as the mint makes those of a task, and add what holders had added to the presented one."""
    made = Macaroon.mint(identifier, key=key, realm=mint.realm.name, caveats=tuple(caveats))
    made = require_approvals(made, identifier.kid, key, str(identifier.task), needs)
    return made.attenuate(*kept) if kept else made


def _kept(text: str, own: int, mints: Sequence[ThirdPartyCaveat]) -> list[CaveatLike]:
    """Return the caveats that holders added to a presented token, behind the mint's own.

    Of one that was exchanged before, what was attenuated where it came from stands among them: it holds on.

    Args:
        text: The token.
        own: How many caveats the mint's grant has there.
        mints: What the mint requires in it; the first of each is the mint's.

    Raises:
        GrantError: ``exchange_not_allowed``: one requires what only the presented token's holders can give.
    """
    held = list(Macaroon.parse(text).packets[own:])
    for raw in [third_party.encode() for third_party in mints]:
        places = (at for at, each in enumerate(held) if isinstance(each, ThirdPartyPacket) and each.identifier == raw)
        place = next(places, None)
        if place is not None:
            del held[place]
    kept: list[CaveatLike] = [_Kept(raw) for raw in held if isinstance(raw, bytes)]
    if len(kept) != len(held):
        raise GrantError(
            "a holder of this token requires a discharge of its own, which no other token can require",
            code="exchange_not_allowed",
        )
    return [each for each in kept if not _is_call(each.encode())]


def _given(mint: MintContext, identifier: Identifier, made: Macaroon, child: ProvenChain) -> ExchangedToken:
    token, audience = made.encode(), identifier.aud
    origins = {audience: mint.policy.audiences.get(audience, ())}
    bundle = write_bundle_of(mint, identifier.agent, identifier.task, origins, {audience: token})
    return ExchangedToken(token, bundle, child.facts.links[-1], child.exp)


def _prove(mint: MintContext, service: str, text: str) -> ProvenChain:
    """Prove what a service was called with, as the service itself did, but for what only it knows of the call."""
    call, now = call_proof.split_call(text), now_ms()
    keys = {kid: key for kid, (key, _) in mint.key_schedule.audience_keys(service).items()}
    proven = prove(text, call, service, KeyRing(keys, realm=mint.realm.name, max_ttl_ms=mint.realm.max_ttl_ms))
    refused = proven if isinstance(proven, Refused) else proven.refused
    if refused is not None or isinstance(proven, Refused):
        assert refused is not None
        raise refusal(refused.code, refused.failures)
    early, late = mint.epochs.times_ms(now)
    if late >= proven.exp:
        raise refusal("expired")
    if early < proven.nbf:
        raise refusal("not_yet_valid")
    if call is None and proven.needs_call:
        raise refusal("proof_missing")
    if call is not None and not -call_proof.MAX_AHEAD_MS <= now - call.issued_at <= call_proof.MAX_AGE_MS:
        raise refusal("proof_invalid")
    return proven


def _granted(
    mint: MintContext, born: Born, parent: ProvenChain, service: str, audience: str
) -> tuple[StoredGrant, Mapping[str, Any]]:
    """Find what the task was granted, and its agent; and that this service may go on with it.

    Whoever can verify a token can make one: what the presented one says of its task is held to what the mint wrote, or
    a service could have anybody's name signed for another one.
    """
    row = mint.db.grants.find(parent.identifier.id)
    task, session, agent = _running(mint, parent.identifier)
    granted = StoredGrant.read(row["content"]) if row is not None else None
    if row is None or granted is None or audience not in granted.targets(service):
        template = granted.template if granted is not None else "NAME"
        raise GrantError(
            f"{service} may not exchange this token for one for {audience}; it would take exchange = "
            f'{{ {service} = ["{audience}"] }} of [task.{template}] in the policy, when the task was granted',
            code="exchange_not_allowed",
        )
    if task is None or session is None or agent is None or not _says(parent.identifier, row, task, session, granted):
        raise GrantError("this token does not say of its task what the mint granted", code="exchange_not_allowed")
    # The presented token's birth is what its maker says; what was killed counts from those that the mint remembers.
    links = [target for target in parent.targets if target.startswith("link:")]
    require_standing(mint, born, task, session, links)
    return granted, agent


def _says(
    identifier: Identifier,
    grant: Mapping[str, Any],
    task: Mapping[str, Any],
    session: Mapping[str, Any],
    granted: StoredGrant,
) -> bool:
    """Tell whether an identifier says what the mint wrote into the tokens of a grant."""
    subject = subject_of(session)
    meant = (
        *(grant["task"], grant["policy"], grant["expires_at"], granted.depth),
        *(task["session"], task["agent"], (subject.issuer, subject.name) if subject is not None else None),
    )
    said = (
        *(identifier.task, identifier.policy, identifier.exp, identifier.depth),
        *(identifier.session, identifier.agent, identifier.subject),
    )
    return said == meant


def _running(mint: MintContext, identifier: Identifier) -> tuple[Row, Row, Row]:
    """Return what the mint has of a task, its session and its agent, of which none may be over or frozen."""
    task, session = mint.db.tasks.find(str(identifier.task)), mint.db.sessions.find(identifier.session)
    agent = mint.db.agents.find(identifier.agent)
    if any(each is not None and each["status"] != "open" for each in (task, session)):
        raise refusal("revoked")
    if agent is not None and agent["status"] != "active":
        raise refusal("frozen")
    return task, session, agent


def _spend(unit: UnitOfWork, service: str, text: str, audience: str) -> None:
    """Let a one-shot token be exchanged once an audience; that it was spent at its own service is another matter."""
    call = call_proof.split_call(text)
    if call is not None:
        name = wire.text_of(call.signature[:16])  # a part: nothing that could be presented is kept
        unit.spend("exchange", f"{service}>{audience}", name, call.issued_at + call_proof.KEEP_MS)


def _welcoming(granted: StoredGrant, audience: str, hops: tuple[str, ...]) -> list[CaveatLike]:
    """Let the mint's own caveats name the services that a token went through beside those it may be delegated to.

    Behind them stands what the agent attenuated its task by: to whom it may not be handed, no service exchanges it.
    """
    mints = len(granted.own[audience])
    return [
        msgspec.structs.replace(caveat, delegate_to=(*caveat.delegate_to, *hops))
        if caveat.delegate_to is not None and place < mints
        else caveat
        for place, caveat in enumerate(granted.caveats(audience))
    ]


def _prove_own(mint: MintContext, made: Macaroon, audience: str, kid: str, key: bytes) -> ProvenChain:
    """Look at the new token as the other service will: what no verifier would take is told now."""
    keys = KeyRing({kid: key}, realm=mint.realm.name, max_ttl_ms=mint.realm.max_ttl_ms)
    proven = prove(made.encode(), None, audience, keys)
    refused = proven if isinstance(proven, Refused) else proven.refused
    if refused is not None or isinstance(proven, Refused):
        assert refused is not None
        raise refusal(refused.code, refused.failures)
    return proven


def _is_call(raw: bytes) -> bool:
    return raw.startswith(b'{"call":')


def audience_of(origins: Mapping[str, Any], resource: str) -> str | None:
    """Return which audience lives at an address; None where none does."""
    place = resource.rstrip("/")
    return next((audience for audience, its in origins.items() if place in its), None)
