# SPDX-License-Identifier: Apache-2.0
"""Routes of kills and freezes: the end of anything, and who has confirmed it.  SPEC 10."""

from typing import Annotated, Final

from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteCall
from arx_caps.mint.api.views import KillShown, show_kill
from arx_caps.mint.revocation.revoker import Op

MAX_TARGETS: Final = 1000  # as many as one step of the store takes


class TargetsBody(Body, frozen=True):
    """Targets to kill, freeze or thaw, and why."""

    targets: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(min_length=1, max_length=MAX_TARGETS)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    wait: bool = True


def kill_targets(call: RouteCall) -> KillShown:
    """End everything born so far in these targets; kinds that could be delegated to again are frozen as well."""
    return _change_targets(call, "kill")


def freeze_targets(call: RouteCall) -> KillShown:
    """Refuse these targets until a thaw."""
    return _change_targets(call, "freeze")


def thaw_freezes(call: RouteCall) -> KillShown:
    """End the freezes on these targets."""
    return _change_targets(call, "thaw")


def _change_targets(call: RouteCall, op: Op) -> KillShown:
    body: TargetsBody = call.body
    return show_kill(call.mint.revoker.end(op, body.targets, reason=body.reason, by=call.by.by, wait=body.wait))


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/kills", "arx.kill", kill_targets, TargetsBody),
    Endpoint("POST", "/v1/freezes", "arx.freeze", freeze_targets, TargetsBody),
    Endpoint("POST", "/v1/freezes/thaw", "arx.thaw", thaw_freezes, TargetsBody),
)
