# SPDX-License-Identifier: Apache-2.0
"""Routes of running tasks: show, attenuate and extend them.  CONTROL 1, 2.

An agent sees and changes the tasks of its own session; for others it gets ``not_found``.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.api.routes.sessions import BOTH, GONE, NOT_STARTED, Duration, TaskStarted, own_task, task_again
from arx_caps.mint.api.views import GrantShown, KillShown, TaskShown, show_grant, show_kill, show_task
from arx_caps.mint.db.repositories.repeats import Made
from arx_caps.mint.tasks import modify
from arx_verifier import jcs
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.token import Caveat, read_caveat


class AttenuateBody(Body, frozen=True):
    """How to attenuate a task: by audience that stays, caveats (SPEC 6) that hold from now on; an empty list leaves
    it."""

    caveats: Annotated[
        dict[str, Annotated[tuple[dict[str, Any], ...], Meta(max_length=16)]], Meta(min_length=1, max_length=32)
    ]
    link: Annotated[str, Meta(max_length=22)] | None = None


class ExtendBody(Body, frozen=True):
    """What a task is to be granted in addition; what is left out is as the grant ``link`` has it, or the newest."""

    template: Annotated[str, Meta(max_length=64)] | None = None
    params: dict[str, Any] | None = None
    ttl: Duration | None = None
    tools: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(max_length=64)] | None = None
    depth: int | None = None
    link: Annotated[str, Meta(max_length=22)] | None = None


class TaskAttenuated(RouteAnswer, frozen=True):
    """An attenuated task, the one bundle of it that is alive, a secret, and the kill of all others."""

    task: TaskShown
    bundle: str
    kill: KillShown


class TaskWithGrants(RouteAnswer, frozen=True):
    """A task and what it was granted, the newest first."""

    task: TaskShown
    grants: list[GrantShown]


def get_task(call: RouteCall) -> TaskWithGrants:
    """Show a task with what it was granted."""
    row = own_task(call, call.path["task"])
    grants = [show_grant(grant) for grant in call.mint.db.grants.list(row["id"])]
    return TaskWithGrants(task=show_task(call.mint, row), grants=grants)


def attenuate_task_route(call: RouteCall) -> TaskAttenuated:
    """Attenuate a task: its tokens, also those delegated, are revoked, and less is signed anew."""
    body, task = call.body, own_task(call, call.path["task"])
    caveats = {audience: [_caveat(each) for each in given] for audience, given in body.caveats.items()}
    done = modify.attenuate_task(call.mint, call.unit, call.by, task, body.link, caveats)
    return TaskAttenuated(task=show_task(call.mint, done.row), bundle=done.bundle, kill=show_kill(done.report))


def attenuated_again(call: RouteCall, made: Made) -> TaskAttenuated:
    """Answer for a task that was attenuated by the same call before; the kill is as it was reported then."""
    again, report = task_again(call, made), (made.recipe or {})["kill"]
    return TaskAttenuated(task=again.task, bundle=again.bundle, kill=msgspec.convert(report, KillShown))


def extend_task_route(call: RouteCall) -> TaskStarted:
    """Add a grant to a task, or the same once more for longer; nothing ends by it."""
    body, task = call.body, own_task(call, call.path["task"])
    more = modify.More(body.template, body.params, body.ttl, body.tools, body.depth, body.link)
    done = modify.extend_task(call.mint, call.unit, call.by, task, more)
    return TaskStarted(task=show_task(call.mint, done.row), bundle=done.bundle)


def _caveat(given: dict[str, Any]) -> Caveat:
    """Read a caveat that a holder could have added; a delegation is made by whoever delegates."""
    try:
        caveat = read_caveat(jcs.encode(given)).check()
    except ArxError as error:
        raise GrantError(f"caveats: {error}", code="bad_parameters") from error
    if caveat.hop is not None or caveat.call is not None:
        raise GrantError("caveats: `to`, `hop` and `call` are for holders to add", code="bad_parameters")
    return caveat


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/tasks/{task}", "arx.tasks.read", get_task, callers=BOTH, problems=GONE),
    Endpoint(
        "POST",
        "/v1/tasks/{task}/attenuate",
        "arx.tasks.attenuate",
        attenuate_task_route,
        AttenuateBody,
        callers=("agent",),
        problems=(*NOT_STARTED, *GONE),
        again=attenuated_again,
        makes="task.attenuated",
    ),
    Endpoint(
        "POST",
        "/v1/tasks/{task}/extend",
        "arx.tasks.extend",
        extend_task_route,
        ExtendBody,
        callers=("agent",),
        status=201,
        problems=(*NOT_STARTED, *GONE),
        again=task_again,
        makes="task.extended",
        one_change=True,
    ),
)
