# SPDX-License-Identifier: Apache-2.0
"""Authenticate a token and the discharges presented with it: steps 1 to 3 of SPEC 11, and 6.7.

Nothing but ``kid`` and ``aud`` is interpreted before the signature holds, and nothing of a discharge but its identifier
before its own does.  Here is also what is kept of a chain for its next call, which then costs one HMAC;
``chain_state`` says how its caveats restrict.
"""

import os
import threading
import weakref
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import arx_verifier.limits as limits
import arx_verifier.names as names
from arx_verifier.errors import ArxError, MalformedTokenError, SignatureMismatchError
from arx_verifier.token import (
    JOINT,
    MINT_AUDIENCE,
    Identifier,
    KeyRing,
    OperatorIdentifier,
    PresentedCall,
    call_proof,
    caveats,
    chain,
    read_identifier,
    wire,
)
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import BAD_SIGNATURE, PLACES, Refused, failures_of

MAX_DEPTH: Final = 4  # a discharge of a discharge of …; each was made by another party
_MALFORMED: Final = Refused("malformed", ())
_AUTHENTICATORS: "weakref.WeakSet[Authenticator]" = weakref.WeakSet()


class Authenticator:
    """Steps 1 to 3 for one audience, with the chains that calls were allowed with before.  Shared by threads.

    Args:
        audience: The verifier's audience.
        keys: Its keys.
        cache_bytes: Memory for proven chains, about.
    """

    def __init__(self, audience: str, keys: KeyRing, cache_bytes: int) -> None:
        self._audience, self._keys = audience, keys
        # A head and a whole text never share a map: a parent's text followed by a call would otherwise be found as if
        # it were a head, and pass warm where a cold check refuses it.
        self._parents: dict[str, ProvenChain] = {}
        self._wholes: dict[str, ProvenChain] = {}
        self._cache_bytes, self._cached = cache_bytes, 0
        self._lock = threading.Lock()
        _AUTHENTICATORS.add(self)

    def authenticate(self, token: str) -> tuple[PresentedCall | None, ProvenChain | None, ProvenChain | Refused]:
        """Authenticate a presented token.

        Args:
            token: What was presented, a secret.

        Returns:
            The call that it carried; the parent that was proven before; and the chain that is proven now, which may be
            that one, or the refusal.
        """
        call = call_proof.split_call(token)
        known = self._parents.get(call.head) if call is not None else self._wholes.get(token)
        if known is not None and not known.key.gone:
            if call is None:
                return None, known, known
            # The last bytes of the parent are in the tail, outside the map's key: without this comparison two parents
            # that differ only there would share one proof.
            if call.rest == known.rest:
                return call, known, known if known.has_signed(call.caveat, call.signature) else BAD_SIGNATURE
        if JOINT in token:
            call, found = _prove_joined(token, self._audience, self._keys)
            # A token with discharges is proven whole each time: as the parent of itself nothing of it is kept.
            return call, found if isinstance(found, ProvenChain) else None, found
        return call, known, prove(token, call, self._audience, self._keys)  # also where its key was replaced

    def remember(self, token: str, call: PresentedCall | None, proven: ProvenChain, now_ms: int) -> None:
        """Keep a chain after full success; what contains a call is never a parent.

        Args:
            token: What was presented, a secret.
            call: The call that it carried.
            proven: The chain.
            now_ms: The request's time.
        """
        key, entries = (token, self._wholes) if call is None else (call.head, self._parents)
        cost = limits.cost_of(key, proven.parts)
        if cost > self._cache_bytes:
            return
        with self._lock:
            known = entries.get(key)
            if known is not None:
                self._cached -= limits.cost_of(key, known.parts)
            entries[key] = proven
            self._cached += cost
            if len(entries) > 1:
                self._drop_ended(entries, now_ms)
            while self._cached > self._cache_bytes:
                # From the map that has more: else a holder that fills one would keep the other one empty for all.
                oldest = self._parents if len(self._parents) >= len(self._wholes) else self._wholes
                dropped = next(iter(oldest))
                self._cached -= limits.cost_of(dropped, oldest.pop(dropped).parts)

    def _drop_ended(self, entries: dict[str, ProvenChain], now_ms: int) -> None:
        """Drop the entry in front if its time or its key ended, else put it at the end."""
        key = next(iter(entries))
        proven = entries.pop(key)
        if proven.exp > now_ms and not proven.key.gone:
            entries[key] = proven
        else:
            self._cached -= limits.cost_of(key, proven.parts)

    def forget(self) -> None:
        """Drop every chain."""
        with self._lock:
            self._parents.clear()
            self._wholes.clear()
            self._cached = 0

    def _forked(self) -> None:
        """Begin anew in a forked child: a thread of the parent may have held the lock, which is then never released."""
        self._lock = threading.Lock()
        self.forget()


def _fork_all() -> None:
    for authenticator in tuple(_AUTHENTICATORS):
        authenticator._forked()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_fork_all)


