# SPDX-License-Identifier: Apache-2.0
"""Routes of the OAuth front, for stock clients and their libraries.  CONTROL 5, RFC 6749, 7009, 7662, 8414, 9449.

They take forms and answer the errors of OAuth: a library reads neither the JSON bodies nor the problems of ``/v1``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_caps.credentials.access_token import MAX_CHARS, AccessToken
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.endpoint import Hidden, RouteAnswer
from arx_caps.mint.api.openapi import FORM, OpenRoute
from arx_caps.mint.api.problems import of_error
from arx_caps.mint.api.request_runner import FORM_THREADS, RequestRunner, in_thread, media_type_of
from arx_caps.mint.context import Born, HasRealm, MintContext
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.keys.signing_keys import MAX_AGE_S
from arx_caps.mint.oauth.authorization_code import grant_authorization_code
from arx_caps.mint.oauth.client.client_metadata import GRANTS, METHOD, RESPONSES, ClientMetadata
from arx_caps.mint.oauth.client.client_proofs import TOKEN, prove_client_key
from arx_caps.mint.oauth.client.clients import OAuthClient, authenticate_client, find_client, register_client
from arx_caps.mint.oauth.errors import OAuthCode, OAuthError, plain_description
from arx_caps.mint.oauth.handles import Handle, Issued, find_handle
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER, client_of_assertion, grant_jwt_bearer
from arx_caps.mint.oauth.metadata import INTROSPECT, JWKS, REGISTER, REVOKE, Metadata, metadata_of
from arx_caps.mint.oauth.refresh import find_refresh, grant_refresh_token
from arx_caps.mint.oauth.task_grant import grant_client_credentials
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE, grant_token_exchange
from arx_caps.mint.rate_limit import TooOftenError
from arx_caps.mint.tasks.revoke import end_session, finish_task, kill_links
from arx_verifier.errors import ArxError, UnavailableError

METADATA: Final = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
_PUBLIC: Final = {"Cache-Control": f"public, max-age={MAX_AGE_S}", "X-Content-Type-Options": "nosniff"}
_SECRET: Final = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
# The errors of OAuth that stand for refusals of the policy; any other one is ``unauthorized_client``.
_ERRORS: Final[Mapping[str, OAuthCode]] = {
    "unknown_task": "invalid_scope",
    "bad_parameters": "invalid_request",
    "malformed_request": "invalid_request",
    "replayed": "invalid_client",
    "bad_workload_token": "invalid_grant",
    "bad_subject_token": "invalid_grant",
}
# What a stranger can cause: it counts against the address.
_UNPROVEN: Final = (
    "invalid_client",
    "invalid_request",
    "invalid_grant",
    "invalid_dpop_proof",
    "too_large",
    "bad_workload_token",
    "bad_subject_token",
)


class Jwks(RouteAnswer, frozen=True):
    """The keys that sign access tokens (RFC 7517)."""

    keys: list[dict[str, Any]]


class TokenIssued(Hidden, RouteAnswer, frozen=True):
    """An access token, a secret, its seconds to live and its scope (RFC 6749 5.1)."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str
    issued_token_type: str | UnsetType = UNSET
    refresh_token: str | UnsetType = UNSET


class Introspected(RouteAnswer, frozen=True):
    """What an access token says, if it is active (RFC 7662 2.2)."""

    active: bool
    scope: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    token_type: str | UnsetType = UNSET
    exp: int | UnsetType = UNSET
    iat: int | UnsetType = UNSET
    sub: str | UnsetType = UNSET
    aud: str | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    jti: str | UnsetType = UNSET
    sid: str | UnsetType = UNSET
    tid: str | UnsetType = UNSET
    act: dict[str, Any] | UnsetType = UNSET
    cnf: dict[str, Any] | UnsetType = UNSET


class TokenRevoked(RouteAnswer, frozen=True):
    """Nothing: the access token is not active any more (RFC 7009 2.2)."""


class ClientRegistered(RouteAnswer, frozen=True):
    """A client that registered itself (RFC 7591 3.2.1), as what the mint has registered it."""

    client_id: str
    client_id_issued_at: int
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    response_types: tuple[str, ...]
    token_endpoint_auth_method: str
    scope: str
    client_name: str | UnsetType = UNSET


