# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP service behind the gateway: ``ArxMiddleware`` decides by its routes.  SPEC 8.4, 8.7, 11."""

import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urljoin

from arx_caps.gateway.base.asgi import Message, Receive, Scope, Send, StreamedBody, pass_on, read_body, while_connected
from arx_caps.gateway.base.rates import OverRateError, Rates
from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.spans import Spans
from arx_caps.gateway.base.upstream_answer import FailureLog, LendingError, UpstreamAnswer, UpstreamError
from arx_caps.gateway.catalogue.git_push import PUSH, GitPush, PushReport
from arx_caps.gateway.catalogue.routes import CatalogueRoutes, head_of
from arx_caps.gateway.catalogue.terms import RouteTerms
from arx_caps.gateway.http.refusals import as_service
from arx_caps.gateway.upstream.credentials import live_call
from arx_caps.gateway.upstream.forwarder import Forwarder, Headers, answer_headers, read_whole
from arx_caps.http.connections import STREAMED
from arx_caps.mcp.message import check_names
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.asgi.calls import HEAD
from arx_verifier.enforcement.base.routes import Meaning, RouteMap, collect_headers
from arx_verifier.enforcement.bounded_body import ClientGoneError
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall

_STREAMS: Final = (
    *(b"text/event-stream", b"application/x-ndjson", b"application/octet-stream"),
    *(b"application/x-git-upload-pack-advertisement", b"application/x-git-receive-pack-advertisement"),
    *(b"application/x-git-upload-pack-result", b"application/x-git-receive-pack-result"),
)


