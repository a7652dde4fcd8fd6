# SPDX-License-Identifier: Apache-2.0
"""Forward authentication: ``auth_request`` of nginx, ``forward_auth`` of Caddy and Traefik.

The proxy sends a request without a body, which has the headers of the client's request, and its method and target in
``X-Forwarded-Method`` and ``X-Forwarded-Uri``.  An answer of 200 lets the client's request pass.  ``docs/deciders.md``.
"""

import ipaddress
import re
from typing import Final

from arx_caps.gateway.asgi import Receive, Scope, Send
from arx_caps.gateway.deciders.decider import Decider, Described, Verdict
from arx_caps.gateway.settings import DeciderTerms
from arx_verifier.enforcement import collect_headers

_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110 9.1
_TARGET: Final = re.compile(rb"/[!-~\x80-\xff]*")  # in origin form: the form of others hides the path from a rule
_BODILESS: Final = ("GET", "HEAD")
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
        self._decider, self._body_header = decider, terms.body_header.lower().encode()
        self._hosts = [ipaddress.ip_network(text) for text in terms.hosts]

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """Answer one question.

        Args:
            scope: As ASGI has it.
            send: As ASGI has it.
        """
        verdict = await self._ask(scope)
        body = b"" if scope["method"] == "HEAD" else verdict.body
        await send({"type": "http.response.start", "status": verdict.status, "headers": verdict.headers})
        await send({"type": "http.response.body", "body": body})

    async def close(self) -> None:
        """Close the door."""
        await self._decider.door.close()

    async def _ask(self, scope: Scope) -> Verdict:
        peer = scope["client"][0] if scope.get("client") else None
        if not self._is_host(peer):
            # It could describe any request: it learns nothing, and what it asks is not recorded as a call.
            return self._decider.refuse(f"expected a question of a proxy in `hosts`, got one of {peer}", peer)
        headers = collect_headers(scope["headers"])
        method = headers.get(b"x-forwarded-method", b"").decode("latin-1")
        target = headers.get(b"x-forwarded-uri", b"")
        # Of two headers, one may be the client's.
        if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
            why = (
                "expected X-Forwarded-Method and X-Forwarded-Uri, once each, as the client sent method, path and query"
            )
            return self._decider.refuse(why, peer)
        kept = [pair for pair in scope["headers"] if pair[0].lower() not in _NOT_DESCRIBED]
        return await self._decider.decide(
            Described(method, target, kept, peer, b"" if self._has_no_body(method, headers) else None)
        )

    def _has_no_body(self, method: str, headers: dict[bytes, bytes]) -> bool:
        if self._body_header:
            return headers.get(self._body_header) == b"none"
        return method in _BODILESS  # SPEC 8.4

    def _is_host(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._hosts)
