# SPDX-License-Identifier: Apache-2.0
"""Calls of MCP with an access token that need an approval: asked for, waited for, and made once.  CONTROL 5.12.

The gateway asks the mint (``mint.oauth.handle_approvals``), and the discharge comes from the mint to the gateway.  The
client keeps a sealed text: a task id where it declares tasks, else a ``requestState`` (MCP 2026-07-28), else it calls
again.  What a gateway keeps are the running calls of tasks and their results.
"""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.gateway.access_tokens.approved_tasks import ApprovedTasks, announce_tasks, takes_tasks
from arx_caps.gateway.access_tokens.token_calls import AskedMessage, Object, TokenCaller, TokenCalls
from arx_caps.gateway.base.asgi import Receive, Scope, Send, poll
from arx_caps.gateway.base.handle_decisions import HandleDecisions
from arx_caps.gateway.base.rates import OverRateError
from arx_caps.gateway.base.sealed_calls import PREFIX, WaitingCall, digest_of, is_sealed, without_state
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.exchange import Headers, McpExchange, ResourceCall, error_message
from arx_caps.mcp.errors import INTERNAL_ERROR, INVALID_PARAMS, WireError
from arx_caps.mcp.headers import check_headers
from arx_caps.mcp.message import RpcMessage, read_message
from arx_caps.service.access_tokens import TakenApproval
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.errors import ArxError, GrantError, TokenError
from arx_verifier.refusal_text import error_for_model, refusal_for_model
from arx_verifier.token import discharge
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.verification.verifier import Verifier

HOLD_MS: Final = 20_000  # stock clients repeat a request ten times at most, without a long pause
HOLD_FIRST_MS: Final = 5_000  # many programs wait no longer without a sign of life
MAX_HELD: Final = 8  # of one client: each costs a request to the mint every few seconds


class ApprovedCalls:
    """The calls of one upstream that wait for an approval.

    Args:
        door: Decides on a call and makes it.
        verifier: The verifier of the upstream's audience.
        mint: The mint.
        own: The service's own key.
        decisions: Records the calls with their assurance.
        challenge: Returns the challenge for scopes, and for a client with proofs (RFC 9449).
        longest: The longest answer of a task's call, bytes.

    Attributes:
        audience: The upstream's audience.
    """

    def __init__(
        self,
        door: McpDoor,
        verifier: Verifier,
        mint: MintClient,
        own: ServiceIdentity,
        decisions: HandleDecisions,
        *,
        challenge: Callable[[str, bool], Headers],
        longest: int,
    ) -> None:
        self._calls, self._challenge = TokenCalls(door, verifier, mint, own, decisions), challenge
        self._tasks, self.audience = ApprovedTasks(self._calls, longest), verifier.audience
        self._held: Counter[str] = Counter()

    async def close(self) -> None:
        """End the running calls of tasks."""
        await self._tasks.close()

    def about(self, message: RpcMessage) -> Callable[[AskedMessage], Awaitable[None]] | None:
        """Return what answers a message about a call that waits; None for another message.

        Args:
            message: The message.
        """
        if message.method.startswith("tasks/") and is_sealed(message.params.get("taskId")):
            return self._tasks.answer
        if message.method == "tools/call" and is_sealed(message.params.get("requestState")):
            return self._again
        return None

    async def answered(self, asked: AskedMessage, work: Callable[[AskedMessage], Awaitable[None]]) -> None:
        """Answer a message by what is done for it, or by the error.

        Args:
            asked: The message.
            work: What to do.
        """
        tool = _tool_of(asked.message)
        try:
            # Each makes the gateway ask the mint, and the door counts what it forwards alone.
            self._calls.rates.charge(asked.caller.agent, asked.caller.person)
            await work(asked)
        except OverRateError as error:
            await asked.exchange.refuse_rate(asked.message, error)
        except WireError as error:
            await asked.error(error.code, str(error))
        except TokenError as error:
            await asked.refuse(refusal_for_model(tool, error.code))
        except GrantError as error:
            await asked.refuse(error_for_model(tool, error))
        except ArxError:
            answer = error_message(asked.message.id, INTERNAL_ERROR, "the mint does not answer now: repeat the request")
            await asked.exchange.close(503, answer, [(b"retry-after", b"1")])

    async def ask(self, asked: AskedMessage, caveat: ThirdPartyCaveat) -> None:
        """Ask operators for the approval of a call, and answer it.

        Args:
            asked: The call.
            caveat: The caveat that demands the approval.

        Raises:
            GrantError: An operator denied the call.
            ArxError: The mint does not answer.
        """
        message = asked.message
        name, args = str(message.params["name"]), message.params.get("arguments") or {}
        found = await self._calls.ask(asked.caller, caveat, f"{self._calls.audience}.{name}", args)
        if found.state == "denied":
            await self._calls.take(asked.caller, found.id)  # fails, with the operator's reason
            raise GrantError(f"{found.id} was denied by an operator", code="approval_denied")
        call = WaitingCall(found.id, name, digest_of(name, args), found.asked_at, found.expires_at)
        if takes_tasks(asked):
            await self._tasks.create(asked, call)
            return
        if asked.is_stateless and found.state == "waiting":
            await self._input_required(asked, self._calls.seal(asked.caller, call, "state"))
            return
        has_room = self._held[asked.caller.principal] < MAX_HELD
        taken = await self._wait(asked, found.id, HOLD_FIRST_MS / 1000)
        if taken is not None and taken.discharge is None:
            text = (
                f"{name} waits: an operator has to approve this call with exactly these arguments, and was asked "
                f"({found.id}). Make the same call again once it is approved."
            )
            # One 403 for an approval: at a second one, after the login that it asks for, stock clients end a session.
            if asked.caller.issued_at > found.asked_at or not has_room:
                await asked.refuse(text)
                return
            # All that is needed: clients ask for these alone, and the mint leaves out what is no template.
            scope = f"{asked.caller.scope} approval:{found.id}"
            await asked.step_up(text, found.id, self._challenge(scope, asked.caller.is_proven))
        elif taken is not None:
            await self._make(asked, taken, asked.body)

    async def _again(self, asked: AskedMessage) -> None:
        """Make a call that comes again with its state, if it was approved.

        Raises:
            WireError: The state is none that this principal got for this call, or was used.
            ArxError: As ``take_approval``.
        """
        message, text = asked.message, str(asked.message.params["requestState"])
        call = self._calls.opened_again(asked.caller, message.params)
        if "inputResponses" in message.params:
            raise WireError(INVALID_PARAMS, "inputResponses: expected none, as this requestState asks for no input")
        taken = await self._wait(asked, call.approval, HOLD_MS / 1000)
        if taken is None:
            return
        if taken.taken:
            raise WireError(INVALID_PARAMS, "requestState: the call was made with it")
        if taken.discharge is None:
            await self._input_required(asked, text)
            return
        await self._make(asked, taken, without_state(asked.body))

    async def _wait(self, asked: AskedMessage, approval: str, hold_s: float) -> TakenApproval | None:
        """Return an approval once it is taken, or after some time; None if the client has gone.

        Raises:
            OverRateError: The agent, or the person that it acts for, has too many requests open.
            ArxError: As ``take_approval``.
        """
        principal = asked.caller.principal
        held = hold_s if self._held[principal] < MAX_HELD else 0.0
        self._held[principal] += 1
        try:
            # Also counted as open: a person may have many sessions, each with calls that wait here.
            async with self._calls.rates.opened(asked.caller.agent, asked.caller.person):
                return await poll(
                    asked.receive,
                    held,
                    lambda: self._calls.take(asked.caller, approval),
                    lambda taken: taken.taken or taken.discharge is not None,
                )
        finally:
            self._held[principal] -= 1
            if not self._held[principal]:
                del self._held[principal]

    async def _make(self, asked: AskedMessage, taken: TakenApproval, body: bytes) -> None:
        await self._calls.make(
            asked.caller, taken, asked.scope, body, asked.receive, asked.exchange.send, ResourceCall()
        )

    async def _input_required(self, asked: AskedMessage, state: str) -> None:
        await asked.result({"resultType": "input_required", "requestState": state})