class HttpDoor:
    """The ASGI application of one upstream that is a plain HTTP service.

    Args:
        verifier: The verifier of the upstream's audience.
        terms: The upstream's table.
        forwarder: Sends to it.
        routes: The tool of each route, or what a request of it means.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.

    Raises:
        SettingsError: A route or a network is malformed, two routes meet, or a route does not go with the table.
    """

    def __init__(
        self,
        verifier: Verifier,
        terms: UpstreamTerms,
        forwarder: Forwarder,
        routes: Mapping[str, str] | Mapping[str, RouteTerms],
        trusted_proxies: tuple[str, ...] = (),
    ) -> None:
        self._terms, self._forwarder = terms, forwarder
        self._rates, self._spans, self._failures = Rates(terms.rate), Spans(forwarder.name), FailureLog()
        plain = {route: tool for route, tool in routes.items() if isinstance(tool, str)}
        terms_of = {route: each for route, each in routes.items() if isinstance(each, RouteTerms)}
        self._routes = CatalogueRoutes(terms_of) if terms_of else None
        if self._routes is not None and self._routes.has_streams and (terms.watch or terms.resource):
            # Without a token of the call nothing is judged before the body goes on.
            raise SettingsError(f"upstream.{forwarder.name}: a route that streams takes no `watch` and no `resource`")
        self._guarded = ArxMiddleware(
            self._forward,
            verifier=verifier,
            tools=functools.partial(meaning_of, self._routes or RouteMap(plain)),
            max_body=terms.max_body,
            trusted_proxies=trusted_proxies,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request.

        Args:
            scope: As ASGI has it; its path begins with ``root_path``.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        terms = None if self._routes is None else self._routes.find(scope)
        if terms is not None:
            if terms.is_streamed:
                scope[HEAD] = head_of(terms)
            send = as_service(terms.refusal, scope, send)
        if not self._spans:
            await self._guarded(scope, receive, send)
            return
        with self._spans.request(scope["method"], collect_headers(scope["headers"])) as note:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    note(message["status"])
                await send(message)

            await self._guarded(scope, receive, noted)

    async def close(self) -> None:
        """Do nothing: each request ends by itself."""

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body: bytes | AsyncIterator[bytes] | None
        if HEAD in scope:
            scope.get("state", {})[STREAMED] = True  # its time begins with each part, once it is decided on
            streamed = StreamedBody(receive)
            body, receive = streamed.parts(), streamed.receive
        elif (body := await read_body(receive, self._terms.max_body)) is None:
            return
        grant: Grant | WatchedCall = scope.get(Grant.KEY) or scope[WatchedCall.KEY]
        facts = grant.facts
        if PUSH in scope and isinstance(grant, Grant):
            grant.external_id = scope[PUSH].external_id()
            send = _reporting(scope[PUSH], grant, send)
        target, begun = _target_of(scope), False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._rates.charge(facts.agent, facts.subject, grant.tool)
            async with (
                while_connected(receive),
                self._rates.opened(facts.agent, facts.subject),
                self._forwarder.send(scope["method"], scope["headers"], body, target, call=live_call(grant)) as answer,
            ):
                await self._answer(answer, scope["root_path"], target, begin)
        except ClientGoneError:
            return  # the upstream's connection is closed, and what it did is not known
        except LendingError as error:
            if not error.sent:
                await grant.give_back()
            problem = {"title": "The person's account", "detail": str(error), "code": error.code, **error.data}
            wait = [(b"retry-after", b"%d" % error.wait_s)] if error.wait_s else []
            await _problem(error.status, problem | {"may_have_run": error.sent}, wait, send)
        except UpstreamError as error:
            self._failures.note(error)
            if begun:
                return  # the server cuts an answer that does not end, so that it does not pass for a whole one
            if not error.sent:
                await grant.give_back()
            # Whether the call may have run is what a caller has to know before it calls again.
            problem = {"title": "The upstream failed", "detail": str(error), "may_have_run": error.sent}
            await _problem(504 if error.timed_out else 502, problem, [], send)
        except OverRateError as error:
            await grant.give_back()
            problem = {"title": "Too many calls", "detail": str(error), "code": "rate_limited"}
            await _problem(429, problem, [(b"retry-after", b"%d" % error.wait_s)], send)

    async def _answer(self, answer: UpstreamAnswer, root: str, target: str, send: Send) -> None:
        headers = self._located(answer_headers(answer.raw_headers), answer.status, root, target)
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        # By the header: an answer without one has a content type for aiohttp too, that of a stream.
        kinds = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
        if len(kinds) != 1 or kinds[0] not in _STREAMS:
            data = await read_whole(answer, self._terms, self._forwarder.name)
            await send(start)
            await send({"type": "http.response.body", "body": data})
            return
        await send(start)
        await pass_on(answer.content.iter_any(), send)

    def _located(self, headers: Headers, status: int, root: str, target: str) -> Headers:
        """Return the headers of an answer, in which the upstream's own addresses are those that clients know.

        Raises:
            UpstreamError: It redirects elsewhere: clients would follow, past the gateway.
        """
        base, found = self._forwarder.base, list[tuple[bytes, bytes]]()
        for name, value in headers:
            if name not in (b"location", b"content-location"):
                found.append((name, value))
                continue
            try:
                place = urljoin(base + target, value.decode("ascii"))
            except ValueError:
                place = ""
            rest = place.removeprefix(base)
            # A client takes these segments away, and the ones before them.
            climbs = {".", ".."} & {unquote(segment) for segment in re.split(r"[/\\?#]", rest)}
            if place.startswith(base) and rest[:1] in ("", "/", "?", "#") and not climbs:
                found.append((name, (root + rest).encode()))
            elif name == b"location" and 300 <= status < 400:
                raise UpstreamError(f"upstream {self._forwarder.name} redirected to another address", sent=True)
        return found


def meaning_of(routes: Callable[[Scope, bytes], Meaning | None], scope: Scope, body: bytes) -> Meaning | None:
    """Return the tool and the arguments of a request, as ``RouteMap`` does.

    Args:
        routes: The routes.
        scope: The ASGI ``http`` scope.
        body: The whole body.

    Raises:
        RequestError: It has no single meaning, also for a server that ignores the case of names.
    """
    # An ASGI server writes each byte that is not UTF-8 as this one character, and may pass a fragment on: a rule would
    # see another text than the upstream gets.
    if "\ufffd" in scope["path"] or b"#" in scope["raw_path"] + scope["query_string"]:
        raise RequestError("the target has a fragment, or bytes that are not UTF-8")
    found = routes(scope, body)
    if found is not None:
        check_names(found[1])
    return found


def _target_of(scope: Scope) -> str:
    """Return the target of a request below the upstream, with its query."""
    path = scope["raw_path"].partition(b"?")[0].decode("latin-1").removeprefix(scope["root_path"])
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _reporting(push: GitPush, grant: Grant, send: Send) -> Send:
    """Return a ``send`` that notes for the record what git's server reports of a push, before the end leaves."""
    report = PushReport(push)

    async def noted(message: Message) -> None:
        if message["type"] == "http.response.body":
            report.take(message.get("body", b""))
            if not message.get("more_body") and (refused := report.refused()) is not None:
                grant.has_failed = 0 < len(refused) == len(push.updates)
                grant.external_id = push.external_id(frozenset() if grant.has_failed else refused)
        await send(message)

    return noted


async def _problem(status: int, problem: dict[str, Any], more: list[tuple[bytes, bytes]], send: Send) -> None:
    """Answer a failure that is not one of the call's authority.  RFC 9457."""
    data = json.dumps(problem | {"status": status}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(data))]
    headers += [(b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
