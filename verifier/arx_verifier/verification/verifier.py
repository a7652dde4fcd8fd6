# SPDX-License-Identifier: Apache-2.0
"""The verification, in order; the only code that grants.  SPEC 11.

``Verifier._decide`` shows the whole order, and every way to ask goes through it.  Authenticity comes before
interpretation, whatever can miss ends in a refusal, and a refusal is a value with facts.  Time and the epoch view are
passed in.
"""

import time
from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from arx_verifier.errors import ArxError, AuditError, SettingsError, refusal
from arx_verifier.journal import OK, UNPROVEN, Decision, DecisionSink, digest_arguments, keep_arguments
from arx_verifier.names import is_audience, is_tool_pattern, matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation import Epochs
from arx_verifier.token import MINT_AUDIENCE, KeyRing, PresentedCall, call_proof
from arx_verifier.verification.authenticate import Authenticator
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.evaluate import judge
from arx_verifier.verification.freshness import VerifierReadiness, Wait, ask, ask_late, end_of, readiness
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.nonces import MemoryNonces, NonceStore, spend
from arx_verifier.verification.reasons import Refused, code_of, hold_request

_ALLOWED: Final = Refused(OK, ())
CACHE_BYTES: Final = 64 * 1024 * 1024  # about 6 000 live parents of three delegations


class Screened(msgspec.Struct, frozen=True):
    """A token whose content is authentic; no grant.

    Attributes:
        token: The token, a secret.
        call: Its call.
        known: The parent that was proven before, which is then ``proven``.
        proven: The chain.
    """

    token: str
    call: PresentedCall | None
    known: ProvenChain | None
    proven: ProvenChain

    def __repr__(self) -> str:
        return "<Screened>"


class Waiting(NamedTuple):
    """A decision that has to wait for the view of the epoch.

    Attributes:
        wait: What to wait for.
        screened: What was proven, which is not proven again.
        written: What the record says of the arguments, as ``judge`` returned it.
    """

    wait: Wait
    screened: Screened
    written: bytes | None


