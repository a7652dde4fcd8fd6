# SPDX-License-Identifier: Apache-2.0
"""Authenticate a token and the discharges presented with it: steps 1 to 3 of SPEC 11, and 6.7.

Before the signature is verified, only ``kid`` and ``aud`` of a token and the identifier of a discharge are interpreted.
``Authenticator`` also caches chains: the next call of a cached chain costs one HMAC.
"""

import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import arx_verifier.limits as limits
import arx_verifier.names as names
from arx_verifier._platform import reset_at_fork
from arx_verifier.errors import ArxError, MalformedTokenError, TokenError
from arx_verifier.token import call_proof, caveats, chain, wire
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import MINT_AUDIENCE, Identifier, OperatorIdentifier, read_identifier
from arx_verifier.token.wire import JOINT
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.compiled_caveats import third_party_of
from arx_verifier.verification.effects import Shown
from arx_verifier.verification.reasons import BAD_SIGNATURE, PLACES, Refused, failures_of

MAX_DEPTH: Final = 4  # bounds recursion, and no real approval is nested deeper
_MALFORMED: Final = Refused("malformed", ())


class Authenticator:
    """Steps 1 to 3 of SPEC 11 for one audience, with a cache of chains that were allowed before.  Thread-safe.

    Args:
        audience: The verifier's audience.
        keys: Its keys.
        cache_bytes: Approximate memory for cached chains, bytes.
    """

    def __init__(self, audience: str, keys: KeyRing, cache_bytes: int) -> None:
        self._audience, self._keys = audience, keys
        # A head and a whole text never share a map.  Otherwise a token whose text equals another's head would be found
        # in the cache, and accepted there although a verification refuses it.
        self._parents: dict[str, ProvenChain] = {}
        self._wholes: dict[str, ProvenChain] = {}
        self._cache_bytes, self._cached = cache_bytes, 0
        self._lock = threading.Lock()
        _AUTHENTICATORS.add(self)

    def authenticate(self, token: str) -> tuple[PresentedCall | None, ProvenChain | None, ProvenChain | Refused]:
        """Authenticate a presented token.

        Args:
            token: The presented text, a secret.

        Returns:
            The call that it carries, or None; the cached parent, or None; and the authenticated chain, which may be the
            cached one, or the refusal.
        """
        call = call_proof.split_call(token)
        known = self._parents.get(call.head) if call is not None else self._wholes.get(token)
        if known is not None and not known.key.gone:
            if call is None:
                return None, known, known
            # The parent's last bytes are in the tail, outside the map's key: without this comparison, two parents that
            # differ only there would share one cache entry.
            if call.rest == known.rest:
                return call, known, known if known.has_signed(call.caveat, call.signature) else BAD_SIGNATURE
        if JOINT in token:
            call, found = _prove_joined(token, self._audience, self._keys)
            # A token with discharges is verified whole each time: a cached chain must not outlive its discharges.
            return call, found if isinstance(found, ProvenChain) else None, found
        return call, known, prove(token, call, self._audience, self._keys)  # also for a cached chain whose key is gone

    def remember(self, token: str, call: PresentedCall | None, proven: ProvenChain, now_ms: int) -> None:
        """Cache a chain.  The caller does so only after it allowed the call.

        Args:
            token: The presented text, a secret.
            call: The call that it carried, or None.
            proven: The chain.
            now_ms: The request's time, ms since the Unix epoch.
        """
        key, entries = (token, self._wholes) if call is None else (call.head, self._parents)
        cost = limits.cost_of(key, proven.parts)
        if cost > self._cache_bytes:
            return
        # Only allowed calls come here: an attacker without a valid token cannot fill the cache.
        with self._lock:
            known = entries.get(key)
            if known is not None:
                self._cached -= limits.cost_of(key, known.parts)
            entries[key] = proven
            self._cached += cost
            if len(entries) > 1:
                self._drop_ended(entries, now_ms)
            while self._cached > self._cache_bytes:
                # From the larger map: otherwise a holder that fills one would keep the other one empty for all holders.
                oldest = self._parents if len(self._parents) >= len(self._wholes) else self._wholes
                dropped = next(iter(oldest))
                self._cached -= limits.cost_of(dropped, oldest.pop(dropped).parts)

    def _drop_ended(self, entries: dict[str, ProvenChain], now_ms: int) -> None:
        """Drop the oldest entry if its token expired or its key is gone; otherwise move it to the end."""
        # One entry a call: the work stays constant, and every expired entry is found in the end.
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
        """Empty the cache in a forked child."""
        # A thread of the parent may have held the lock at the fork, and no thread of the child releases it.
        self._lock = threading.Lock()
        self.forget()


