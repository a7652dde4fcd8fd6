# SPDX-License-Identifier: Apache-2.0
"""Routes of questions to a policy, and of those that are kept as tests.  CONTROL 6.5."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.api.routes.policy import IN_FORCE, READ, ROOM, WRITE
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.identity.authenticate import admit_operator
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.model import MAX_BYTES, Policy
from arx_caps.mint.tasks.policy_questions import PolicyQuestion, ask_policy
from arx_verifier.errors import GrantError, SettingsError

TestName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[ -~]+\Z")]
Code = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z_]+\Z")]


class QuestionBody(Body, frozen=True):
    """A question, and which policy is asked: a digest, or the one in force."""

    question: PolicyQuestion
    policy: Annotated[str, Meta(max_length=64)] = IN_FORCE


class TestBody(Body, frozen=True):
    """A question to keep, and the code of the answer that must stay: ``ok``, or that of a refusal."""

    name: TestName
    question: PolicyQuestion
    expect: Code


class RunBody(Body, frozen=True):
    """The policy to ask, as TOML; null for the one in force."""

    policy: Annotated[str, Meta(max_length=MAX_BYTES)] | None = None


class ReplyShown(RouteAnswer, frozen=True):
    """A policy's answer: ``ok`` or a refusal's code, with what would be granted, or what it would take."""

    policy: str
    code: str
    why: str | None
    explained: dict[str, Any]
    audience: str | None
    approval: dict[str, Any] | None


class TestShown(RouteAnswer, frozen=True):
    """A kept question."""

    name: str
    question: PolicyQuestion
    expect: str
    by: str
    added_at: int


class ResultShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy answers to a kept question, and whether that is what was expected."""

    test: TestShown
    code: str
    why: str | None
    passed: bool


class ResultsShown(RouteAnswer, frozen=True):
    """The answers of one policy to all kept questions, by name."""

    policy: str
    results: list[ResultShown]
    failed: int


class DifferenceShown(msgspec.Struct, frozen=True, kw_only=True):
    """One difference in meaning: ``granted``, ``no longer granted`` or ``changed``, with both policies' values."""

    kind: str
    place: str
    member: str
    before: Any
    after: Any


class PolicyDiff(RouteAnswer, frozen=True):
    """What differs in meaning between two policies."""

    old: str
    new: str
    differences: list[DifferenceShown]


def compare_policies(call: RouteCall) -> PolicyDiff:
    """Return what differs in meaning between two policies that were ever in force."""
    old, new = _policy(call.mint, call.path["old"]), _policy(call.mint, call.path["new"])
    found = [DifferenceShown(**msgspec.to_builtins(each._asdict())) for each in compare(old, new)]
    return PolicyDiff(old=old.digest, new=new.digest, differences=found)


def ask_policy_route(call: RouteCall) -> ReplyShown:
    """Return whether a policy would grant a task, and allow a call in it, and why not."""
    policy = _policy(call.mint, call.body.policy)
    reply = ask_policy(call.mint, policy, call.body.question)
    return ReplyShown(policy=policy.digest, **reply._asdict())


def add_policy_test(call: RouteCall) -> TestShown:
    """Keep a question as a test; one of the same name is replaced."""
    body, by, now = call.body, call.authenticated.actor, now_ms()
    row = {"name": body.name, "question": msgspec.json.encode(body.question).decode(), "expect": body.expect}
    call.mint.db.policies.add_test(
        row | {"by": by, "added_at": now}, Event.of("policy.test_added", by, name=body.name, expect=body.expect)
    )
    return TestShown(name=body.name, question=body.question, expect=body.expect, by=by, added_at=now)


def run_policy_tests(call: RouteCall) -> ResultsShown:
    """Ask a policy every kept question, and compare the answers with the expected ones."""
    mint = call.mint
    try:
        policy = mint.policy if call.body.policy is None else Policy.parse(call.body.policy, "the policy")
    except SettingsError as error:
        raise GrantError(str(error), code="policy") from error
    results = [_result(mint, policy, row) for row in mint.db.policies.tests()]
    return ResultsShown(policy=policy.digest, results=results, failed=sum(not one.passed for one in results))


def remove_policy_test(call: RouteCall) -> TestShown:
    """Remove a kept question."""
    name = call.path["name"]
    removed = Event.of("policy.test_removed", call.authenticated.actor, name=name)
    return _shown(call.mint.db.policies.remove_test(name, removed))


def _result(mint: MintContext, policy: Policy, row: Mapping[str, Any]) -> ResultShown:
    test = _shown(row)
    reply = ask_policy(mint, policy, test.question)
    return ResultShown(test=test, code=reply.code, why=reply.why, passed=reply.code == test.expect)


def _shown(row: Mapping[str, Any]) -> TestShown:
    question = msgspec.json.decode(row["question"], type=PolicyQuestion)
    return TestShown(**{**row, "question": question})


def _policy(mint: MintContext, digest: str) -> Policy:
    if digest in (IN_FORCE, mint.policies.loaded.digest):
        return mint.policy
    row = mint.db.policies.find(digest)
    if row is None:
        raise GrantError("no policy of this digest was ever in force", code="not_found")
    return Policy.parse(row["text"], f"policy {digest}")


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/policy/questions", READ, ask_policy_route, QuestionBody, problems=("not_found", "no_policy")),
    Endpoint("GET", "/v1/policies/{old}/diff/{new}", READ, compare_policies, problems=("not_found", "no_policy")),
    Endpoint("POST", "/v1/policy/tests", WRITE, add_policy_test, TestBody, problems=("conflict",)),
    Endpoint(
        "POST",
        "/v1/policy/tests/run",
        READ,
        run_policy_tests,
        RunBody,
        limit=ROOM,
        admit=admit_operator,
        problems=("policy", "no_policy"),
    ),
    Endpoint("DELETE", "/v1/policy/tests/{name}", WRITE, remove_policy_test, problems=("not_found",)),
)
