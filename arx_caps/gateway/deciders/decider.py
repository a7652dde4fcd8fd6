# SPDX-License-Identifier: Apache-2.0
"""Decide on an HTTP request that a proxy received and passes on.  SPEC 8.4, 8.5, 11.

The described request is decided on as if it had come here, by the same middleware and record.  So access tokens,
challenges and refusals are those of the gateway's other doors.
"""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from arx_caps.credentials.access_token import has_own_jwt
from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource, before
from arx_caps.gateway.base.asgi import Application, Message, Receive, Scope, Send, replay_body
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.http.door import meaning_of
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.asgi.calls import UNSEEN, send_answer
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, is_token
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import Meaning, RouteMap, collect_headers
from arx_verifier.errors import RequestError
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall

Headers = list[tuple[bytes, bytes]]

_NO_BODY: Final = ("GET", "HEAD")  # the methods whose requests have none, unless the proxy says more.  SPEC 8.4
_CREDENTIALS: Final = (b"authorization", b"dpop")  # the headers that have one
PREFIX: Final = b"x-arx-"  # of the headers that the proxy sets, and that no client may
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110 9.1
_TARGET: Final = re.compile(rb"/[!-~\x80-\xff]*")  # in origin form: the form of others hides the path from a rule
# Frameworks read another method or path from them than the one that is decided on, and the proxy may pass them on.
_OVERRIDES: Final = frozenset(
    (b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url")
)
_IDENTITY: Final = (b"decision", b"agent", b"session", b"task", b"tool", b"issuer", b"subject")
_NO_STORE: Final = (b"cache-control", b"no-store")  # the next call needs a decision of its own


class DescribedRequest(NamedTuple):
    """A request as the proxy received it.

    Attributes:
        method: The method as sent.
        target: Raw path and query as sent, before any decoding.
        headers: The headers, with ``X-Forwarded-For`` as the proxy sets it.
        proxy: The address that ``X-Forwarded-For`` was added to: of the proxy, or of its client.
        body: The whole body; None if there may be one that the proxy does not show.
    """

    method: str
    target: bytes
    headers: Headers
    proxy: str | None
    body: bytes | None


class Hosts:
    """The proxies that may ask.

    Args:
        networks: Their networks.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in networks]

    def has(self, peer: str | None) -> bool:
        """Return whether an address is of one.

        Args:
            peer: The address, or None.
        """
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)


class Decider:
    """Decides on described requests.

    Args:
        verifier: The verifier of the audience.
        routes: The tool of each route.
        proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        resource: What takes access tokens; None if none are taken.

    Raises:
        SettingsError: A route or a network is malformed, or two routes meet.
    """

    def __init__(
        self,
        verifier: Verifier,
        routes: dict[str, str],
        proxies: Iterable[str],
        resource: OAuthResource | None = None,
    ) -> None:
        self._enforcement, self._routes = Enforcement(verifier), RouteMap(routes)
        # It allows, and runs nothing.
        guarded = ArxMiddleware(_allow, verifier=verifier, tools=self._meaning, trusted_proxies=proxies)
        self._described: Application = before(resource, guarded)

    @property
    def watches(self) -> bool:
        """Whether requests pass now that would be refused."""
        return self._enforcement.watch is not None

    async def decide(self, request: DescribedRequest) -> Answer:
        """Decide on a request; the decision is recorded before this returns.

        Args:
            request: The request.

        Returns:
            Status 200 if it is allowed, and as headers who calls, for the upstream; else the answer to the client.
        """
        if not _METHOD.fullmatch(request.method) or not _TARGET.fullmatch(request.target):
            return self.refuse("expected method, path and query, once each, as the client sent them", request.proxy)
        path, _, query = request.target.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            # A copy: the middleware takes the token out of it.
            "headers": [(name.lower(), value) for name, value in request.headers if not is_own(name)],
            "client": (request.proxy, 0) if request.proxy else None,
        }
        if request.body is None:
            scope[UNSEEN] = True
        found = await answer_of(self._described, scope, request.body or b"")
        return found if found.status == 200 else _refused(found)

    def refuse(self, why: str, peer: str | None) -> Answer:
        """Refuse a description that is no request.

        Args:
            why: What was expected, and what came; no secret.
            peer: The address that it came from, or None.
        """
        problem = RefusedCall("malformed_request", why)
        self._enforcement.count(problem, peer)
        return _refused(self._enforcement.answer(problem))

    def refuse_stranger(self, peer: str | None) -> Answer:
        """Refuse a question of a program that is no proxy of the site.

        Args:
            peer: Its address, or None.
        """
        # It could describe any request: it learns nothing, and what it asks is not recorded as a call.
        return self.refuse(f"expected a question of a proxy in `hosts`, got one of {peer}", peer)

    def _meaning(self, scope: Scope, body: bytes) -> Meaning | None:
        """Return the tool and the arguments of a request.

        Raises:
            RequestError: It has no single meaning, also for the upstream.
        """
        headers = collect_headers(scope["headers"])
        if not scope["raw_path"].isascii() or not scope["query_string"].isascii():
            raise RequestError("the target has characters beyond ASCII, which a URI writes with escapes")
        if override := next((name for name in headers if name.replace(b"_", b"-") in _OVERRIDES), None):
            raise RequestError(f"{override.decode('latin-1')}: expected none, because another request would be run")
        if b"upgrade" in headers:
            # What is sent on the open connection is not decided on, and it would not end with its grant.
            raise RequestError("upgrade: expected none, because a kill would not end the open connection")
        return meaning_of(self._routes, scope, body)


async def _allow(scope: Scope, _: Receive, send: Send) -> None:
    headers = [*identity_of(scope.get("arx")), _NO_STORE, (b"content-length", b"0")]
    await send_answer(Answer(200, headers, b""), "GET", send)


def identity_of(grant: Grant | WatchedCall | None) -> Headers:
    """Return who calls, as headers for the upstream.

    Args:
        grant: The grant of the call; without one, as in watch mode, the headers are empty.

    Returns:
        Each header, also without a value: it replaces that of a client.
    """
    if not isinstance(grant, Grant):
        return [(PREFIX + name, b"") for name in _IDENTITY]
    issuer, subject = grant.subject or ("", "")
    identity = {
        "decision": grant.decision,
        "agent": grant.agent,
        "session": grant.session,
        "task": grant.task or "",
        "tool": grant.tool,
        "issuer": issuer,
        "subject": subject,
    }
    # A subject is any text: a line break in it would be another header.
    return [(PREFIX + name.encode(), quote(value, safe="/:@ -._~+=,").encode()) for name, value in identity.items()]


def credentials_to_remove(headers: Headers, terms: DeciderTerms, *, watched: bool) -> set[bytes]:
    """Return the names of a client's headers whose credential the upstream may not get.

    Args:
        headers: The client's headers.
        terms: The decider's table.
        watched: Whether the request passes without a grant: it keeps a credential of its own.
    """
    found = [(name, value) for name, value in headers if name in _CREDENTIALS] if terms.spends else []
    # A DPoP proof is of the token beside it: both pass, or none.
    if watched and not any(_is_of_arx(name, value, terms) for name, value in found):
        return set()
    return {name for name, _ in found}


def _is_of_arx(name: bytes, value: bytes, terms: DeciderTerms) -> bool:
    # Without a `resource` no client has an access token for this decider: what has the form of one is its own.
    return is_token(value) or (terms.resource is not None and name == b"authorization" and has_own_jwt(value))


async def answer_of(app: Application, scope: Scope, body: bytes) -> Answer:
    """Return the whole answer of an application to a described request; status 503 without one.

    Args:
        app: The application.
        scope: As ASGI has it.
        body: The whole body.
    """
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, replay_body(body, _gone), send)
    if not sent:
        return Answer(503, [], b"")
    return Answer(sent[0]["status"], [*sent[0]["headers"]], b"".join(part.get("body", b"") for part in sent[1:]))


def _refused(answer: Answer) -> Answer:
    """Return a refusal with its reason in headers too: many proxies drop the body of a decider."""
    try:
        problem = json.loads(answer.body or b"{}")
    except ValueError:
        problem = {}
    kept = [pair for pair in answer.headers if pair[0].lower() != _NO_STORE[0]]
    for name, member in ((b"reason", "code"), (b"decision", "decision")):
        kept.append((PREFIX + name, str(problem.get(member, "")).encode("ascii", "replace")))
    return answer._replace(headers=[*kept, _NO_STORE])


def has_no_body(method: str, headers: Mapping[bytes, bytes], terms: DeciderTerms) -> bool:
    """Return whether a request has no body, as its proxy says in the decider's header for that, or by its method.

    Args:
        method: Its method.
        headers: As ``collect_headers`` returns them.
        terms: The decider's table.
    """
    if terms.body_header:
        return headers.get(terms.body_header.lower().encode()) == b"none"
    return method in _NO_BODY


def is_own(name: bytes) -> bool:
    """Return whether a header may be none of a client, however a server spells it.

    Args:
        name: Its name.
    """
    return name.lower().replace(b"_", b"-").startswith(PREFIX)


async def _gone() -> Message:
    return {"type": "http.disconnect"}
