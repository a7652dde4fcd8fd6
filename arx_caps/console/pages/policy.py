# SPDX-License-Identifier: Apache-2.0
"""*Policy*: what is in force and was, and what differs."""

from typing import Final

import msgspec
from starlette.responses import Response

from arx_caps.console.command import quoted
from arx_caps.console.render import exact
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.operations.policy import IN_FORCE, get_policy, list_policies
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.model import Policy
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
    policy, in_force = visit.call(get_policy, path={"digest": digest}), visit.mint.policy
    differences = compare(Policy.parse(policy.policy, f"policy {policy.digest}"), in_force)
    return visit.render(
        "policy_version.html",
        title=f"Policy of {show_time(policy.in_force_at)}",
        command=f"arx policy diff {quoted(digest)} {IN_FORCE}",
        policy=policy,
        differences=[msgspec.to_builtins(each.shown()) for each in differences],
        show=lambda value: value if isinstance(value, str) else exact(value),
    )


PAGES: Final = (
    Page("GET", HOME, show_policy),
    Page("GET", f"{HOME}/{{digest}}", show_version),
)
