# SPDX-License-Identifier: Apache-2.0
"""Routes of running tasks: show, attenuate and extend them.  CONTROL 1, 2.

An agent sees and changes its own session's tasks; any other is ``not_found``.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.routes.work.sessions import BOTH, GONE, NOT_STARTED, Duration, TaskStarted, own_task, task_again
from arx_caps.mint.api.views import GrantShown, KillShown, TaskShown, show_grant, show_kill, show_task
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.tasks import modify
from arx_verifier import jcs
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.token.caveats import Caveat, read_caveat


class AttenuateBody(Body, frozen=True):
    """Caveats (SPEC 6) to add to a task, by audience; an empty list adds none.

    Audiences that are left out lose their token.
    """

    caveats: Annotated[
        dict[str, Annotated[tuple[dict[str, Any], ...], Meta(max_length=16)]], Meta(min_length=1, max_length=32)
    ]
    link: Annotated[str, Meta(max_length=22)] | None = None


class ExtendBody(Body, frozen=True):
    """What to grant to a task in addition; by default as in the grant ``link``, or the newest."""

    template: Annotated[str, Meta(max_length=64)] | None = None
    params: dict[str, Any] | None = None
    ttl: Duration | None = None
    tools: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(max_length=64)] | None = None
    depth: int | None = None
    link: Annotated[str, Meta(max_length=22)] | None = None


class TaskAttenuated(Hidden, RouteAnswer, frozen=True):
    """An attenuated task, its only valid bundle, a secret, and the kill of all others."""

    task: TaskShown
    bundle: str
    kill: KillShown


class TaskWithGrants(RouteAnswer, frozen=True):
    """A task and its grants, the newest first."""

    task: TaskShown
    grants: list[GrantShown]


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/tasks/{task}", "arx.tasks.read", callers=BOTH, problems=GONE)
def get_task(call: RouteCall) -> TaskWithGrants:
    """Return a task with its grants."""
    row = own_task(call, call.path["task"])
    grants = [show_grant(grant) for grant in call.mint.db.grants.list(row.id)]
    return TaskWithGrants(task=show_task(call.mint.kills, row), grants=grants)


def attenuated_again(call: RouteCall, made: Made) -> TaskAttenuated:
    """Answer a repeat of an attenuation, with the report of the first call's kill."""
    # A second kill would revoke the bundle that the first call made.
    again, report = task_again(call, made), (made.recipe or {})["kill"]
    return TaskAttenuated(task=again.task, bundle=again.bundle, kill=msgspec.convert(report, KillShown))


@endpoint(
    "POST",
    "/v1/tasks/{task}/attenuate",
    "arx.tasks.attenuate",
    AttenuateBody,
    callers=("agent",),
    problems=(*NOT_STARTED, *GONE),
    again=attenuated_again,
    # Not one change: the kill of the old tokens is in the store.
    makes="task.attenuated",
)
def attenuate_task_route(call: RouteCall) -> TaskAttenuated:
    """Attenuate a task: revoke its tokens, delegated ones included, and sign attenuated ones."""
    body, task = call.body, own_task(call, call.path["task"])
    caveats = {audience: [_caveat(data) for data in added] for audience, added in body.caveats.items()}
    attenuated = modify.attenuate_task(call.mint, call.unit, call.authenticated, task, body.link, caveats)
    return TaskAttenuated(
        task=show_task(call.mint.kills, attenuated.row), bundle=attenuated.bundle, kill=show_kill(attenuated.report)
    )


@endpoint(
    "POST",
    "/v1/tasks/{task}/extend",
    "arx.tasks.extend",
    ExtendBody,
    callers=("agent",),
    status=201,
    problems=(*NOT_STARTED, *GONE),
    again=task_again,
    makes="task.extended",
    one_change=True,
    database_only=True,
)
def extend_task_route(call: RouteCall) -> TaskStarted:
    """Add a grant to a task, or the same one for longer; existing tokens stay valid."""
    body, task = call.body, own_task(call, call.path["task"])
    more = modify.More(body.template, body.params, body.ttl, body.tools, body.depth, body.link)
    extended = modify.extend_task(call.mint, call.unit, call.authenticated, task, more)
    return TaskStarted(task=show_task(call.mint.kills, extended.row), bundle=extended.bundle)


def _caveat(given: dict[str, Any]) -> Caveat:
    """Return a caveat as a holder could have added it; a delegation is refused."""
    try:
        caveat = read_caveat(jcs.encode(given)).check()
    except ArxError as error:
        raise GrantError(f"invalid caveat: {error}", code="bad_parameters") from error
    # The mint signs these caveats: with `to` it would delegate in the name of an agent that did not.
    if caveat.hop is not None or caveat.call is not None:
        raise GrantError("invalid caveat: only holders add `to`, `hop` and `call`", code="bad_parameters")
    return caveat
