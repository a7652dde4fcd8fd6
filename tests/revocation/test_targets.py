# SPDX-License-Identifier: Apache-2.0
"""Targets: a mistyped one would kill nothing and say that it did."""

import pytest

from arx_caps.revocation.targets import KINDS, parse_target, parse_targets
from arx_verifier.errors import RequestError
from arx_verifier.token.targets import subject_target

pytestmark = pytest.mark.spec("10.1")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_reads_its_example(kind: str) -> None:
    """The example in the error message is a target, and is written back alike."""
    example = KINDS[kind].example
    target = parse_target(example)
    assert target.kind == kind
    assert str(target) == example


def test_a_subject_is_read_as_the_verifier_writes_it() -> None:
    """Mint, verifiers and operators write one target alike."""
    assert parse_target(subject_target("https://idp", "ada")).kind == "subject"


@pytest.mark.parametrize(
    ("kind", "op"),
    [
        *((kind, "kill+freeze") for kind in ("agent", "realm", "subject", "operator")),
        *((kind, "freeze") for kind in ("key", "policy")),
        *((kind, "kill") for kind in ("session", "task", "link")),
    ],
)
def test_what_a_kill_of_each_kind_is(kind: str, op: str) -> None:
    """An agent that others could delegate to again is frozen too; a retired one is only frozen; an end is a kill."""
    assert parse_target(KINDS[kind].example).kill_op == op


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "agent",
            "agent:",
            "agent:Acme",
            "agent:acme//x",
            "agent:acme/",
            "agent:" + "a" * 65,
            "realm:",
            "realm:x",
        ),
        *("session:t-abcdefghijklmnop", "session:s-ABCDEFGHIJKLMNOP", "session:s-short", "task:s-abcdefghijklmnop"),
        *("link:short", "key:k1", "subject:ada", "operator:", "operator:a b", "operator:ada\n", "policy:x", "Realm"),
    ],
)
def test_a_mistyped_target_is_refused(text: str) -> None:
    """No kind, another kind's name, or an unprintable one."""
    with pytest.raises(RequestError):
        parse_target(text)


def test_the_refusal_shows_what_would_fit() -> None:
    """The message names the kinds, or an example of the kind."""
    with pytest.raises(RequestError, match="expected one of realm, key, subject"):
        parse_target("sessions:x")
    with pytest.raises(RequestError, match="expected one like session:s-"):
        parse_target("session:x")


def test_several_targets_are_read_once_each() -> None:
    """Doubles count once, none at all is a mistake."""
    assert [str(target) for target in parse_targets(["realm", "agent:a", "realm"])] == ["realm", "agent:a"]
    with pytest.raises(RequestError, match="at least one"):
        parse_targets([])
