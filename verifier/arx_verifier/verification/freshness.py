# SPDX-License-Identifier: Apache-2.0
"""Ask whether a proven token stands: before it is accepted, and again while what it allowed goes on.  SPEC 10, 11.

``epoch`` decides; here is what is asked, for how long an answer may be waited for, and who waits: a thread, or the
caller, who is told what for.
"""

import time
from typing import Final, NamedTuple

from arx_verifier.errors import ArxError, refusal
from arx_verifier.journal import NO_RECORD, Decision, DecisionSink
from arx_verifier.request import AccessRequest
from arx_verifier.revocation import Epochs
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import Refused, out_of_time

BEHIND_WAIT_S: Final = 0.05  # a token born after this view: its kill-free birth is normally one probe away
SYNCING_WAIT_S: Final = 0.5  # a view that has just begun is normally whole within milliseconds
FRESH_WAIT_S: Final = 1.0  # as long as the default lease: a store that takes longer has ended every lease anyway


class Wait(NamedTuple):
    """What an answer has to wait for, as ``Epochs.catch_up`` takes it.

    Attributes:
        sent_after: A probe must have been sent at or after this time, boot clock, ns.
        born: It must have brought the view to here.
        timeout_s: How long to wait.
    """

    sent_after: int
    born: int
    timeout_s: float


class VerifierReadiness(NamedTuple):
    """Whether a verifier can allow calls now.

    Attributes:
        ready: Whether it can.
        why: The reason code of what stands against it, or None.
        fill: How much of its budget the journal has taken, 0.0 to 1.0; 0.0 where decisions go elsewhere.
    """

    ready: bool
    why: str | None
    fill: float


def readiness(epochs: Epochs, decisions: DecisionSink) -> VerifierReadiness:
    """Say whether calls can be allowed now, without waiting."""
    incarnation, applied, _ = epochs.view()
    refused = epochs.check(incarnation, applied, ())
    fill = float(getattr(decisions, "fill", 0.0))
    why = refused.code if refused is not None else "audit_unavailable" if fill >= 1 else None
    return VerifierReadiness(why is None, why, fill)


def end_of(decision: Decision, reason: ArxError, epochs: Epochs) -> Decision:
    """Make the record of running work that was ended.

    Args:
        decision: The allow that it ran under.
        reason: Why it was ended.
        epochs: The view that said so.
    """
    incarnation, applied, age_ms = epochs.view()
    return Decision(
        reason.code,
        time.time_ns() // 1_000_000,
        decision.facts,
        decision.tool,
        incarnation=incarnation,
        applied=applied,
        age_ms=age_ms,
        failures=tuple(reason.failures),
        peer=decision.peer,
        request_id=decision.request_id,
        traceparent=decision.traceparent,
        ends=decision.sequence or NO_RECORD,
    )


def ask(epochs: Epochs, proven: ProvenChain, waited: Wait | None = None) -> Refused | Wait | None:
    """Ask without waiting.

    Args:
        epochs: The view.
        proven: The token.
        waited: What this call was told to wait for before, and has; it is then told to wait no more.

    Returns:
        None when the token stands, the refusal, or what to wait for before asking again.
    """
    incarnation, born = proven.identifier.born
    fresh = proven.fresh_ms
    sent_after = 0
    if waited is not None:
        sent_after = waited.sent_after
    elif fresh is not None:
        sent_after = epochs.boot_ns() - fresh * 1_000_000
    refused = epochs.check(incarnation, born, proven.targets, sent_after)
    if refused is None:
        return None
    if waited is None:
        if refused.code == "behind":
            return Wait(sent_after, born, BEHIND_WAIT_S)
        if refused.code == "syncing":
            return Wait(sent_after, born, SYNCING_WAIT_S)
        if fresh is not None and refused.code == "stale":
            return Wait(sent_after, born, FRESH_WAIT_S)
    # What a caller may learn of a kill is that there was one, not whose.
    return Refused(refused.code, ())


def ask_and_wait(epochs: Epochs, proven: ProvenChain) -> Refused | None:
    """Ask, and where an answer is worth waiting for, wait in this thread and ask again."""
    found = ask(epochs, proven)
    if isinstance(found, Wait):
        epochs.catch_up(*found)
        found = ask(epochs, proven, found)
        assert not isinstance(found, Wait)
    return found


def ask_late(epochs: Epochs, proven: ProvenChain, request: AccessRequest, begun: int) -> Refused | None:
    """Ask as ``ask_and_wait`` does, and whether the token's time ran out meanwhile.

    Args:
        epochs: The view.
        proven: The token.
        request: What was decided.
        begun: What ``time.monotonic_ns`` said when the token's time was last looked at.
    """
    refused = ask_and_wait(epochs, proven)
    early, late = epochs.times_ms(request.after(time.monotonic_ns() - begun).at)
    if refused is None and late >= proven.exp:
        return out_of_time(proven.nbf, proven.exp, proven.identifier.iat, early, late)
    return refused


def recheck(epochs: Epochs, proven: ProvenChain, may_wait: bool) -> ArxError | None:
    """Ask whether what was allowed may go on.

    Args:
        epochs: The view.
        proven: The token.
        may_wait: Whether this thread may wait for a probe, as the token's ``fresh`` may ask; else the lease decides.

    Returns:
        None while it may.
    """
    if epochs.times_ms(time.time_ns() // 1_000_000)[1] >= proven.exp:
        return refusal("expired")
    if may_wait:
        refused = ask_and_wait(epochs, proven)
        return refusal(refused.code, refused.failures) if refused is not None else None
    incarnation, born = proven.identifier.born
    found = epochs.check(incarnation, born, proven.targets)
    return refusal(found.code) if found is not None else None
