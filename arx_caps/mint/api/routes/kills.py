# SPDX-License-Identifier: Apache-2.0
"""Routes of kills, freezes and thaws.  SPEC 10."""

from typing import Annotated, Final

from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteCall
from arx_caps.mint.api.views import KillShown, show_kill
from arx_caps.mint.revocation.revoker import Op

MAX_TARGETS: Final = 1000  # the bound of one step of the store, so that a call is in force as a whole or not at all


class TargetsBody(Body, frozen=True):
    """Targets to kill, freeze or thaw, and the reason."""

    targets: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(min_length=1, max_length=MAX_TARGETS)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    wait: bool = True  # for the verifiers' confirmations; the kill is in force either way


def kill_targets(call: RouteCall) -> KillShown:
    """Revoke everything born so far in these targets; targets that live on are frozen, too."""
    return _change_targets(call, "kill")


def freeze_targets(call: RouteCall) -> KillShown:
    """Refuse these targets until a thaw."""
    return _change_targets(call, "freeze")


def thaw_freezes(call: RouteCall) -> KillShown:
    """End the freezes of these targets."""
    return _change_targets(call, "thaw")


def _change_targets(call: RouteCall, op: Op) -> KillShown:
    body: TargetsBody = call.body
    return show_kill(
        call.mint.revoker.end(op, body.targets, reason=body.reason, by=call.authenticated.actor, wait=body.wait)
    )


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/kills", "arx.kill", kill_targets, TargetsBody),
    Endpoint("POST", "/v1/freezes", "arx.freeze", freeze_targets, TargetsBody),
    Endpoint("POST", "/v1/freezes/thaw", "arx.thaw", thaw_freezes, TargetsBody),
)
