# SPDX-License-Identifier: Apache-2.0
"""Parse the targets of kills and freezes.  SPEC 10.1.

Whether such an agent or session exists is not checked.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from arx_verifier import names
from arx_verifier.errors import RequestError, shorten
from arx_verifier.memory.taints import TaintWindow, read_window
from arx_verifier.token.targets import MAX_TARGET_BYTES


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


class Kind(NamedTuple):
    """One kind of target.

    Attributes:
        fits: Returns whether a text is a name of this kind.
        example: A target of this kind, for error messages.
        kill: The operation that ``kill`` performs on it.
    """

    fits: Callable[[str], bool]
    example: str
    kill: str


APPROVAL: Final = "a-"  # prefix of an approval's name, which is a sub-task of the task that asked for it

# A mistyped target would kill nothing and be reported as killed, so each kind has a grammar.  A kill alone leaves room
# for new tokens.  Where another holder could delegate to the killed one again, offline, a moment later, the same entry
# freezes it as well.
KINDS: Final = {
    "realm": Kind(lambda text: text == "", "realm", "kill+freeze"),
    "key": Kind(names.is_kid, "key:k1.2", "freeze"),
    "subject": Kind(_matches(r"[0-9a-f]{32}"), "subject:" + "0123456789abcdef" * 2, "kill+freeze"),
    "policy": Kind(_matches(r"[A-Za-z0-9_-]{22}"), "policy:" + "A" * 22, "freeze"),
    "agent": Kind(names.is_agent_path, "agent:acme/support", "kill+freeze"),
    "session": Kind(_matches(r"s-[a-z2-7]{16}"), "session:s-abcdefghijklmnop", "kill"),
    "task": Kind(_matches(r"[ta]-[a-z2-7]{16}"), "task:t-abcdefghijklmnop", "kill"),
    "link": Kind(_matches(r"[A-Za-z0-9_-]{22}"), "link:" + "A" * 22, "kill"),
    "connection": Kind(_matches(r"c-[a-z2-7]{16}"), "connection:c-abcdefghijklmnop", "kill"),
    "operator": Kind(_matches(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"), "operator:ada", "kill+freeze"),
}
# Their kills are also the ordinary end of work, which taints nothing: the kill by an operator adds a taint.
_ENDING: Final = ("session", "task", "link")
_WRITING: Final = ("realm", "agent", "subject", *_ENDING)  # what the entries of a memory can be traced to


def _is_taint(name: str) -> bool:
    window = read_window(f"memory:{name}")
    if window is None or not is_tainted_kind(window.target):
        return False
    kind, _, rest = window.target.partition(":")
    return (rest == "") == (kind == "realm") and KINDS[kind].fits(rest)


KINDS["memory"] = Kind(_is_taint, "memory:agent:acme/support@AAAAAAAA", "freeze")


def names_person(target: str) -> bool:
    """Return whether a target names a person: a subject, or what a subject wrote into memories."""
    return target.removeprefix("memory:").startswith("subject:")


def is_tainted_kind(target: str) -> bool:
    """Return whether entries of a memory can be traced to a target of this kind."""
    return target.partition(":")[0] in _WRITING and not target.startswith(f"task:{APPROVAL}")


class Target(NamedTuple):
    """A parsed target.

    Attributes:
        kind: A key of ``KINDS``.
        name: The part after the colon; empty for the realm.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def kill_op(self) -> str:
        """The operation that kills this target: ``kill``, ``kill+freeze`` or ``freeze``."""
        # It is `freeze` where only a standing refusal helps.
        # A discharge has no birth of its own: a token that is younger than the kill could use it again.
        return "kill+freeze" if self.kind == "task" and self.name.startswith(APPROVAL) else KINDS[self.kind].kill

    @property
    def taint(self) -> TaintWindow | None:
        """The taint that a kill by an operator adds; None if the kill freezes the target, which taints it."""
        return TaintWindow(str(self)) if self.kind in _ENDING and self.kill_op == "kill" else None


def parse_target(text: str) -> Target:
    """Parse a target.  SPEC 10.1.

    Args:
        text: For example ``agent:acme/support`` or ``realm``.

    Raises:
        RequestError: The kind is unknown, or the name does not fit the kind.
    """
    kind, colon, name = text.partition(":")
    if kind not in KINDS:
        raise RequestError(f"unknown kind of target: expected one of {', '.join(KINDS)}, got {shorten(text)}")
    if not colon and kind != "realm":
        raise RequestError(f"invalid {kind} target: the id is missing: expected one like {KINDS[kind].example}")
    if bool(colon) != (kind != "realm") or not KINDS[kind].fits(name) or len(text) > MAX_TARGET_BYTES:
        raise RequestError(f"invalid {kind} target: expected one like {KINDS[kind].example}, got {shorten(text)}")
    return Target(kind, name)


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """Parse targets, in order, without duplicates.

    Raises:
        RequestError: There is none, or one is invalid.
    """
    targets = tuple(dict.fromkeys(parse_target(text) for text in texts))
    if not targets:
        raise RequestError("name at least one target")
    return targets
