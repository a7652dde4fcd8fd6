# SPDX-License-Identifier: Apache-2.0
"""The verification, in order; the only code that grants.  SPEC 11.

Authenticity comes before interpretation, everything that can miss ends in a refusal, and a refusal is a value with
facts.  Time and the epoch view are passed in.  How a caveat restricts stands in ``chain_state``, what is remembered of
a call in ``nonces``, where decisions go in ``decision``.
"""

import os
import threading
import time
import weakref
from collections.abc import Collection
from typing import Final, NamedTuple

from arx_verifier import limits
from arx_verifier.errors import ArxError, AuditError, SettingsError, refusal
from arx_verifier.journal.decision import OK, UNPROVEN, Decision, DecisionSink, digest_arguments, keep_arguments
from arx_verifier.names import is_audience, is_tool_pattern, matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import MINT_AUDIENCE
from arx_verifier.verification.authenticate import JOINED, prove, prove_joined
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.evaluate import judge, judge_again
from arx_verifier.verification.freshness import Readiness, Wait, ask, ask_late, end_of, readiness
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.nonces import MemoryNonces, NonceStore, spend
from arx_verifier.verification.reasons import BAD_SIGNATURE, Refused, code_of, hold_request

_ALLOWED: Final = Refused(OK, ())
CACHE_BYTES: Final = 64 * 1024 * 1024  # about 6 000 live parents of three delegations
_VERIFIERS: "weakref.WeakSet[Verifier]" = weakref.WeakSet()


