# SPDX-License-Identifier: Apache-2.0
"""The steps of a decision, in their order; the only code that builds a grant.  SPEC 11.

``Verifier._decide`` has the whole order, and every public method uses it.  Nothing is interpreted before it is
authenticated, and every failure ends in a refusal.  The caller passes the time and the epoch view.
"""

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, Unpack

import msgspec

from arx_verifier.errors import ArxError, AuditError, SettingsError, refusal
from arx_verifier.journal.decision import OK, UNPROVEN, Decision, DecisionSink
from arx_verifier.journal.record import AWAITED, EFFECT, EffectRecord, digest_arguments, keep_arguments
from arx_verifier.ledger.costs import Costs
from arx_verifier.ledger.pools import Ledger, MarkQuestion
from arx_verifier.names import is_audience, is_tool_pattern, matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import Epochs, show_until
from arx_verifier.revocation.store_steps import Steps, has_steps, run, run_async, steps_of
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import MINT_AUDIENCE
from arx_verifier.verification.authenticate import Authenticator
from arx_verifier.verification.budgets import NOTHING, Budgets, Drawn, Priced
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.evaluate import judge
from arx_verifier.verification.freshness import VerifierReadiness, Wait, ask, ask_late, end_of, later_record, readiness
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.nonces import (
    MemoryNonces,
    NonceStore,
    spend_call,
    spend_call_by_steps,
    spend_once,
)
from arx_verifier.verification.reasons import NO_STORE, Refused, code_of, hold_request
from arx_verifier.verification.watch import (
    ENFORCED,
    SparedRefusals,
    Watch,
    WatchedCall,
    WatchOptions,
    ended_by,
    read_watch,
    warn,
    without_secrets,
)

if TYPE_CHECKING:
    from arx_verifier.upkeep import Upkeep
    from arx_verifier.verification.service_limits import LimitsSource, ServiceLimits

_ALLOWED: Final = Refused(OK, ())
CACHE_BYTES: Final = 64 * 1024 * 1024  # about 6 000 live parents of three delegations


class Screened(msgspec.Struct, frozen=True):
    """An authenticated token; not a grant.

    Attributes:
        token: The presented text, a secret.
        call: Its call, or None.
        known: The cached chain, which then is ``proven``; or None.
        proven: The chain.
    """

    token: str
    call: PresentedCall | None
    known: ProvenChain | None
    proven: ProvenChain

    def __repr__(self) -> str:
        return "<Screened>"


class Waiting(NamedTuple):
    """A decision that waits for the epoch view.

    Attributes:
        wait: The state of the view that it waits for.
        screened: The authenticated token, which is not verified again.
        written: The arguments' JSON for the record, as ``judge`` returned it.
    """

    wait: Wait
    screened: Screened
    written: bytes | None


