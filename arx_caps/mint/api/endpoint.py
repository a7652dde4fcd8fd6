# SPDX-License-Identifier: Apache-2.0
"""One shape for every route: its callers, its body, its handler and its answer.  CONTROL 1.

A caller is authenticated before the body is read, and a body is decoded once, strictly, into a typed struct.  The
answer is a typed struct too, and the route lists the codes it can refuse with, so that the description is made from the
route.  Handlers block on database and store and run in a thread; the event loop only moves bytes.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from arx_caps.jose import Proof
from arx_caps.mint.api import problems
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.idempotency import HEADER, digest_of, read_key
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.repositories.repeats import Claim, Made
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import (
    AuthenticatedCaller,
    CallCredentials,
    authenticate_call,
    authenticate_service,
    read_proof,
)
from arx_caps.mint.rate_limit import TooOftenError
from arx_verifier.errors import REASONS, ArxError, GrantError, RequestError, UnavailableError, refusal
from arx_verifier.request import read_json_object

MAX_BODY_BYTES: Final = 64 * 1024  # a task's parameters; only a policy is larger


# What every call can be refused with, and what comes with how the caller is proven.
_EVERY: Final = (
    "malformed_request",
    "too_large",
    "internal",
    "rate_limited",
    "fenced",
    "store_unavailable",
    "audit_unavailable",
)
UNPROVEN: Final = (400, 401, 413, 415)  # a call with one of these, whose caller is not proven, proved nobody
_PROVEN: Final = "arx.proven"
_BY_ASSERTION: Final = ("missing_token", "bad_proof", "bad_assertion", "replayed", "frozen", "wrong_caller")
_BY_KEY: Final = ("bad_proof", "replayed")
_BY_TOKEN: Final = (*REASONS, "bad_proof", "wrong_caller")
# Of every mint in this process.  A handler blocks: as many calls are at work at once, and others wait.
_THREADS: Final = ThreadPoolExecutor(40, "arx-mint-call")
_Result = TypeVar("_Result")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request's body.  A member that is not known here is refused: it could have been a restriction."""


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may stand in a call's query: nothing, unless a type of its own says more."""


class NoBody(Body, frozen=True):
    """Nothing is said in the body."""


class RouteCall(NamedTuple):
    """One call of a handler.

    Attributes:
        mint: The mint.
        unit: What the call does once.
        caller: Who is calling; None where the body says it.
        proof: The proof of a call without a token.
        body: The decoded body.
        path: The path's members.
        query: The decoded query.
        admitted: What ``Endpoint.admit`` made of the headers.
        peer: The peer's address, or None.
    """

    mint: MintContext
    unit: UnitOfWork
    caller: AuthenticatedCaller | None
    proof: Proof | None
    body: Any
    path: Mapping[str, str]
    query: Any
    admitted: Any = None
    peer: str | None = None

    @property
    def by(self) -> AuthenticatedCaller:
        """The caller, where there must be one."""
        if self.caller is None:
            raise refusal("missing_token")
        return self.caller


class RouteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler answers: each route has a type of its own, which its description is made from."""


class Bytes(Body, frozen=True):
    """A body that is no JSON, as it came."""

    content: bytes


class File(RouteAnswer, frozen=True):
    """An answer that is no JSON.

    Attributes:
        content: Its bytes.
        media_type: What they are.
    """

    content: bytes
    media_type: str


class Endpoint(NamedTuple):
    """A method of a path.

    Attributes:
        method: The HTTP method.
        path: The path, in Starlette's form.
        action: What the caller's token must allow, if it has one; None for a call that brings its right in the body.
        handler: Answers; runs in a thread.  Its name without ``_route`` is the operation's id, its first docstring line
            the summary.
        body: The body's type.
        callers: Who may call.
        query: The query's type.
        status: What it is answered with when it was done.
        problems: The codes that it can be refused with, beside those of every call (``codes``).
        media_type: What the body is; the handler gets other than JSON as ``Bytes``.
        limit: The longest body, bytes.
        admit: Proves, from the headers alone, who calls: nobody has to read a stranger's long body.
        again: Answers a call that was done before, from what it made; None where repeating is harmless.
        makes: The kind of the event with which it is done, where there is ``again``.
        about: Says of what the call is about what the rules of operators may judge beside the call's own members.
        one_change: Whether it changes nothing but the database, in one transaction, which then spends its proof, too.
    """

    method: str
    path: str
    action: str | None
    handler: Callable[[RouteCall], RouteAnswer]
    body: type[Body] = NoBody
    callers: tuple[str, ...] = ("operator",)
    query: type[Query] = Query
    status: int = 200
    problems: tuple[str, ...] = ()
    media_type: str = "application/json"
    limit: int = MAX_BODY_BYTES
    admit: Callable[[MintContext, CallCredentials, Mapping[str, str]], Any] | None = None
    again: Callable[[RouteCall, Made], RouteAnswer] | None = None
    makes: str = ""
    one_change: bool = False
    about: Callable[[MintContext, Mapping[str, Any]], Mapping[str, Any]] | None = None

    @property
    def answer(self) -> type[RouteAnswer]:
        """The type of its answer, which is what the handler says that it returns."""
        found: type[RouteAnswer] = get_type_hints(self.handler)["return"]
        return found

    @property
    def codes(self) -> frozenset[str]:
        """Every code that it can be refused with."""
        by = _BY_TOKEN if self.action is not None else _BY_ASSERTION if self.admit is None else _BY_KEY
        of_body = () if self.body is NoBody else ("unsupported_media_type",)
        of_key = () if self.again is None else ("idempotency_mismatch", "conflict", "replayed")
        return frozenset((*_EVERY, *by, *of_body, *of_key, *self.problems))


async def answer_request(endpoint: Endpoint, mint: MintContext, request: Request) -> Response:
    """Answer one request."""
    admitted, raw = None, bytearray()
    note(request, route=endpoint.path)
    try:
        mint.limits.require_address(_peer(mint, request))
        mint.require_clock()
    except (TooOftenError, UnavailableError) as error:
        return _refuse(mint, request, error, {"Connection": "close"})
    if endpoint.admit is not None:
        admitted = await _in_thread(_admit, endpoint, mint, request)
        if isinstance(admitted, Response):
            return admitted
    # Counted here and not by the framework, whose own refusal is no problem of RFC 9457.
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > endpoint.limit:
                if admitted is None:
                    mint.limits.count_unproven(_peer(mint, request))
                said = f"a body has at most {endpoint.limit} bytes"
                return problems.problem("too_large", said, realm=mint.realm, headers={"Connection": "close"})
    except ClientDisconnect:  # a stranger who hangs up is no failure of the mint, and no line of its log
        return problems.problem("malformed_request", "the body did not arrive", realm=mint.realm)
    return await _in_thread(_serve, endpoint, mint, request, bytes(raw), admitted)


def _in_thread(work: Callable[..., _Result], *args: Any) -> asyncio.Future[_Result]:
    # Not Starlette's ``run_in_threadpool``, which takes a third longer: this is on the way of each call.
    return asyncio.get_running_loop().run_in_executor(_THREADS, work, *args)


def _admit(endpoint: Endpoint, mint: MintContext, request: Request) -> Any:
    assert endpoint.admit is not None
    try:
        return endpoint.admit(mint, _call(mint, request), request.headers)
    except ArxError as error:
        mint.limits.count_unproven(_peer(mint, request))
        return _refuse(mint, request, error, {"Connection": "close"})  # its body was not read


def _serve(endpoint: Endpoint, mint: MintContext, request: Request, raw: bytes, admitted: Any) -> Response:
    call: RouteCall | None = None
    try:
        with mint.db.unit(one_change=endpoint.one_change) as unit:
            call = _ask(endpoint, mint, unit, request, raw)._replace(admitted=admitted)
            note(request, caller=call.caller.kind if call.caller is not None else "assertion")
            answer = _once(endpoint, call, request) or endpoint.handler(call)
    except ArxError as error:
        response = _refuse(mint, request, error, {})
        if admitted is None and _PROVEN not in request.scope and response.status_code in UNPROVEN:
            mint.limits.count_unproven(_peer(mint, request))
        return response
    # Answers hold tokens: no cache on the way may keep one.
    headers = {"Cache-Control": "no-store"}
    if isinstance(answer, File):
        return Response(answer.content, endpoint.status, headers, media_type=answer.media_type)
    return Response(msgspec.json.encode(answer), endpoint.status, headers, media_type="application/json")


def _refuse(mint: MintContext, request: Request, error: ArxError, headers: dict[str, str]) -> Response:
    note(request, code=error.code)
    response = problems.of_error(error, mint.realm)
    response.headers.update(headers)
    return response


def _peer(mint: MintContext, request: Request) -> str | None:
    """Return the address that the call comes from, as far as the proxies before the mint are believed."""
    peer = request.client.host if request.client is not None else None
    return mint.limits.peer_of(peer, request.headers.getlist("x-forwarded-for"))


def _once(endpoint: Endpoint, call: RouteCall, request: Request) -> RouteAnswer | None:
    """Answer a call with an ``Idempotency-Key``; None where there is none, or the call takes none."""
    said = request.headers.getlist(HEADER)
    if not said or endpoint.again is None:
        return None
    mint, unit = call.mint, call.unit
    # Without a token it is the key of the proof that calls: what it gets again is good for nobody else.
    caller = f"key:{call.proof.key.kid}" if call.proof is not None else call.by.by
    members = {name: value for name, value in msgspec.to_builtins(call.body).items() if value is not None}
    digest = digest_of(request.method, request.url.path, members, opens=call.proof is not None)
    claim = Claim(caller, read_key(", ".join(said)), digest, now_ms(), endpoint.makes)
    made = mint.db.repeats.find(claim)
    if made is None:
        unit.claim = claim
        try:
            answer = endpoint.handler(call)
        except ArxError:
            unit.claim = None
            made = mint.db.repeats.find(claim)  # somebody else with this key was first
            if made is None:
                raise
        else:
            assert unit.claimed, f"{endpoint.path} made its thing without {endpoint.makes}, so a repeat makes another"
            return answer
    elif call.proof is not None:
        unit.spend("proof", call.proof.key.kid, call.proof.jti, call.proof.until)
    return endpoint.again(call, made)


def _ask(endpoint: Endpoint, mint: MintContext, unit: UnitOfWork, request: Request, raw: bytes) -> RouteCall:
    call = _call(mint, request)
    proof = read_proof(call, None) if endpoint.action is None and endpoint.admit is None else None
    members: dict[str, Any] = {}
    broken: ArxError | None = None
    try:
        members = _members(endpoint, request, raw)
    except ArxError as error:
        broken = error  # told to nobody but a proven caller
    said = dict(request.query_params)
    caller = None
    if endpoint.action is not None:
        if "service" in endpoint.callers and call.authorization is None:
            caller = authenticate_service(mint, unit, call, endpoint.action, members | said | request.path_params)
        else:
            caller = authenticate_call(
                mint, unit, call, endpoint.action, members | said | request.path_params, endpoint.about
            )
        request.scope[_PROVEN] = True  # what is wrong with the rest of the call is no stranger's doing
        if caller.kind not in endpoint.callers:
            raise GrantError(f"this is for {' and '.join(endpoint.callers)}s", code="wrong_caller")
    if broken is not None:
        raise broken
    if len(said) != len(request.query_params.multi_items()):
        raise RequestError("the query has a member twice")
    body = Bytes(content=raw) if endpoint.body is Bytes else _typed("body", members, endpoint.body)
    query = _typed("query", said, endpoint.query)
    return RouteCall(mint, unit, caller, proof, body, request.path_params, query, peer=call.peer)


def _typed(part: str, members: dict[str, Any], kind: type[Body] | type[Query]) -> Body | Query:
    try:
        # A query is text: its numbers are read out of it.
        return msgspec.convert(members, kind, strict=part == "body")
    except msgspec.ValidationError as error:
        raise RequestError(f"the {part} is not what is expected: {error}") from error


def _call(mint: MintContext, request: Request) -> CallCredentials:
    path = bytes(request.scope.get("raw_path") or request.scope["path"].encode()).partition(b"?")[0]
    url = mint.realm.issuer + path.decode("latin-1")
    authorization = request.headers.getlist("authorization")
    if len(authorization) > 1:
        raise RequestError("a request carries one Authorization header")
    proofs = tuple(request.headers.getlist("dpop"))
    return CallCredentials(
        request.method, url, authorization[0] if authorization else None, proofs, _peer(mint, request)
    )


def _members(endpoint: Endpoint, request: Request, raw: bytes) -> dict[str, Any]:
    if endpoint.body is NoBody:
        if raw:
            raise RequestError("this call has no body")
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != endpoint.media_type:
        said = f"the body is {endpoint.media_type}: say so in Content-Type"
        raise GrantError(said, code="unsupported_media_type")
    return {} if endpoint.body is Bytes else read_json_object(raw)
