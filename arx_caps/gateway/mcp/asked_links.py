# SPDX-License-Identifier: Apache-2.0
"""Links by which people connect accounts, as elicitations of MCP by URL.  CONTROL 9.6.

A client that declares no such elicitation gets none: it would show neither the text nor the link.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from arx_caps.gateway.base.asgi import Receive, poll
from arx_caps.gateway.base.bound_ids import owner_of
from arx_caps.gateway.base.rates import Rates
from arx_caps.gateway.base.sealed_calls import SealedCalls, WaitingCall, digest_of, is_sealed
from arx_caps.gateway.base.upstream_answer import LendingError
from arx_caps.gateway.mcp.exchange import McpExchange, error_message
from arx_caps.gateway.mcp.server_requests import CAPABILITIES, KINDS
from arx_caps.gateway.upstream.credentials import LiveCall
from arx_caps.mcp.errors import URL_ELICITATION
from arx_caps.mcp.message import RpcMessage, object_in, result_answer, written
from arx_caps.mcp.revision import HAS_TASKS, REVISIONS, STATELESS
from arx_caps.service.access_tokens import link_digest
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.mcp.messages import McpMessage
from arx_verifier.token.keyring import KeyRing

LINK_S: Final = 600  # a link lives so long
HOLD_S: Final = 20.0  # see ``ApprovedCalls``
HOLD_SIGNED_S: Final = 5.0  # the mint takes a client's own signature for ten seconds
PAUSE_S: Final = 2  # between two looks for the account of a link that is watched
MOST_WATCHED: Final = 64  # links of one upstream at once
_ASKS, _ENDED = KINDS["elicitation"]


class AskedLinks:
    """The links for which the clients of one upstream were asked.

    Args:
        keys: The audience keys.
        rates: Counts the calls that wait here as open.
        is_connected: Returns whether an account was connected by the link with a digest; None if there are no links.

    Attributes:
        streams: The open stream of each session whose client was asked.
    """

    def __init__(self, keys: KeyRing, rates: Rates, is_connected: Callable[[str], Awaitable[bool]] | None) -> None:
        self._sealed, self._rates, self._is_connected = SealedCalls(keys), rates, is_connected
        self.streams: WeakValueDictionary[bytes, McpExchange] = WeakValueDictionary()
        self._watches: set[asyncio.Task[None]] = set()

    def declares(self, exchange: McpExchange, message: RpcMessage | McpMessage) -> bool:
        """Return whether a client declares elicitation by URL, in this message or for its session.

        Args:
            exchange: The client's request.
            message: Its message.
        """
        declared: Any = object_in(message.meta, CAPABILITIES)
        if message.method == "initialize":
            declared = message.params.get("protocolVersion") == HAS_TASKS and message.params.get("capabilities")
        elif not exchange.is_stateless:
            return exchange.opens_links and exchange.headers.get(b"mcp-protocol-version") == HAS_TASKS.encode()
        return self._is_connected is not None and isinstance(object_in(declared, "elicitation").get("url"), dict)

    async def ask(
        self, exchange: McpExchange, message: RpcMessage, error: LendingError, data: Mapping[str, Any]
    ) -> bool:
        """Answer a request so that its client asks the person to open a link; return False if it does not do so.

        Args:
            exchange: The request.
            message: Its message.
            error: Why it was not forwarded.
            data: What a program can read of it.
        """
        link, owner, params = error.data.get("connect_url"), exchange.owner, message.params
        state, now = params.get("requestState"), now_ms()
        if owner is None or not message.is_request or not self.declares(exchange, message):
            return False
        result = {"resultType": "input_required", "requestState": state}
        if link is not None:
            which, text = link_digest(link), f"An agent needs your account at {data['connection']}: connect it."
            about = {"mode": "url", "message": text, "url": link}
            if not exchange.is_stateless:
                data = {**data, "elicitations": [{**about, "elicitationId": which}]}
                await exchange.close(200, error_message(message.id, URL_ELICITATION, str(error), data))
                self._watch(exchange.headers.get(b"mcp-session-id"), which)
                return True
            # A server that asks for input of its own has a state of its own, which this one would replace.
            if message.method != "tools/call" or state is not None or "inputResponses" in params:
                return False
            digest = digest_of(params["name"], params.get("arguments") or {})
            call = WaitingCall(which, params["name"], digest, now, now + LINK_S * 1000)
            result["requestState"] = self._sealed.seal(call, "link", owner_of(owner), owner.kid)
            result["inputRequests"] = {"connect": {"method": _ASKS, "params": about}}
        elif error.code != "connection_missing":
            return False
        await exchange.close(200, result_answer(message.id, result))
        return True

    async def wait(
        self, exchange: McpExchange, message: McpMessage, live: LiveCall | None, receive: Receive
    ) -> LiveCall | None:
        """Wait a while for the account of a call that comes again with its state; return the call as it then is.

        Args:
            exchange: The call's request.
            message: The call.
            live: The call; None if it keeps its client's own credential.
            receive: As ASGI has it, after the body.

        Raises:
            WireError: The state is none that this caller got for this call.
            LendingError: ``connection_missing``, without a link: the account is not connected yet.
            OverRateError: The agent, or the person that it acts for, has too many requests open.
        """
        look, params = self._is_connected, message.params
        if look is None or live is None or not is_sealed(params.get("requestState"), "link"):
            return live
        facts, sign = live.facts, None if exchange.call is None else exchange.call.sign
        call = self._sealed.open_again(params, "link", owner_of(facts))
        if "inputResponses" in params and object_in(params["inputResponses"], "connect").get("action") != "accept":
            return live  # the model reads what to ask for
        async with self._rates.opened(facts.agent, facts.subject):
            hold_s = HOLD_SIGNED_S if sign is None else HOLD_S
            if not await poll(receive, hold_s, lambda: look(call.approval), bool):
                raise LendingError("the account is not connected yet.", "connection_missing", 403, {})
        return live if sign is None else live._replace(token=sign())  # the mint takes no old signature

    async def close(self) -> None:
        """Watch no link any more."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def _watch(self, session: bytes | None, which: str) -> None:
        if session is not None and len(self._watches) < MOST_WATCHED:
            task = asyncio.ensure_future(self._announce(session, which))
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)

    async def _announce(self, session: bytes, which: str) -> None:
        """Announce in the stream of a session that the account of a link is connected."""
        assert self._is_connected is not None
        note = written({"jsonrpc": "2.0", "method": _ENDED, "params": {"elicitationId": which}})
        for _ in range(LINK_S // PAUSE_S):
            await asyncio.sleep(PAUSE_S)
            stream = self.streams.get(session)
            if stream is not None and stream.is_open and await self._is_connected(which):
                body = b"event: message\ndata: " + note + b"\n\n"
                await stream.send({"type": "http.response.body", "body": body, "more_body": True})
                return


def opened_without_account(name: str, revision: object, text: str) -> dict[str, Any]:
    """Return the answer to ``initialize`` of a client that opens no links, whose model reads the instructions.

    Args:
        name: The upstream's name.
        revision: The revision of MCP that the client asks for.
        text: Why the session has no tools, with the link.
    """
    about: dict[str, Any] = {"serverInfo": {"name": name, "version": "0"}, "capabilities": {"tools": {}}}
    about["protocolVersion"] = revision if revision in REVISIONS and revision != STATELESS else HAS_TASKS
    return about | {"instructions": f"{text} Until then this server has no tools; connect to it again afterwards."}