class Verifier:
    """The decisions on calls for one audience.  Reusable and thread-safe; it enforces, but for ``watching``.

    Args:
        audience: The service's own name; a token for another one is refused.
        keys: The audience's keys.
        epochs: The view of the realm's revocation epoch.
        decisions: The sink that records every decision before it is answered.
        nonces: The nonce store; the default is for exactly one process.
        ledger: Keeps the budgets of the realm; None refuses every token with a budget.
        costs: By tool or pattern what a call costs, by unit; see ``ledger.Costs``.
        draws: Whether a call draws on its budgets; False only before another verifier, which draws.
        record_arguments: Tools, or patterns of them, whose arguments are recorded in clear.
        upkeep: Started and closed with the verifier; None for nothing.
        limits: What each call must satisfy as well, whatever its token allows, or the file with it; see
            ``ServiceLimits``.
        effects: Tools, or patterns of them, whose effects are recorded too: what their answers show.  SPEC 12.8.
        cache_bytes: Approximate memory for cached chains, bytes.  Caches that all verifiers of a process share take up
            to 20 MB more.

    Attributes:
        waits: Whether a decision may wait for a network or a disk.
        limits: The limits that are in force.

    Raises:
        SettingsError: The audience or a tool is malformed, or the limits are not valid.
    """

    def __init__(
        self,
        *,
        audience: str,
        keys: KeyRing,
        epochs: Epochs,
        decisions: DecisionSink,
        nonces: NonceStore | None = None,
        ledger: Ledger | None = None,
        costs: Mapping[str, Mapping[str, Any]] | None = None,
        draws: bool = True,
        record_arguments: Collection[str] = (),
        upkeep: "Upkeep | None" = None,
        limits: "LimitsSource | None" = None,
        effects: Collection[str] = (),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not is_audience(audience) and audience != MINT_AUDIENCE:
            raise SettingsError(
                f"invalid audience {audience!r:.80}: expected 1-64 characters of [a-z0-9._-], not starting with 'arx'"
            )
        self._record_arguments = _patterns("record_arguments", record_arguments)
        self._effects, self._upkeep = _patterns("effects", effects), upkeep
        self.audience = audience
        self.keys = keys
        self.epochs = epochs
        self.decisions = decisions
        self.nonces = nonces if nonces is not None else MemoryNonces()
        self._budgets, self._draws = Budgets(ledger, Costs(costs)), draws
        self._declared: tuple[str, ...] = ()
        self._answers = True  # whether a guard sees them
        self._waits = self.nonces.waits or self.decisions.waits
        # A journal that waits for the disk, or a store with no connection for event loops, waits in a thread: the whole
        # decision does, as what waits in the queue for one must be judged by its later time.
        self._blocks = self.decisions.waits or (self.nonces.waits and not has_steps(self.nonces.spend))
        self.waits = self._waits or (ledger is not None and ledger.waits)
        self._prefix = call_proof.digest_prefix(audience)
        self._authenticator = Authenticator(audience, keys, cache_bytes)
        self.limits = () if limits is None else _compiled(limits, epochs)
        self._watch: Watch | None = None

    def watching(self, watch: Watch) -> Self:
        """Return this verifier as a guard that watches has it; keys, view, journal and nonces are the same.  SPEC 12.7.

        Args:
            watch: How long, and what is recorded.
        """
        if not watch.is_on():
            return self
        # In the registry of verifiers too: what a kill reports must not count this process as one that refuses.
        self.epochs.watch_until_ms = max(self.epochs.watch_until_ms, watch.until_ms)
        warn("%s WATCHES until %s: calls that would be refused go on", self.audience, show_until(watch.until_ms))
        from copy import copy  # imported on use, as few verifiers watch

        watching = copy(self)
        watching._watch = watch  # noqa: SLF001 - of this class
        return watching

    @property
    def watch(self) -> Watch | None:
        """The watch that is on; None if this verifier enforces."""
        watch = self._watch
        return watch if watch is not None and watch.is_on() else None

    def within(
        self,
        limits: "LimitsSource | None" = None,
        effects: Collection[str] = (),
        marks: Collection[str] = (),
        *,
        answers: bool = True,
        record_arguments: Collection[str] = (),
        **watching: Unpack[WatchOptions],
    ) -> Self:
        """Return this verifier as a guard has it, which shares all else with this one; itself without arguments.

        Args:
            limits: Further ones; as of the constructor.
            effects: Further ones; as of the constructor.
            marks: Warnings that each allowed call sets, of those that rows of its token have.
            answers: Whether the guard sees the answers of calls.  Without them no effect is known, so a call whose
                effect proves a mark is refused.
            record_arguments: Further ones; as of the constructor.
            watching: How it watches; see ``WatchOptions``.

        Raises:
            SettingsError: They are not valid.
        """
        guarded, watch = self, read_watch(**watching)
        if marks and (self._budgets.ledger is None or not self._draws):
            raise SettingsError("marks are set in the ledger, and this verifier has none, or leaves it to another one")
        if limits is not None or effects or marks or record_arguments or not answers:
            from copy import copy  # imported on use, as few verifiers are limited

            guarded = copy(self)
            guarded._effects = (*self._effects, *_patterns("effects", effects))  # noqa: SLF001 - of this class
            more = _patterns("record_arguments", record_arguments)
            guarded._record_arguments = (*self._record_arguments, *more)  # noqa: SLF001
            guarded._declared = (*self._declared, *marks)  # noqa: SLF001
            guarded._answers = self._answers and answers  # noqa: SLF001
            if limits is not None:
                guarded.limits = (*self.limits, *_compiled(limits, self.epochs))
        return guarded if watch is None else guarded.watching(watch)

    def could_allow(self, screened: Screened, tool: str, known: Mapping[str, Any]) -> bool:
        """Return whether token and limits allow some call of a tool; for lists of tools, no decision.

        Args:
            screened: The authenticated token.
            tool: The tool.
            known: The arguments that all its calls have here, such as the URI of a resource.
        """
        allows = screened.proven.could_allow(tool, known)
        return allows and all(limit.could_allow(tool, known) for limit in self.limits)

    def verify(self, token: str, request: AccessRequest) -> Grant:
        """Return the grant of an allowed call, or raise.

        Args:
            token: The presented text, a secret.
            request: The request.

        Raises:
            TokenError: The token is not usable (401).
            AccessError: The token is authentic but does not allow the call (403).
            UnavailableError: No decision is possible now (503).
            RequestError: The request's arguments have no JSON form (400).
        """
        decision = self.decide(token, request)
        if isinstance(decision.grant, Grant):
            return decision.grant
        raise refusal(decision.code, decision.all_failures())

    def decide(self, token: str, request: AccessRequest, *, screened: Screened | None = None) -> Decision:
        """Allow or refuse a call; may wait for a probe, a shared store or a disk.

        Guards report the effect of a call; a program that calls this itself reports none, and it stays unknown.

        Args:
            token: The presented text, a secret.
            request: The request.
            screened: The result of ``screen`` for this token, which is then not verified again.

        Returns:
            The decision as it was recorded; ``grant`` is set if the call is allowed.
        """
        decision = self._decide(token, request, None, screened)
        if isinstance(decision, Waiting):
            begun = time.monotonic_ns()
            self.epochs.catch_up(*decision.wait)
            decision = self._decide_again(token, request.after(time.monotonic_ns() - begun), decision)
        return decision if isinstance(decision, Decision) else run(decision)

    def try_decide(self, token: str, request: AccessRequest, *, screened: Screened | None = None) -> Decision | None:
        """Decide without waiting, for event loops.

        Args:
            token: The presented text, a secret.
            request: The request.
            screened: The result of ``screen`` for this token, which is then not verified again.

        Returns:
            The decision; None if it would have to wait: then call ``decide`` in a thread.
        """
        if self.waits:
            return None
        decision = self._decide(token, request, None, screened)
        if isinstance(decision, Decision):  # nearly each one
            return decision
        return None if isinstance(decision, Waiting) else run(decision)

    async def decide_async(self, token: str, request: AccessRequest, *, screened: Screened | None = None) -> Decision:
        """Decide as ``decide`` does, without blocking the event loop.

        Args:
            token: The presented text, a secret.
            request: The request.
            screened: The result of ``screen`` for this token, which is then not verified again.

        Returns:
            The decision as it was recorded.
        """
        if self._blocks:
            from asyncio import to_thread  # imported on use: programs without an event loop never need it

            hold_request(request)
            begun = time.monotonic_ns()
            return await to_thread(
                lambda: self.decide(token, request.after(time.monotonic_ns() - begun), screened=screened)
            )
        decision = self._decide(token, request, None, screened)
        if isinstance(decision, Waiting):
            # Awaited, not waited for in a thread: any number of requests share a probe, but a pool's threads run out.
            begun = time.monotonic_ns()
            await self.epochs.catch_up_async(*decision.wait)
            decision = self._decide_again(token, request.after(time.monotonic_ns() - begun), decision)
        return decision if isinstance(decision, Decision) else await run_async(decision)

    def refuse(self, code: str, request: AccessRequest, group: str | None = None) -> Decision:
        """Return and count the refusal of a request that is not verified, such as one without a token.

        Args:
            code: A key of ``REASONS``.
            request: The request.
            group: What the operator groups such callers by, for the record of a watch.
        """
        return self._unproven(Refused(code, ()), request, group)

    def screen(self, token: str) -> Screened | str:
        """Authenticate a token before the request's body is read; this is not a decision, and nothing is cached.

        Args:
            token: The presented text, a secret.

        Returns:
            The authenticated token for ``decide_async``; or the reason code of the refusal.
        """
        if token.__class__ is not str and (odd := code_of(token)) is not None:
            return odd
        call, known, proven = self._authenticator.authenticate(token)
        return proven.code if isinstance(proven, Refused) else Screened(token, call, known, proven)

    async def recognize_async(self, token: str, request: AccessRequest) -> Screened | Refused:
        """Authenticate a live token with a message that calls no tool, such as a request for a list of tools.

        This is no decision: nothing is recorded.  The call proof is spent, as that of a call; no ``once`` is.

        Args:
            token: The presented text, a secret.
            request: The request, whose tool is empty.

        Returns:
            The authenticated token; or the refusal.

        Raises:
            ValueError: The request has a tool.
        """
        if request.tool:
            raise ValueError("a request with a tool needs a decision")
        screened = self.screen(token)
        if isinstance(screened, str):
            return Refused(screened, ())
        refused, _ = judge(self.epochs, self._prefix, screened.proven, screened.call, request, self.limits)
        # The tool is judged last, and no token allows an empty one: nothing else was refused.
        if refused is None or refused.code != "tool_not_allowed":
            return self._enforced(refused or Refused("malformed", ()), screened.proven)
        if screened.call is not None:
            spent = await run_async(spend_call_by_steps(self.nonces, screened.call, request))
            if spent is not None:
                return spent
        found = ask(self.epochs, screened.proven)
        if isinstance(found, Wait):
            await self.epochs.catch_up_async(*found)
            found = ask(self.epochs, screened.proven, found)
        return self._enforced(found, screened.proven) if isinstance(found, Refused) else screened

    def _enforced(self, refused: Refused, proven: ProvenChain) -> Refused:
        """Return a refusal; while this verifier watches, the kill or the freeze that it must not hide."""
        code = None if self.watch is None else ended_by(self.epochs, proven)
        return refused if code is None else Refused(code, ())

    def record_end(self, decision: Decision, reason: ArxError) -> Decision:
        """Record that running work was ended, such as an open stream by a kill.  May wait if ``decisions.waits``.

        Args:
            decision: The decision that allowed the work.
            reason: Why it was ended.

        Returns:
            The recorded end.
        """
        ended = end_of(decision, reason, self.epochs)
        self.decisions.append(ended)
        return ended

    def record_effect(self, decision: Decision, effect: EffectRecord, salt: bytes = b"") -> None:
        """Record the effect of a call, once; may wait if ``decisions.waits``.  SPEC 12.8.

        Args:
            decision: The decision that allowed the call, whose effect is awaited.
            effect: What its answer showed, without the decision's id.
            salt: Of the answer's digest; a new one if it is empty.

        Raises:
            AuditError: It could not be recorded: it is unknown.
        """
        if decision.id:  # in mode ``best_effort``, or without room for a denial, the decision may have no record
            record = later_record(decision, EFFECT, self.epochs)
            record.effect, record.salt = effect._replace(of=decision.id), salt
            if (grant := decision.grant) is not None:
                record.external_id, record.marks = grant.external_id, grant.marks_with(effect.result)
                record.credential, record.account = grant.credential, grant.account
            self.decisions.append(record)
        if effect.result == "done" and decision.grant is not None:
            decision.grant.prove_done(decision.at)

    def readiness(self) -> VerifierReadiness:
        """Return whether calls can be allowed now, without waiting; for health checks."""
        return readiness(self.epochs, self.decisions)

    def start(self) -> None:
        """Start to follow the revocation epoch, to ship and to refresh keys; idempotent."""
        self.epochs.start()
        if self._budgets.ledger is not None:
            self._budgets.ledger.start()
        if self._upkeep is not None:
            self._upkeep.start()

    def close(self) -> None:
        """Stop following, close journal, nonces and ledger; later calls are refused as ``closed``.

        The records of the last moments are shipped within ``upkeep.LAST_S``.
        """
        self.epochs.close()
        self.decisions.close()
        self.nonces.close()
        if self._budgets.ledger is not None:
            self._budgets.ledger.close()
        if self._upkeep is not None:
            self._upkeep.close()  # the last, so that it ships what the journal has recorded
        self._authenticator.forget()

    def _decide(
        self, token: str, request: AccessRequest, waited: Wait | None = None, screened: Screened | None = None
    ) -> Decision | Waiting | Steps[Decision]:
        """Take every step of SPEC 11, in order.

        Args:
            token: The presented text, a secret.
            request: The request.
            waited: The ``wait`` of an earlier result, if the caller has waited for it.
            screened: The result of ``screen`` for this token.

        Returns:
            The decision as it was recorded.  Or the rest of the steps, where one may wait.  Or the state of the view to
            wait for: the caller then calls again with the later time, and every step except the signatures is repeated.
        """
        if token.__class__ is not str or request.__class__ is not AccessRequest:
            odd = self._refuse_odd(token, request)
            if odd is not None:
                return odd
        # 1. token/wire      size, version, one byte form             SPEC 2
        # 2. token/keyring   the audience key of kid                  SPEC 9
        # 3. token/chain     fold and compare, then the discharges    SPEC 5, 6.7
        if screened is None or screened.token != token or screened.proven.key.gone:
            call, known, proven = self._authenticator.authenticate(token)
            if isinstance(proven, Refused):
                return self._unproven(proven, request)
            screened = Screened(token, call, known, proven)
        else:
            call, proven = screened.call, screened.proven
        # -- From here on the content is authentic. --

        # 4. evaluate        each caveat and limit may prohibit       SPEC 4, 6, 7, 8, 20
        epochs, spared = self.epochs, None
        refused, written = judge(epochs, self._prefix, proven, call, request, self.limits)
        if self._watch is not None and self._watch.is_on():
            spared = SparedRefusals(self._watch)
            refused = spared.spare_judged(refused, proven, request.tool)

        # 5. freshness       the lease; no target revoked or frozen   SPEC 10.4
        if refused is None:
            asked = ask(epochs, proven, waited)
            if isinstance(asked, Wait):
                return Waiting(asked, screened, written)
            refused = asked if spared is None else spared.spare_of_view(asked, epochs, proven)

        asks = proven.spends or (proven.marks is not None and (self._declared or proven.marks.names(request.tool)))
        if self._waits or spared is not None or (refused is None and asks):
            return self._finish(screened, request, refused, written, spared)
        # 6. nonces          last, so that a refused call costs none  SPEC 8.3
        if refused is None and call is not None:
            refused = spend_call(self.nonces, call, request)

        # 7. journal         no record, no allow                      SPEC 12
        decision = self._record(proven, request, refused, written, call)
        return self._granted(decision, screened)

    def _finish(
        self,
        screened: Screened,
        request: AccessRequest,
        refused: Refused | None,
        written: bytes | None,
        spared: SparedRefusals | None,
    ) -> Steps[Decision]:
        """Take the last steps of SPEC 11 where one may wait, in watch mode, or if there is a budget or a ``once``."""
        call, proven = screened.call, screened.proven
        # 6. nonces, budgets last, so that a refused call costs none SPEC 8.3, 17, 6.8
        waits = self._waits or (proven.marks is not None and self.waits)
        begun, drawn = time.monotonic_ns() if waits else 0, None
        marks: tuple[str, ...] = ()
        if refused is None and (spared is None or spared.spends):
            try:
                refused, drawn, marks = yield from self._spend_all(proven, call, request, spared)
            except GeneratorExit:
                # Its task was cancelled.  What it has spent stays spent, and the record has a refusal.
                self._record(proven, request, NO_STORE, written)
                raise

        # 7. journal         no record, no allow                      SPEC 12
        decision = self._record(proven, request, refused, written, call, spared, marks)

        # 8. freshness       again and whole: 6 and 7 may have waited SPEC 10.4
        begun = begun or (0 if drawn is None else drawn.begun)
        if begun and (decision.code == OK or decision.watched):
            late, before = (yield from ask_late(self.epochs, proven, request, begun)), decision
            if late is not None and spared is not None:
                late = spared.spare_of_view(late, self.epochs, proven)
                if late is None and decision.code == OK:
                    decision = self._record(proven, request, None, written, None, spared)
            if late is not None:
                decision = self._record(proven, request, late, written)
            if decision is not before and before.effect is not None:
                with suppress(AuditError):  # it was recorded as allowed, and is not run by this decision
                    self.record_effect(before, EffectRecord("failed"))

        if drawn is not None and decision.code != OK:
            yield from steps_of(drawn.undo)
        self._granted(decision, screened, drawn)
        if spared is not None:
            if decision.grant is not None:
                decision.grant.watch = spared.watch
            elif decision.watched:
                decision.watch = WatchedCall.of(decision, spared.watch, self.epochs, proven, of_rules=spared.of_rules)
        return decision

    def _granted(self, decision: Decision, screened: Screened, drawn: Drawn | None = None) -> Decision:
        """Add the grant of an allowed call."""
        if decision.code == OK:
            token, proven = screened.token, screened.proven
            grant = decision.grant = Grant(
                proven.facts,
                decision.tool,
                proven.exp,
                self.epochs,
                proven,
                decision.boot,
                decision.sequence,
                token,
                drawn,
            )
            if proven.marks is not None:
                grant._ledger = self._budgets.ledger  # noqa: SLF001 - the grant sets marks there
            if proven is not screened.known:
                self._authenticator.remember(token, screened.call, proven, decision.at)
        return decision

    def _spend_all(
        self,
        proven: ProvenChain,
        call: PresentedCall | None,
        request: AccessRequest,
        spared: SparedRefusals | None,
    ) -> Steps[tuple[Refused | None, Drawn | None, tuple[str, ...]]]:
        """Spend the call, draw its cost, spend each ``once``; return also the names of the marks that were set."""
        # Before the call is spent: a call whose cost is not known costs nothing, nor does one that would be refused.
        refused, priced, marked = self._ask_for(proven, request, spared)
        if refused is not None:
            return refused, None, ()
        # One question does both where one server keeps both.
        used = None
        if call is not None and priced is not None and spared is None:
            used = self._budgets.key_beside(self.nonces, call, request)
        if call is not None and used is None:
            refused = yield from spend_call_by_steps(self.nonces, call, request)
        if spared is not None:
            refused = spared.spare(refused)
        taken = None
        if refused is None and priced is not None:
            taken = yield from self._budgets.draw(proven, priced, used, marked)
        if isinstance(taken, Refused):
            refused = taken if spared is None else spared.spare(taken)
            if refused is not None:
                return refused, None, ()
            taken, priced = None, NOTHING
            marked = None if proven.marks is None else proven.marks.only_sets(request, self._declared)
            if marked is not None:  # a call that goes on sets its warnings
                taken = yield from self._budgets.draw(proven, priced, None, marked)
        marks = marked.names if marked is not None and isinstance(taken, Drawn) else ()
        drawn = taken if isinstance(taken, Drawn) and priced is not NOTHING else None
        if call is not None and used is not None:
            refused = self._budgets.judge_beside(self.nonces, call)
        if refused is None and proven.once:
            refused = yield from spend_once(self.nonces, proven, request.at)
            if spared is not None:
                refused = spared.spare(refused)
            if refused is None and drawn is not None:
                yield from drawn.keep()
        return refused, drawn, marks

    def _ask_for(
        self, proven: ProvenChain, request: AccessRequest, spared: SparedRefusals | None
    ) -> tuple[Refused | None, Priced | None, MarkQuestion | None]:
        """Return a refusal, or what a call draws and what it asks of marks."""
        judges, ledger, marks = spared is None or spared.first is None, self._budgets.ledger, proven.marks
        priced = self._budgets.price(proven, request) if proven.pools and self._draws and judges else None
        if isinstance(priced, Refused):
            refused = priced if spared is None else spared.spare(priced)
            if refused is not None:
                return refused, None, None
            priced, judges = None, False
        if marks is None or not self._draws:
            return None, priced, None
        asked = marks.ask(request, self._declared) if judges else marks.only_sets(request, self._declared)
        is_unseen = not self._answers and marks.done(request.tool, request.at) is not None
        if isinstance(asked, MarkQuestion) and (ledger is None or is_unseen):
            asked = marks.unsupported(request.tool, keeps=ledger is not None)
        if isinstance(asked, Refused):
            refused = asked if spared is None else spared.spare(asked)
            if refused is not None:
                return refused, None, None
            asked, priced = None if ledger is None else marks.only_sets(request, self._declared), None
        return None, NOTHING if priced is None and asked is not None else priced, asked

    def _decide_again(self, token: str, request: AccessRequest, waiting: Waiting) -> Decision | Steps[Decision]:
        """Decide after the wait; if the view still refuses the token, record that refusal."""
        screened = waiting.screened
        refused = ask(self.epochs, screened.proven, waiting.wait)
        if isinstance(refused, Refused) and (self.watch is None or refused.code in ENFORCED):
            return self._record(screened.proven, request, refused, waiting.written)
        decision = self._decide(token, request, waiting.wait, screened)
        assert not isinstance(decision, Waiting)
        return decision

    def _record(
        self,
        proven: ProvenChain,
        request: AccessRequest,
        refused: Refused | None,
        written: bytes | None,
        call: PresentedCall | None = None,
        spared: SparedRefusals | None = None,
        marks: tuple[str, ...] = (),
    ) -> Decision:
        watched = None if refused is not None or spared is None else spared.first
        incarnation, applied, age_ms = self.epochs.view()
        digest, salt = digest_arguments(request.args, written)
        code, failures, untold = refused or watched or _ALLOWED
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
        decision.untold, decision.watched = untold, watched is not None
        decision.marks, decision.box = marks, request.box
        if call is not None and code == OK and proven.holder is not None:
            decision.signed = proven.holder.evidence_of(call)
        if refused is None and (self._effects or proven.marks is not None) and self._awaits(proven, request.tool):
            decision.effect = AWAITED
        if self._record_arguments and any(matches_tool(wanted, request.tool) for wanted in self._record_arguments):
            decision.arguments = keep_arguments(request.args)
        elif self._watch is not None and (watch := self.watch) is not None and watch.records:
            decision.arguments = keep_arguments(without_secrets(request.args))
        try:
            self.decisions.append(decision)
        except AuditError as error:
            # Only an allow raises.  The refusal that replaces it is recorded: a sink reserves room for refusals.
            decision.code, decision.effect = "audit_unavailable", None
            if spared is not None:
                decision.watched, spared.of_rules, spared.first = True, False, Refused(decision.code, ())
            if not error.counted:
                self.decisions.append(decision)
        return decision

    def _awaits(self, proven: ProvenChain, tool: str) -> bool:
        """Return whether the effect of a call is recorded, or proves a mark."""
        if self._effects and any(matches_tool(named, tool) for named in self._effects):
            return True
        return self._answers and proven.marks is not None and proven.marks.done(tool, 0) is not None

    def _refuse_odd(self, token: str, request: AccessRequest) -> Decision | None:
        """Refuse a token that is not text, and raise for a request of another class."""
        hold_request(request)
        odd = code_of(token)
        return None if odd is None else self.refuse(odd, request)

    def _unproven(self, refused: Refused, request: AccessRequest, group: str | None = None) -> Decision:
        """Refuse an unauthenticated token, with its code alone; count the refusal."""
        watch = self.watch
        decision = Decision(refused.code, request.at, UNPROVEN, request.tool, peer=request.peer)
        if watch is None:
            # Not recorded singly: a flood of junk tokens must not fill the journal.
            self.decisions.count(refused.code, request.peer)
            return decision
        decision.watched = True
        if watch.records:
            # The operator asked for each call; without room in the share of denials, they are counted as well.
            decision.args_digest, decision.salt = digest_arguments(request.args)
            decision.arguments, decision.group = keep_arguments(without_secrets(request.args)), group
            decision.request_id, decision.traceparent = request.request_id, request.traceparent
            decision.box = request.box
            decision.incarnation, decision.applied, decision.age_ms = self.epochs.view()
            self.decisions.append(decision)
        else:
            self.decisions.count(refused.code, request.peer, watched=True)
        decision.watch = WatchedCall.of(decision, watch, self.epochs, None, of_rules=False)
        return decision

    def __repr__(self) -> str:
        return f"<Verifier for {self.audience}>"


def _patterns(name: str, tools: Collection[str]) -> tuple[str, ...]:
    if isinstance(tools, str) or not all(map(is_tool_pattern, tools)):
        raise SettingsError(f"{name} are tools, such as orders.get, or patterns, such as orders.*, in a list")
    return tuple(tools)


def _compiled(source: "LimitsSource", epochs: Epochs) -> "tuple[ServiceLimits, ...]":
    """Return limits; the epoch view shows their digest in the registry."""
    from arx_verifier.verification.service_limits import read_limits  # imported on use: few services have limits

    limits = read_limits(source)
    if limits.digest and limits.digest not in epochs.limits:
        epochs.limits = (*epochs.limits, limits.digest)
    return (limits,)
