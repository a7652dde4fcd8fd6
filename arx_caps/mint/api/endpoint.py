# SPDX-License-Identifier: Apache-2.0
"""The shape of every authenticated route: callers, body, query, handler and answer.  CONTROL 1.

Bodies and answers are typed structs, and a route lists its refusals, so that ``openapi`` describes the API from the
routes alone.  Who may do what is decided in ``identity``.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Concatenate, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from arx_caps.credentials.jose import Proof
from arx_caps.database.engines import BUSY_S
from arx_caps.mint.api import problems
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.admission import WorkQueue, count_unproven, require_admitted
from arx_caps.mint.api.idempotency import HEADER, digest_of, read_key
from arx_caps.mint.api.request_runner import (
    SQLITE_THREADS,
    THREADS,
    URGENT_THREADS,
    RequestRunner,
    in_thread,
    media_type_of,
)
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.repositories.work.repeats import Claim, Made
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import (
    AuthenticatedCaller,
    CallCredentials,
    authenticate_call,
    authenticate_service,
    find_signer,
    read_proof,
)
from arx_caps.mint.rate_limit import TooOftenError
from arx_verifier.clock import now_ms
from arx_verifier.errors import REASONS, ArxError, GrantError, RequestError, StoreError, refusal
from arx_verifier.request import read_json_object

MAX_BODY_BYTES: Final = 64 * 1024  # enough for a task's parameters; a policy and a batch have bounds of their own


# The codes of every call, then those of each way to authenticate.
_EVERY: Final = (
    "malformed_request",
    "too_large",
    "internal",
    "rate_limited",
    "fenced",
    "store_unavailable",
    "audit_unavailable",
)
# An unauthenticated call with one of these counts against its address; an outage (503) is not the caller's fault.
UNPROVEN: Final = (400, 401, 413, 415)
_PROVEN: Final = "arx.proven"
_BY_ASSERTION: Final = ("missing_token", "bad_proof", "bad_assertion", "replayed", "frozen", "wrong_caller")
_BY_KEY: Final = ("bad_proof", "replayed")
_BY_TOKEN: Final = (*REASONS, "bad_proof", "wrong_caller", "no_role", "no_policy")
# The assertions of new sessions from addresses over their limit: an issuer may be slow to show its keys.
_ASSERTIONS: Final = WorkQueue("arx-mint-assertion", 2, 64)


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request's body."""

    # An unknown member is refused: it may have been meant as a restriction.


class Hidden:
    """A body or answer with a secret, which neither a log nor a traceback may show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request's query; without members, none is accepted."""


class NoBody(Body, frozen=True):
    """An empty body."""


class RouteCall(NamedTuple):
    """One call of a handler.

    Attributes:
        mint: The mint.
        unit: The call's unit of work: its claim, its proofs and its recipe.
        caller: The authenticated caller; None if a credential in the body identifies it.
        proof: The proof of a call without a token.
        body: The decoded body.
        path: The parameters of the path.
        query: The decoded query.
        admitted: The result of ``Endpoint.admit``.
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
    def authenticated(self) -> AuthenticatedCaller:
        """The caller of an endpoint that has an action."""
        if self.caller is None:
            raise refusal("missing_token")
        return self.caller

    @property
    def signed(self) -> Proof:
        """The proof of a call whose endpoint has no action."""
        if self.proof is None:
            raise refusal("missing_token")
        return self.proof


class RouteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A handler's answer; each route has a type of its own, from which it is described."""


class Bytes(Body, frozen=True):
    """A body that is not JSON, unparsed."""

    content: bytes


class File(RouteAnswer, frozen=True):
    """An answer that is not JSON.

    Attributes:
        content: The bytes.
        media_type: Their media type.
    """

    content: bytes
    media_type: str


Handler: TypeAlias = Callable[[RouteCall], RouteAnswer]
_Handler = TypeVar("_Handler", bound=Handler)
_Declared = ParamSpec("_Declared")


