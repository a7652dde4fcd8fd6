# SPDX-License-Identifier: Apache-2.0
"""Routes of kills and bans: the end of anything, and who has confirmed it.  SPEC 10."""

from typing import Annotated, Final

from msgspec import Meta

from arx_caps.mint.ending import Op, end_scopes
from arx_caps.mint.endpoint import Asked, Body, Endpoint
from arx_caps.mint.shown import KillShown, show_kill

MAX_SCOPES: Final = 1000  # as many as one step of the store takes


class ScopesBody(Body, frozen=True):
    """Scopes to kill, ban or lift, and why."""

    scopes: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(min_length=1, max_length=MAX_SCOPES)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    wait: bool = True


def kill_scopes(asked: Asked) -> KillShown:
    """End everything born so far in these scopes; kinds that could be handed to again are banned as well."""
    return _end(asked, "kill")


def ban_scopes(asked: Asked) -> KillShown:
    """Refuse these scopes until a lift."""
    return _end(asked, "ban")


def lift_bans(asked: Asked) -> KillShown:
    """End the bans on these scopes."""
    return _end(asked, "lift")


def _end(asked: Asked, op: Op) -> KillShown:
    body: ScopesBody = asked.body
    return show_kill(end_scopes(asked.mint, op, body.scopes, reason=body.reason, by=asked.by.by, wait=body.wait))


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/kills", "arx.kill", kill_scopes, ScopesBody),
    Endpoint("POST", "/v1/bans", "arx.ban", ban_scopes, ScopesBody),
    Endpoint("POST", "/v1/bans/lift", "arx.ban.lift", lift_bans, ScopesBody),
)