class OAuthProblem(RouteAnswer, frozen=True):
    """A refusal (RFC 6749 5.2); ``code`` is the mint's own."""

    error: str
    error_description: str
    code: str


class FormCall(NamedTuple):
    """One authenticated call of a form route.

    Attributes:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch before the client was authenticated.
        client: The client.
        form: The form.
    """

    mint: MintContext
    unit: UnitOfWork
    born: Born
    client: OAuthClient
    form: Mapping[str, str]


_GRANTS: Final[Mapping[str, Callable[[MintContext, UnitOfWork, Born, OAuthClient, Mapping[str, str]], Issued]]] = {
    "authorization_code": grant_authorization_code,
    "refresh_token": grant_refresh_token,
    "client_credentials": grant_client_credentials,
    JWT_BEARER: grant_jwt_bearer,
    TOKEN_EXCHANGE: grant_token_exchange,
}


def token_route(call: FormCall) -> TokenIssued:
    """Issue an access token."""
    grant = _GRANTS.get(call.form.get("grant_type", ""))
    if grant is None:
        raise OAuthError("unsupported_grant_type", f"grant_type: expected one of {', '.join(_GRANTS)}")
    is_strange = call.client.public or call.client.self_registered
    if is_strange and grant not in (grant_authorization_code, grant_refresh_token):
        raise OAuthError("unauthorized_client", "this client gets access tokens by a person's consent alone")
    issued = grant(call.mint, call.unit, call.born, call.client, call.form)
    life_s = issued.claims.exp - issued.claims.iat
    kind = ACCESS_TOKEN_TYPE if grant is grant_token_exchange else UNSET
    return TokenIssued(
        access_token=issued.token,
        token_type=_type_of(issued.claims),
        expires_in=life_s,
        scope=issued.claims.scope,
        issued_token_type=kind,
        refresh_token=UNSET if issued.refresh is None else issued.refresh,
    )


def introspect_route(call: FormCall) -> Introspected:
    """Return what an access token says and whether it is active."""
    if call.client.public:
        raise OAuthError("unauthorized_client", "a public client proves nothing, so it learns of no access token")
    handle = _find(call)
    # Another client's token is as unknown: only its own client may learn its state.
    if handle is None or (_is_others(handle, call) and handle.row.audience not in call.client.introspects):
        return Introspected(active=False)
    return Introspected(active=True, token_type=_type_of(handle.claims), **msgspec.to_builtins(handle.claims))


def revoke_route(call: FormCall) -> TokenRevoked:
    """End the task of an access token, or the delegation to the agent that has it."""
    refresh = find_refresh(call.mint, call.form.get("token", ""))
    if refresh is not None:
        if refresh.client != call.client.id:
            raise OAuthError("unauthorized_client", "the refresh token is another client's")
        session = call.mint.db.sessions.find(refresh.session)
        if session is not None:
            end_session(call.mint.db, call.mint.revoker, session, f"agent:{call.client.agent}")
        return TokenRevoked()
    handle = _find(call)
    if handle is not None:
        if _is_others(handle, call):
            raise OAuthError("unauthorized_client", "the access token is another client's")
        by, link = f"agent:{call.client.agent}", handle.row.recipe.get("last")
        if link is not None:
            kill_links(call.mint.revoker, [link], by)  # the task is another agent's
        else:
            finish_task(call.mint.db, call.mint.revoker, handle.task, by)
    return TokenRevoked()


def _find(call: FormCall) -> Handle | None:
    token = call.form.get("token", "")
    if not token:
        raise OAuthError("invalid_request", "token: expected an access token")
    return find_handle(call.mint, token) if len(token) <= MAX_CHARS else None


def _type_of(claims: AccessToken) -> str:
    return "Bearer" if claims.cnf is None else "DPoP"


def _is_others(handle: Handle, call: FormCall) -> bool:
    return handle.row.client != call.client.id


