# SPDX-License-Identifier: Apache-2.0
"""AuthZEN: a policy enforcement point (PEP) asks by the OpenID Authorization API 1.0.  ``docs/deciders.md``.

A question with the caller's credential is decided on and recorded as a call is.
"""

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from arx_caps.credentials.access_token import is_access_token
from arx_caps.credentials.secret_source import read_secret
from arx_caps.gateway.access_tokens.oauth_resource import OAuthResource
from arx_caps.gateway.base.asgi import Receive, Scope, Send, read_body
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.authzen_mapping import (
    AuthZenQuestion,
    QuestionMeaning,
    meaning_of,
    names_holder,
)
from arx_caps.gateway.deciders.decider import Hosts
from arx_verifier.addresses import read_address, write_address
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.calls import send_answer
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, read_traceparent
from arx_verifier.enforcement.base.problems import Answer
from arx_verifier.enforcement.base.routes import RouteMap, collect_headers
from arx_verifier.errors import (
    REASONS,
    ArxError,
    Failure,
    RequestError,
    SettingsError,
    sentence_of,
    shorten,
)
from arx_verifier.request import AccessRequest, read_json_object
from arx_verifier.token import call_proof
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.reasons import Refused
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall, ended_by

MAX_EVALUATIONS: Final = 64  # of one question: each has a record, and may wait for a store
MAX_BODY: Final = 1024 * 1024
LEAST_SECRET: Final = 32  # characters of a PEP's secret, which is guessed at over a network
_METADATA: Final = "/.well-known/authzen-configuration"
_EVALUATION: Final = "/access/v1/evaluation"
_EVALUATIONS: Final = "/access/v1/evaluations"
_LONGEST_ID: Final = 128  # of a request's id in a record
_ENTITIES: Final = ("subject", "action", "resource", "context")
# The decision that ends the rest of a batch.
_SEMANTICS: Final = {"execute_all": None, "deny_on_first_deny": False, "permit_on_first_permit": True}

Object = dict[str, Any]
Headers = Mapping[bytes, bytes]