_AUTHENTICATORS: Final = reset_at_fork(Authenticator._forked)  # noqa: SLF001 - of this module


class OpenedDischarges(NamedTuple):
    """A token and its discharges, all authenticated.

    Attributes:
        packets: The token's caveats, then those of each discharge in the order in which they were presented.
        answered: By index in ``packets`` the third-party caveats that a discharge answers, each with its derived key, a
            secret.
        begins: For each discharge, the index of its first caveat in ``packets``, and the identifier that it answers.
    """

    packets: tuple[bytes | wire.ThirdPartyPacket, ...]
    answered: Mapping[int, bytes]
    begins: tuple[tuple[int, bytes], ...]

    def shown(self, index: int, said: Sequence[tuple[int, Shown]]) -> frozenset[tuple[str, int]]:
        """Return the marks that were shown to who gave a discharge, each with its time.  SPEC 21.8.

        Args:
            index: The index of the third-party caveat that it answers.
            said: Each ``shown`` after the index of its caveat.
        """
        packet = self.packets[index]
        answers = None if isinstance(packet, bytes) else packet.identifier
        # A holder can attenuate a discharge, so that each has to name the mark; those of the token hold for all.
        found = [frozenset(marks) for at, marks in said if self._answers(at) in (answers, None)]
        given = any(self._answers(at) == answers for at, _ in said)
        return frozenset.intersection(*found) if given else frozenset()

    def _answers(self, index: int) -> bytes | None:
        """Return what the discharge of a caveat answers; None for a caveat of the token."""
        # The last that begins there: a discharge without caveats begins where the next one does.
        return next((answers for begin, answers in reversed(self.begins) if begin <= index), None)

    def own_name(self, place: str, name: str) -> str:
        """Return the name under which a ``once`` is spent: that of a discharge includes what the discharge answers.

        Args:
            place: The caveat's place, as ``reasons.place`` names it.
            name: The name in the caveat.
        """
        # Names of approvals are no secret.  A holder that writes one into its own token, or into a discharge that it
        # issued, must not use up the approval of another holder: it cannot answer another party's third-party caveat.
        answers = self._answers(PLACES.index(place) - 1)
        return name if answers is None else f"{wire.text_of(sha256(answers).digest()[:16])}:{name}"