class Screened(NamedTuple):
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
        # A head and a whole text never share a map: a parent's text followed by a call would otherwise be found as if
        # it were a head, and pass warm where a cold check refuses it.
        self._parents: dict[str, ProvenChain] = {}
        self._wholes: dict[str, ProvenChain] = {}
        self._cache_bytes, self._cached = cache_bytes, 0
        self._lock = threading.Lock()
        _VERIFIERS.add(self)

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

    def decide(self, token: str, request: AccessRequest) -> Decision:
        """Allow or refuse a call; may wait for a probe, a shared store or a disk.

        Args:
            token: What was presented, a secret.
            request: What is asked for.

        Returns:
            The decision as it was recorded; ``grant`` is set when it is an allow.
        """
        return self._decide(token, request, may_wait=True)  # type: ignore[return-value]  # it waits for itself

    def try_decide(self, token: str, request: AccessRequest) -> Decision | None:
        """Decide without waiting for anything, for event loops.

        Returns:
            The decision, or None when it would have to wait: then call ``decide`` from a thread.
        """
        decision = None if self.waits else self._decide(token, request, may_wait=False)
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
        begun = time.monotonic_ns()
        if self.waits:
            from asyncio import to_thread  # whoever has a loop has it loaded; whoever has none need not

            hold_request(request)
            return await to_thread(
                lambda: self._decide(  # type: ignore[arg-type,return-value]  # it waits for itself
                    token, request.after(time.monotonic_ns() - begun), may_wait=True, screened=screened
                )
            )
        decision = self._decide(token, request, may_wait=False, screened=screened)
        if isinstance(decision, Wait):
            # Awaited and not waited for in a thread: requests without number share one probe, and a pool's threads end.
            await self.epochs.catch_up_async(*decision)
            later = request.after(time.monotonic_ns() - begun)
            decision = self._decide(token, later, may_wait=False, waited=decision, screened=screened)
        assert isinstance(decision, Decision)
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
        if (odd := code_of(token)) is not None:
            return odd
        call, known, proven = self._prove(token)
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

    def readiness(self) -> Readiness:
        """Say whether calls can be allowed now, without waiting; for health checks."""
        return readiness(self.epochs, self.decisions)

    def start(self) -> None:
        """Begin to follow the kill epoch."""
        self.epochs.start()

    def close(self) -> None:
        """Stop following, finish the journal, forget the cache; every later call is refused as ``closed``."""
        self.epochs.close()
        self.decisions.close()
        self._forget()

    def _decide(
        self,
        token: str,
        request: AccessRequest,
        *,
        may_wait: bool,
        waited: Wait | None = None,
        screened: Screened | None = None,
    ) -> Decision | Wait:
        if token.__class__ is not str or request.__class__ is not AccessRequest:
            hold_request(request)
            if (odd := code_of(token)) is not None:
                return self.refuse(odd, request)
        # 1. to 3.: from here on the content is authentic
        if screened is not None and screened.token == token and not screened.proven.key.gone:
            _, call, known, proven = screened
        else:
            call, known, found = self._prove(token)
            if isinstance(found, Refused):
                return self._unproven(found, request)
            proven = found
        epochs = self.epochs
        refused, written = judge(epochs, self._prefix, proven, call, request)  # 4. each caveat may prohibit
        if refused is None:
            asked = ask(epochs, proven, waited)  # 5. the lease; no target killed or frozen
            if asked is not None and isinstance(asked, Wait):
                if not may_wait:
                    return asked
                request, refused = self._ask_again(proven, call, request, asked)
                if proven.key.gone:
                    return self._decide(token, request, may_wait=True, waited=asked)
            else:
                refused = asked
        begun = time.monotonic_ns() if self.waits else 0
        if refused is None and (call is not None or proven.once):
            refused = spend(self.nonces, proven, call, request)  # 6. last of the checks: what is refused costs nothing
        decision = self._record(proven, request, refused, written)  # 7. no record, no allow
        if self.waits and decision.code == OK:
            refused = ask_late(epochs, proven, request, begun)  # 8. whatever waited since 5. may have outlived it
            if refused is not None:
                decision = self._record(proven, request, refused, written)
        if decision.code == OK:
            decision.grant = Grant(
                proven.facts, request.tool, proven.exp, epochs, proven, decision.boot, decision.sequence
            )
            if proven is not known:
                self._remember(token, call, proven, request.at)
        return decision

    def _ask_again(
        self, proven: ProvenChain, call: PresentedCall | None, request: AccessRequest, waited: Wait
    ) -> tuple[AccessRequest, Refused | None]:
        """Wait, and apply again what can have changed; return the request as it is now, and the refusal."""
        begun = time.monotonic_ns()
        self.epochs.catch_up(*waited)
        now = request.after(time.monotonic_ns() - begun)
        refused = judge_again(self.epochs, self._prefix, proven, call, now, now.at - request.at)
        asked = refused or ask(self.epochs, proven, waited)
        assert not isinstance(asked, Wait)
        return now, asked

    def _prove(self, token: str) -> tuple[PresentedCall | None, ProvenChain | None, ProvenChain | Refused]:
        """Return a token's call, the parent that was proven before, and the chain that is proven now."""
        call = call_proof.split_call(token)
        known = self._parents.get(call.head) if call is not None else self._wholes.get(token)
        if known is not None and not known.key.gone:
            if call is None:
                return None, known, known
            # The last bytes of the parent stand in the tail, outside the map's key: without this comparison two
            # parents that differ only there would share one proof.
            if call.rest == known.rest:
                return call, known, known if known.has_signed(call.caveat, call.signature) else BAD_SIGNATURE
        proven = prove(token, call, self.audience, self.keys)  # also where its key was replaced
        if proven is JOINED:
            call, proven = prove_joined(token, self.audience, self.keys)
            if isinstance(proven, ProvenChain):
                known = proven  # with discharges it is proven whole each time: nothing of it is kept
        return call, known, proven

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

    def _unproven(self, refused: Refused, request: AccessRequest) -> Decision:
        """Refuse what nobody proved: its code and no more, counted and not recorded singly."""
        self.decisions.count(refused.code, request.peer)
        return Decision(refused.code, request.at, UNPROVEN, request.tool, peer=request.peer)

    def _remember(self, token: str, call: PresentedCall | None, proven: ProvenChain, now_ms: int) -> None:
        """Keep a chain after full success; what contains a call is never a parent."""
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
                # From the map that has more: else whoever fills one would keep the other one empty for everybody.
                oldest = self._parents if len(self._parents) >= len(self._wholes) else self._wholes
                dropped = next(iter(oldest))
                self._cached -= limits.cost_of(dropped, oldest.pop(dropped).parts)

    def _drop_ended(self, entries: dict[str, ProvenChain], now_ms: int) -> None:
        """Look at the one in front: if it ended with its time or its key it goes, else it is looked at again later."""
        key = next(iter(entries))
        proven = entries.pop(key)
        if proven.exp > now_ms and not proven.key.gone:
            entries[key] = proven
        else:
            self._cached -= limits.cost_of(key, proven.parts)

    def _forget(self) -> None:
        with self._lock:
            self._parents.clear()
            self._wholes.clear()
            self._cached = 0

    def _forked(self) -> None:
        """Begin anew in a forked child: another thread may have been at the cache, and have its lock for ever."""
        self._lock = threading.Lock()
        self._forget()

    def __repr__(self) -> str:
        return f"<Verifier for {self.audience}>"


def _fork_all() -> None:
    for verifier in tuple(_VERIFIERS):
        verifier._forked()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_fork_all)