class Endpoint(NamedTuple):
    """A method of a path.

    Attributes:
        handler: Answers the call, in a thread.  Its name without ``_route`` is the operation's id, and its docstring's
            first line the operation's summary.
        method: The HTTP method.
        path: The path, in Starlette's form.
        action: The action that the caller's token must allow; None if a credential in the body authorizes the call.
        body: The body's type.
        callers: The kinds of callers that may call.
        query: The query's type.
        status: The status of a successful answer.
        problems: The codes of its refusals, beside those of every call.
        media_type: The body's media type; a handler gets any other than JSON as ``Bytes``.
        limit: The longest body, bytes.
        admit: Authenticates the caller by the headers alone, before a long body is read.
        again: Answers a repeat from what the first call made; None if repeating the call does no harm.
        makes: The kind of event that the first call records, if there is ``again``.
        one_change: Whether its only effect is one database transaction, which then spends its proof as well, or one
            step of the revocation store, which does.
        urgent: Whether it is answered by threads and connections that no other call can take.
        database_only: Whether it waits for nothing but the database, so that few threads are enough on SQLite.
        about: Returns further arguments of the call, for the rules of operators.
    """

    handler: Handler
    method: str
    path: str
    action: str | None
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
    urgent: bool = False
    database_only: bool = False
    about: Callable[[MintContext, Mapping[str, Any]], Mapping[str, Any]] | None = None

    @property
    def answer(self) -> type[RouteAnswer]:
        """The type of its answer: the handler's return annotation."""
        kind: type[RouteAnswer] = get_type_hints(self.handler)["return"]
        return kind

    @property
    def codes(self) -> frozenset[str]:
        """Every code of its refusals."""
        of_caller = _BY_TOKEN if self.action is not None else _BY_ASSERTION if self.admit is None else _BY_KEY
        of_body = () if self.body is NoBody else ("unsupported_media_type",)
        of_key = () if self.again is None else ("idempotency_mismatch", "conflict", "replayed")
        return frozenset((*_EVERY, *of_caller, *of_body, *of_key, *self.problems))


def collect(
    kind: Callable[Concatenate[Handler, _Declared], Endpoint],
) -> tuple[list[Endpoint], Callable[_Declared, Callable[[_Handler], _Handler]]]:
    """Return a list for the endpoints of a module, and the decorator of a handler that adds its endpoint.

    Args:
        kind: ``Endpoint``; the decorator's arguments are its attributes but ``handler``.
    """
    endpoints: list[Endpoint] = []

    def endpoint(*args: _Declared.args, **options: _Declared.kwargs) -> Callable[[_Handler], _Handler]:
        def add(handler: _Handler) -> _Handler:
            endpoints.append(kind(handler, *args, **options))
            return handler

        return add

    return endpoints, endpoint


async def answer_request(endpoint: Endpoint, mint: MintContext, request: Request) -> Response:
    """Answer one request.

    Args:
        endpoint: The route.
        mint: The mint.
        request: The request, its body unread.
    """
    note(request, route=endpoint.path)
    return await _EndpointRunner(endpoint, mint, request).run()


