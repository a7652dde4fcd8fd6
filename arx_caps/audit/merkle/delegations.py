# SPDX-License-Identifier: Apache-2.0
"""Check who signed the delegations of a bound token in a record, and its call, with public keys alone.  SPEC 16.5.

That the record is the log's is checked before, by ``verification``.
"""

from collections.abc import Sequence
from typing import NamedTuple

from arx_caps.audit.merkle.errors import TamperedError
from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import unpack_record
from arx_verifier.token.holder import call_message, has_signed, hop_message


class SignedDelegation(NamedTuple):
    """A delegation whose signature was checked.

    Attributes:
        by: The name of the delegator: the agent, or what the delegation before calls it.
        by_key: The delegator's public key, 43 characters, whose holder signed.
        to: What the delegator calls the next holder.
        key: The next holder's public key.
        link: The delegation's link.
    """

    by: str
    by_key: str
    to: str
    key: str
    link: str


class SignedBy(NamedTuple):
    """A call whose signature was checked.

    Attributes:
        by: The name of the last holder: the agent, or what the last delegation calls it.
        by_key: The public key, 43 characters, whose holder signed.
        call: The caveat of the call (SPEC 8.1), which has the digest of tool and arguments.
    """

    by: str
    by_key: str
    call: str


def realm_of(origin: str) -> str | None:
    """Return the realm in a log's default name, or None where an operator chose another name.  LOG 1.2.

    Args:
        origin: The log's origin.
    """
    _, _, rest = origin.partition("/")
    realm, _, last = rest.partition("/")
    return realm if realm and last == "log" else None


def check_delegations(kept: bytes, index: int, realm: str) -> Sequence[SignedDelegation]:
    """Check the signatures of the delegations in a record.

    Args:
        kept: The record's kept part, which was found in the log.
        index: The record's index, for the error.
        realm: The realm's name, which the signatures cover.

    Returns:
        The delegations in their order; none of a bearer token, of an event, or of a record of a later version.

    Raises:
        TamperedError: The holder of the key before has not signed one of them.
    """
    try:
        facts = unpack_record(kept, None).facts
    except AuditError:
        return ()
    holders, found = facts.holders, list[SignedDelegation]()
    if not holders:
        return ()
    # Delegations before the first holder's key are those that the mint has written anew and vouches for.
    first = len(facts.named) - len(holders) + 1
    if first < 0 or len(facts.links) != len(facts.named):
        raise TamperedError(f"record {index} has other keys of holders than delegations", index)
    names, links = (facts.agent, *facts.named)[first:], facts.links[first:]
    for before, holder, by, to, link in zip(holders[:-1], holders[1:], names[:-1], names[1:], links, strict=True):
        message = hop_message(realm, facts.audience, link, to, holder.key, holder.said)
        if not has_signed(before.key, message, holder.signature):
            raise TamperedError(f"record {index}: {by} has not signed the delegation to {to} in realm {realm}", index)
        found.append(SignedDelegation(by, before.key, to, holder.key, link))
    return tuple(found)


def check_call(kept: bytes, index: int, realm: str) -> SignedBy | None:
    """Check the signature of an allowed call, if its record has one.

    Args:
        kept: The record's kept part, which was found in the log.
        index: The record's index, for the error.
        realm: The realm's name, which the signature covers.

    Returns:
        Who signed it; None if the policy did not require that, or for another record than of a call.

    Raises:
        TamperedError: The last holder has not signed it.
    """
    try:
        decision = unpack_record(kept, None)
    except AuditError:
        return None
    facts, signed = decision.facts, decision.signed
    if signed is None:
        return None
    by, link = (facts.agent, *facts.named)[-1], (facts.token, *facts.links)[-1]
    message = call_message(realm, facts.audience, link, signed.said, signed.plain)
    if not facts.holders or not has_signed(facts.holders[-1].key, message, signed.signature):
        raise TamperedError(f"record {index}: {by} has not signed the call in realm {realm}", index)
    return SignedBy(by, facts.holders[-1].key, signed.plain.decode("ascii", "replace"))
