# SPDX-License-Identifier: Apache-2.0
"""Tell a session's story from its decisions: who handed what to whom, and what came of it.  SPEC 12.

The tree follows links, not names: two sub-agents that were given the same name are two nodes.  Names in it are what the
previous holder wrote; only the agent at the root was proven, and the tree says so.  Reading journals is the verifier
package's; choosing what to print is the command's.
"""

import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from arx_verifier.decisions import Decision

_STYLES: Final = {"allow": "32", "deny": "31", "bold": "1", "dim": "2"}
_MAX_DEPTH: Final = 32  # a token holds 16 hand-overs; a record that claims more is cut here, not followed
_NO_LIMIT: Final = 1 << 20
_RUN: Final = 6  # more allowed calls than this without a refusal between them are drawn as one line
_SHOWN_TOOLS: Final = 4


@dataclass(slots=True)
class Node:
    """One holder in a session: the agent itself, or one hand-over.

    Attributes:
        name: The agent's path, or what the previous holder named the next one.
        link: Public name of the hand-over, empty at the root of a task.
        task: The task it belongs to.
        proven: Whether the name was proven (the agent that opened the session) or only written.
        assurance: How the holder was known: ``bearer`` says by possession alone.
        decisions: Its own decisions, in order.
        children: Whom it handed to, by link, in the order they were first seen.
    """

    name: str
    link: str = ""
    task: str | None = None
    proven: bool = False
    assurance: str = "bearer"
    decisions: list[Decision] = field(default_factory=list)
    children: dict[str, "Node"] = field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """Its own allows."""
        return sum(decision.allowed for decision in self.decisions)

    @property
    def denied(self) -> int:
        """Its own denials."""
        return len(self.decisions) - self.allowed

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return the node for JSON, whole."""
        return {
            "name": self.name,
            "link": self.link,
            "task": self.task,
            "proven": self.proven,
            "assurance": self.assurance,
            "allowed": self.allowed,
            "denied": self.denied,
            "decisions": [decision.to_dict() for decision in self.decisions],
            "children": [child.to_dict() for child in self.children.values()],
        }


@dataclass(slots=True)
class Trail:
    """All decisions of one session.

    Attributes:
        session: The session's id.
        agent: The agent that opened it.
        subject: On whose behalf, if anybody's: issuer and subject.
        policies: Digests of the policies its tokens were minted under.
        tasks: One tree a task, by task id (empty for the session's own token), in the order of their first decisions.
    """

    session: str
    agent: str = ""
    subject: tuple[str, str] | None = None
    policies: list[str] = field(default_factory=list)
    tasks: dict[str, Node] = field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """All allows."""
        return sum(node.allowed for root in self.tasks.values() for node in root.walk())

    @property
    def denied(self) -> int:
        """All denials."""
        return sum(node.denied for root in self.tasks.values() for node in root.walk())

    def add(self, decision: Decision) -> None:
        """Take in one decision of this session; decisions come in the order of their times."""
        facts = decision.facts
        self.agent, self.subject = facts.agent, facts.subject or self.subject
        if facts.policy and facts.policy not in self.policies:
            self.policies.append(facts.policy)
        task = facts.task or ""
        node = self.tasks.setdefault(task, Node(facts.agent, task=facts.task, proven=True, assurance=facts.assurance))
        for name, link in list(zip(facts.named, facts.links, strict=False))[:_MAX_DEPTH]:
            node = node.children.setdefault(link, Node(name, link, facts.task, assurance=facts.assurance))
        node.decisions.append(decision)

    def to_dict(self) -> dict[str, Any]:
        """Return the trail for JSON, whole."""
        return {
            "session": self.session,
            "agent": self.agent,
            "subject": {"issuer": self.subject[0], "subject": self.subject[1]} if self.subject else None,
            "policies": self.policies,
            "allowed": self.allowed,
            "denied": self.denied,
            "tasks": [node.to_dict() for node in self.tasks.values()],
        }


def trails(decisions: Iterable[Decision]) -> dict[str, Trail]:
    """Sort decisions into sessions.

    Args:
        decisions: In the order of their times, as ``read_journal`` yields them; what names no session, such as counts
            of unproven refusals, is left out.

    Returns:
        A trail a session, in the order of their first decisions.
    """
    found: dict[str, Trail] = {}
    for decision in decisions:
        session = decision.facts.session
        if session:
            found.setdefault(session, Trail(session)).add(decision)
    return found


def trail(decisions: Iterable[Decision], session: str) -> Trail:
    """Tell the story of one session; empty when no decision names it."""
    found = Trail(session)
    for decision in decisions:
        if decision.facts.session == session:
            found.add(decision)
    return found


def render(told: Trail, *, colour: bool | None = None, width: int | None = None) -> str:
    """Draw a trail for a terminal.

    Args:
        told: The trail.
        colour: Whether to use colours; None: when standard output is a terminal and ``NO_COLOR`` is not set.
        width: Longest line in characters; None: the terminal's, or no limit where there is none.

    Returns:
        Lines, each ended by a line feed.
    """
    terminal = sys.stdout.isatty()
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR")
    if width is None:
        width = shutil.get_terminal_size().columns if terminal else _NO_LIMIT
    return "".join(_line(parts, colour, width) for parts in _lines(told))


_Part = tuple[str, str]  # style and text


def _lines(told: Trail) -> Iterator[list[_Part]]:
    yield [("bold", told.session), ("", "  "), ("", told.agent), *_counts(told.allowed, told.denied)]
    if told.subject:
        issuer, subject = told.subject
        yield [("dim", f"on behalf of {subject}, as {issuer} says")]
    for policy in told.policies:
        yield [("dim", f"policy {policy}")]
    for position, root in enumerate(told.tasks.values()):
        yield from _tree(root, "", last=position == len(told.tasks) - 1)


def _tree(node: Node, indent: str, *, last: bool) -> Iterator[list[_Part]]:
    yield [("dim", indent + ("└─ " if last else "├─ ")), *_title(node)]
    indent += "   " if last else "│  "
    rows = list(_rows(node.decisions))
    for position, row in enumerate(rows):
        end = not node.children and position == len(rows) - 1
        yield [("dim", indent + ("└─ " if end else "├─ ")), *row]
    for position, child in enumerate(node.children.values()):
        yield from _tree(child, indent, last=position == len(node.children) - 1)


def _title(node: Node) -> list[_Part]:
    if node.proven:
        place = f"task {node.task}" if node.task else "the session itself"
        return [("bold", node.name), ("dim", f" (proven, {node.assurance})  {place}"), *_counts_of(node)]
    link = f"  link:{node.link}"  # whole, as `arx kill` takes it
    return [("bold", node.name), ("dim", f" (named, {node.assurance}){link}"), *_counts_of(node)]


def _counts_of(node: Node) -> list[_Part]:
    return _counts(node.allowed, node.denied) if node.decisions else []


def _counts(allowed: int, denied: int) -> list[_Part]:
    parts = [("", "  "), ("allow", f"{allowed} allowed")]
    return [*parts, ("", ", "), ("deny", f"{denied} denied")] if denied else parts


def _rows(decisions: Sequence[Decision]) -> Iterator[list[_Part]]:
    """Write each decision in a line, but a long run of allowed ones in one: what was refused must not drown."""
    for allowed, run in itertools.groupby(decisions, key=lambda decision: decision.allowed):
        calls = list(run)
        if allowed and len(calls) > _RUN:
            yield _run(calls)
        else:
            yield from map(_call, calls)


def _run(calls: Sequence[Decision]) -> list[_Part]:
    tools = Counter(f"{call.facts.audience}  {call.tool}" for call in calls).most_common(_SHOWN_TOOLS + 1)
    what = ", ".join(f"{tool} x{count}" for tool, count in tools[:_SHOWN_TOOLS]) + (
        ", …" if tools[_SHOWN_TOOLS:] else ""
    )
    until = _time(calls[-1])[len("2026-11-25 ") :]
    return [("allow", "✓ "), ("dim", f"{_time(calls[0])}Z to {until}Z  "), ("", f"{len(calls)} calls: {what}")]


def _time(decision: Decision) -> str:
    return datetime.fromtimestamp(decision.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _call(decision: Decision) -> list[_Part]:
    at = _time(decision)
    what = f"{decision.facts.audience}  {decision.tool or '(no tool)'}"
    if decision.allowed:
        return [("allow", "✓ "), ("dim", at + "Z  "), ("", what)]
    why = "; ".join(
        f"{failure.rule}: expected {failure.expected}, came {failure.came}" for failure in decision.failures
    )
    code = f"ended: {decision.code}" if decision.outcome == "end" else decision.code
    parts = [("deny", "✗ "), ("dim", at + "Z  "), ("", what + "  "), ("deny", code)]
    return [*parts, ("", f"  {why}")] if why else parts


def _line(parts: list[_Part], colour: bool, width: int) -> str:
    """Put a line together, cut at the width; its texts come from tokens and requests, and must not steer a terminal."""
    line, left = "", max(width, 20)
    for style, raw in parts:
        text = "".join(character if character.isprintable() else "?" for character in raw)
        if len(text) > left:
            text = text[: left - 1] + "…" if left else ""
        left -= len(text)
        line += f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and style and text else text
    return line.rstrip() + "\n"
