# SPDX-License-Identifier: Apache-2.0
"""Access requests of AuthZEN (Access Request and Approval Profile 1.0): a PEP asks for the approval that a call lacks.

A denial is bound by its ``evaluation_id`` to the question, its credential and the call.  What is known of it is in this
process's memory: after a restart, the PEP asks about the call again.
"""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.service.access_tokens import HandleApproval, TakenApproval, ask_approval, take_approval
from arx_caps.service.own_key import read_own_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, TokenError
from arx_verifier.request import AccessRequest

CAPABILITY: Final = "urn:openid:authzen:capability:access-request"
OFFERED_MS: Final = 10 * 60 * 1000  # how long a denial may be submitted
MAX_KEPT: Final = 1024  # denials, and requests
MAX_ARGS: Final = 8 * 1024  # characters of a call's arguments: each denial keeps them
_STATES: Final = {"waiting": "pending", "approved": "approved", "denied": "denied", "withdrawn": "cancelled"}
_URN: Final = "urn:openid:authzen:access-request:error:"

Object = dict[str, Any]
T = TypeVar("T")


class ProblemError(Exception):
    """A refusal with a problem type of the profile."""

    def __init__(self, status: int, name: str, title: str) -> None:
        super().__init__(title)
        self.status, self.content = status, {"type": _URN + name, "title": title, "status": status}


class DeniedCall(NamedTuple):
    """A call that lacks nothing but an approval.

    Attributes:
        pep: Digest of the secret of the PEP that asked about it.
        question: ``form_of`` the question.
        token: The access token, a secret.
        caveat: The third-party caveat.
        tool: The tool.
        args: Its arguments.
        until: When the denial can no longer be submitted, ms since the Unix epoch.
    """

    pep: bytes
    question: str
    token: str
    caveat: str
    tool: str
    args: Mapping[str, Any]
    until: int

    def __repr__(self) -> str:
        return "<DeniedCall>"


@dataclass(slots=True)
class _Task:
    call: DeniedCall
    approval: HandleApproval
    state: str


class AccessRequests:
    """The requests of the PEPs of one decider.

    Args:
        service: The service file, with the service's own key.
        endpoint: The URL at which requests are submitted.

    Raises:
        SettingsError: The service file names no key of its own.
    """

    def __init__(self, service: Path, endpoint: str) -> None:
        own = read_own_key(service)
        self._key, self._endpoint = own.key, endpoint
        self._mint = MintClient(own.issuer, now=now_ms, ca=own.ca)
        self._denied: OrderedDict[str, DeniedCall] = OrderedDict()
        self._tasks: OrderedDict[str, _Task] = OrderedDict()
        self._approvals: OrderedDict[str, DeniedCall] = OrderedDict()

    def offer(self, evaluation: str, call: DeniedCall) -> Object | None:
        """Return what a denial says of a request, and keep what it is about; None if that is too long.

        Args:
            evaluation: The id of the recorded decision.
            call: The call.
        """
        if len(_text(call.args)) > MAX_ARGS:
            return None
        _keep(self._denied, evaluation, call)
        return {"endpoint": self._endpoint, "expires_at": _shown(call.until)}

    async def submit(self, asked: Object, pep: bytes) -> Object:
        """Ask operators, and return the task.

        Args:
            asked: The body of the request.
            pep: Digest of the PEP's secret.

        Raises:
            ProblemError: It is not about a denial of this PEP that may still be submitted.
            ArxError: The mint does not answer, or refuses.
        """
        denial = asked.get("denial")
        found = self._denied.get(str(denial.get("evaluation_id"))) if isinstance(denial, dict) else None
        if "items" in asked or found is None or found.pep != pep or form_of(asked) != found.question:
            raise ProblemError(400, "invalid_denial_binding", "expected subject, action and resource of a denial")
        if found.until <= now_ms():
            raise ProblemError(410, "expired_denial", "ask about the call again")
        # The mint finds the request that there is: a repeat asks no operator again.
        approval = await self._ask(found)
        if approval.state not in _STATES:
            raise ProblemError(400, "not_requestable", "no approval can be given for this call now")
        name = secrets.token_urlsafe(24)
        _keep(self._tasks, name, _Task(found, approval, _STATES[approval.state]))
        return self._show(name, self._tasks[name])

    async def status(self, name: str, pep: bytes) -> Object:
        """Return how a request stands.

        Args:
            name: The task's id.
            pep: Digest of the PEP's secret.

        Raises:
            ProblemError: There is none.
            ArxError: The mint does not answer.
        """
        task = self._tasks.get(name)
        if task is None or task.call.pep != pep:
            raise ProblemError(404, "unknown_task", "no such task")
        # Its end is final: afterwards the mint would take the question for a new request.
        if task.state == "pending" and task.approval.expires_at <= now_ms():
            task.state = "expired"
        elif task.state == "pending":
            try:
                now = await self._ask(task.call)
            except (GrantError, TokenError):
                # The access token is over, or what it stands for.  With the next one, the approval is found again.
                task.state = "failed"
            else:
                task.state = _STATES.get(now.state, "failed") if now.id == task.approval.id else "cancelled"
                task.approval = now if now.id == task.approval.id else task.approval
        return self._show(name, task)

    async def take(self, approval: object, pep: bytes, question: str, token: str, request: AccessRequest) -> Any:
        """Return what a call is made with that was approved, one time; None if it was not.

        Args:
            approval: The member ``approval`` of the question's context.
            pep: Digest of the PEP's secret.
            question: ``form_of`` the question.
            token: The access token, a secret.
            request: The call.

        Raises:
            ArxError: The mint does not answer, or refuses.
        """
        name = str(approval.get("id")) if isinstance(approval, dict) else ""
        call = self._approvals.get(name)
        # Before it is taken: an approval of another call must not be used up.
        same = call is not None and (call.pep, call.question, call.tool) == (pep, question, request.tool)
        if call is None or not same or _text(call.args) != _text(request.args):
            return None
        taken: TakenApproval = await asyncio.to_thread(take_approval, self._mint, self._key, token, name)
        return taken if taken.discharge is not None else None

    async def close(self) -> None:
        """Close the connection to the mint."""
        await asyncio.to_thread(self._mint.close)

    async def _ask(self, call: DeniedCall) -> HandleApproval:
        return await asyncio.to_thread(
            ask_approval, self._mint, self._key, call.token, call.caveat, call.tool, call.args
        )

    def _show(self, name: str, task: _Task) -> Object:
        until = _shown(task.approval.expires_at)
        about = {"id": name, "status": task.state, "status_endpoint": f"{self._endpoint}/{name}", "expires_at": until}
        if task.state != "approved":
            return {"task": about}
        _keep(self._approvals, task.approval.id, task.call)
        approval = {"id": task.approval.id, "approved_until": until}
        return {"task": about, "result": {"mode": "reevaluate", "approval": approval}}


def form_of(asked: Object) -> str:
    """Return the digest of what a question is about: its subject, action and resource, whole.

    Args:
        asked: The question, as it was sent.
    """
    about = _text([asked.get(name) for name in ("subject", "action", "resource")])
    return sha256(about.encode()).hexdigest()


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _keep(kept: OrderedDict[str, T], name: str, value: T) -> None:
    kept[name] = value
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
