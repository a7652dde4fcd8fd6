# SPDX-License-Identifier: Apache-2.0
"""Check an authenticated token against the revocation epoch: before the call, and again while it runs.  SPEC 10, 11.

``revocation.epoch`` decides.  This module chooses how long a decision may wait for a newer view, and whether this
thread waits or the caller does.
"""

import time
from collections.abc import Awaitable
from typing import Final, NamedTuple

from arx_verifier.errors import ArxError, refusal
from arx_verifier.journal.decision import NO_RECORD, Decision, DecisionSink
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.revocation.store_steps import Steps, run
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import Refused, out_of_time

BEHIND_WAIT_S: Final = 0.05  # a token born after this view: one probe normally brings the view to its birth
SYNCING_WAIT_S: Final = 0.5  # a new view is normally complete within milliseconds
FRESH_WAIT_S: Final = 1.0  # the default lease: if the store takes longer, every lease has ended anyway
CLOSING_NS: Final = 50_000_000  # before the lease ends: closing takes time, and a stream must be closed by then
_SHORTEST_S: Final = 0.001  # between two rechecks


class Wait(NamedTuple):
    """The state of the view that a decision waits for: the arguments of ``Epochs.catch_up``.

    Attributes:
        sent_after: A probe must have been sent at or after this time, boot clock, ns.
        born: The sequence that the view must have reached.
        timeout_s: How long to wait.
    """

    sent_after: int
    born: int
    timeout_s: float


class _CatchingUp(NamedTuple):
    """A wait for the epoch view; see ``StoreCall``."""

    epochs: Epochs
    wait: Wait

    def run(self) -> bool:
        """Wait in this thread."""
        return self.epochs.catch_up(*self.wait)

    def run_async(self) -> Awaitable[bool]:
        """Return what the event loop awaits."""
        return self.epochs.catch_up_async(*self.wait)


class VerifierReadiness(NamedTuple):
    """Whether a verifier can allow calls now.

    Attributes:
        ready: Whether it can.
        why: The reason code that every call would be refused with, or None.
        fill: The used part of the journal's quota, 0.0 to 1.0; 0.0 for another sink.
    """

    ready: bool
    why: str | None
    fill: float


def readiness(epochs: Epochs, decisions: DecisionSink) -> VerifierReadiness:
    """Return whether calls can be allowed now, without waiting.

    Args:
        epochs: The epoch view.
        decisions: The sink of the decision records.
    """
    incarnation, applied, _ = epochs.view()
    # A token born now, with no target, is the mildest case: if even that is refused, so is every call.
    refused = epochs.check(incarnation, applied, ())
    fill = float(getattr(decisions, "fill", 0.0))
    why = refused.code if refused is not None else "audit_unavailable" if fill >= 1 else None
    return VerifierReadiness(why is None, why, fill)


def end_of(decision: Decision, reason: ArxError, epochs: Epochs) -> Decision:
    """Return the record of running work that the middleware ended.  SPEC 12.

    Args:
        decision: The decision that allowed the work.
        reason: Why the middleware ended it.
        epochs: The epoch view at that time.
    """
    ended = later_record(decision, reason.code, epochs)
    ended.failures, ended.ends = tuple(reason.failures), decision.sequence or NO_RECORD
    return ended


def later_record(decision: Decision, code: str, epochs: Epochs) -> Decision:
    """Return a further record of an allowed call, without what only one kind of them has.

    Args:
        decision: The decision that allowed it.
        code: The code of the record.
        epochs: The epoch view at that time.
    """
    incarnation, applied, age_ms = epochs.view()
    return Decision(
        code,
        time.time_ns() // 1_000_000,
        decision.facts,
        decision.tool,
        incarnation=incarnation,
        applied=applied,
        age_ms=age_ms,
        peer=decision.peer,
        request_id=decision.request_id,
        traceparent=decision.traceparent,
        box=decision.box,
    )


def ask(epochs: Epochs, proven: ProvenChain, waited: Wait | None = None) -> Refused | Wait | None:
    """Check a token against the epoch view without waiting.  SPEC 10.4.

    Args:
        epochs: The epoch view.
        proven: The token.
        waited: The result of the first check, if the caller has waited for it.

    Returns:
        None if the token is neither revoked nor frozen and the view is current; the refusal; or, for a first check
        alone, the state that the caller must wait for before it checks again.
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
    # A caller may learn that the token was killed or frozen, but not which target: it could be another tenant's.
    return Refused(refused.code, ())


def ask_and_wait(epochs: Epochs, proven: ProvenChain) -> Steps[Refused | None]:
    """Check a token; if the view is not current, wait and check once more.

    Args:
        epochs: The epoch view.
        proven: The token.

    Returns:
        The refusal, or None.
    """
    found = ask(epochs, proven)
    if isinstance(found, Wait):
        yield _CatchingUp(epochs, found)
        # Once: a second wait would let a slow store hold a request for an unknown time.
        found = ask(epochs, proven, found)
        assert not isinstance(found, Wait)
    return found


def ask_late(epochs: Epochs, proven: ProvenChain, request: AccessRequest, begun: int) -> Steps[Refused | None]:
    """Check a token as ``ask_and_wait`` does, and whether it expired meanwhile.  SPEC 11, step 8.

    Args:
        epochs: The epoch view.
        proven: The token.
        request: The request.
        begun: ``time.monotonic_ns`` at the last check of the token's validity.

    Returns:
        The refusal, or None.
    """
    refused = yield from ask_and_wait(epochs, proven)
    # By the monotonic clock since the request: a step of the wall clock must not revive a token that expired in a
    # queue.
    early, late = epochs.times_ms(request.after(time.monotonic_ns() - begun).at)
    if refused is None and late >= proven.exp:
        return out_of_time(proven.nbf, proven.exp, proven.identifier.iat, early, late)
    return refused


def recheck(epochs: Epochs, proven: ProvenChain, may_wait: bool) -> ArxError | None:
    """Check whether an allowed call may go on.  SPEC 11.

    Args:
        epochs: The epoch view.
        proven: The token.
        may_wait: Whether this thread may wait for a probe, as the token's ``fresh`` may need; else the lease decides.

    Returns:
        None while it may, or the error.
    """
    # The later of two readings: work in progress ends rather than outlive its token.
    if epochs.times_ms(time.time_ns() // 1_000_000)[1] >= proven.exp:
        return refusal("expired")
    if may_wait:
        refused = run(ask_and_wait(epochs, proven))
        return refusal(refused.code, refused.failures) if refused is not None else None
    incarnation, born = proven.identifier.born
    found = epochs.check(incarnation, born, proven.targets)
    if found is not None:
        return refusal(found.code)
    return refusal("stale") if epochs.lease_left_ns() < CLOSING_NS else None


def recheck_pause(epochs: Epochs, longest_s: float) -> float:
    """Return the time until running work is rechecked, s.

    Args:
        epochs: The epoch view.
        longest_s: The longest time between two rechecks, s.
    """
    # Before the end of the lease: otherwise work would outlive the bound of a kill.
    return max(min(longest_s, (epochs.lease_left_ns() - CLOSING_NS) / 1e9), _SHORTEST_S)
