# SPDX-License-Identifier: Apache-2.0
"""Tell a session's story from its decisions: who handed what to whom, and what came of it.  SPEC 12, 19.

The tree follows links, not names: two sub-agents that were given the same name are two nodes.  Names in it are what the
previous holder wrote; only the agent at the root was proven, and the tree says so.  It is made of the decisions of
journals, or of the nodes and records that a mint's log answers with; drawing it is ``drawing``'s, of either.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from arx_verifier.journal.decision import Decision

_MAX_DEPTH: Final = 32  # a token holds 16 delegations; a record that claims more is cut here, not followed


class Line(NamedTuple):
    """What a tree says of one record.

    Attributes:
        at: When, ms since the Unix epoch.
        outcome: ``allow``, ``deny``, ``end``, ``counted``, ``gap`` or ``event``.
        what: The service and the tool, or who did what.
        why: For what was not allowed: the reason, and what was expected and what came.
        shown: The record, whole.
    """

    at: int
    outcome: str
    what: str
    why: tuple[str, str]
    shown: Mapping[str, Any]

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Self:
        """Make the line of a record that ``Decision.to_dict`` or a mint's log shows."""
        if "kind" in shown:
            return cls(shown["at"], "event", f"{shown['by']}  {shown['kind']}", ("", ""), shown)
        if "outcome" not in shown:
            return cls(0, "event", f"record {shown.get('index')}", ("", str(shown.get("problem", ""))), shown)
        what = f"{shown['audience'] or shown.get('service', '')}  {shown['tool'] or '(no tool)'}"
        outcome, code = shown["outcome"], shown["code"]
        failed = [f"{each['rule']}: expected {each['expected']}, came {each['came']}" for each in shown["failures"]]
        why = "" if outcome == "allow" else f"ended: {code}" if outcome == "end" else code
        return cls(shown["at"], outcome, what, (why, "; ".join(failed)), shown)

    @property
    def allowed(self) -> bool:
        """Whether it is an allowed call."""
        return self.outcome == "allow"


@dataclass(slots=True)
class Node:
    """One holder in a session: the agent itself, or one delegation.

    Attributes:
        name: The agent's path, or what the previous holder named the next one.
        link: Public name of the delegation, empty at the root of a task.
        task: The task, or sub-task, it belongs to.
        proven: Whether the name was proven (the agent that opened the session) or only written.
        assurance: How the holder was known: ``bearer`` says by possession alone; empty where that is not told.
        allowed: Its own allows.
        denied: Its own denials.
        other: What else was recorded at it: events, running work that was ended, gaps.
        decisions: Its own records, in order; not all of them, where there were many.
        children: Whom it delegated to, by link, in the order they were first seen.
    """

    name: str
    link: str = ""
    task: str | None = None
    proven: bool = False
    assurance: str = "bearer"
    allowed: int = 0
    denied: int = 0
    other: int = 0
    decisions: list[Line] = field(default_factory=list)
    children: dict[str, "Node"] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Take in a record, and count it."""
        self.decisions.append(line)
        self.allowed += line.allowed
        self.denied += line.outcome == "deny"
        self.other += line.outcome not in ("allow", "deny")

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
            "other": self.other,
            "decisions": [line.shown for line in self.decisions],
            "children": [child.to_dict() for child in self.children.values()],
        }


@dataclass(slots=True)
class Trail:
    """All decisions of one session.

    Attributes:
        session: The session's id.
        agent: The agent that opened it.
        subject: On whose behalf, if anybody's: issuer and subject.
        target: The target of that subject, where only that is told.
        policies: Digests of the policies its tokens were minted under.
        tasks: One tree a task, by task id (empty for the session's own token), in the order of their first decisions.
    """

    session: str
    agent: str = ""
    subject: tuple[str, str] | None = None
    target: str | None = None
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
        for task in facts.tasks[:_MAX_DEPTH]:
            node = node.children.setdefault(f"task:{task}", Node(node.name, task=task, assurance=facts.assurance))
        node.add(Line.of(decision.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return the trail for JSON, whole."""
        return {
            "session": self.session,
            "agent": self.agent,
            "subject": {"issuer": self.subject[0], "subject": self.subject[1]} if self.subject else None,
            "target": self.target,
            "policies": self.policies,
            "allowed": self.allowed,
            "denied": self.denied,
            "tasks": [node.to_dict() for node in self.tasks.values()],
        }


def trails_of_log(nodes: Sequence[Mapping[str, Any]], records: Iterable[Mapping[str, Any]] = ()) -> list[Trail]:
    """Make trails of what a mint's log answers.

    Args:
        nodes: Nodes as ``GET /v1/audit/nodes`` shows them: with their counts, each before what is below it.
        records: Records of theirs.
    """
    found: list[Trail] = []
    places: dict[int, Node] = {}
    roots: dict[int, Trail] = {}
    for row in nodes:
        counts = {"allowed": row["allow"], "denied": row["deny"], "other": row["other"]}
        kind, ref = row["kind"], row["ref"]
        above = nodes[row["parent"]]["node"] if row["parent"] is not None else None
        if above is None:
            roots[row["node"]] = told = Trail(ref, row["agent"] or row["name"], target=row["subject"])
            found.append(told)
            places[row["node"]] = Node(told.agent, proven=True, assurance="", **counts)
            if any(counts.values()):
                told.tasks[""] = places[row["node"]]
        elif above in roots and kind == "task":
            places[row["node"]] = roots[above].tasks[ref] = Node(row["name"], "", ref, True, "", **counts)
        else:
            parent = places[above]
            link, task = (ref, row["task"]) if kind == "link" else ("", ref)
            name = row["name"] if kind == "link" else parent.name
            node = places[row["node"]] = Node(name, link, task, assurance="", **counts)
            parent.children[link or f"task:{ref}"] = node
    for record in sorted(records, key=lambda record: record["at"] or 0):
        if record["node"] in places:
            node = places[record["node"]]
            node.decisions.append(Line.of(record))
            node.assurance = record.get("assurance") or node.assurance
    for told in found:
        lines = [line for root in told.tasks.values() for node in root.walk() for line in node.decisions]
        policies = [line.shown.get("policy") for line in sorted(lines, key=lambda line: line.at)]
        told.policies = list(dict.fromkeys(policy for policy in policies if policy))
    return found


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
