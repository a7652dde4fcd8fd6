# SPDX-License-Identifier: Apache-2.0
"""The route of token exchange, for tool services.  CONTROL 2.6, RFC 8693."""

from typing import Annotated, Literal

from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.tasks import token_exchange
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.token.wire import MAX_CREDENTIAL_CHARS

TokenType = Literal["urn:arx:token-type:task"]


class ExchangeBody(Hidden, Body, frozen=True):
    """The token that a service was called with, and the target: an audience or an origin."""

    grant_type: Literal["urn:ietf:params:oauth:grant-type:token-exchange"]
    subject_token: Annotated[str, Meta(max_length=MAX_CREDENTIAL_CHARS)]
    subject_token_type: TokenType
    audience: Annotated[str, Meta(max_length=64)] | None = None
    resource: Annotated[str, Meta(max_length=300)] | None = None
    requested_token_type: TokenType | None = None


class Exchanged(Hidden, RouteAnswer, frozen=True, kw_only=True):
    """A token for the other service, and a bundle with it; both are secrets.

    Each call with the token is signed (SPEC 8).
    """

    access_token: str
    issued_token_type: TokenType = "urn:arx:token-type:task"  # noqa: S105 - a name of RFC 8693, no secret
    # RFC 8693 2.2.1: N_A, because the token is no bearer token; each call with it needs a proof.
    token_type: Literal["N_A"] = "N_A"  # noqa: S105 - likewise
    expires_in: int
    expires_at: int
    audience: str
    bundle: str
    link: str


ENDPOINTS, endpoint = collect(Endpoint)


def exchanged_again(call: RouteCall, made: Made) -> Exchanged:
    """Answer a repeat of an exchange."""
    return _answer(made.facts["audience"], token_exchange.exchange_again(call.mint, made.recipe or {}))


@endpoint(
    "POST",
    "/v1/exchange",
    "arx.exchange",
    ExchangeBody,
    callers=("service",),
    problems=("exchange_not_allowed", "bad_parameters", "no_policy"),
    again=exchanged_again,
    makes="token.exchanged",
    one_change=True,
)
def exchange_token(call: RouteCall) -> Exchanged:
    """Exchange the token of a call to a service for one for another service, on the same task."""
    mint, body = call.mint, call.body
    if (body.audience is None) == (body.resource is None):
        raise RequestError("invalid target: expected either audience or resource; send exactly one")
    audience = body.audience
    # A service may know only the address that it is about to call.
    if body.resource is not None:
        audience = token_exchange.audience_of(mint.policy.audiences, body.resource)
    if audience is None or audience not in mint.policy.audiences:
        raise GrantError("the policy has no such audience", code="exchange_not_allowed")
    service = call.authenticated
    made = token_exchange.exchange(mint, call.unit, service.name, body.subject_token, audience, service.public)
    return _answer(audience, made)


def _answer(audience: str, made: token_exchange.ExchangedToken) -> Exchanged:
    return Exchanged(
        access_token=made.token,
        # RFC 8693 counts in seconds: rounded down, so that no client uses an expired token.
        expires_in=max(0, (made.expires_at - now_ms()) // 1000),
        expires_at=made.expires_at,
        audience=audience,
        bundle=made.bundle,
        link=made.link,
    )
