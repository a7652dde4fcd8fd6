# SPDX-License-Identifier: Apache-2.0
"""agentgateway's ``ExtMcp``: each request of MCP is decided on before it is sent on, and each list is filtered.

The proxy asks twice.  The answer to the first question has a reference, which the second one must bring: it alone has
no credential.  ``docs/deciders.md``.
"""

import functools
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from arx_caps.credentials.access_token import is_access_token
from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource, before
from arx_caps.gateway.base.asgi import Receive, Scope, Send, read_body
from arx_caps.gateway.base.bound_ids import BoundIds
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.deciders.decider import Hosts, answer_of, credentials_to_remove, identity_of, is_own
from arx_caps.gateway.deciders.protos import message
from arx_caps.gateway.mcp.answers import AnsweredMessage, McpAnswers, result_with_meta, without_own
from arx_caps.gateway.mcp.exchange import McpExchange
from arx_caps.gateway.mcp.tasks import TaskIds
from arx_caps.mcp.errors import WireError
from arx_caps.mcp.message import read_message, without_token, written
from arx_verifier.enforcement.asgi.calls import UNSEEN
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages, budget_meta
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import WatchedCall

_PACKAGE: Final = "agentgateway.dev.ext_mcp"
MAX_PARAMS: Final = 1024 * 1024  # bytes
_LISTS: Final = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
_KEPT_S: Final = 60.0  # how long an answer may take
_KEPT: Final = 16_384  # references at once
_DENIED, _INVALID = 1, 3  # AuthorizationError.Code


class _Found(NamedTuple):
    """An allowed request.

    Attributes:
        method: Its method.
        grant: Of a call; else None.
        screened: The live token of another request; None of a call, and in watch mode of a request without one.
        check: Raises if the token is revoked, frozen or expired meanwhile; the end of a call is recorded.
    """

    method: str
    grant: Grant | WatchedCall | None
    screened: Screened | None
    check: Callable[[], None]


