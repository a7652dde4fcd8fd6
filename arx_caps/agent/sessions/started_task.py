# SPDX-License-Identifier: Apache-2.0
"""A task in the hands of the session that started it: finish it, attenuate it for all holders, extend it.  CONTROL 2.

Other holders attenuate a task offline, for the next holder alone.  A call here goes to the mint, and applies to every
token of the task.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec

from arx_caps.agent.sessions.renewal import passes, start_renewal
from arx_caps.agent.tasks.approval import Approval, find_approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.outline import Outline, caveats_of, meet, unverified_chain
from arx_caps.agent.tasks.task import HolderSource, Task
from arx_caps.settings.durations import asked_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, AttenuationError, RequestError, UnavailableError, shorten
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon

MAX_WHY: Final = 500  # characters, as the mint takes
OVER: Final = ("expired", "revoked")  # a refusal to end what has ended


class Starter(Protocol):
    """The session that started a task, as far as the task needs it."""

    def used(self) -> None:
        """Note that a call is signed."""

    def finish_task(self, task: str) -> dict[str, Any]:
        """Finish a task at the mint."""

    def attenuate_task(self, task: str, link: str, caveats: Mapping[str, list[dict[str, Any]]]) -> Bundle:
        """Attenuate a task at the mint."""

    def extend_task(self, task: str, body: Mapping[str, Any]) -> Bundle:
        """Ask the mint for more."""

    def ask_approval(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask operators to approve a call."""

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Ask the mint how an approval stands, and for its discharge."""


class KeepingSession(Protocol):
    """The session of a task that is extended by itself."""

    expires_at: int
    ends_at: int

    def kept(self, task: "StartedTask") -> None:
        """Let a task go when the session ends."""


class Keep(NamedTuple):
    """How a task is extended by itself.

    Attributes:
        session: Its session.
        ttl: The life of each extension in the mint's form; the template's when None.
    """

    session: KeepingSession
    ttl: Any


class StartedTask(Task):
    """A task that a session started; a ``with`` block finishes it at its end.

    Args:
        bundle: Its tokens.
        session: The session.
        now: The holder's clock, ms since the Unix epoch.
        keep: Extend it by itself; None leaves that to ``extend``.
        key: The key that a bound task is bound to.

    Attributes:
        extension_error: Why the mint extends a kept task no more; None while it does.
    """

    __slots__ = ("__weakref__", "_begun", "_in_use", "_keep", "_lock", "_over", "_session", "extension_error")

    def __init__(
        self,
        bundle: Bundle,
        *,
        session: Starter,
        now: Callable[[], int] = now_ms,
        keep: Keep | None = None,
        key: HolderSource | None = None,
    ) -> None:
        super().__init__(bundle, now=now, key=key)
        self._session, self._keep = session, keep
        self._lock, self._over, self._in_use, self._begun = threading.Lock(), threading.Event(), False, now()
        self.extension_error: ArxError | None = None
        if keep is not None:
            keep.session.kept(self)
            span_s = (self.expires_at - self._begun) / 1000
            start_renewal(self.extend_if_due, span_s, self._over, name="arx-task-extension")

    def used(self) -> None:
        """Note that the task is in use."""
        # The mint sees no tool call, so a signature or a delegation here is what keeps session and task from ending.
        self._session.used()
        self._in_use = True

    @property
    def asker(self) -> "StartedTask":
        """This task."""
        return self

    def let_go(self) -> None:
        """Extend a kept task by itself no more; it ends at ``expires_at``."""
        self._over.set()

    def extend_if_due(self) -> float | None:
        """Extend a kept task if it was used and half of its time is over; its thread calls this.

        Returns:
            The seconds between two extensions; None when it is over or lives as long as its session may.

        Raises:
            ArxError: As ``extend``; for a refusal, ``extension_error`` is set as well.
        """
        with self._lock:
            now, ends, keep = self._now(), self.expires_at, self._keep
            if keep is None or self._over.is_set() or now >= ends:
                return None
            # No token outlives its session, so there is nothing to gain until the session was renewed.
            waits = keep.session.expires_at <= ends
            if waits and keep.session.expires_at >= keep.session.ends_at:
                return None
            # At half of its life: early enough to outlast a mint that is down, late enough to be rare.
            if self._in_use and not waits and now - self._begun >= (ends - self._begun) / 2:
                self._extend(keep, now)
            return (self.expires_at - self._begun) / 1000

    def _extend(self, keep: Keep, now: int) -> None:
        # Before the call: a use while the mint answers counts for the next span.
        self._in_use = False
        try:
            bundle = self._session.extend_task(self.id, {"ttl": keep.ttl, "link": self.bundle.outline.identifier.id})
        except ArxError as error:
            if passes(error):
                self._in_use = True  # once more at the next look
            else:
                self.extension_error = error
            raise
        self._begun = now
        # A parent's end may be nearer.
        if Task(bundle).expires_at > self.expires_at:
            self._replace(bundle)

    def attenuate_for_all(
        self,
        *,
        tools: Sequence[str] | None = None,
        args: Mapping[str, Any] | None = None,
        ttl: str | None = None,
        depth: int | None = None,
        audiences: Sequence[str] | None = None,
    ) -> Self:
        """Attenuate the task at the mint for all holders: it revokes this task and every other token of it.

        Also what was delegated, and what the task was extended by.  If the answer is lost, do it again.

        Args:
            tools: As for ``delegate``, like all that follow.
            args: Constraints.
            ttl: Life from now on.
            depth: How many delegations may follow.
            audiences: Leave these services.

        Returns:
            What is left, for the same holder.

        Raises:
            AttenuationError: Nothing would be left to do, or a value cannot be read.
            TokenError: The task or its session is over, frozen or was killed.
            GrantError: What is asked for does not fit into a token.
            UnavailableError: The mint cannot be reached or cannot do it now.
        """
        # No extension meanwhile: it could outlive what this revokes.
        with self._lock:
            _, caveats = self._caveats(tools, args, ttl, depth, audiences)
            said = {audience: self._said(audience, caveat) for audience, caveat in caveats.items()}
            # A task that was extended has several tokens; the link names the one whose caveats these are.
            bundle = self._session.attenuate_task(self.id, self.bundle.outline.identifier.id, said)
            self.let_go()
        return type(self)(bundle, session=self._session, now=self._now, keep=self._keep, key=self._key)

    def extend(
        self,
        template: str | None = None,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        ttl: str | None = None,
        tools: Sequence[str] | None = None,
        depth: int | None = None,
        **more: Any,
    ) -> Self:
        """Ask the mint for more within the same task; this task keeps its power, and its end.

        Args:
            template: Another template; the task's own when left out.
            params: The template's parameters that differ; the form for one that is called as an argument here is.
            ttl: A shorter life than the template's, such as ``"60s"``.
            tools: Fewer tools than the template's.
            depth: Fewer delegations than the template's.
            more: The template's parameters that differ, as in ``amount=80``.

        Returns:
            What was added, with a link of its own; without any argument but ``ttl`` the same power with a later end.

        Raises:
            GrantError: The policy refuses; the error says what it would take.
            RequestError: What is asked for cannot be read, such as a ``ttl`` that is no duration.
            TokenError: The task or its session is over, frozen or was killed.
            UnavailableError: The mint cannot be reached or cannot do it now.
        """
        given = {**(params or {}), **more}
        body: dict[str, Any] = {"template": template, "params": given or None, "depth": depth}
        body["ttl"] = asked_duration("ttl", ttl)
        body |= {"tools": None if tools is None else list(tools), "link": self.bundle.outline.identifier.id}
        return self._again(self._session.extend_task(self.id, body))

    def ask_approval(
        self, tool: str, args: Mapping[str, Any], *, why: str | None = None, audience: str | None = None
    ) -> Approval:
        """Ask operators to approve one call.  CONTROL 2.8.

        Args:
            tool: The tool's name.
            args: Its arguments as a service takes them, by name; they are approved as they are, objects and lists
                included, which may nest 4 deep.
            why: Why it is to be done, in words for the operators; 500 characters at most.
            audience: The service that is called, where several ask for an approval of this tool.

        Returns:
            The approval; ``wait`` for it, then give it to ``auth``, ``call_token`` or ``http_token``.

        Raises:
            AttenuationError: No approval is needed for this tool, or several services ask for one; or the task would
                not allow the call with an approval either.
            RequestError: ``why`` is too long, or JSON has no form for an argument, such as NaN.
            GrantError: The mint does not pass this on: too many wait, arguments nested too deep, or the task is over.
            TokenError: The session is over, frozen or was killed.
            UnavailableError: The mint cannot be reached or cannot do it now.
        """
        if why is not None and len(why) > MAX_WHY:
            raise RequestError(f"why: {MAX_WHY} characters at most, got {len(why)}")
        chosen = self.audiences if audience is None else (self._checked(audience),)
        outlines = {each: self.bundle.outlines[each] for each in chosen}
        asking = {each: found for each, held in outlines.items() if (found := held.third_party_caveats_of(tool))}
        # The caveat of one token is answered, and a discharge for one service is of no use at another.
        if len(asking) > 1:
            raise AttenuationError(f"{' and '.join(asking)} ask for an approval of {shorten(tool)}: say `audience`")
        found = next(iter(asking.values()), ())
        if not found:
            raise AttenuationError(self._without(tool, outlines))
        # Checked first: an operator's time is not spent on a call that the task refuses anyway.
        refused = unverified_chain(self.bundle.tokens[next(iter(asking))]).judge_tool(tool, dict(args))
        if refused is not None:
            because = "; ".join(map(str, refused.all_failures()))
            raise AttenuationError(f"this task would not allow the call with an approval either: {because}")
        third_party = found[0].encode()
        body = {"caveat": third_party.decode(), "tool": tool, "args": dict(args), "why": why}
        return Approval(self._session.ask_approval(body), asker=self._session, third_party=third_party)

    def approval(self, approval: str) -> Approval:
        """Return an approval that this task's session asked for, also before a restart; see ``Session.approval``.

        Args:
            approval: Its id.

        Raises:
            ArxError: As ``Session.approval``.
        """
        return find_approval(self._session, approval)

    def finish(self) -> Mapping[str, Any]:
        """Finish the task at the mint, which ends all its tokens, also those delegated.

        Returns:
            The mint's answer: the task and the report of its kill.

        Raises:
            TokenError: The session is over or was ended.
            UnavailableError: The mint cannot be reached or cannot end it now.
        """
        # First, or a refused extension could be reported of a task that was finished on purpose.
        self.let_go()
        return self._session.finish_task(self.id)

    @staticmethod
    def _without(tool: str, outlines: Mapping[str, Outline]) -> str:
        """Return why no operator can approve calls of a tool."""
        if any(meet(allowed, tool) for held in outlines.values() for allowed in held.tools):
            return f"this task needs no approval to call {shorten(tool)}: call it"
        allowed = sorted({each for held in outlines.values() for each in held.tools})
        where = f"the token for {' and '.join(outlines)}" if len(outlines) == 1 else "this task"
        return f"{where} may not call {shorten(tool)}, approved or not; it may call {shorten(', '.join(allowed))}"

    def _said(self, audience: str, caveat: Caveat | None) -> list[dict[str, Any]]:
        """Return all caveats of a token: those that the holder added before, offline, and the new one."""
        said = caveats_of(self.bundle.tokens[audience])[1:]  # the first is the mint's
        mints = f"{self.bundle.outlines[audience].identifier.kid}:{self.id}"
        # A holder's own third-party caveat has a key that only its token carries: the mint cannot make it again, and
        # without it the new token would allow more.
        if any("third_party" in each and (each["third_party"] or {}).get("id") != mints for each in said):
            raise AttenuationError("a third-party caveat that is not the mint's was added: it cannot be signed anew")
        said = [each for each in said if "third_party" not in each]  # the mint knows its own
        return said if caveat is None else [*said, msgspec.json.decode(caveat.encode())]

    def _again(self, bundle: Bundle) -> Self:
        return type(self)(bundle, session=self._session, now=self._now, key=self._key)

    def _signer(self, audience: str) -> tuple[CallSigner, Macaroon]:
        self.used()
        refused = self.extension_error
        # Until then the task can be used; a service would answer only that it has expired.
        if refused is not None and self._now() >= self.expires_at:
            raise AttenuationError(f"this task has ended: the mint did not extend it: {refused}", code=refused.code)
        return super()._signer(audience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_block(
            self.finish, error, f"task {self.id}", f"finish it later (`arx task finish {self.id}`), or let it expire"
        )


def end_block(end: Callable[[], object], error: BaseException | None, what: str, hint: str) -> None:
    """End something at the end of its ``with`` block, without hiding what went wrong inside.

    Args:
        end: Ends it at the mint.
        error: What left the block, or None.
        what: What ends, in words, such as ``session s-…``.
        hint: What to do if it is not known whether it has ended.

    Raises:
        ArxError: It could not be ended, and the block itself went well.
    """
    try:
        end()
    except ArxError as failed:
        # The error of the block is what the programmer needs; a failed end must not replace it.
        if failed.code in OVER:  # over by itself or killed: there is nothing left to end
            return
        if error is not None:
            error.add_note(f"besides, the mint did not end it: {failed}")
            return
        if not isinstance(failed, UnavailableError):
            raise
        unknown = type(failed)(f"the end of {what} is not confirmed: {failed}", code=failed.code, hint=hint)
    else:
        return
    # Not chained: the block went well, and the HTTP client's traceback says nothing about it.
    raise unknown from None
