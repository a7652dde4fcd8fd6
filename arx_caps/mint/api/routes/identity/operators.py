# SPDX-License-Identifier: Apache-2.0
"""Routes of operators: their tokens, keys and roles; and ``whoami``.  CONTROL 1.6."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import KillShown, OperatorShown, require_row, show_kill, show_operator
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.operators import BY_LOGIN, OPERATORS_ORDER
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.db.tables import OPERATORS, OperatorRow
from arx_caps.mint.identity.operator_role import role_of
from arx_caps.mint.policy import roles
from arx_caps.mint.tasks.revoke import remove_operator
from arx_caps.mint.tasks.sessions import grant_operator
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.names import is_agent_path

READ: Final = "arx.operators.read"
Name = Annotated[str, Meta(min_length=1, max_length=54)]
Rules = Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=roles.MAX_RULES)]


class OperatorTokenBody(Hidden, Body, frozen=True):
    """An operator's assertion."""

    assertion: str


class OperatorBody(Body, frozen=True):
    """An operator to enrol, with a named role or rules of its own."""

    name: Name
    jwk: dict[str, Any]
    role: Name | None = None
    rules: Rules | None = None


class OperatorPatchBody(Body, frozen=True):
    """Either another role, or a key to add and a key to remove."""

    role: Name | None = None
    rules: Rules | None = None
    add_jwk: dict[str, Any] | None = None
    remove_kid: Name | None = None


class OperatorToken(Hidden, RouteAnswer, frozen=True, kw_only=True):
    """An operator's token, a secret, and when it expires, ms since the Unix epoch."""

    token: str
    token_type: Literal["DPoP"] = "DPoP"  # noqa: S105 - a scheme of RFC 9449, no secret
    expires_at: int


class Operators(Paged, frozen=True):
    """A page of operators by name; ``total`` counts removed ones as well."""

    operators: list[OperatorShown]
    total: int


class OperatorEnded(RouteAnswer, frozen=True):
    """A removed operator, and the kill of its tokens."""

    operator: OperatorShown
    kill: KillShown


class Whoami(RouteAnswer, frozen=True, kw_only=True):
    """The authenticated caller: an agent's session, or an operator's role, its actions, and a custom role's rules."""

    kind: str
    name: str
    expires_at: int
    realm: str
    policy: str
    session: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    may: list[str] | UnsetType = UNSET
    rules: list[dict[str, Any]] | UnsetType = UNSET


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint(
    "POST", "/v1/operators/token", None, OperatorTokenBody, status=201, problems=("no_role", "no_policy"), urgent=True
)
def sign_in_operator(call: RouteCall) -> OperatorToken:
    """Return an operator's token, which lives for ten minutes."""
    # No idempotency key: a repeat with another proof returns another token, which does no harm.
    token, expires_at = grant_operator(call.mint, call.unit, call.body.assertion, call.signed, call.peer)
    return OperatorToken(token=token, expires_at=expires_at)


def operator_again(call: RouteCall, made: Made) -> OperatorShown:
    """Answer a repeat of an enrolment."""
    return show_operator(call.mint, _find_operator(call, made.facts["operator"]))


@endpoint(
    "POST",
    "/v1/operators",
    roles.WRITE_OPERATORS,
    OperatorBody,
    status=201,
    problems=("operator_exists", "key_enrolled", "conflict"),
    again=operator_again,
    makes="operator.enrolled",
)
def enrol_operator(call: RouteCall) -> OperatorShown:
    """Enrol an operator with a first key and a role."""
    body, mint = call.body, call.mint
    # Targets and records contain the name after ``operator:``: it has the characters of one segment of a path.
    if not is_agent_path(body.name) or "/" in body.name:
        raise RequestError("invalid name: expected [a-z0-9][a-z0-9._-]*, at most 54 characters")
    role, rules = roles.choose(body.role, body.rules)
    key = PublicKey(body.jwk)
    what = Event.of(
        "operator.enrolled", call.authenticated.actor, operator=body.name, key=key.kid, role=role, rules=rules
    )
    mint.db.operators.add(call.unit, body.name, key, what, role=role, rules=rules)
    return show_operator(mint, _find_operator(call, body.name))