_CLIENT: Final = {
    "client_id": "The client, unless the header or the assertion names it.",
    "client_secret": "Its secret, unless the header `Authorization: Basic` has it.",
    "client_assertion": "Its assertion (RFC 7523), signed with ES256 or Ed25519; used once.",
    "client_assertion_type": "`urn:ietf:params:oauth:client-assertion-type:jwt-bearer`.",
}
_TOKEN: Final = {"token": "The access token.", **_CLIENT}
_FORMS: Final[Mapping[str, tuple[Callable[[FormCall], RouteAnswer], type[RouteAnswer], Mapping[str, str]]]] = {
    TOKEN: (
        token_route,
        TokenIssued,
        {
            "grant_type": f"One of {', '.join(f'`{name}`' for name in _GRANTS)}.",
            "subject_token": "For `token-exchange`: an access token of the task.",
            "subject_token_type": f"`{ACCESS_TOKEN_TYPE}`.",
            "subject_token_proof": "For a bound `subject_token` of another client: a proof by its key (RFC 9449).",
            "assertion": "For `jwt-bearer`: a workload's token, or an ID-JAG.",
            "refresh_token": "The refresh token of a consented session; used once.",
            "code": "The code of a consent.",
            "code_verifier": "The verifier of the authorization request (RFC 7636).",
            "redirect_uri": "That of the authorization request; optional (OAuth 2.1).",
            "scope": "Templates of the policy, with a space between; optional for a client that has one.",
            "resource": "The URL of the service to call (RFC 8707).",
            "authorization_details": "Parameters of the template: one object of type `arx_task` (RFC 9396).",
            **_CLIENT,
        },
    ),
    INTROSPECT: (introspect_route, Introspected, _TOKEN),
    REVOKE: (revoke_route, TokenRevoked, _TOKEN),
}
_STATUSES: Final = (400, 401, 403, 413, 415, 429, 503)


def _describe_form(path: str) -> OpenRoute:
    handler, answer, form = _FORMS[path]
    answers: dict[int, type | None] = {200: answer}
    answers |= dict.fromkeys(_STATUSES, OAuthProblem)
    return OpenRoute(path, (handler.__doc__ or "").partition("\n")[0], answers, method="POST", form=form)


OPEN: Final = (
    *(OpenRoute(path, "Return what the authorization server offers.", {200: Metadata}) for path in METADATA),
    OpenRoute(JWKS, "Return the keys that sign access tokens.", {200: Jwks}, ("store_unavailable",)),
    *map(_describe_form, _FORMS),
    OpenRoute(
        REGISTER,
        "Register a client for the consent of people.",
        {201: ClientRegistered, **dict.fromkeys((400, 413, 415, 429, 503), OAuthProblem)},
        method="POST",
        body=ClientMetadata,
    ),
)


async def metadata(request: Request) -> Response:
    """Return what the authorization server offers."""
    note(request, route=request.url.path)
    return _json(metadata_of(request.app.state.mint.realm), 200, _PUBLIC)


async def jwks(request: Request) -> Response:
    """Return the keys that sign access tokens."""
    note(request, route=JWKS)
    mint = request.app.state.mint
    try:
        keys = await in_thread(FORM_THREADS, mint.signing_keys.published)
    except ArxError as error:
        return of_error(error, mint.realm)
    return _json(Jwks(keys=keys), 200, _PUBLIC)


async def answer_form(request: Request) -> Response:
    """Answer a form, or the JSON of a client that registers itself."""
    path = request.url.path
    note(request, route=path, caller="client")
    return await (_FormRunner if path in _FORMS else _RegistrationRunner)(request.app.state.mint, request).run()