class Verifier:
    """Decides on calls for one audience.  Reusable, shared by threads; has one mode, enforce.

    Args:
        audience: The service's own name; a token for another one is refused.
        keys: The audience's keys.
        epochs: The view of the realm's kill epoch.
        decisions: Where every decision is recorded before it is answered.
        nonces: Which calls were made before; the default is right for exactly one process.
        record_arguments: Tools, or patterns of them, whose arguments go into the record as they are.
        cache_bytes: Memory for proven parents, about; what all verifiers of a process share takes 20 MB at most beside.

    Attributes:
        waits: Whether a decision may have to wait for a network or a disk.
    """

    def __init__(
        self,
        *,
        audience: str,
        keys: KeyRing,
        epochs: Epochs,
        decisions: DecisionSink,
        nonces: NonceStore | None = None,
        record_arguments: Collection[str] = (),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not is_audience(audience) and audience != MINT_AUDIENCE:
            raise SettingsError(f"{audience!r:.80} cannot name an audience: lower-case, at most 64, not with arx first")
        if not all(map(is_tool_pattern, record_arguments)):
            raise SettingsError("record_arguments are tools, such as orders.get, or patterns, such as orders.*")
        self._record_arguments = tuple(record_arguments)
        self.audience = audience
        self.keys = keys
        self.epochs = epochs
        self.decisions = decisions
        self.nonces = nonces if nonces is not None else MemoryNonces()
        self.waits = self.nonces.waits or self.decisions.waits
        self._prefix = call_proof.digest_prefix(audience)
        self._authenticator = Authenticator(audience, keys, cache_bytes)

    def verify(self, token: str, request: AccessRequest) -> Grant:
        """Allow a call or raise.

        Args:
            token: What was presented, a secret.
            request: What is asked for.

        Returns:
            The grant.

        Raises:
            TokenError: The token is not usable (401).
            AccessError: It is authentic and does not allow this (403).
            UnavailableError: No decision is possible now (503).
            RequestError: The request's arguments have no JSON form (400).
        """
        decision = self.decide(token, request)
        if isinstance(decision.grant, Grant):
            return decision.grant
        raise refusal(decision.code, decision.all_failures())

    def decide(self, token: str, request: AccessRequest, *, screened: Screened | None = None) -> Decision:
        """Allow or refuse a call; may wait for a probe, a shared store or a disk.

        Args:
            token: What was presented, a secret.
            request: What is asked for.
            screened: What ``screen`` returned for this token, which is then not proven again.

        Returns:
            The decision as it was recorded; ``grant`` is set when it is an allow.
        """
        decision = self._decide(token, request, None, screened)
        if isinstance(decision, Waiting):
            begun = time.monotonic_ns()
            self.epochs.catch_up(*decision.wait)
            return self._decide_again(token, request.after(time.monotonic_ns() - begun), decision)
        return decision

    def try_decide(self, token: str, request: AccessRequest) -> Decision | None:
        """Decide without waiting for anything, for event loops.

        Returns:
            The decision, or None when it would have to wait: then call ``decide`` from a thread.
        """
        decision = None if self.waits else self._decide(token, request)
        return decision if isinstance(decision, Decision) else None

    async def decide_async(self, token: str, request: AccessRequest, *, screened: Screened | None = None) -> Decision:
        """Decide as ``decide`` does, and never hold the event loop: a probe is awaited, a disk left to a thread.

        Args:
            token: What was presented, a secret.
            request: What is asked for.
            screened: What ``screen`` returned for this token, which is then not proven again.

        Returns:
            The decision as it was recorded.
        """
        if self.waits:
            from asyncio import to_thread  # a program with a loop has it loaded; no other needs it

            hold_request(request)
            begun = time.monotonic_ns()
            return await to_thread(
                lambda: self.decide(token, request.after(time.monotonic_ns() - begun), screened=screened)
            )
        decision = self._decide(token, request, None, screened)
        if isinstance(decision, Waiting):
            # Awaited and not waited for in a thread: requests without number share one probe, and a pool's threads end.
            begun = time.monotonic_ns()
            await self.epochs.catch_up_async(*decision.wait)
            return self._decide_again(token, request.after(time.monotonic_ns() - begun), decision)
        return decision

    def refuse(self, code: str, request: AccessRequest) -> Decision:
        """Count a refusal of what never came to a verification, such as a request without a token."""
        return self._unproven(Refused(code, ()), request)

    def screen(self, token: str) -> Screened | str:
        """Prove a token, before work is spent on what came with it: no grant, and nothing is kept of it here.

        Args:
            token: What was presented, a secret.

        Returns:
            For ``decide_async``, which then does not prove it again; or the code to refuse a token with that this
            service's key did not make.
        """
        if token.__class__ is not str and (odd := code_of(token)) is not None:
            return odd
        call, known, proven = self._authenticator.authenticate(token)
        return proven.code if isinstance(proven, Refused) else Screened(token, call, known, proven)

    def record_end(self, decision: Decision, reason: ArxError) -> Decision:
        """Record that running work was ended, such as an open stream by a kill.  May wait where ``decisions`` does.

        Args:
            decision: The allow that the work ran under.
            reason: Why it was ended.
        """
        ended = end_of(decision, reason, self.epochs)
        self.decisions.append(ended)
        return ended

    def readiness(self) -> VerifierReadiness:
        """Say whether calls can be allowed now, without waiting; for health checks."""
        return readiness(self.epochs, self.decisions)

    def start(self) -> None:
        """Begin to follow the kill epoch."""
        self.epochs.start()

    def close(self) -> None:
        """Stop following, finish the journal, forget the cache; every later call is refused as ``closed``."""
        self.epochs.close()
        self.decisions.close()
        self._authenticator.forget()

    def _decide(
        self, token: str, request: AccessRequest, waited: Wait | None = None, screened: Screened | None = None
    ) -> Decision | Waiting:
        """Take every step of SPEC 11, in its order.

        Args:
            token: What was presented, a secret.
            request: What is asked for.
            waited: What the caller has waited for, as this returned it before.
            screened: What ``screen`` returned for this token.

        Returns:
            The decision as it was recorded.  Or what to wait for, and what was proven: the caller then asks again with
            the time that it is by then, and everything but the signatures is judged anew.
        """
        if token.__class__ is not str or request.__class__ is not AccessRequest:
            odd = self._refuse_odd(token, request)
            if odd is not None:
                return odd

        # 1. token/wire      size, version, one byte form             SPEC 2
        # 2. token/keyring   the audience key of kid                  SPEC 9
        # 3. token/chain     fold and compare, then the discharges    SPEC 5, 6.7
        if screened is not None and screened.token == token and not screened.proven.key.gone:
            call, known, proven = screened.call, screened.known, screened.proven
        else:
            call, known, found = self._authenticator.authenticate(token)
            if isinstance(found, Refused):
                return self._unproven(found, request)
            proven = found
        # -- From here on the content is authentic. --

        # 4. evaluate        each caveat may prohibit                 SPEC 4, 6, 7, 8
        epochs = self.epochs
        refused, written = judge(epochs, self._prefix, proven, call, request)

        # 5. freshness       the lease; no target revoked or frozen   SPEC 10.4
        if refused is None:
            asked = ask(epochs, proven, waited)
            if isinstance(asked, Wait):
                return Waiting(asked, Screened(token, call, known, proven), written)
            refused = asked

        # 6. nonces          last, so that a refused call spends none SPEC 8.3, 6.8
        begun = time.monotonic_ns() if self.waits else 0
        if refused is None and (call is not None or proven.once):
            refused = spend(self.nonces, proven, call, request)

        # 7. journal         no record, no allow                      SPEC 12
        decision = self._record(proven, request, refused, written)

        # 8. freshness       again and whole: 6 and 7 may have waited SPEC 10.4
        if self.waits and decision.code == OK and (late := ask_late(epochs, proven, request, begun)) is not None:
            decision = self._record(proven, request, late, written)

        if decision.code == OK:
            decision.grant = Grant(
                proven.facts, request.tool, proven.exp, epochs, proven, decision.boot, decision.sequence
            )
            if proven is not known:
                self._authenticator.remember(token, call, proven, request.at)
        return decision

    def _decide_again(self, token: str, request: AccessRequest, waiting: Waiting) -> Decision:
        """Decide after the wait.  A token that still does not stand is refused as it was judged before."""
        screened = waiting.screened
        refused = ask(self.epochs, screened.proven, waiting.wait)
        if isinstance(refused, Refused):
            return self._record(screened.proven, request, refused, waiting.written)
        decision = self._decide(token, request, waiting.wait, screened)
        assert isinstance(decision, Decision)
        return decision

    def _record(
        self, proven: ProvenChain, request: AccessRequest, refused: Refused | None, written: bytes | None
    ) -> Decision:
        incarnation, applied, age_ms = self.epochs.view()
        digest, salt = digest_arguments(request.args, written)
        code, failures, untold = refused or _ALLOWED
        decision = Decision(
            code,
            request.at,
            proven.facts,
            request.tool,
            digest,
            salt,
            incarnation,
            applied,
            age_ms,
            failures,
            request.peer,
            request.request_id,
            request.traceparent,
        )
        if untold is not None:
            decision.untold = untold
        if self._record_arguments and any(matches_tool(wanted, request.tool) for wanted in self._record_arguments):
            decision.arguments = keep_arguments(request.args)
        try:
            self.decisions.append(decision)
        except AuditError as error:
            # Only an allow raises.  The refusal in its place is itself recorded: a sink keeps room for that.
            decision.code = "audit_unavailable"
            if not error.counted:
                self.decisions.append(decision)
        return decision

    def _refuse_odd(self, token: str, request: AccessRequest) -> Decision | None:
        """Refuse a token that is no text, and raise for a request that is none."""
        hold_request(request)
        odd = code_of(token)
        return None if odd is None else self.refuse(odd, request)

    def _unproven(self, refused: Refused, request: AccessRequest) -> Decision:
        """Refuse an unproven token: its code and no more, counted and not recorded singly."""
        self.decisions.count(refused.code, request.peer)
        return Decision(refused.code, request.at, UNPROVEN, request.tool, peer=request.peer)

    def __repr__(self) -> str:
        return f"<Verifier for {self.audience}>"
