# SPDX-License-Identifier: Apache-2.0
"""What is common to calls that wait for an approval: their client, what the mint says, and the call itself.

The call is signed with what the mint gives to the gateway, and goes through the same door as any other.
"""

import asyncio
from typing import Any, NamedTuple

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.gateway.base.asgi import Receive, Scope, Send, replay_body
from arx_caps.gateway.base.handle_decisions import HandleDecisions
from arx_caps.gateway.base.sealed_calls import Kind, SealedCalls, WaitingCall
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.exchange import Headers, McpExchange, ResourceCall, error_message
from arx_caps.mcp.errors import refused_result, status_of
from arx_caps.mcp.message import RpcMessage, result_answer
from arx_caps.service.access_tokens import HandleApproval, TakenApproval, ask_approval, take_approval
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.calls import http_call
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED
from arx_verifier.token import call_proof, discharge
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier

Object = dict[str, Any]


class TokenCaller(SecretStruct, frozen=True):
    """A client with an access token.

    Attributes:
        token: The access token, a secret.
        macaroon: The task's token.
        principal: The same for all access tokens of the client in one session.
        agent: The agent's path, whose rate its messages count against.
        scope: The scope of the access token.
        issued_at: When the access token was issued, ms since the Unix epoch, in whole seconds.
        is_proven: Whether its requests have a proof.
    """

    token: str
    macaroon: Macaroon
    principal: str
    agent: str
    scope: str
    issued_at: int
    is_proven: bool = False

    @property
    def person(self) -> tuple[str, str] | None:
        """Issuer and subject of the person that it acts for, or None."""
        # The mint has given the token; an operator's token has none.
        subject: tuple[str, str] | None = getattr(self.macaroon.unverified_identifier, "subject", None)
        return subject


class AskedMessage(NamedTuple):
    """One message of a client with an access token, and the way to answer it.

    Attributes:
        caller: The client.
        scope: As ASGI has it, with the headers that the client sent.
        body: The body.
        receive: As ASGI has it, after the body.
        exchange: Answers it.
        message: The message.
    """

    caller: TokenCaller
    scope: Scope
    body: bytes
    receive: Receive
    exchange: McpExchange
    message: RpcMessage

    @property
    def is_stateless(self) -> bool:
        """Whether it is of MCP 2026-07-28 or later."""
        return self.exchange.is_stateless

    async def result(self, result: Object) -> None:
        """Answer with a result."""
        await self.exchange.close(200, result_answer(self.message.id, result))

    async def error(self, code: int, text: str) -> None:
        """Answer with an error of JSON-RPC."""
        status = status_of(code) if self.is_stateless else 200
        await self.exchange.close(status, error_message(self.message.id, code, text))

    async def step_up(self, text: str, approval: str, challenge: Headers) -> None:
        """Answer so that a client asks for a scope."""
        # An error: of an answer with 403, a stock client that asks for none shows no result.
        answer = error_message(self.message.id, MCP_REFUSED, text, {"code": "missing_discharge", "approval": approval})
        await self.exchange.close(403, answer, challenge)

    async def refuse(self, text: str) -> None:
        """Answer so that a model reads it."""
        await self.result(refused_result(text, is_stateless=self.is_stateless))


class TokenCalls:
    """Asks the mint about approvals, and makes the calls of one upstream that were approved.

    Args:
        door: Decides on a call and makes it.
        verifier: The verifier of the upstream's audience.
        mint: The mint.
        own: The service's own key.
        decisions: Records the calls with their assurance.

    Attributes:
        audience: The upstream's audience.
        rates: How many messages of an agent are answered.
    """

    def __init__(
        self, door: McpDoor, verifier: Verifier, mint: MintClient, own: ServiceIdentity, decisions: HandleDecisions
    ) -> None:
        self._door, self._mint, self._key, self._decisions = door, mint, own.key, decisions
        self._sealed, self.audience, self.rates = SealedCalls(verifier.keys), verifier.audience, door.rates

    def seal(self, caller: TokenCaller, call: WaitingCall, kind: Kind) -> str:
        """Return the text that a client keeps of a call that waits.

        Args:
            caller: The client.
            call: The call.
            kind: What the text is used as.
        """
        return self._sealed.seal(call, kind, caller.principal, caller.macaroon.unverified_identifier.kid)

    def opened(self, caller: TokenCaller, text: str) -> WaitingCall | None:
        """Return the call of a task id; None if it is none of a client's.

        Args:
            caller: The client.
            text: The id.
        """
        return self._sealed.open(text, "task", caller.principal)

    def opened_again(self, caller: TokenCaller, params: Object) -> WaitingCall:
        """Return the call that a client sends again; see ``SealedCalls.open_again``."""
        return self._sealed.open_again(params, "state", caller.principal)

    async def ask(self, caller: TokenCaller, caveat: ThirdPartyCaveat, tool: str, args: Object) -> HandleApproval:
        """Ask operators for an approval, or return the one that was asked for.

        Args:
            caller: The client.
            caveat: The caveat that demands it.
            tool: The tool.
            args: Its arguments.

        Raises:
            ArxError: As ``ask_approval``.
        """
        text = caveat.encode().decode()
        return await asyncio.to_thread(ask_approval, self._mint, self._key, caller.token, text, tool, args)

    async def take(self, caller: TokenCaller, approval: str, *, withdraw: bool = False) -> TakenApproval:
        """Return an approval, with what its call is made with if it was given.

        Args:
            caller: The client.
            approval: The approval's id.
            withdraw: Whether the client gives the call up.

        Raises:
            ArxError: As ``take_approval``.
        """
        return await asyncio.to_thread(take_approval, self._mint, self._key, caller.token, approval, withdraw=withdraw)

    async def make(
        self,
        caller: TokenCaller,
        taken: TakenApproval,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        call: ResourceCall | None,
    ) -> None:
        """Make a call that was approved.

        Args:
            caller: The client.
            taken: The approval, which was given.
            scope: As ASGI has it.
            body: The body of the call.
            receive: As ASGI has it, after the body.
            send: As ASGI has it.
            call: For a client that waits for the answer; None for a task.
        """
        signed = self._signed(caller, scope, taken, body)
        await self._door(signed, replay_body(body, receive), send, call)

    def _signed(self, caller: TokenCaller, scope: Scope, taken: TakenApproval, body: bytes) -> Scope:
        """Return the scope of a call with its credential: the task's token, the call, and the discharge."""
        assert taken.bundle is not None
        assert taken.discharge is not None
        macaroon = taken.bundle.tokens[self.audience]
        self._decisions.know(macaroon.unverified_identifier.id, bound=caller.is_proven)
        signer = call_proof.CallSigner(macaroon, self.audience)
        signed = signer.sign(call_proof.http_fields(http_call(scope, body)), now_ms())
        # Bound here and not by the mint, which need not know how a delegated token is signed.
        text = discharge.join(signed, [discharge.bind(taken.discharge, macaroon)])
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"authorization", b"content-length")]
        headers += [(b"authorization", b"Bearer " + text.encode()), (b"content-length", b"%d" % len(body))]
        return {**scope, "headers": headers}
