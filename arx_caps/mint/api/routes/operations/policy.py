# SPDX-License-Identifier: Apache-2.0
"""Routes of the policy: put one in force, and read every policy that was in force."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import show_row
from arx_caps.mint.context import HasDatabase
from arx_caps.mint.db.repositories.operations.policies import POLICIES_ORDER
from arx_caps.mint.db.tables import PolicyRow
from arx_caps.mint.identity.authenticate import admit_operator
from arx_caps.mint.identity.operator_role import actions_of_operator, may
from arx_caps.mint.policy.roles import WRITE_OPERATORS
from arx_caps.settings.toml_file import MAX_BYTES
from arx_verifier.errors import GrantError

READ: Final = "arx.policy.read"
WRITE: Final = "arx.policy.write"
IN_FORCE: Final = "in-force"  # shorter than any digest, so that it cannot be one
ROOM: Final = 2 * MAX_BYTES  # of a policy as a JSON string, with escaped line ends and quotes


class PolicyBody(Body, frozen=True):
    """A policy, as TOML."""

    policy: Annotated[str, Meta(max_length=MAX_BYTES)]


class PolicyLoaded(RouteAnswer, frozen=True):
    """The digests of the policy in force and of the one before."""

    digest: str
    before: str


class ArchivedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a policy was in force, and by whom; times are ms since the Unix epoch."""

    digest: str
    in_force: bool
    first_at: int
    in_force_at: int
    by: str


class Policies(Paged, frozen=True):
    """A page of the archived policies, the last in force first."""

    policies: list[ArchivedPolicy]


class PolicyWithText(ArchivedPolicy, RouteAnswer, frozen=True):
    """An archived policy and its text."""

    policy: str


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint(
    "POST",
    "/v1/policies",
    WRITE,
    PolicyBody,
    # Before the body is read: a stranger could otherwise make the mint hold 2 MiB for each request.
    limit=ROOM,
    admit=admit_operator,
    problems=("policy",),
)
def load_policy_route(call: RouteCall) -> PolicyLoaded:
    """Put a policy in force at every mint of the realm."""
    mint, caller = call.mint, call.authenticated
    before = mint.policies.loaded.digest
    makes_operators = may(actions_of_operator(mint, caller.name), WRITE_OPERATORS)
    policy = mint.policies.load(call.body.policy, caller.actor, makes_operators=makes_operators)
    return PolicyLoaded(digest=policy.digest, before=before)


@endpoint("POST", "/v1/policies/reload", WRITE, problems=("policy",))
def reload_policy_route(call: RouteCall) -> PolicyLoaded:
    """Put the mint's policy file in force, parsed again."""
    before = call.mint.policies.loaded.digest
    return PolicyLoaded(digest=call.mint.policies.reload(call.authenticated.actor).digest, before=before)


@endpoint("GET", "/v1/policies", READ, query=PageQuery)
def list_policies(call: RouteCall) -> Policies:
    """List the policies that were ever in force."""
    now, limit = call.mint.policies.loaded.digest, call.query.limit
    rows = call.mint.db.policies.list(after=call.query.after, limit=limit + 1)
    page = page_of(
        rows, POLICIES_ORDER, lambda row: show_row(ArchivedPolicy, row, in_force=row.digest == now), limit=limit
    )
    return Policies(policies=page.shown, next=page.next)


@endpoint("GET", "/v1/policies/{digest}", READ, problems=("not_found",))
def get_policy(call: RouteCall) -> PolicyWithText:
    """Return a policy that was ever in force, by the digest in tokens and decisions."""
    mint, digest = call.mint, call.path["digest"]
    # From the database and not from memory, so that the answer says who put it in force.
    row = _find(mint, mint.policies.loaded.digest if digest == IN_FORCE else digest)
    return show_row(PolicyWithText, row, policy=row.text, in_force=row.digest == mint.policies.loaded.digest)


def _find(mint: HasDatabase, digest: str) -> PolicyRow:
    row = mint.db.policies.find(digest)
    if row is None:
        raise GrantError("no policy of this digest was ever in force", code="not_found")
    return row