class _EndpointRunner(RequestRunner):
    """One request for an endpoint.

    Attributes:
        admitted: The result of ``Endpoint.admit``.
        limited: The refusal that holds unless the body has a valid assertion; None if none holds.
        until: When the request has waited too long for a thread, s of the monotonic clock.
    """

    body = "body"
    # The rest of the body would be taken for the next request.
    unread: ClassVar[Mapping[str, str]] = {"Connection": "close"}

    def __init__(self, endpoint: Endpoint, mint: MintContext, request: Request) -> None:
        super().__init__(mint, request)
        self.endpoint, self.limit = endpoint, endpoint.limit
        self.admitted: Any = None
        self.limited: TooOftenError | None = None
        self.until = math.inf
        self.threads = URGENT_THREADS if endpoint.urgent else THREADS

    async def admit(self) -> None:
        # Cheap checks first: neither needs a thread, the database or the body.
        self.mint.require_able()
        find_caller = self._find_signer if "dpop" in self.request.headers else None
        try:
            await require_admitted(self.mint, self.request, find_caller)
        except TooOftenError as refusal:
            # The mint does not know the key of a new session yet: the assertion in the body authenticates its caller.
            if find_caller is None or self.endpoint.action is not None or self.endpoint.admit is not None:
                raise
            self.limited = refusal
        if self.endpoint.admit is not None:
            self.admitted = await in_thread(THREADS, self._admit_by_headers, self.endpoint.admit)

    def _find_signer(self) -> str | None:
        try:
            return find_signer(self.mint, self._credentials())
        except RequestError:  # two headers ``Authorization``
            return None

    def _admit_by_headers(self, admit: Callable[[MintContext, CallCredentials, Mapping[str, str]], Any]) -> Any:
        try:
            return admit(self.mint, self._credentials(), self.request.headers)
        except ArxError as error:
            count_unproven(self.mint, self.request, error)
            raise

    async def dispatch(self, raw: bytes) -> Response:
        if self.limited is not None:
            # From an address over its limit, each call that is unauthenticated is refused.
            try:
                response = await _ASSERTIONS.run(self.limited, self.finish, raw)
            except TooOftenError as error:
                return self.refuse(error)
            return response if response.status_code not in UNPROVEN else self.refuse(self.limited)
        if self.endpoint.database_only and self.mint.db.system == "sqlite":
            self.threads, self.until = SQLITE_THREADS, time.monotonic() + BUSY_S
        return await super().dispatch(raw)

    def respond(self, raw: bytes) -> Response:
        endpoint, mint = self.endpoint, self.mint
        # While the database is locked, its threads wait. A call waits for its turn no longer than a writer waits
        # for the lock.
        if time.monotonic() > self.until:
            raise StoreError(f"the mint did not answer: other calls were at work for {BUSY_S:g} s; retry later")
        # The store judges the proofs of urgent calls, also while the database commits nothing.
        in_store = mint.store.use_proof if endpoint.urgent else None
        with mint.db.unit(one_change=endpoint.one_change, use_in_store=in_store) as unit:
            call = self._read_call(unit, raw)
            note(self.request, caller=call.caller.kind if call.caller is not None else "assertion")
            answer = self._answer_once(call) or endpoint.handler(call)
        # Answers contain tokens, which no cache between mint and client may store.
        headers = {"Cache-Control": "no-store"}
        if isinstance(answer, File):
            return Response(answer.content, endpoint.status, headers, media_type=answer.media_type)
        return Response(msgspec.json.encode(answer), endpoint.status, headers, media_type="application/json")

    def refuse(self, error: ArxError) -> Response:
        note(self.request, code=error.code)
        return problems.of_error(error, self.mint.realm)

    def charge(self, error: ArxError) -> None:
        # Only unauthenticated calls count against an address: many agents may share one behind a proxy.
        is_proven = self.admitted is not None or _PROVEN in self.request.scope
        if not is_proven and problems.status_of(error) in UNPROVEN:
            count_unproven(self.mint, self.request, error)

    def _answer_once(self, call: RouteCall) -> RouteAnswer | None:
        """Answer a call with an ``Idempotency-Key``; return None without one, or if it is ignored."""
        endpoint, request = self.endpoint, self.request
        values = request.headers.getlist(HEADER)
        if not values or endpoint.again is None:
            return None
        mint, unit = call.mint, call.unit
        # Without a token the proof's key identifies the caller: the answer is bound to that key and useless to others.
        caller = f"key:{call.proof.key.kid}" if call.proof is not None else call.authenticated.actor
        # A missing member and a null one are the same call, whichever of them a client's retry sends.
        members = {name: value for name, value in msgspec.to_builtins(call.body).items() if value is not None}
        digest = digest_of(request.method, request.url.path, members, opens=call.proof is not None)
        # Two headers make a text with a comma and a space, which is no key: neither of them is chosen silently.
        claim = Claim(caller, read_key(", ".join(values)), digest, now_ms(), endpoint.makes)
        made = mint.db.repeats.find(claim)
        if made is None:
            unit.claim = claim
            try:
                answer = endpoint.handler(call)
            except ArxError:
                unit.claim = None
                # A concurrent call with the same key may have been first: answer as for a repeat.
                made = mint.db.repeats.find(claim)
                if made is None:
                    raise
            else:
                assert unit.claimed, f"{endpoint.path} did not record {endpoint.makes}: a repeat would be a second call"
                return answer
        elif call.proof is not None:
            # The handler spends a proof, but it does not run for a repeat.
            unit.spend("proof", call.proof.key.kid, call.proof.jti, call.proof.until)
        return endpoint.again(call, made)

    def _read_call(self, unit: UnitOfWork, raw: bytes) -> RouteCall:
        endpoint, mint, request = self.endpoint, self.mint, self.request
        call = self._credentials()
        proof = read_proof(call, None) if endpoint.action is None and endpoint.admit is None else None
        members: dict[str, Any] = {}
        broken: ArxError | None = None
        try:
            members = self._members(raw)
        except ArxError as error:
            broken = error  # raised below: an unauthenticated caller learns only that it is not authenticated
        params = dict(request.query_params)
        caller = None
        # The path's parameters count last: no member of body or query can replace what the path names.
        if endpoint.action is not None:
            args = members | params | request.path_params
            if "service" in endpoint.callers and call.authorization is None:
                caller = authenticate_service(mint, unit, call, endpoint.action, args)
            else:
                caller = authenticate_call(mint, unit, call, endpoint.action, args, endpoint.about)
            request.scope[_PROVEN] = True  # a later refusal does not count against the address
            _require_kind(endpoint, caller)
        if broken is not None:
            raise broken
        # Rules and handler must judge the same value.
        if len(params) != len(request.query_params.multi_items()):
            raise RequestError("invalid query: expected each parameter once, got one twice")
        body = Bytes(content=raw) if endpoint.body is Bytes else _typed("body", members, endpoint.body)
        query = _typed("query", params, endpoint.query)
        return RouteCall(mint, unit, caller, proof, body, request.path_params, query, self.admitted, call.peer)

    def _credentials(self) -> CallCredentials:
        request = self.request
        # The path as it was sent, because the client signed it; the issuer, and not the Host header, which it may
        # choose.
        path = bytes(request.scope.get("raw_path") or request.scope["path"].encode()).partition(b"?")[0]
        url = self.mint.realm.issuer + path.decode("latin-1")
        authorization = request.headers.getlist("authorization")
        if len(authorization) > 1:
            raise RequestError(f"invalid request: expected one Authorization header, got {len(authorization)}")
        proofs = tuple(request.headers.getlist("dpop"))
        token, program = authorization[0] if authorization else None, request.headers.get("user-agent", "")
        return CallCredentials(request.method, url, token, proofs, self.peer, program)

    def _members(self, raw: bytes) -> dict[str, Any]:
        endpoint = self.endpoint
        if endpoint.body is NoBody:
            if raw:
                raise RequestError("unexpected body: this call takes none")
            return {}
        # Not guessed from the body: a guess could read other members than the sender meant.
        if media_type_of(self.request) != endpoint.media_type:
            detail = f"unsupported media type: expected Content-Type {endpoint.media_type}"
            raise GrantError(detail, code="unsupported_media_type")
        return {} if endpoint.body is Bytes else read_json_object(raw)