class _TransportError(Exception):
    """A question without an answer: an HTTP error, with a text for the PEP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Asked(NamedTuple):
    """What the record of a question has besides it."""

    request_id: str | None
    traceparent: str | None


class AuthZen:
    """The ASGI application of one decider that PEPs ask.

    Args:
        verifier: The verifier of the audience.
        terms: Its table.
        routes: The tools of requests of HTTP.
        folder: What a relative path is relative to.
        place: The table's name, for errors.
        resource: What opens access tokens; None if it takes none.

    Raises:
        SettingsError: The secret of a PEP cannot be read, or is short; or two routes meet.
    """

    def __init__(
        self,
        verifier: Verifier,
        terms: DeciderTerms,
        routes: Mapping[str, str],
        folder: Path,
        place: str,
        resource: OAuthResource | None = None,
    ) -> None:
        self._verifier, self._enforcement, self._actions = verifier, Enforcement(verifier), terms.actions
        self._routes = RouteMap(routes)
        self._subjects = {"agent": ""} | terms.subjects
        self._hosts = Hosts(terms.hosts)
        self._peps = []
        for name, source in terms.peps.items():
            secret = read_secret(source, folder, f"{place}: peps.{name}: ")
            if len(secret) < LEAST_SECRET:
                raise SettingsError(f"{place}: peps.{name}: expected at least {LEAST_SECRET} characters")
            self._peps.append(_digest(secret.encode()))
        url = (terms.url or "").rstrip("/")
        base = urlsplit(url).path
        self._paths = {base + _EVALUATION: self._one, base + _EVALUATIONS: self._several}
        self._metadata_path = _METADATA + base
        about: Object = {"policy_decision_point": terms.url, "access_evaluation_endpoint": url + _EVALUATION}
        self._metadata = about | {"access_evaluations_endpoint": url + _EVALUATIONS}
        self._resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one question.

        Args:
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
        """
        headers = collect_headers(scope["headers"])
        answered: list[tuple[bytes, bytes]] = [(b"x-content-type-options", b"nosniff")]
        if b"x-request-id" in headers and b"\n" not in headers[b"x-request-id"]:
            answered.append((b"x-request-id", headers[b"x-request-id"]))
        try:
            kind, kept = b"application/json", b"no-store"
            status, data = await self._answer(scope, headers, receive)
            if data is None:
                data, kept = json.dumps(self._metadata).encode(), b"max-age=300"
        except _TransportError as error:
            status, kind, kept, data = error.status, b"text/plain; charset=utf-8", b"no-store", str(error).encode()
            if status == 401:
                answered.append((b"www-authenticate", f'Bearer realm="{self._verifier.keys.realm}"'.encode()))
        answered += [(b"content-type", kind), (b"content-length", b"%d" % len(data)), (b"cache-control", kept)]
        await send_answer(Answer(status, answered, data), scope["method"], send)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive) -> tuple[int, bytes | None]:
        """Return status and content; None for the metadata."""
        path = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        self._require_host(scope["client"][0] if scope.get("client") else None)
        if path == self._metadata_path and scope["method"] == "GET":
            return 200, None
        self._require_pep(headers)  # before it learns which paths there are
        if path not in self._paths:
            raise _TransportError(404, f"expected {' or '.join(self._paths)}")
        if scope["method"] != "POST":
            raise _TransportError(405, "expected POST")
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise _TransportError(400, "header content-type: expected application/json")
        body = await read_body(receive, MAX_BODY)
        if body is None:
            raise _TransportError(413, f"the body is longer than {MAX_BODY} bytes")
        try:
            asked = read_json_object(body)
        except RequestError as error:
            raise _TransportError(400, str(error)) from None
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        trace = read_traceparent(headers.get(b"traceparent", b""))
        about = _Asked(request_id if 0 < len(request_id) <= _LONGEST_ID else None, trace)
        return 200, json.dumps(await self._paths[path](asked, about)).encode()

    def _require_host(self, peer: str | None) -> None:
        if not self._hosts.has(peer):
            raise _TransportError(403, "expected a question of an address in `hosts`")

    def _require_pep(self, headers: Headers) -> None:
        scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
        given = _digest(secret.strip(b" "))
        # All are compared, each in constant time.
        if scheme.lower() != b"bearer" or not sum(hmac.compare_digest(given, each) for each in self._peps):
            raise _TransportError(401, "expected the secret of a PEP of this decider: Authorization: Bearer SECRET")

    async def _one(self, asked: Object, about: _Asked) -> Object:
        try:
            return await self._evaluate(asked, about)
        except msgspec.ValidationError as error:
            raise _TransportError(400, str(error)) from None

    async def _several(self, asked: Object, about: _Asked) -> Object:
        items, options = asked.get("evaluations", []), asked.get("options", {})
        if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
            raise _TransportError(400, "evaluations: expected an array of objects")
        if not items:
            return await self._one(asked, about)
        semantic = options.get("evaluations_semantic", "execute_all") if isinstance(options, dict) else None
        if not isinstance(semantic, str) or semantic not in _SEMANTICS:
            raise _TransportError(400, f"options.evaluations_semantic: expected {' or '.join(_SEMANTICS)}")
        if len(items) > MAX_EVALUATIONS:
            raise _TransportError(400, f"evaluations: expected at most {MAX_EVALUATIONS}, got {len(items)}")
        defaults = {name: asked[name] for name in _ENTITIES if name in asked}
        if wrong := [name for name, each in defaults.items() if not isinstance(each, dict)]:
            raise _TransportError(400, f"{wrong[0]}: expected an object")
        answers: list[Object] = []
        for item in items:
            try:
                answer = await self._evaluate(
                    defaults | {name: item[name] for name in _ENTITIES if name in item}, about
                )
            except msgspec.ValidationError as error:
                answer = self._counted("malformed_request", detail=str(error))
            answers.append(answer)
            if answer["decision"] is _SEMANTICS[semantic]:
                break
        return {"evaluations": answers}

    async def _evaluate(self, asked: Object, about: _Asked) -> Object:
        """Return the decision on one question.

        Raises:
            msgspec.ValidationError: A member is missing, or of another type.
        """
        question = msgspec.convert(asked, AuthZenQuestion)
        try:
            meant = meaning_of(self._verifier.audience, self._actions, self._routes, asked, question)
        except RequestError as error:
            return self._counted("malformed_request", detail=str(error))
        if meant is None:
            pair = f"{shorten(question.action.name)} on a resource of type {shorten(question.resource.type)}"
            return self._counted("tool_not_allowed", detail=f"expected an action that has a tool, got {pair}")
        request = AccessRequest(
            meant.tool,
            meant.args,
            now_ms(),
            _client_of(question),
            meant.http,
            about.request_id,
            about.traceparent,
        )
        try:
            return await self._decide(question, meant, request)
        except RefusedCall as problem:
            return denied(problem.code, problem.failures, problem.decision, problem.detail)
        except ArxError as error:
            return self._counted(error.code if error.code in REASONS else "malformed", detail=str(error))

    async def _decide(self, question: AuthZenQuestion, meant: QuestionMeaning, request: AccessRequest) -> Object:
        """Return the decision on a call with its credential.

        Raises:
            RefusedCall: It is refused, and that is recorded.
            ArxError: It is refused.
        """
        token = question.context.get("credential")
        if isinstance(token, str) and is_access_token(token) and self._resource is not None:
            signer = await self._resource.signer(token)
            token = signer.sign(call_proof.fields_of(request), request.at)
        if not isinstance(token, str) or not token:
            return self._counted("malformed" if "credential" in question.context else "missing_token")
        screened = self._verifier.screen(token)
        if isinstance(screened, str):
            return self._counted(screened)
        facts = screened.proven.facts
        # Before the call is used up: the PEP would else enforce it for one subject, and the record have another.
        if self._verifier.watch is not None and (code := ended_by(self._verifier.epochs, screened.proven)) is not None:
            return self._counted(code)
        if not names_holder(question.subject, facts, self._subjects):
            got = f"{shorten(question.subject.type)} {shorten(question.subject.id)}"
            failure = Failure("subject", "id", "the agent or the person of the credential", got)
            return self._counted("malformed_request", (failure,))
        if not meant.tool:
            live = await self._verifier.recognize_async(token, request)
            if isinstance(live, Refused):
                return self._counted(live.code, live.failures)
            return {"decision": True}
        decision = await self._enforcement.decide_async(screened, request)
        grant = self._enforcement.require(decision, request)
        return {"decision": True, "context": {**_shown(grant), "assurance": decision.facts.assurance}}

    def _counted(self, code: str, failures: tuple[Failure, ...] = (), detail: str | None = None) -> Object:
        if self._enforcement.spares(RefusedCall(code), None):
            return {"decision": True, "context": {"would_refuse": code}}
        self._enforcement.count(RefusedCall(code), None)
        return denied(code, failures, detail=detail)


