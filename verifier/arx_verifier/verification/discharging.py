# SPDX-License-Identifier: Apache-2.0
"""Prove the discharges that were presented with a proven token, and put their caveats behind the token's.  SPEC 6.7.

Signatures alone: what a third-party caveat requires stands in ``discharge``; what the caveats then prohibit, in
``chain_state``.  Nothing of a discharge but its identifier is looked at before its signature holds.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from arx_verifier.errors import ArxError, MalformedTokenError, SignatureMismatchError
from arx_verifier.token import caveats, chain, wire
from arx_verifier.token.discharge import NOT_IN_A_DISCHARGE, binding, unseal
from arx_verifier.verification.prohibiting import PLACES

MAX_DEPTH: Final = 4  # a discharge of a discharge of …; each was made by somebody else


class Opened(NamedTuple):
    """A token and its discharges, all of them proven.

    Attributes:
        packets: The token's caveats, then those of each discharge in the order in which they were presented.
        answered: At which of these places stands a third-party caveat that was answered.
        begins: Where the caveats of each discharge begin, and what it answers.
    """

    packets: tuple[bytes | wire.ThirdParty, ...]
    answered: frozenset[int]
    begins: tuple[tuple[int, bytes], ...]

    def own_name(self, place: str, name: str) -> str:
        """Return what a ``once`` is spent as: that of a discharge belongs to what it answers.

        Approvals have names that many may read.  A holder that writes one into its token, or into a discharge of its
        own making, uses up a name of its own; one that answers somebody else's third-party caveat it cannot make.

        Args:
            place: Where it stands, as ``prohibiting.place`` has it.
            name: As it is written.
        """
        index = PLACES.index(place) - 1
        answers = next((answers for begin, answers in reversed(self.begins) if begin <= index), None)
        return name if answers is None else f"{wire.text_of(sha256(answers).digest()[:16])}:{name}"


class _Given(NamedTuple):
    parts: wire.Packets
    at: int  # where its caveats begin


class _Answers:
    """The discharges that were not asked for yet."""

    def __init__(self, parent: bytes) -> None:
        self.parent = parent
        self.waiting: dict[bytes, _Given] = {}
        self.answered: set[int] = set()

    def answer(self, signature: bytes, packets: Sequence[bytes | wire.ThirdParty], at: int, depth: int) -> None:
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
                self._prove(unseal(signature, packet.verification_id), given, depth + 1)
                self.answered.add(place)
            signature = chain.extend_third_party(signature, packet.verification_id, packet.identifier)

    def _prove(self, key: bytes | None, given: _Given, depth: int) -> None:
        _, identifier, packets, signature = given.parts
        if key is None or not chain.equal(binding(self.parent, chain.fold(key, identifier, packets)), signature):
            raise SignatureMismatchError("a discharge was not made for this caveat, or not bound to this token")
        self.answer(chain.extend(key, identifier), packets, given.at, depth)


def open_discharges(
    texts: Sequence[str],
    *,
    key: bytes,
    identifier: bytes,
    packets: tuple[bytes | wire.ThirdParty, ...],
    parent: bytes,
    location: bytes,
    room: int,
) -> Opened:
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
    return Opened(found, frozenset(answers.answered), begins)


def speaks_of_holders(packets: Sequence[bytes | wire.ThirdParty], begin: int) -> tuple[int, ArxError] | None:
    """Find the first caveat of a discharge that would say something of the token's holders; and what is wrong with it.

    Args:
        packets: As ``Opened`` has them.
        begin: Where those of discharges begin.
    """
    for index, packet in enumerate(packets[begin:], begin):
        if isinstance(packet, bytes):
            try:
                caveat = caveats.read_proven(packet)
            except ArxError:
                return None  # whoever reads all of them says so
            said = [name for name in NOT_IN_A_DISCHARGE if getattr(caveat, name) is not None]
            if said:
                return index, MalformedTokenError(f"a discharge says nothing of {', '.join(said)}")
    return None