def _require_kind(endpoint: Endpoint, caller: AuthenticatedCaller) -> None:
    if caller.kind not in endpoint.callers:
        kinds = " or ".join(endpoint.callers)
        raise GrantError(f"wrong caller: expected {kinds}, got {caller.kind}", code="wrong_caller")


def call_endpoint(
    endpoint: Endpoint,
    mint: MintContext,
    authorize: Callable[[str, Mapping[str, Any]], AuthenticatedCaller],
    *,
    path: Mapping[str, str],
    query: Mapping[str, Any],
    body: Mapping[str, Any] | bytes,
    peer: str | None,
) -> RouteAnswer:
    """Call an endpoint in this process, for a caller that is authenticated without a token.

    Args:
        endpoint: The route; it has an action.
        mint: The mint.
        authorize: Authorizes the action with its arguments, and records the decision.
        path: The parameters of the path.
        query: The members of the query.
        body: The members of the body, or a body that is not JSON.
        peer: The address of the caller, or None.

    Returns:
        The handler's answer.

    Raises:
        ArxError: As the endpoint's refusals.
    """
    assert endpoint.action is not None
    members = {} if isinstance(body, bytes) else dict(body)
    with mint.db.unit(one_change=endpoint.one_change) as unit:
        caller = authorize(endpoint.action, {**members, **query, **path})
        _require_kind(endpoint, caller)
        typed = Bytes(content=body) if isinstance(body, bytes) else _typed("body", members, endpoint.body)
        return endpoint.handler(
            RouteCall(mint, unit, caller, None, typed, path, _typed("query", dict(query), endpoint.query), peer=peer)
        )


def _typed(part: str, members: dict[str, Any], kind: type[Body] | type[Query]) -> Body | Query:
    try:
        # Not strict for a query, which has only text: numbers are parsed from it.
        return msgspec.convert(members, kind, strict=part == "body")
    except msgspec.ValidationError as error:
        raise RequestError(f"invalid {part}: {error}") from error
