# SPDX-License-Identifier: Apache-2.0
"""Envoy's external authorization, version 3: over gRPC, and over HTTP.  ``docs/deciders.md``.

A request's body is judged only if the proxy sends it, and sends all of it.
"""

from typing import Any, Final

from arx_caps.gateway.base.asgi import Receive, Scope, Send, read_body
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.decider import (
    PREFIX,
    Decider,
    DescribedRequest,
    Headers,
    Hosts,
    credentials_to_remove,
    has_no_body,
    is_own,
)
from arx_caps.gateway.deciders.protos import message
from arx_verifier.enforcement.asgi.calls import send_answer
from arx_verifier.enforcement.base.problems import BUDGET_HEADER, Answer
from arx_verifier.enforcement.base.routes import collect_headers

_PACKAGE: Final = "envoy.service.auth.v3"
MAX_BODY: Final = 1024 * 1024  # bytes
_PARTIAL: Final = b"x-envoy-auth-partial-body"  # replaces that of a client where Envoy sends a body
_REMOVE: Final = b"x-envoy-auth-headers-to-remove"
# Of the connection, not of the request; pseudo-headers repeat what the description has.
_NOT_DESCRIBED: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"host", _PARTIAL))
_PERMISSION_DENIED, _UNAUTHENTICATED, _UNAVAILABLE = 7, 16, 14  # google.rpc.Code
_CODES: Final = {401: _UNAUTHENTICATED, 503: _UNAVAILABLE}


class _Seen:
    """What both forms make of a description.

    Args:
        decider: Decides.
        terms: Its table.
    """

    def __init__(self, decider: Decider, terms: DeciderTerms) -> None:
        self._decider, self._terms, self._hosts = decider, terms, Hosts(terms.hosts)

    async def _decide(
        self, method: str, target: bytes, headers: Headers, client: str | None, body: bytes, is_partial: bool
    ) -> Answer:
        found = collect_headers(headers)
        has_more = is_partial or found.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in found
        if self._terms.bodies:
            if is_partial and not self._decider.watches:
                return self._decider.refuse("expected the whole body, got a part of it", client)
            # If the proxy sends no bodies, against what this file states, none of them may pass for an empty one.
            seen = None if is_partial else body if body or not has_more else None
        else:
            seen = None if body or has_more or not has_no_body(method, found, self._terms) else b""
        kept = [pair for pair in headers if pair[0] not in _NOT_DESCRIBED and not pair[0].startswith(b":")]
        return await self._decider.decide(DescribedRequest(method, target, kept, client, seen))

    def _removed(self, headers: Headers, verdict: Answer) -> list[bytes]:
        """Return the names of a client's headers that the upstream may not get."""
        # Envoy removes after it has set: a name in both would be gone.
        kept = {name for name, _ in verdict.headers}
        names = {name for name, _ in headers if is_own(name) and name not in kept}
        watched = dict(verdict.headers).get(PREFIX + b"decision") == b""
        return sorted(names | credentials_to_remove(headers, self._terms, watched=watched))


class ExtAuthz(_Seen):
    """The gRPC form."""

    service: Final = f"{_PACKAGE}.Authorization"
    calls: Final = {"Check": f"{_PACKAGE}.CheckRequest"}

    async def answer(self, _: str, request: Any, peer: str | None) -> Any:
        """Answer ``Check``.

        Args:
            request: A ``CheckRequest``.
            peer: The address of who asks, or None.
        """
        attributes = request.attributes
        asked = attributes.request.http
        headers = [(name.lower().encode(), value.encode()) for name, value in asked.headers.items()]
        if not self._hosts.has(peer):
            verdict = self._decider.refuse_stranger(peer)
        elif asked.body:
            # A text in which Envoy has replaced what is not UTF-8: the upstream gets other bytes.
            verdict = self._decider.refuse("expected the body as bytes (pack_as_bytes), got a text", peer)
        else:
            body = asked.raw_body
            # The size is of what has come so far, and -1 if it is not known.
            is_partial = asked.size > len(body) or (bool(body) and asked.size < 0) or _is_partial(headers, body)
            client = attributes.source.address.socket_address.address or None
            verdict = await self._decide(asked.method, asked.path.encode(), headers, client, body, is_partial)
        return self._response(headers, verdict)

    def _response(self, headers: Headers, verdict: Answer) -> Any:
        found = message(f"{_PACKAGE}.CheckResponse")()
        own = dict(verdict.headers)
        if decision := own.get(PREFIX + b"decision"):
            found.dynamic_metadata.update({"decision": decision.decode()})
        if verdict.status == 200:
            kept = [(name, value) for name, value in verdict.headers if is_own(name)]
            found.status.code = 0
            _set(found.ok_response.headers, kept)
            left = [pair for pair in verdict.headers if pair[0] == BUDGET_HEADER]
            _set(found.ok_response.response_headers_to_add, left)
            found.ok_response.headers_to_remove.extend(name.decode() for name in self._removed(headers, verdict))
            return found
        found.status.code = _CODES.get(verdict.status, _PERMISSION_DENIED)
        found.denied_response.status.code = verdict.status
        found.denied_response.body = verdict.body.decode("utf-8", "replace")
        _set(found.denied_response.headers, [pair for pair in verdict.headers if pair[0] != b"content-length"])
        return found


class ExtAuthzHttp(_Seen):
    """The HTTP form: the proxy repeats method, target and some headers of its client's request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        verdict = await self._ask(scope, receive)
        if verdict.status == 200:
            removed = b", ".join(self._removed(scope["headers"], verdict))
            verdict = verdict._replace(headers=[*verdict.headers, (_REMOVE, removed)])
        await send_answer(verdict, scope["method"], send)

    async def _ask(self, scope: Scope, receive: Receive) -> Answer:
        peer = scope["client"][0] if scope.get("client") else None
        if not self._hosts.has(peer):
            return self._decider.refuse_stranger(peer)
        prefix, path = self._terms.path_prefix.encode(), scope["raw_path"].partition(b"?")[0]
        if not path.startswith(prefix + b"/"):
            return self._decider.refuse(f"expected a path that begins with {self._terms.path_prefix}/", peer)
        target = path.removeprefix(prefix) + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        body = await read_body(receive, MAX_BODY)
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        is_partial = body is None or _is_partial(headers, body)
        return await self._decide(scope["method"], target, headers, peer, body or b"", is_partial)


def _is_partial(headers: Headers, body: bytes) -> bool:
    # Without a body the header is one of the client.
    return bool(body) and any(name == _PARTIAL and value.strip().lower() != b"false" for name, value in headers)


def _set(options: Any, headers: Headers) -> None:
    for name, value in headers:
        option = options.add()
        option.header.key, option.header.value = name.decode(), value.decode("latin-1")
        option.append.value = False  # it replaces that of the client