class OpenedDischarges(NamedTuple):
    """A token and its discharges, all of them proven.

    Attributes:
        packets: The token's caveats, then those of each discharge in the order in which they were presented.
        answered: At which of these places stands a third-party caveat that was answered.
        begins: Where the caveats of each discharge begin, and what it answers.
    """

    packets: tuple[bytes | wire.ThirdPartyPacket, ...]
    answered: frozenset[int]
    begins: tuple[tuple[int, bytes], ...]

    def own_name(self, place: str, name: str) -> str:
        """Return what a ``once`` is spent as: that of a discharge belongs to what it answers.

        Approvals have names that many may read.  A holder that writes one into its token, or into a discharge of its
        own making, uses up a name of its own.  It cannot make one that answers another party's third-party caveat.

        Args:
            place: Where it stands, as ``reasons.place`` has it.
            name: As it is written.
        """
        index = PLACES.index(place) - 1
        answers = next((answers for begin, answers in reversed(self.begins) if begin <= index), None)
        return name if answers is None else f"{wire.text_of(sha256(answers).digest()[:16])}:{name}"


def prove(
    token: str, call: PresentedCall | None, audience: str, keys: KeyRing, discharges: Sequence[str] = ()
) -> ProvenChain | Refused:
    """Prove a presented token.

    Args:
        token: What was presented, a secret.
        call: What ``split_call`` made of it.
        audience: The verifier's audience.
        keys: Its keys.
        discharges: What was presented with it, secrets.

    Returns:
        The chain, without the call it may have carried; or the refusal.
    """
    try:
        # 1. token/wire: size, version, one byte form.  SPEC 2
        if call is None:
            body, signature = wire.read_text(token)
        else:
            body, signature = wire.split_text(call.head) + call.rest, call.signature
        location, raw_identifier, packets = wire.walk(body)
        unverified = read_identifier(raw_identifier)
        if location != keys.location or len(packets) + (call is not None) > wire.MAX_CAVEATS:
            return _MALFORMED
        if unverified.aud != audience:
            return Refused("wrong_audience", ())
        # 2. token/keyring: the audience key of kid.  SPEC 9
        key = keys.get(unverified.kid)
        if key is None:
            return Refused("unknown_key", ())
        # 3. token/chain: fold and compare, then the discharges.  SPEC 5, 6.7
        parent = chain.fold(key.derived, raw_identifier, packets)
        folded = chain.extend(parent, call.caveat) if call is not None else parent
        if not chain.equal(folded, signature):
            return Refused("bad_signature", ())
        opened = None
        if discharges:
            opened = open_discharges(
                discharges,
                key=key.derived,
                identifier=raw_identifier,
                packets=packets,
                parent=parent,
                location=keys.location,
                room=wire.MAX_CAVEATS - (call is not None),
            )
        # -- From here on the content is authentic. --
        identifier = check_identifier(unverified, audience, keys)
        proven = ProvenChain(key, identifier, parent, call.rest if call is not None else b"")
        if opened is None:
            proven.read_caveats(packets, audience)
        else:
            _read(proven, opened, len(packets), audience)
    except ArxError as error:
        return Refused(error.code, ())
    return proven


def _prove_joined(text: str, audience: str, keys: KeyRing) -> tuple[PresentedCall | None, ProvenChain | Refused]:
    """Prove a token with the discharges joined to it.  SPEC 6.7.

    Args:
        text: What was presented, a secret.
        audience: The verifier's audience.
        keys: Its keys.

    Returns:
        The call that the token carried, and the chain with the caveats of the discharges; or the refusal.
    """
    from arx_verifier.token import MAX_DISCHARGES

    token, *discharges = text.split(JOINT, MAX_DISCHARGES + 1)
    if len(text) > wire.MAX_CREDENTIAL_CHARS or len(discharges) > MAX_DISCHARGES:
        return None, _MALFORMED
    call = call_proof.split_call(token)
    return call, prove(token, call, audience, keys, discharges)


def _read(proven: ProvenChain, opened: OpenedDischarges, own: int, audience: str) -> None:
    """Read the token's caveats, *own* of them, and then those of the discharges."""
    wrong = speaks_of_holders(opened.packets, own)
    proven.read_caveats(opened.packets if wrong is None else opened.packets[:own], audience)
    proven.once = tuple([(place, opened.own_name(place, name), at) for place, name, at in proven.once])
    proven.unmet = tuple(unmet for unmet in proven.unmet if unmet[0] not in opened.answered)
    if wrong is not None and proven.refused is None:
        index, error = wrong
        proven.refused = Refused(error.code, failures_of(error, index))


