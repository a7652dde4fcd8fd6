# SPDX-License-Identifier: Apache-2.0
"""What a holder does with a task: call services, attenuate it, delegate it.  Offline.  SPEC 5, 6, 8.

A ``Task`` is a bundle with a clock.  Delegating needs no mint and no network: the sub-agent gets one text, narrower
than what it came from and killable by a link of its own.  Starting and finishing tasks is the session's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from arx_caps.agent.tasks.approval import Approval, add_approvals, spread
from arx_caps.agent.tasks.attenuation import caveats_for, delegate_tokens, pools_for, with_pools
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.request_signer import RequestSigner, Sign
from arx_verifier import names
from arx_verifier.amounts import Amount
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, SettingsError, shorten
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Macaroon

if TYPE_CHECKING:
    from arx_caps.agent.tasks.aiohttp import AiohttpAuth
    from arx_caps.agent.tasks.auth import ArxAuth
    from arx_caps.agent.tasks.forecast import Forecast
    from arx_caps.agent.tasks.requests import RequestsAuth
    from arx_caps.agent.tasks.urllib3 import SigningPoolManager
    from arx_verifier.token.discharge import ThirdPartyCaveat
    from arx_verifier.verification.chain_state import ProvenChain


class HolderSource(Protocol):
    """What has a holder's key: a ``HolderKey`` itself, or the ``SigningKey`` of a session or a service."""

    @property
    def holder(self) -> HolderKey:
        """The key."""


