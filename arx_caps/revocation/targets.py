# SPDX-License-Identifier: Apache-2.0
"""What a kill or a freeze may name, and which of the two a kind of target gets.  SPEC 10.1.

A mistyped target would kill nothing and say that it was killed, so a target is held to its kind's grammar before it
goes to the store.  Whether such an agent or session exists is not known here.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from arx_verifier import names
from arx_verifier.errors import RequestError, shorten
from arx_verifier.token.targets import MAX_TARGET_BYTES


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


class Kind(NamedTuple):
    """One kind of target.

    Attributes:
        fits: Whether a text is a name of this kind.
        example: One, for error messages.
        kill: What ``kill`` does to it.  A kill alone leaves room for new tokens.  Where somebody else could delegate
            to the killed one again, offline, a moment later, it is frozen in the same entry.
    """

    fits: Callable[[str], bool]
    example: str
    kill: str


APPROVAL: Final = "a-"  # how the name of an approval begins, which is a sub-task of the task it was asked for

KINDS: Final = {
    "realm": Kind(lambda text: text == "", "realm", "kill+freeze"),
    "key": Kind(names.is_kid, "key:k1.0", "freeze"),
    "subject": Kind(_matches(r"[0-9a-f]{32}"), "subject:" + "0123456789abcdef" * 2, "kill+freeze"),
    "policy": Kind(_matches(r"[A-Za-z0-9_-]{22}"), "policy:" + "A" * 22, "freeze"),
    "agent": Kind(names.is_agent_path, "agent:acme/support", "kill+freeze"),
    "session": Kind(_matches(r"s-[a-z2-7]{16}"), "session:s-abcdefghijklmnop", "kill"),
    "task": Kind(_matches(r"[ta]-[a-z2-7]{16}"), "task:t-abcdefghijklmnop", "kill"),
    "link": Kind(_matches(r"[A-Za-z0-9_-]{22}"), "link:" + "A" * 22, "kill"),
    "operator": Kind(_matches(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"), "operator:ada", "kill+freeze"),
}


class Target(NamedTuple):
    """A target that fits its kind's grammar.

    Attributes:
        kind: A key of ``KINDS``.
        name: What comes after the colon; empty for the realm.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def kill_op(self) -> str:
        """
        What a kill of this target is: ``kill``, ``kill+freeze``, or ``freeze`` where only a standing refusal
        helps.
        """
        # A discharge has no birth of its own: with a token that is younger than the kill it would be good again.
        return "kill+freeze" if self.kind == "task" and self.name.startswith(APPROVAL) else KINDS[self.kind].kill


def parse_target(text: str) -> Target:
    """Read a target such as ``agent:acme/support`` or ``realm``.

    Raises:
        RequestError: The kind is unknown or the name does not fit it; the message shows what would.
    """
    kind, colon, name = text.partition(":")
    if kind not in KINDS:
        raise RequestError(f"{shorten(text)} names no kind of target; the kinds are {', '.join(KINDS)}")
    if bool(colon) != (kind != "realm") or not KINDS[kind].fits(name) or len(text) > MAX_TARGET_BYTES:
        raise RequestError(f"{shorten(text)} is not a target of kind {kind}; one looks like {KINDS[kind].example}")
    return Target(kind, name)


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """Read several targets, each once, in order.

    Raises:
        RequestError: There is none, or one of them is wrong.
    """
    targets = tuple(dict.fromkeys(parse_target(text) for text in texts))
    if not targets:
        raise RequestError("name at least one target")
    return targets