def check_identifier(identifier: Identifier | OperatorIdentifier, audience: str, keys: KeyRing) -> Identifier:
    """Hold a proven identifier to the realm's outer limits.

    Args:
        identifier: What ``read_identifier`` read.
        audience: This verifier's audience.
        keys: For the realm's longest token life.

    Returns:
        The identifier, an agent's.

    Raises:
        MalformedTokenError: An operator's, a life longer than the realm's, a bound token, no task, or a name that is
            none of SPEC 4.4.
    """
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("an operator's token is good for the mint alone")
    if not 0 < identifier.exp - identifier.iat <= keys.max_ttl_ms:
        # A token that lives longer would outlive the record of its kill.
        raise MalformedTokenError(f"a token of this realm lives at most {keys.max_ttl_ms} ms")
    if identifier.holder is not None:
        raise MalformedTokenError("bound tokens are reserved and not accepted by this version")
    if (identifier.task is None) != (audience == MINT_AUDIENCE):
        raise MalformedTokenError("a token for a tool service has a task; one for the mint has none")
    session = identifier.session
    if not names.are_ids(session, identifier.task or session) or not names.can_grant(
        identifier.agent, identifier.policy
    ):
        raise MalformedTokenError("agent, session, task and policy are named as SPEC 4.4 says")
    return identifier


class _Given(NamedTuple):
    parts: wire.Packets
    at: int  # where its caveats begin


class _Answers:
    """The discharges that were not asked for yet."""

    def __init__(self, parent: bytes) -> None:
        self.parent = parent
        self.waiting: dict[bytes, _Given] = {}
        self.answered: set[int] = set()

    def answer(self, signature: bytes, packets: Sequence[bytes | wire.ThirdPartyPacket], at: int, depth: int) -> None:
        """Prove what answers the third-party caveats of a proven chain, and what answers theirs.

        Args:
            signature: The chain's first, of its identifier alone.
            packets: Its caveats.
            at: Where they begin among all.
            depth: How many discharges led here.
        """
        for place, packet in enumerate(packets, at):
            if isinstance(packet, bytes):
                signature = chain.extend(signature, packet)
                continue
            # Spent before it is checked: two that name each other would otherwise recurse until the stack ends.
            given = self.waiting.pop(packet.identifier, None)
            if given is not None:
                if depth == MAX_DEPTH:
                    raise MalformedTokenError(f"a discharge of a discharge, more than {MAX_DEPTH} deep")
                from arx_verifier.token import unseal  # few tokens have one: a start need not wait for it

                self._prove(unseal(signature, packet.verification_id), given, depth + 1)
                self.answered.add(place)
            signature = chain.extend_third_party(signature, packet.verification_id, packet.identifier)

    def _prove(self, key: bytes | None, given: _Given, depth: int) -> None:
        from arx_verifier.token import binding

        _, identifier, packets, signature = given.parts
        if key is None or not chain.equal(binding(self.parent, chain.fold(key, identifier, packets)), signature):
            raise SignatureMismatchError("a discharge was not made for this caveat, or not bound to this token")
        self.answer(chain.extend(key, identifier), packets, given.at, depth)


def open_discharges(
    texts: Sequence[str],
    *,
    key: bytes,
    identifier: bytes,
    packets: tuple[bytes | wire.ThirdPartyPacket, ...],
    parent: bytes,
    location: bytes,
    room: int,
) -> OpenedDischarges:
    """Prove discharges against the proven token that they were presented with.

    Args:
        texts: Each discharge's text.
        key: The derived key that the token was proven with.
        identifier: The token's.
        packets: Its caveats, without its call.
        parent: Its signature before that.
        location: That of the realm.
        room: How many caveats there may be in all.

    Returns:
        All that is proven now.

    Raises:
        MalformedTokenError: A discharge is no macaroon of this realm, is of no or the same caveat, or is nested too
            deeply; or there are too many caveats.
        SignatureMismatchError: One was made with another key, altered, or bound to another token.
    """
    answers = _Answers(parent)
    found = packets
    for text in texts:
        parts = wire.decode(wire.split_text(text))
        if parts.location != location:
            raise MalformedTokenError("a discharge of another realm")
        if parts.identifier in answers.waiting:
            raise MalformedTokenError("two discharges of one caveat")
        answers.waiting[parts.identifier] = _Given(parts, len(found))
        found += parts.caveats
    if len(found) > room:
        raise MalformedTokenError(f"token and discharges have more than {wire.MAX_CAVEATS} caveats")
    begins = tuple([(given.at, answered) for answered, given in answers.waiting.items()])
    answers.answer(chain.extend(key, identifier), packets, 0, 0)
    if answers.waiting:
        raise MalformedTokenError("a discharge that no caveat asks for")
    return OpenedDischarges(found, frozenset(answers.answered), begins)


def speaks_of_holders(packets: Sequence[bytes | wire.ThirdPartyPacket], begin: int) -> tuple[int, ArxError] | None:
    """Find the first caveat of a discharge that would say something of the token's holders; and what is wrong with it.

    Args:
        packets: As ``OpenedDischarges`` has them.
        begin: Where those of discharges begin.
    """
    for index, packet in enumerate(packets[begin:], begin):
        if isinstance(packet, bytes):
            try:
                caveat = caveats.read_proven(packet)
            except ArxError:
                return None  # the reader of all of them refuses it
            said = [name for name in caveats.ABOUT_HOLDERS if getattr(caveat, name) is not None]
            if said:
                return index, MalformedTokenError(f"a discharge says nothing of {', '.join(said)}")
    return None