class ApprovableCall(ResourceCall):
    """A request with an access token, whose call may need an approval.

    Args:
        approved: The calls that wait.
        caller: The client.
        scope: As ASGI has it, with the headers that the client sent.
        body: The body.
        receive: As ASGI has it, after the body.
        send: As ASGI has it.
    """

    def __init__(
        self, approved: ApprovedCalls, caller: TokenCaller, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        self._approved, self._caller, self._scope = approved, caller, scope
        self._body, self._receive, self._send = body, receive, send

    async def answer(self) -> bool:
        """Answer a message about a call that waits; return False for another message."""
        if PREFIX.encode() not in self._body or self._scope["method"] != "POST":
            return False
        try:
            message = read_message(self._body)
            check_headers(collect_headers(self._scope["headers"]), message)
        except (WireError, ArxError):
            return False  # the door refuses it
        work = self._approved.about(message)
        if work is not None:
            await self._approved.answered(self._asked(message), work)
        return work is not None

    async def ask_approval(self, message: RpcMessage) -> bool:
        """Ask for the approval of a call, and answer it; see ``ResourceCall``."""
        tool = f"{self._approved.audience}.{message.params.get('name')}"
        caveats = discharge.third_party_caveats(self._caller.macaroon)
        caveat = next((caveat for caveat in caveats if caveat.tools is not None and caveat.binds(tool)), None)
        # A server that asks for input of its own has a state of its own, which this one would replace.
        if caveat is None or {"requestState", "inputResponses"} & message.params.keys():
            return False
        await self._approved.answered(self._asked(message), functools.partial(self._approved.ask, caveat=caveat))
        return True

    def announce(self, method: str, result: Object) -> bool:
        """Add to a result that calls may become tasks; see ``ResourceCall``."""
        headers = collect_headers(self._scope["headers"])
        stated = headers.get(b"mcp-protocol-version", b"").decode("latin-1").strip(" \t")
        return announce_tasks(self._approved.audience, self._caller.macaroon, stated, method, result)

    def _asked(self, message: RpcMessage) -> AskedMessage:
        scope = {**self._scope, "headers": [*self._scope["headers"]]}
        exchange = McpExchange(scope, self._send, self._body)
        return AskedMessage(self._caller, scope, self._body, self._receive, exchange, message)


def _tool_of(message: RpcMessage) -> str:
    name = message.params.get("name")
    return name if message.method == "tools/call" and isinstance(name, str) else ""
