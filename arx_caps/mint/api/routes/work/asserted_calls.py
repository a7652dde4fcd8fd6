# SPDX-License-Identifier: Apache-2.0
"""The route by which a gateway asks the policy about a call without a credential.  CONTROL 5.14."""

from typing import Annotated, Any, Final

from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.tasks.asserted_calls import judge_asserted
from arx_verifier.clock import now_ms
from arx_verifier.errors import REASONS
from arx_verifier.journal import OK
from arx_verifier.request import UNSEEN_BODY, AccessRequest, HttpCall

ACTION: Final = "arx.policy.ask"
Text = Annotated[str, Meta(min_length=1, max_length=256)]


class AssertedBody(Body, frozen=True, kw_only=True):
    """A call: who makes it, as the service says, its tool and its arguments; ``unseen`` if there may be others."""

    agent: Text
    tool: Text
    args: dict[str, Any]
    peer: Annotated[str, Meta(max_length=64)] | None = None
    unseen: bool = False


class AssertedFailure(RouteAnswer, frozen=True):
    """What was expected of a call and what came."""

    place: str
    rule: str
    expected: str
    came: str


class AssertedShown(RouteAnswer, frozen=True):
    """Whether the policy allows the call; if not, a code of SPEC 13 and why; and the policy's digest."""

    allowed: bool
    code: str
    failures: list[AssertedFailure]
    detail: str | None
    policy: str


def judge_asserted_route(call: RouteCall) -> AssertedShown:
    """Return whether the policy allows a call at the service that asks, whose caller has shown no credential."""
    mint, body, audience = call.mint, call.body, call.authenticated.name
    mint.limits.count_agent(f"service:{audience}")
    http = HttpCall("ASSERTED", body.tool.encode(), UNSEEN_BODY) if body.unseen else None
    request = AccessRequest(body.tool, body.args, now_ms(), body.peer, http)
    policy = mint.policy.digest
    code, failures, detail = judge_asserted(mint, body.agent, audience, request)
    shown = [AssertedFailure(**failure._asdict()) for failure in failures]
    return AssertedShown(allowed=code == OK, code=code, failures=shown, detail=detail, policy=policy)


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/v1/policy/asserted",
        ACTION,
        judge_asserted_route,
        AssertedBody,
        callers=("service",),
        problems=(*REASONS, "no_policy"),
    ),
)