def denied(code: str, failures: Any = (), decision: str = "", detail: str | None = None) -> Object:
    """Return a decision that denies, with the reason.

    Args:
        code: A key of ``REASONS``.
        failures: The expected and the received values.
        decision: The id of the recorded decision, if there is one.
        detail: Replaces the code's own sentence.
    """
    context: Object = {"reason": code, "message": detail or sentence_of(code, failures)}
    if failures:
        context["failures"] = [failure._asdict() for failure in failures]
    if decision:
        context["evaluation_id"] = decision
    return {"decision": False, "context": context}


def _shown(grant: Grant | WatchedCall) -> Object:
    if isinstance(grant, WatchedCall):
        return {"evaluation_id": grant.decision, "tool": grant.tool, "would_refuse": grant.code}
    shown = {"evaluation_id": grant.decision, "agent": grant.agent, "session": grant.session, "tool": grant.tool}
    if grant.task is not None:
        shown["task"] = grant.task
    if grant.subject is not None:
        shown["issuer"], shown["subject"] = grant.subject
    return shown


def _client_of(question: AuthZenQuestion) -> str | None:
    """Return the address of the caller as the PEP says it; a rule about networks refuses a call without one."""
    address = question.context.get("ip")
    found = read_address(address) if isinstance(address, str) else None
    return write_address(found) if found is not None else None


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()