@endpoint("GET", "/v1/operators", READ, query=PageQuery)
def list_operators(call: RouteCall) -> Operators:
    """List the operators, removed ones included."""
    mint, limit = call.mint, call.query.limit
    rows = mint.db.operators.list(after=call.query.after, limit=limit + 1)
    page = page_of(rows, OPERATORS_ORDER, lambda row: show_operator(mint, row), limit=limit)
    return Operators(operators=page.shown, total=mint.db.count(OPERATORS), next=page.next)


@endpoint("GET", "/v1/operators/{name}", READ, problems=("not_found",))
def get_operator(call: RouteCall) -> OperatorShown:
    """Return one operator."""
    return show_operator(call.mint, _find_operator(call, call.path["name"]))


@endpoint(
    "PATCH",
    "/v1/operators/{name}",
    roles.WRITE_OPERATORS,
    OperatorPatchBody,
    problems=("not_found", "conflict", "key_enrolled"),
)
def patch_operator(call: RouteCall) -> OperatorShown:
    """Change an operator's role or keys, from the next call on, whatever its token says."""
    body, mint, by = call.body, call.mint, call.authenticated.actor
    row = _find_operator(call, call.path["name"])
    name = row.id
    if row.status != "active":
        raise GrantError(f"operator {name} was removed; enrol another name", code="conflict")
    if row.role == BY_LOGIN and (body.remove_kid is None or body.add_jwk is not None):
        # A key would outlive the login, and a role of its own the group that the person leaves.
        raise GrantError(f"operator {name} is a login's: change [[operator]] of the policy", code="conflict")
    about_role = body.role is not None or body.rules is not None
    about_keys = body.add_jwk is not None or body.remove_kid is not None
    # Each is a transaction of its own: a call with both could do one and fail at the other.
    if about_role == about_keys:
        raise RequestError("invalid change: expected either role or rules, or else add_jwk, remove_kid or both")
    if about_role:
        role, rules = roles.choose(body.role, body.rules)
        what = Event.of("operator.role_changed", by, operator=name, role=role, rules=rules, before=row.role)
        mint.db.operators.set_role(name, role, rules, what)
    else:
        key = PublicKey(body.add_jwk) if body.add_jwk is not None else None
        added = key.kid if key is not None else None
        what = Event.of("operator.keys_changed", by, operator=name, added=added, removed=body.remove_kid)
        keep_one = row.role != BY_LOGIN
        mint.db.holder_keys.change(f"operator:{name}", key, body.remove_kid, what, keep_one=keep_one)
    return show_operator(mint, _find_operator(call, name))


@endpoint("DELETE", "/v1/operators/{name}", roles.WRITE_OPERATORS, problems=("not_found", "conflict"))
def delete_operator(call: RouteCall) -> OperatorEnded:
    """Remove an operator for good."""
    # The row stays and so does its name: records name it, and a successor must not be taken for it.
    name = _find_operator(call, call.path["name"]).id
    report = remove_operator(call.mint.db, call.mint.revoker, name, call.authenticated.actor)
    return OperatorEnded(operator=show_operator(call.mint, _find_operator(call, name)), kill=show_kill(report))


@endpoint("GET", "/v1/whoami", "arx.whoami", callers=("operator", "agent"))
def whoami(call: RouteCall) -> Whoami:
    """Return the authenticated caller and the actions that it may call."""
    caller = call.authenticated
    row = _find_operator(call, caller.name) if caller.kind == "operator" else None
    role = role_of(call.mint, row) if row is not None else None
    return Whoami(
        kind=caller.kind,
        name=caller.name,
        expires_at=caller.expires_at,
        realm=call.mint.realm.name,
        policy=call.mint.policies.loaded.digest,
        session=caller.session.id if caller.session is not None else UNSET,
        # The role as it is now, which the next call is judged by; the token may have older rules.
        role=role.name if role is not None else UNSET,
        may=roles.actions_of(role.rules) if role is not None else UNSET,
        rules=UNSET if row is None or row.rules is None else msgspec.json.decode(row.rules),
    )


def _find_operator(call: RouteCall, name: str) -> OperatorRow:
    return require_row(call.mint.db.operators.find(name), "operator")