class Task(Shared):
    """One piece of work and the power it needs, held by an agent.

    Args:
        bundle: Its tokens.
        now: The holder's clock, ms since the Unix epoch.
        asker: The started task, of this process, that this one was delegated from.
        key: The key that a bound task is bound to; without it, the task can be passed on as it is and nothing else.

    Attributes:
        ended: The code of a service's answer that an operator ended this task; None as far as this holder knows.
    """

    __slots__ = ("_asker", "_chains", "_key", "_marked", "_now", "_signers", "bundle", "ended")

    def __init__(
        self,
        bundle: Bundle,
        *,
        now: Callable[[], int] = now_ms,
        asker: "Task | None" = None,
        key: HolderSource | None = None,
    ) -> None:
        self.bundle, self._now, self._asker, self._key = bundle, now, asker, key
        self.ended: str | None = None
        self._marked: set[str] = set()
        self._signers: dict[str, tuple[CallSigner, Macaroon]] = {}
        self._chains: dict[str, ProvenChain] = {}

    @classmethod
    def from_text(cls, text: str, *, now: Callable[[], int] = now_ms, key: HolderSource | None = None) -> Self:
        """Take over a task.

        Args:
            text: What ``encode`` gave the previous holder, a secret; white space around it is ignored.
            now: The holder's clock, ms since the Unix epoch.
            key: The key that a bound task is bound to.

        Raises:
            MalformedTokenError: The text is not a bundle, or its tokens do not belong together.
        """
        return cls(Bundle.parse(text.strip()), now=now, key=key)

    @classmethod
    def from_env(
        cls,
        variable: str = "ARX_TASK",
        *,
        now: Callable[[], int] = now_ms,
        key: HolderSource | None = None,
    ) -> Self:
        """Take over the task in this process's environment.

        Args:
            variable: Holds the text, a secret; or, with ``_FILE`` behind its name, as ``ARX_TASK_FILE``, the path of a
                file with the text.
            now: The holder's clock, ms since the Unix epoch.
            key: The key that a bound task is bound to; else that of ``find_holder_key``, from the environment as well.

        Raises:
            SettingsError: Neither variable is set, or the file of the task or of the key cannot be read.
            MalformedTokenError: As ``from_text``.
        """
        text, path = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
        if text is None and path is not None:
            try:
                text = Path(path).read_text(encoding="ascii")
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or type(error).__name__
                raise SettingsError(f"{variable}_FILE: {shorten(path, 300)} cannot be read: {why}") from None
        if not text:
            raise SettingsError(f"no task: set {variable} to what `encode` gave, or {variable}_FILE to a file with it")
        bundle = Bundle.parse(text.strip())
        if key is None and bundle.outline.holder is not None:
            from arx_caps.agent.tasks.holder_key import find_holder_key  # as in ``load``

            key = find_holder_key()
        return cls(bundle, now=now, key=key)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, now: Callable[[], int] = now_ms, key: HolderSource | None = None
    ) -> Self:
        """Take over the task in a file that ``save`` wrote.

        Args:
            path: The file; only its owner may read it.
            now: The holder's clock, ms since the Unix epoch.
            key: As for ``from_text``.

        Raises:
            SettingsError: The file cannot be read, or other users can read it.
            MalformedTokenError: As ``from_text``.
        """
        from arx_caps.credentials.keyfile import (
            read_secret,  # with a library of keys, which not every holder has a use for
        )

        return cls.from_text(read_secret(Path(path)).decode("ascii", "replace"), now=now, key=key)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the task in a file, so that it outlives this process.

        Args:
            path: The file, a secret with mode 0600; an existing one is replaced.

        Raises:
            SettingsError: It cannot be written.
        """
        from arx_caps.credentials.keyfile import replace_secret

        replace_secret(Path(path), self.encode().encode("ascii") + b"\n")

    def encode(self) -> str:
        """Return the text that hands this very task to another holder, ``arxb1_…``.  It is a secret."""
        return self.bundle.encode()

    @property
    def id(self) -> str:
        """The task's id, which a kill can name."""
        return self.bundle.task

    @property
    def session(self) -> str:
        """The session's id, which a kill can name."""
        return self.bundle.outline.identifier.session

    @property
    def agent(self) -> str:
        """The agent that the mint gave the task to."""
        return self.bundle.agent

    @property
    def holder(self) -> str:
        """The agent that holds it now: the last one it was delegated to."""
        return self.bundle.holder

    @property
    def link(self) -> str:
        """The public name of this delegation; a kill of it ends this task here and all that was handed on."""
        return self.bundle.outline.link

    @property
    def bound_to(self) -> str | None:
        """The public key of the holder that a bound task is bound to, 43 characters; None for a bearer task."""
        return self.bundle.outline.holder

    def check_key(self) -> None:
        """Check that this holder can use the task; what is bound to another key could only be passed on as it is.

        Raises:
            AttenuationError: It is bound to a key that was not given, or to another one.
        """
        bound = self.bound_to
        if bound is not None and (self._key is None or self._key.holder.public != bound):
            raise call_proof.not_the_holder(bound)

    def aside(self) -> "Task":
        """Return a copy for questions about the task itself: what it signs does not count as use of the task."""
        return Task(self.bundle, now=self._now, key=self._key)

    @property
    def audiences(self) -> tuple[str, ...]:
        """The services that this task can call."""
        return self.bundle.audiences

    @property
    def tokens(self) -> dict[str, str]:
        """The text of each audience's token, for code that signs calls in its own way.  They are secrets."""
        return {audience: macaroon.encode() for audience, macaroon in self.bundle.tokens.items()}

    @property
    def tools(self) -> tuple[str, ...]:
        """The tool patterns that some token of this task allows."""
        return tuple(sorted({tool for held in self.bundle.outlines.values() for tool in held.tools}))

    @property
    def expires_at(self) -> int:
        """When the first of its tokens ends, ms since the Unix epoch."""
        return min(held.exp for held in self.bundle.outlines.values())

    @property
    def depth(self) -> int:
        """How many delegations may follow."""
        return min(held.depth for held in self.bundle.outlines.values())

    @property
    def asker(self) -> "Task | None":
        """What asks operators to approve calls of this task; None where it was started by another process."""
        return self._asker

    def offers(self, tool: str) -> bool:
        """Return whether some call of this tool may be allowed: its name matches what some token leaves.

        Args:
            tool: The tool's name.
        """
        return any(names.matches_tool(allowed, tool) for allowed in self.tools)

    def needs_approval(self, tool: str) -> bool:
        """Return whether a call of this tool has to be approved by operators, as the token or a service has it."""
        return any(caveat.when is None or tool in self._marked for caveat in self._asking(tool))

    def takes_approval(self, tool: str) -> bool:
        """Return whether an approval of a call of this tool is of use; after a mark alone, it may not be needed."""
        return bool(self._asking(tool))

    def note_refusal(self, tool: str, code: str) -> None:
        """Note why a call was refused: after a mark, the token does not show that it needs an approval.

        Args:
            tool: The tool's name.
            code: A service's ``missing_discharge``; the mint's ``conflict`` if it needs none.
        """
        if code == "missing_discharge" and self._asking(tool):
            self._marked.add(tool)
        elif code == "conflict":
            self._marked.discard(tool)

    def _asking(self, tool: str) -> "list[ThirdPartyCaveat]":
        return [caveat for held in self.bundle.outlines.values() for caveat in held.third_party_caveats_of(tool)]

    def allows(
        self,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        audience: str | None = None,
        approvals: Sequence[Approval] = (),
    ) -> "Forecast":
        """Return whether a call would be allowed, by what the tokens say.  Offline: no kill or used call is known.

        Args:
            tool: The tool's name.
            args: Its arguments as they go on the wire.
            audience: The service; else each that the task has a token for.
            approvals: What operators have approved of it.

        Returns:
            True where a token allows it; else the reason's code, and what was expected and came.

        Raises:
            AttenuationError: The task has no token for this audience.
        """
        from arx_caps.agent.tasks.forecast import forecast, judge  # with what judges; most holders only call

        bundle = self.bundle  # once: a task that is kept gets another one
        chosen = bundle.audiences if audience is None else (self._checked(audience),)
        # No address and no HTTP call: the holder does not know how the service sees it.
        request = AccessRequest(tool, dict(args or {}), self._now())
        if approvals:
            discharges = [approval.discharge for approval in approvals]
            answers = [forecast(bundle.tokens[each], request, discharges, anywhere=True) for each in chosen]
        else:
            answers = [judge(self._chain(each), request, anywhere=True) for each in chosen]
        # The service that knows the tool has the reason; all others only say that they do not.
        return max(answers, key=lambda answer: (bool(answer), answer.code != "tool_not_allowed"))

    def auth(self, audience: str | None = None, *, approvals: Sequence[Approval] = ()) -> "ArxAuth":
        """Return authentication for an HTTP client of httpx or httpx2, sync or async.

        Args:
            audience: Use this audience's token only; needed where two audiences live at one origin.
            approvals: What operators have approved; each goes with every request to its service, which then takes no
                call but the approved one: give this to one request, ``client.post(…, auth=task.auth(approvals=[…]))``.

        Raises:
            AttenuationError: The task has no such audience, or the policy names no origin for it; or an approval that
                is of no use there.
        """
        from arx_caps.agent.tasks.auth import ArxAuth  # loads httpx, which not every holder has a use for

        return ArxAuth(self.request_signer(audience, approvals=approvals))

    def requests_auth(self, audience: str | None = None, *, approvals: Sequence[Approval] = ()) -> "RequestsAuth":
        """Return authentication for requests: ``requests.get(…, auth=task.requests_auth())``, or a session's ``auth``.

        Args:
            audience: As for ``auth``.
            approvals: As for ``auth``.

        Raises:
            AttenuationError: As ``auth``.
            ImportError: requests is not installed; the extra is ``arx-caps[requests]``.
        """
        from arx_caps.agent.tasks.requests import RequestsAuth

        return RequestsAuth(self.request_signer(audience, approvals=approvals))

    def aiohttp_auth(self, audience: str | None = None, *, approvals: Sequence[Approval] = ()) -> "AiohttpAuth":
        """Return authentication for aiohttp: ``aiohttp.ClientSession(middlewares=[task.aiohttp_auth()])``.

        Args:
            audience: As for ``auth``.
            approvals: As for ``auth``; ``session.post(…, middlewares=[…])`` is for one request.

        Raises:
            AttenuationError: As ``auth``.
            ImportError: aiohttp is not installed; the extra is ``arx-caps[aiohttp]``.
        """
        from arx_caps.agent.tasks.aiohttp import AiohttpAuth

        return AiohttpAuth(self.request_signer(audience, approvals=approvals))

    def urllib3_pool(
        self, audience: str | None = None, *, approvals: Sequence[Approval] = (), **settings: Any
    ) -> "SigningPoolManager":
        """Return a pool manager of urllib3 that signs: ``task.urllib3_pool().request("GET", …)``.

        Args:
            audience: As for ``auth``.
            approvals: As for ``auth``.
            settings: What ``urllib3.PoolManager`` takes, such as ``ca_certs`` or ``retries``.

        Raises:
            AttenuationError: As ``auth``.
            ImportError: urllib3 is not installed; the extra is ``arx-caps[urllib3]``.
        """
        from arx_caps.agent.tasks.urllib3 import SigningPoolManager

        return SigningPoolManager(self.request_signer(audience, approvals=approvals), **settings)

    def request_signer(self, audience: str | None = None, *, approvals: Sequence[Approval] = ()) -> RequestSigner:
        """Return what signs the requests of an HTTP client, for clients that no method here is for.

        Args:
            audience: As for ``auth``.
            approvals: As for ``auth``.

        Raises:
            AttenuationError: As ``auth``.
        """
        chosen = self.audiences if audience is None else (self._checked(audience),)
        sign: Sign = self.http_token
        if approvals:
            tokens = {each: self.bundle.tokens[each] for each in chosen}
            sign = partial(_sign_approved, self, spread(approvals, tokens, self._now()))
        return RequestSigner({each: self.bundle.origins[each] for each in chosen}, sign)

    def call_token(
        self, audience: str, tool: str, args: Mapping[str, Any], *, approvals: Sequence[Approval] = ()
    ) -> str:
        """Make the one-shot token of one call without HTTP.

        Args:
            audience: The service that is called.
            tool: The tool's name.
            args: Its arguments as they go on the wire.
            approvals: What operators have approved of it.

        Returns:
            A token for this call, to be used within 10 seconds.

        Raises:
            AttenuationError: The task has no token for this audience; or an approval is not given yet, over, for
                another task or service, or does not fit in.
            RequestError: The arguments have no RFC 8785 form.
        """
        # One reading of the clock for the signature and the approvals: their ends are compared with the time that was
        # signed.
        at = self._now()
        signer, token = self._signer(audience)
        return _approved(audience, signer.sign(call_proof.tool_fields(tool, args), at), token, approvals, at)

    def http_token(
        self,
        audience: str,
        method: str,
        target: bytes,
        body: bytes = b"",
        *,
        approvals: Sequence[Approval] = (),
    ) -> str:
        """Make the one-shot token of one HTTP call, for clients that ``auth`` is not for.

        Args:
            audience: The service that is called.
            method: The method, upper case.
            target: Raw path and query as they go on the wire.
            body: The body as it goes on the wire.
            approvals: What operators have approved of it.

        Returns:
            A token for this call, to be sent as ``Authorization: Bearer …`` within 10 seconds.

        Raises:
            AttenuationError: As ``call_token``.
        """
        call, at = HttpCall(method, target, sha256(body).digest()), self._now()
        signer, token = self._signer(audience)
        return _approved(audience, signer.sign(call_proof.http_fields(call), at), token, approvals, at)

    def delegate(
        self,
        to: str,
        *,
        key: str | HolderKey | None = None,
        tools: Sequence[str] | None = None,
        args: Mapping[str, Any] | None = None,
        ttl: str | None = None,
        depth: int | None = None,
        audiences: Sequence[str] | None = None,
        budget: Mapping[str, Amount] | None = None,
        per: str = "task",
    ) -> "Task":
        """Make a task for another agent, narrower or equal, with a link of its own.  Offline.

        What is taken away stays away when a service exchanges its token for one of another service.  ``tools``,
        ``args`` by tool and ``audiences`` leave what they name, and no service that is reached in this way alone.

        Args:
            to: The next holder's agent path.
            key: The next holder's public key, 43 characters, as ``arx key show`` prints it; a bound task needs it.  The
                key itself for a sub-agent of this process, which then uses the returned task.
            tools: Tools or patterns to leave; None leaves them all.
            args: Argument to constraint, for every tool left that can take it; or tool to such a mapping.  Constraints
                are plain data as in a policy: ``"o-1"``, ``{"range": [0, 20]}``, ``{"one_of": ["a", "b"]}``.  A
                constrained argument must be present where the task's rules name it, or the holder names the tool,
                unless its constraint says ``"optional": True``.  A tool that takes any arguments needs none, and
                what comes there is held to the constraint.
            ttl: Life from now on, such as ``"60s"``; never longer than what this task has left.
            depth: How many delegations may follow this one.
            audiences: Leave these services; None leaves those that still have a tool.
            budget: What its calls may cost together, by unit: ``{"usd": "1.00", "calls": 20}``.  They draw from the
                budgets of this task as well.
            per: The period of the budget: ``task`` for all of it, ``hour`` or ``day``.

        Returns:
            The task to pass on with ``encode``.

        Raises:
            AttenuationError: The sub-agent could do nothing with it: a tool or name that the task does not allow, an
                argument no tool takes, a constraint that no call could keep, no delegation left, a bound task without a
                key; or a value that cannot be read.
        """
        self.used()
        if not names.is_agent_path(to):
            raise AttenuationError(f"{shorten(to)} is not an agent path such as acme/worker")
        for held in self.bundle.outlines.values():
            if held.depth == 0:
                raise AttenuationError("this task may not be delegated any further (depth 0)")
            for patterns in held.delegate_to:
                # The verifier would refuse the sub-agent's first call; the holder can still choose another one.
                if not names.matches_any_path(patterns, to):
                    raise AttenuationError(f"this task may be delegated to {' or '.join(patterns)}, not to {to}")
        bundle, caveats = self._caveats(tools, args, ttl, depth, audiences)
        pools = pools_for(bundle.outlines, to, budget, per)
        by = None if self._key is None or bundle.outline.holder is None else self._key.holder
        own, key = (key, key.public) if isinstance(key, HolderKey) else (None, key)
        given = delegate_tokens(bundle.tokens, to, caveats, key=key, by=by, pools=pools)
        return Task(bundle.with_tokens(given), now=self._now, asker=self.asker, key=own)

    def attenuate(
        self,
        *,
        tools: Sequence[str] | None = None,
        args: Mapping[str, Any] | None = None,
        ttl: str | None = None,
        depth: int | None = None,
        audiences: Sequence[str] | None = None,
        budget: Mapping[str, Amount] | None = None,
        per: str = "task",
    ) -> Self:
        """Return a narrower copy for the same holder; this one keeps its power.  Offline.

        Args:
            tools: As for ``delegate``, like all that follow.
            args: Constraints.
            ttl: Life from now on.
            depth: How many delegations may follow.
            audiences: Leave these services.
            budget: What its calls may cost together; all narrower copies of this holder draw from the same pools.
            per: The period of the budget.

        Raises:
            AttenuationError: Nothing would be left to do, or a value cannot be read.
        """
        bundle, caveats = self._caveats(tools, args, ttl, depth, audiences)
        pools = pools_for(bundle.outlines, self.holder, budget, per)
        tokens = bundle.tokens
        left = {
            audience: tokens[audience] if caveat is None else tokens[audience].attenuate(caveat)
            for audience, caveat in caveats.items()
        }
        return self._again(bundle.with_tokens(with_pools(left, pools)))

    def used(self) -> None:
        """Note that the task is in use, as each call and ``delegate`` do: that keeps a started one from ending."""

    def finish(self) -> Mapping[str, Any]:
        """End the task, which only the session that started it can; see ``StartedTask``.

        Raises:
            AttenuationError: It was delegated.
        """
        raise AttenuationError("only the session that started this task can finish it")

    def describe(self) -> dict[str, Any]:
        """Return what the task says it allows as plain data; see ``Bundle.describe``."""
        return self.bundle.describe()

    def _caveats(
        self,
        tools: Sequence[str] | None,
        args: Mapping[str, Any] | None,
        ttl: str | None,
        depth: int | None,
        audiences: Sequence[str] | None,
    ) -> tuple[Bundle, dict[str, Caveat | None]]:
        bundle = self.bundle  # once: a task that is kept gets another one
        for audience in audiences if audiences is not None and not isinstance(audiences, str) else ():
            self._checked(audience)
        return bundle, caveats_for(
            bundle.outlines, tools=tools, args=args, ttl=ttl, depth=depth, audiences=audiences, now=self._now()
        )

    def _again(self, bundle: Bundle) -> Self:
        """Return what this holder holds instead or besides."""
        return type(self)(bundle, now=self._now, asker=self._asker, key=self._key)

    def _replace(self, bundle: Bundle) -> None:
        """Hold another bundle of the same task from now on, while other threads use this one."""
        # In this order: a thread takes hold of what it fills first, and never fills the new ones by the earlier bundle.
        self.bundle = bundle
        self._signers, self._chains = {}, {}

    def _chain(self, audience: str) -> "ProvenChain":
        # Kept, because an agent asks before every call, and to read a token takes ten times as long as to judge by it.
        chains = self._chains
        chain = chains.get(audience)
        if chain is None:
            from arx_caps.agent.tasks.outline import unverified_chain

            chain = chains[audience] = unverified_chain(self.bundle.tokens[audience])
        return chain

    def _signer(self, audience: str) -> tuple[CallSigner, Macaroon]:
        # Kept, because a signer encodes the part of the text that all calls share, once.
        signers = self._signers
        held = signers.get(audience)
        if held is None:
            bundle = self.bundle
            token, said = bundle.tokens[self._checked(audience)], bundle.outlines[audience]
            key = None if self._key is None or said.holder is None else self._key.holder
            held = signers[audience] = CallSigner(token, audience, key, signs=said.needs_signature), token
        return held

    def _checked(self, audience: str) -> str:
        if audience not in self.bundle.tokens:
            raise AttenuationError(
                f"this task has no token for {shorten(audience)}; it has {', '.join(self.audiences)}"
            )
        return audience

    def __eq__(self, other: object) -> bool:
        return self.bundle == other.bundle if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)  # the bundle of a task that is kept changes

    def __repr__(self) -> str:
        return f"<Task {self.id} of {self.agent}, held by {self.holder}: {', '.join(self.audiences)}>"


def _approved(audience: str, text: str, token: Macaroon, approvals: Sequence[Approval], at: int) -> str:
    if not approvals:
        return text
    return add_approvals(text, token, approvals, audience=audience, at=at)


def _sign_approved(
    task: Task, by_audience: Mapping[str, Sequence[Approval]], audience: str, method: str, target: bytes, body: bytes
) -> str:
    return task.http_token(audience, method, target, body, approvals=by_audience[audience])