class _FormRunner(RequestRunner):
    """One request of a client."""

    unread: ClassVar[Mapping[str, str]] = {"Connection": "close"}

    async def admit(self) -> None:
        self.mint.limits.require_address(self.peer)
        self.mint.require_able()

    def respond(self, raw: bytes) -> Response:
        mint, path, headers = self.mint, self.request.url.path, self.request.headers
        form = self._read_form(raw)
        authorization = headers.getlist("authorization")
        if len(authorization) > 1:
            raise OAuthError("invalid_request", "expected one Authorization header")
        with mint.db.unit() as unit:
            # Before the client is authenticated: a kill that comes in between revokes what this call grants.
            born = mint.kills.born()
            is_assertion = path == TOKEN and form.get("grant_type") == JWT_BEARER
            authenticate = client_of_assertion if is_assertion else authenticate_client
            client = authenticate(mint, unit, form, authorization[0] if authorization else None)
            if path == TOKEN:
                client = client._replace(jkt=_proven_key(mint, unit, headers.getlist("dpop")))
            answer = _FORMS[path][0](FormCall(mint, unit, born, client, form))
        return _json(answer, 200, _SECRET)

    def _read_form(self, raw: bytes) -> dict[str, str]:
        if media_type_of(self.request) != FORM:
            raise OAuthError("invalid_request", f"expected Content-Type {FORM}")
        if self.request.url.query:
            raise OAuthError("invalid_request", "expected no query: a log of URLs must not have a secret")
        try:
            return read_parameters(raw.decode("ascii"), strict_parsing=bool(raw))
        except ValueError:
            raise OAuthError("invalid_request", "expected a form") from None

    def refuse(self, error: ArxError) -> Response:
        note(self.request, code=error.code)
        if error.code == "too_large":
            error = OAuthError("invalid_request", str(error))
        headers = dict(_SECRET)
        name: str = error.error if isinstance(error, OAuthError) else "temporarily_unavailable"
        code, status = error.code, 503
        if isinstance(error, OAuthError):
            status, code = error.status, error.error
            if status == 503:
                headers["Retry-After"] = "60"
        elif isinstance(error, TooOftenError):
            status = 429
            headers["Retry-After"] = str(error.wait_s)
        elif isinstance(error, UnavailableError):
            headers["Retry-After"] = "1"
        else:
            name = _ERRORS.get(error.code, "unauthorized_client")
            status = 401 if name == "invalid_client" else 400
        if status == 401:
            # RFC 6749 5.2, for a client that used the header; others ignore it.
            headers["WWW-Authenticate"] = f'Basic realm="{self.mint.realm.name}"'
        problem = OAuthProblem(error=name, error_description=plain_description(str(error)), code=code)
        return _json(problem, status, headers)

    def charge(self, error: ArxError) -> None:
        if (error.error if isinstance(error, OAuthError) else error.code) in _UNPROVEN:
            self.mint.limits.count_unproven(self.peer)


class _RegistrationRunner(_FormRunner):
    """One request of a client that registers itself."""

    async def admit(self) -> None:
        await super().admit()
        # Each counts: none has proved who it is.
        self.mint.limits.count_unproven(self.peer)

    def respond(self, raw: bytes) -> Response:
        if media_type_of(self.request) != "application/json":
            raise OAuthError("invalid_client_metadata", "expected Content-Type application/json")
        row = register_client(self.mint, self.peer, raw)
        client = find_client(self.mint, row.id)
        assert client is not None  # it was registered just now
        answer = ClientRegistered(
            client_id=client.id,
            client_id_issued_at=row.created_at // 1000,
            redirect_uris=client.redirects,
            grant_types=GRANTS,
            response_types=RESPONSES,
            token_endpoint_auth_method=METHOD,
            scope=" ".join(client.scopes),
            client_name=UNSET if client.name is None else client.name,
        )
        return _json(answer, 201, _SECRET)

    def charge(self, error: ArxError) -> None:
        """Charge nothing: the request was counted when it was admitted."""


def _proven_key(mint: HasRealm, unit: UnitOfWork, proofs: Sequence[str]) -> str | None:
    """Return the thumbprint of the key that the header ``DPoP`` proves; None without one.  RFC 9449 5."""
    if not proofs:
        return None
    if len(proofs) > 1:
        raise OAuthError("invalid_dpop_proof", "expected one DPoP header")
    return prove_client_key(mint, unit, proofs[0])


def read_parameters(text: str, *, strict_parsing: bool = False) -> dict[str, str]:
    """Read a form or a query.

    Args:
        text: The text.
        strict_parsing: Whether a part without a value is an error; it is left out otherwise.

    Raises:
        ValueError: It is malformed.
        OAuthError: ``invalid_request``: it has a parameter twice.
    """
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=strict_parsing, errors="strict")
    form = dict(pairs)
    # RFC 6749 3.1 and 3.2: no parameter twice, or two readers could judge two values.
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "expected each parameter once")
    return form


def _json(answer: Any, status: int, headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(answer), status, dict(headers), media_type="application/json")


def routes() -> list[Route]:
    """Return the routes."""
    return [
        *(Route(path, metadata) for path in METADATA),
        Route(JWKS, jwks),
        *(Route(path, answer_form, methods=["POST"]) for path in (*_FORMS, REGISTER)),
    ]