class ExtMcp:
    """What answers ``CheckRequest`` and ``CheckResponse``.

    Args:
        verifier: Decides and records.
        terms: The decider's table.
        resource: What takes access tokens; None if none are taken.
    """

    service: Final = f"{_PACKAGE}.ExtMcp"
    calls: Final = {"CheckRequest": f"{_PACKAGE}.McpRequest", "CheckResponse": f"{_PACKAGE}.McpResponse"}

    def __init__(self, verifier: Verifier, terms: DeciderTerms, resource: OAuthResource | None = None) -> None:
        self._enforcement, self._messages, self._resource = Enforcement(verifier), Messages(verifier), resource
        self._terms, self._hosts = terms, Hosts(terms.hosts)
        ids = TaskIds(verifier.keys), BoundIds(verifier.keys, "event")
        self._answers = McpAnswers(terms.backend, self._messages, *ids, MAX_PARAMS, lists_tasks=False)
        self._kept: OrderedDict[str, tuple[float, _Found]] = OrderedDict()

    async def answer(self, call: str, request: Any, peer: str | None) -> Any:
        """Answer a question.

        Args:
            call: ``CheckRequest`` or ``CheckResponse``.
            request: Its message.
            peer: The address of who asks, or None.
        """
        result = message(f"{_PACKAGE}.Mcp{'Request' if call == 'CheckRequest' else 'Response'}Result")()
        if not self._hosts.has(peer):
            return _refused(result, f"expected a question of a proxy in `hosts`, got one of {peer}")
        if [*request.service_names] != [self._terms.backend]:
            # The names of tools of two backends would be those of one audience.
            return _refused(result, f"expected a question about the backend {self._terms.backend} alone")
        if call == "CheckRequest":
            return await self._request(request, result)
        return self._response(request, result)

    async def _request(self, request: Any, result: Any) -> Any:
        headers = [(each.key.lower().encode(), each.value) for each in request.headers]
        head = b'{"jsonrpc":"2.0",' + (b"" if request.method.startswith("notifications/") else b'"id":1,')
        # As it came: another form of JSON could be another number, or hide a name that is there twice.
        params = b',"params":' + request.mcp_request if request.HasField("mcp_request") else b""
        body = head + b'"method":' + json.dumps(request.method).encode() + params + b"}"
        if len(request.mcp_request) > MAX_PARAMS:
            return _refused(result, f"expected at most {MAX_PARAMS} bytes of params")
        found: list[_Found] = []
        answer = await self._ask(headers, body, found)
        if not found or answer.status != 200:
            return _refused(result, **_problem(answer.body))
        [allowed] = found
        self._pass(result, request, params)
        result.metadata.update({"arx": self._keep(allowed)})
        gone = {name for name, _ in headers if is_own(name)}
        watched = not isinstance(allowed.grant, Grant) and self._messages.watches
        gone |= credentials_to_remove(headers, self._terms, watched=watched)
        if allowed.grant is not None:
            result.metadata.update({"decision": allowed.grant.decision})
            for name, value in identity_of(allowed.grant):
                result.header_mutation.set.add(key=name.decode(), value=value)
                gone.discard(name)
        result.header_mutation.remove.extend(sorted(name.decode("latin-1") for name in gone))
        return result

    async def _ask(self, headers: list[tuple[bytes, bytes]], body: bytes, found: list[_Found]) -> Answer:
        pseudo = collect_headers([pair for pair in headers if pair[0].startswith(b":")])
        path, _, query = pseudo.get(b":path", b"/").partition(b"?")
        kept = [pair for pair in headers if not pair[0].startswith(b":") and not is_own(pair[0])]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            # The proxy does not state who its client is, and a header of the client may not.
            "client": None,
            "headers": [pair for pair in kept if pair[0] != b"x-forwarded-for"],
        }
        credential = collect_headers(kept).get(b"authorization", b"").decode("latin-1").partition(" ")[2]
        if not is_access_token(credential.strip(" ")):
            scope[UNSEEN] = True  # a signature of the HTTP request covers a body that the proxy does not show
        described = functools.partial(self._described, found)
        return await answer_of(before(self._resource, described), scope, body)

    async def _described(self, found: list[_Found], scope: Scope, receive: Receive, send: Send) -> None:
        """Decide on a described request, as ASGI has it; add what is allowed to the list."""
        body = await read_body(receive, MAX_PARAMS + 1024) or b""
        exchange = McpExchange(scope, send, body)
        asked = McpMessage("", {}, {})
        try:
            incoming = read_message(body)
            asked = McpMessage(incoming.method, incoming.params, incoming.meta, incoming.id, exchange)
            found.append(await self._decide(asked))
        except (RefusedCall, WireError) as error:
            problem = RefusedCall.of(error)
            if isinstance(error, WireError):
                self._enforcement.count(problem, None)
            refusal = self._messages.refusal(asked, problem)
            await exchange.whole(403, [], written({"detail": refusal.text, **refusal.data}))
            return
        await exchange.whole(200, [], b"{}")

    async def _decide(self, asked: McpMessage) -> _Found:
        if asked.id is None:
            if not self._messages.passes(asked.method):
                raise RefusedCall("malformed_request", f"unknown notification {asked.method!r:.60}")
            asked = McpMessage("ping", {}, {}, None, asked.carrier)
        if not asked.is_call:
            screened = await self._messages.recognize(asked)
            return _Found(asked.method, None, screened, self._messages.keep(screened).check)
        work = await self._messages.decide(asked)
        if asked.method == "tools/call":
            await work.require_texts(_no_schema)
        return _Found(asked.method, work.grant, None, work.check)

    def _pass(self, result: Any, request: Any, params: bytes) -> None:
        """Let a request pass, without the token that it may have in its parameters."""
        meta = json.loads(request.mcp_request or b"{}").get("_meta") if params else None
        token = meta.get(META_KEY) if isinstance(meta, dict) and self._terms.spends else None
        if isinstance(token, str):
            result.mutated = without_token(request.mcp_request, token)
        else:
            getattr(result, "pass").SetInParent()

    def _response(self, request: Any, result: Any) -> Any:
        reference = request.metadata_context.fields["arx"].string_value if request.HasField("metadata_context") else ""
        expires, found = self._kept.get(reference, (0.0, None))
        if found is None or expires < time.monotonic() or found.method != request.method:
            return _refused(result, "expected the reference of an allowed request (metadata: arx: mcpGuardrails.arx)")
        try:
            found.check()
            if request.method not in _LISTS or found.screened is None:
                came, left = request.mcp_response, budget_meta(found.grant)
                shown = without_own(came)
                shown = result_with_meta(shown, left) if left else shown
                if left or shown is not came:
                    result.mutated = shown
                else:
                    getattr(result, "pass").SetInParent()
                return result
            asked = AnsweredMessage(found.screened.proven.facts, request.method, 1, found.screened)
            whole = b'{"jsonrpc":"2.0","id":1,"result":' + request.mcp_response + b"}"
            result.mutated = written(json.loads(self._answers.shown(whole, asked))["result"])
        except UpstreamError as error:
            return _refused(result, str(error))
        except RefusedCall as problem:
            refusal = self._messages.refusal(McpMessage(request.method, {}, {}), problem)
            return _refused(result, refusal.text, **refusal.data)
        return result

    def _keep(self, found: _Found) -> str:
        now = time.monotonic()
        while self._kept and (len(self._kept) >= _KEPT or next(iter(self._kept.values()))[0] < now):
            self._kept.popitem(last=False)
        reference = secrets.token_urlsafe(24)
        self._kept[reference] = now + _KEPT_S, found
        return reference


def _problem(answer: bytes) -> dict[str, Any]:
    """Return the members of a refusal, of this door or of the one that takes access tokens."""
    try:
        found = json.loads(answer or b"{}")
    except ValueError:
        found = {}
    kept = {name: found[name] for name in ("budget", "code", "retry", "decision") if found.get(name)}
    return {"text": str(found.get("detail") or found.get("code") or "refused"), **kept}


def _refused(result: Any, text: str, **data: Any) -> Any:
    data = data or {"code": "malformed_request"}
    result.error.code = _INVALID if data.get("code") == "malformed_request" else _DENIED
    result.error.reason = text
    result.error.mcp_error = written(data)
    return result


async def _no_schema() -> dict[str, Any]:
    return {}