def prove(
    token: str, call: PresentedCall | None, audience: str, keys: KeyRing, discharges: Sequence[str] = ()
) -> ProvenChain | Refused:
    """Verify the signatures of a presented token.  SPEC 11, steps 1 to 3.

    Args:
        token: The presented text, a secret.
        call: The result of ``split_call`` for it.
        audience: The verifier's audience.
        keys: Its keys.
        discharges: The texts of the discharges that were presented with it, secrets.

    Returns:
        The chain, without the call that it may have carried; or the refusal.
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
        if isinstance(unverified, Identifier) and unverified.holder is not None:
            signatures = chain.signatures(key.derived, raw_identifier, packets)  # its holders signed for each of them
        else:
            signatures = [chain.fold(key.derived, raw_identifier, packets)]
        parent = signatures[-1]
        folded = chain.extend(parent, call.caveat) if call is not None else parent
        # In constant time: an attacker who measures the comparison must not learn how many bytes were right.
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
            _read_caveats(proven, packets, audience, keys.realm, signatures)
        else:
            _read(proven, opened, len(packets), audience, keys.realm, signatures)
    except ArxError as error:
        return Refused(error.code, ())
    return proven


def _prove_joined(text: str, audience: str, keys: KeyRing) -> tuple[PresentedCall | None, ProvenChain | Refused]:
    """Verify a token with the discharges joined to it.  SPEC 6.7.

    Args:
        text: The presented text, a secret.
        audience: The verifier's audience.
        keys: Its keys.

    Returns:
        The call that the token carried, and the chain with the caveats of the discharges; or the refusal.
    """
    from arx_verifier.token.discharge import MAX_DISCHARGES

    token, *discharges = text.split(JOINT, MAX_DISCHARGES + 1)
    if len(text) > wire.MAX_CREDENTIAL_CHARS or len(discharges) > MAX_DISCHARGES:
        return None, _MALFORMED
    call = call_proof.split_call(token)
    return call, prove(token, call, audience, keys, discharges)


def _read_caveats(
    proven: ProvenChain,
    packets: Sequence[bytes | wire.ThirdPartyPacket],
    audience: str,
    realm: str,
    signatures: Sequence[bytes],
) -> None:
    if proven.identifier.holder is None:
        proven.read_caveats(tuple(packets), audience)
    else:
        proven.read_bound(tuple(packets), audience, realm, signatures)


def _read(
    proven: ProvenChain, opened: OpenedDischarges, own: int, audience: str, realm: str, signatures: Sequence[bytes]
) -> None:
    """Read the caveats of an authenticated token, the first *own* ones, and then those of its discharges."""
    wrong = speaks_of_holders(opened.packets, own)
    _read_caveats(proven, opened.packets if wrong is None else opened.packets[: wrong[0]], audience, realm, signatures)
    proven.once = tuple([(place, opened.own_name(place, name), at) for place, name, at in proven.once])
    proven.approvals = tuple(
        (wanted, opened.answered[index]) for index, wanted in proven.unmet if index in opened.answered
    )
    proven.unmet = tuple(unmet for unmet in proven.unmet if unmet[0] not in opened.answered)
    if proven.marks is not None:
        proven.marks.shown = {PLACES[index + 1]: opened.shown(index, proven.shown) for index in opened.answered}
    if wrong is not None and proven.refused is None:
        index, error = wrong
        proven.refused = Refused(error.code, failures_of(error, index))


def check_identifier(identifier: Identifier | OperatorIdentifier, audience: str, keys: KeyRing) -> Identifier:
    """Check an authenticated identifier against the realm's limits.  SPEC 4.

    Args:
        identifier: The identifier.
        audience: This verifier's audience.
        keys: Its keys, which have the realm's longest token life.

    Returns:
        The identifier of an agent's token.

    Raises:
        MalformedTokenError: An operator's token, a life longer than the realm's, another key of this audience, a task
            in a token for the mint or none in another one, or a name that SPEC 4.4 does not allow.
    """
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("an operator's token is good for the mint alone")
    if not 0 < identifier.exp - identifier.iat <= keys.max_ttl_ms:
        # A token that lives longer would outlive the record of its kill.
        raise MalformedTokenError(f"a token of this realm lives at most {keys.max_ttl_ms} ms")
    if (identifier.holder is None) != (identifier.aud_key is None):
        raise MalformedTokenError("`holder` and `aud_key` come together")
    if identifier.vouched is not None and identifier.holder is None:
        raise MalformedTokenError("`vouched` is for bound tokens")
    if identifier.holder is not None:
        key = keys.get(identifier.kid)
        if key is None or identifier.aud_key != key.public:
            # Its holder could prove no call to this service.
            raise MalformedTokenError("`aud_key` is another key than this service's")
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
    at: int  # the index of its first caveat


class _Answers:
    """The verification of discharges: those without a matching third-party caveat yet, and the answered places."""

    def __init__(self, parent: bytes) -> None:
        self.parent = parent
        self.waiting: dict[bytes, _Given] = {}
        self.answered: dict[int, bytes] = {}

    def answer(self, signature: bytes, packets: Sequence[bytes | wire.ThirdPartyPacket], at: int, depth: int) -> None:
        """Verify the discharges of an authenticated chain's third-party caveats, and those of theirs.  SPEC 6.7.

        Args:
            signature: The chain's signature of its identifier alone, before its caveats.
            packets: Its caveats.
            at: The index of the first of them among all.
            depth: How many discharges led to this chain.

        Raises:
            MalformedTokenError: More than ``MAX_DEPTH`` nested discharges.
            TokenError: ``bad_signature``: a discharge was made with another key, altered, or bound to another token.
        """
        for place, packet in enumerate(packets, at):
            if isinstance(packet, bytes):
                signature = chain.extend(signature, packet)
                continue
            # Removed before it is verified: two discharges that name each other would otherwise recurse without end.
            given = self.waiting.pop(packet.identifier, None)
            if given is not None:
                if depth == MAX_DEPTH:
                    raise MalformedTokenError(f"a discharge of a discharge, more than {MAX_DEPTH} deep")
                from arx_verifier.token.discharge import unseal  # slow to import, and few tokens have a discharge

                key = unseal(signature, packet.verification_id)
                self.answered[place] = self._prove(key, given, depth + 1)
            signature = chain.extend_third_party(signature, packet.verification_id, packet.identifier)

    def _prove(self, key: bytes | None, given: _Given, depth: int) -> bytes:
        from arx_verifier.token.discharge import binding

        _, identifier, packets, signature = given.parts
        if key is None or not chain.equal(binding(self.parent, chain.fold(key, identifier, packets)), signature):
            text = "a discharge was not made for this caveat, or not bound to this token"
            raise TokenError(text, code="bad_signature")
        self.answer(chain.extend(key, identifier), packets, given.at, depth)
        return key


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
    """Verify discharges against the authenticated token that they were presented with.  SPEC 6.7.

    Args:
        texts: Each discharge's text.
        key: The derived key that signed the token.
        identifier: The token's identifier.
        packets: Its caveats, without its call.
        parent: Its signature before its call.
        location: The realm's location.
        room: How many caveats token and discharges may have together.

    Returns:
        All caveats, authenticated.

    Raises:
        MalformedTokenError: A discharge is not a macaroon of this realm, answers no caveat or one that another
            discharge answers, or is nested too deeply; or there are too many caveats.
        TokenError: ``bad_signature``: a discharge was made with another key, altered, or bound to another token.
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
        # It was not verified: its caveats would come into the decision and its bytes into no signature.
        raise MalformedTokenError("a discharge that no caveat asks for")
    return OpenedDischarges(found, answers.answered, begins)


def speaks_of_holders(packets: Sequence[bytes | wire.ThirdPartyPacket], begin: int) -> tuple[int, ArxError] | None:
    """Return the index of the first caveat of a discharge with a member about holders, and the error; or None.

    Args:
        packets: ``OpenedDischarges.packets``.
        begin: The index of the first caveat of a discharge.
    """
    for index, packet in enumerate(packets[begin:], begin):
        try:
            if isinstance(packet, bytes):
                caveat = caveats.read_proven(packet)
                said = [name for name in caveats.ABOUT_HOLDERS if getattr(caveat, name) is not None]
            else:
                said = ["when"] if third_party_of(index, packet)[0][1].when is not None else []
        except ArxError:
            return None  # ``ProvenChain.read_caveats`` refuses it, with its own code
        if said:
            return index, MalformedTokenError(f"a discharge says nothing of {', '.join(said)}")
    return None
