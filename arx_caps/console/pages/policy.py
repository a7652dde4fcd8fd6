# SPDX-License-Identifier: Apache-2.0
"""*Policy*: what is in force and was, and what differs."""

from typing import Final

from starlette.responses import Response

from arx_caps.console.command import quoted
from arx_caps.console.render import exact
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.operations.policy import IN_FORCE, compare_policies, get_policy, list_policies
from arx_caps.settings.durations import show_time

HOME: Final = "/console/policy"
SHOWN: Final = 20


def show_policy(visit: Visit) -> Response:
    """Show the policy in force, and those before."""
    return visit.render(
        "policy.html",
        title="Policy",
        command="arx policy show; arx policy list",
        policy=visit.call(get_policy, path={"digest": IN_FORCE}),
        policies=visit.call(list_policies, query={"limit": SHOWN, "after": visit.query.get("after")}),
    )


def show_version(visit: Visit) -> Response:
    """Show one policy, and how it differs from the one that is in force."""
    digest = visit.request.path_params["digest"]
    policy = visit.call(get_policy, path={"digest": digest})
    return visit.render(
        "policy_version.html",
        title=f"Policy of {show_time(policy.in_force_at)}",
        command=f"arx policy diff {quoted(digest)} {IN_FORCE}",
        policy=policy,
        diff=visit.call(compare_policies, path={"old": digest, "new": IN_FORCE}),
        show=lambda value: value if isinstance(value, str) else exact(value),
    )


PAGES: Final = (
    Page("GET", HOME, show_policy),
    Page("GET", f"{HOME}/{{digest}}", show_version),
)
