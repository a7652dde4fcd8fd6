# SPDX-License-Identifier: Apache-2.0
"""What the caveats of one chain say together: each may only take away from those before it.  SPEC 6.

Policies write the same caveats into every token and code delegates with the same words, so what a sequence of caveats
says is kept for all tokens, also that it is refused: of the next one with that sequence only its links are worked out.
"""

from collections.abc import Sequence

from arx_verifier import limits, names
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.token import chain
from arx_verifier.token.macaroon import Identifier
from arx_verifier.token.wire import ThirdParty, cut_out
from arx_verifier.verification import prohibiting
from arx_verifier.verification.compiled_caveats import (
    GAP,
    HOP_CHARS,
    HOP_MARK,
    KEPT,
    REFUSED,
    TOGETHER,
    Said,
    Terms,
    read_terms,
    third_party_of,
)
from arx_verifier.verification.prohibiting import PLACES


def read(packets: tuple[bytes | ThirdParty, ...], identifier: Identifier, audience: str) -> tuple[Said, Sequence[str]]:
    """Read proven caveats.

    Args:
        packets: The caveats, in order.
        identifier: What they restrict.
        audience: The verifier's audience.

    Returns:
        What they say, up to the first that can never hold, which is then ``refused``; and the links up to there.

    Raises:
        MalformedTokenError: The identifier's id is no link.
    """
    keys, hops = cut_out(packets, HOP_MARK, HOP_CHARS)
    together = (audience, identifier.depth, keys)
    said = TOGETHER.get(together)
    if said is not None:
        try:
            return said, chain.links_of(identifier.id, hops)[: len(said.named)]
        except MalformedTokenError:
            pass  # where it is wrong is told below
    said, links = _read_each(packets, identifier, audience)
    if _may_be_kept(said, keys) and _are_links(identifier, hops):
        TOGETHER.keep(together, said, sum([2 + len(key) // 100 for key in keys]))
    return said, links


def _may_be_kept(said: Said, keys: Sequence[bytes | ThirdParty]) -> bool:
    """Tell whether what caveats say is made of what is kept of each of those that were read."""
    if not all([key.__class__ is bytes for key in keys]):  # noqa: C419 - a generator costs more
        return False
    read = keys[: said.read]
    # A text behind a mark is a hop where the caveat is known.  Of one that is refused by itself it can be the reason.
    if said.refused is not None and read and read[-1] in REFUSED and HOP_MARK not in read[-1]:
        read = read[:-1]
    return all([key in KEPT for key in read])  # noqa: C419 - likewise


def _are_links(identifier: Identifier, hops: tuple[bytes, ...]) -> bool:
    """Tell whether no hop can be what a chain is refused for."""
    try:
        chain.links_of(identifier.id, hops)
    except MalformedTokenError:
        return False
    return True


def _read_each(
    packets: Sequence[bytes | ThirdParty], identifier: Identifier, audience: str
) -> tuple[Said, Sequence[str]]:
    known, depth, said = KEPT, identifier.depth, Said()
    delegate_to: list[tuple[int, tuple[str, ...]]] = []
    allows, places, named, links, tasks = [], [], [], [], []
    agents: list[str] = []
    link = identifier.id
    chain.links_of(link, ())  # an id that is no link is nobody's caveat
    index, parts = -1, len(packets)
    try:
        for index, packet in enumerate(packets):
            if not isinstance(packet, bytes):
                third_party, more = third_party_of(index, packet)
                said.unmet = (*said.unmet, third_party)
                parts += more
                continue
            start, mark, end = packet.rpartition(HOP_MARK)
            terms = known.get(start + GAP + end[HOP_CHARS:] if mark else packet)
            if terms is None:
                terms = read_terms(packet)
            parts += terms.parts
            if to := terms.to:
                link = _link_of(link, packet, end)
                _hold_delegate(index, to, depth, delegate_to)
                depth -= 1
                named.append(to)
                links.append(link)
                agents += terms.agents
            if terms.allow is not None:
                allows.append(terms.allow)
                places.append(PLACES[index + 1])
            if not terms.plain:
                _take_rest(said, index, terms, audience)
                caveat = terms.caveat
                if caveat.depth is not None:
                    depth = min(depth, caveat.depth)
                if caveat.delegate_to is not None:
                    delegate_to.append((index, caveat.delegate_to))
                if caveat.task is not None:
                    tasks.append(caveat.task)
        if not places or places[0] != PLACES[1]:
            # Without this a mint's slip would grant every tool there is.
            raise MalformedTokenError("a token's first caveat says what it allows")
    except ArxError as error:
        said.refused, parts = (error.code, prohibiting.failures_of(error, index)), limits.parts_of(packets)
    said.parts, said.allows, said.places, said.read = parts, tuple(allows), tuple(places), index + 1
    said.named, said.tasks = tuple(named), tuple(tasks)
    said.targets = (*[f"task:{task}" for task in tasks], *agents)
    return said, links


def _hold_delegate(index: int, to: str, depth: int, delegate_to: Sequence[tuple[int, tuple[str, ...]]]) -> None:
    """Refuse a delegation where none may follow, or to somebody whom an earlier caveat does not name."""
    if depth == 0:
        raise prohibiting.too_deep(index, to)
    for rule_index, patterns in delegate_to:
        if not names.matches_any_path(patterns, to):
            raise prohibiting.not_named(index, rule_index, patterns, to)


def _link_of(link: str, packet: bytes, end: bytes) -> str:
    """Name the token that a delegation makes.

    Args:
        link: The name before it.
        packet: Its bytes as received.
        end: What follows the last ``HOP_MARK`` in them.

    Raises:
        MalformedTokenError: No hop follows.
    """
    try:
        return chain.links_of(link, (end[:HOP_CHARS],))[0]
    except MalformedTokenError:
        read_terms(packet)  # which says what is wrong with it
        raise MalformedTokenError("a hop is 9 bytes in base64url") from None


def _take_rest(said: Said, index: int, terms: Terms, audience: str) -> None:
    """Take in what a caveat says beside ``allow`` and of this very token."""
    caveat = terms.caveat
    if caveat.aud is not None and audience not in caveat.aud:
        raise prohibiting.wrong_audience(index, caveat.aud, audience)
    if caveat.exp is not None and caveat.exp < said.exp:
        said.exp = caveat.exp
    if caveat.nbf is not None and caveat.nbf > said.nbf:
        said.nbf = caveat.nbf
    if caveat.fresh is not None:
        said.fresh_ms = caveat.fresh if said.fresh_ms is None else min(said.fresh_ms, caveat.fresh)
    if terms.networks:
        said.networks = (*said.networks, (PLACES[index + 1], terms.networks))
    if caveat.require is not None:
        if "holder" in caveat.require:
            raise prohibiting.no_holder(index)
        said.needs_call = True
    if caveat.once is not None:
        if len(said.once) == limits.MAX_ONCE:
            raise MalformedTokenError(f"a token and its discharges have at most {limits.MAX_ONCE} `once`")
        said.once = (*said.once, (PLACES[index + 1], *caveat.once))
