# SPDX-License-Identifier: Apache-2.0
"""Decisions on calls without a credential: the mint judges the policy, and each has a record.  CONTROL 5.14.

The PEP says which agent it authenticated.  No answer is kept, because the policy and the kills may change.
"""

import asyncio
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.service.fetch import require_private
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import REASONS, AuditError, Failure, GrantError, StoreError
from arx_verifier.journal import OK, ChainFacts, Decision, digest_arguments
from arx_verifier.request import UNSEEN_BODY, AccessRequest
from arx_verifier.token import agent_targets
from arx_verifier.verification import Verifier

ASSURANCE: Final = "asserted"


class _Answer(msgspec.Struct, frozen=True):
    allowed: bool
    code: str
    failures: list[dict[str, str]]
    detail: str | None
    policy: str


class AssertedDecision(NamedTuple):
    """A recorded decision, and what else a person should know of a refusal."""

    decision: Decision
    detail: str | None


class AssertedCalls:
    """Decides by the policy alone.

    Args:
        verifier: The verifier of the audience, whose view of kills counts, and which records.
        service: The service file, with the service's own key.

    Raises:
        SettingsError: The service file names no key of its own, or the way to the mint is not private.
    """

    def __init__(self, verifier: Verifier, service: Path) -> None:
        self._verifier = verifier
        own = read_own_key(service)
        self._key = own.key
        self._mint = MintClient(own.issuer, now=now_ms, ca=own.ca)
        require_private(self._mint)  # an answer that another machine has changed would open a call

    async def judge(self, agent: str, request: AccessRequest) -> AssertedDecision:
        """Decide on a call, and record it.

        Args:
            agent: The agent that makes it, as the PEP says.
            request: The call.

        Raises:
            ArxError: The mint does not answer, or refuses to.
        """
        # In a thread: the request to the mint and the journal may both wait.
        return await asyncio.to_thread(self._judge, agent, request)

    def _judge(self, agent: str, request: AccessRequest) -> AssertedDecision:
        body: dict[str, Any] = {"agent": agent, "tool": request.tool, "args": request.args, "peer": request.peer}
        body["unseen"] = request.http is not None and request.http.body_digest == UNSEEN_BODY
        try:
            found = self._mint.call("POST", "/v1/policy/asserted", key=self._key, body=body, repeats=False)
            answer = msgspec.convert(found, _Answer)
            failures = tuple(Failure(**each) for each in answer.failures)
        except (msgspec.ValidationError, TypeError) as error:
            raise StoreError(f"malformed answer of {self._mint.issuer} ({type(error).__name__})") from None
        except GrantError as error:  # such as too many questions
            raise StoreError(str(error)) from error
        # A code of a newer mint is a refusal, of which no more is known here.
        code = OK if answer.allowed else answer.code if answer.code in REASONS else "tool_not_allowed"
        epochs, view = self._verifier.epochs, self._verifier.epochs.view()
        # This view too, after the answer came: it may be newer than the mint's, or its lease over.
        late = epochs.check(None, 0, ("realm", f"policy:{answer.policy}", *agent_targets(agent)))
        if code == OK and late is not None:
            code = late.code
        facts = ChainFacts(agent=agent, audience=self._verifier.audience, policy=answer.policy, assurance=ASSURANCE)
        digest, salt = digest_arguments(request.args)
        decision = Decision(code, request.at, facts, request.tool, digest, salt, *view, failures, request.peer)
        decision.request_id, decision.traceparent = request.request_id, request.traceparent
        try:
            self._verifier.decisions.append(decision)
        except AuditError as broken:  # as for a call: no record, no allow
            decision.code = broken.code
            if not broken.counted:
                self._verifier.decisions.append(decision)
        return AssertedDecision(decision, answer.detail)

    async def close(self) -> None:
        """Close the connection to the mint."""
        await asyncio.to_thread(self._mint.close)
