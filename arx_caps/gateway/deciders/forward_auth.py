# SPDX-License-Identifier: Apache-2.0
"""Forward authentication: ``auth_request`` of nginx, ``forward_auth`` of Caddy and Traefik.

The proxy sends a request without a body, which has the headers of the client's request, and its method and target in
``X-Forwarded-Method`` and ``X-Forwarded-Uri``.  An answer of 200 lets the client's request pass.  ``docs/deciders.md``.
"""

from typing import Final

from arx_caps.gateway.base.asgi import Receive, Scope, Send
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.decider import Decider, DescribedRequest, Hosts, has_no_body
from arx_verifier.enforcement.asgi.calls import send_answer
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import collect_headers

# Of the question itself, or of the proxy: not of the client's request.
_NOT_DESCRIBED: Final = frozenset(
    (
        *(b"x-forwarded-method", b"x-forwarded-uri", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"content-length", b"transfer-encoding", b"connection", b"host"),
    )
)


class ForwardAuth:
    """The ASGI application of one decider that is asked by forward authentication.

    Args:
        decider: Decides.
        terms: Its table.
    """

    def __init__(self, decider: Decider, terms: DeciderTerms) -> None:
        self._decider, self._terms, self._hosts = decider, terms, Hosts(terms.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer one question.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it; a question has no body.
            send: As ASGI has it.
        """
        await send_answer(await self._ask(scope), scope["method"], send)

    async def _ask(self, scope: Scope) -> Answer:
        peer = scope["client"][0] if scope.get("client") else None
        if not self._hosts.has(peer):
            return self._decider.refuse_stranger(peer)
        headers = collect_headers(scope["headers"])
        method = headers.get(b"x-forwarded-method", b"").decode("latin-1")
        target = headers.get(b"x-forwarded-uri", b"")
        # Of two headers, one may be the client's: both together are no method and no target.
        kept = [pair for pair in scope["headers"] if pair[0].lower() not in _NOT_DESCRIBED]
        body = b"" if has_no_body(method, headers, self._terms) else None
        return await self._decider.decide(DescribedRequest(method, target, kept, peer, body))
