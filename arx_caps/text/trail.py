# SPDX-License-Identifier: Apache-2.0
"""Build a session's delegation tree from its decisions.  SPEC 12, LOG 3.

The decisions come from journals, or from the nodes and records of a mint's audit log.  ``trail_tree`` draws it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from arx_caps.text.record_text import effect_of
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import Decision

BOUND: Final = "bound"  # assurance: each delegation of the record is signed.  SPEC 12.1
_MAX_DEPTH: Final = 32  # a token holds at most 16 delegations; a record that claims more than this is cut here


class TrailLine(NamedTuple):
    """The facts that a tree shows of one record.

    Attributes:
        at: The record's time, ms since the Unix epoch.
        outcome: ``allow``, ``deny``, ``end``, ``would_refuse``, ``effect``, ``counted``, ``gap`` or ``event``.
        what: The service and the tool, or the actor and the event.
        why: Unless the call was allowed: the reason, and the expected and the given values.
        shown: The record, whole.
    """

    at: int
    outcome: str
    what: str
    why: tuple[str, str]
    shown: Mapping[str, Any]

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Self:
        """Return the line of a record in the form of ``Decision.to_dict`` or of a mint's log."""
        if "kind" in shown:
            return cls(shown["at"], "event", f"{shown['by']}  {shown['kind']}", ("", ""), shown)
        if "outcome" not in shown:
            return cls(0, "event", f"record {shown.get('index')}", ("", str(shown.get("problem", ""))), shown)
        what = f"{shown['audience'] or shown.get('service', '')}  {shown['tool'] or '(no tool)'}"
        outcome, code = shown["outcome"], shown["code"]
        failed = [str(Failure(**failure)) for failure in shown["failures"]]
        why = "" if outcome == "allow" else f"ended: {code}" if outcome == "end" else code
        why = f"would refuse: {code}" if outcome == "would_refuse" else why
        if outcome == "effect":
            why = f"effect: {effect_of(shown)}"
        return cls(shown["at"], outcome, what, (why, "; ".join(failed)), shown)

    @property
    def allowed(self) -> bool:
        """Whether the record is an allowed call."""
        return self.outcome == "allow"


def keys_in(shown: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of the holders in a record of a bound token's call: each link, and the task of its agent, to one.

    Args:
        shown: The record, in the form of ``Decision.to_dict`` or of a mint's log.
    """
    keys = [holder["key"] for holder in shown.get("holders") or ()]
    # Of delegations that the mint vouches for (SPEC 16.2) there is no key but that of the last.
    places = [shown.get("task") or "", *(shown.get("links") or ())]
    return dict(zip(places[len(places) - len(keys) :], keys, strict=False)) if len(keys) <= len(places) else {}


# Children are keyed by link, not by name: two sub-agents that were given the same name are two nodes.  A name is what
# the previous holder wrote; the agent at the root was authenticated, and that holder signed if the task is bound.
@dataclass(slots=True)
class Node:
    """One holder in a session: the agent itself, or one delegation.

    Attributes:
        name: The agent's path, or the name that the previous holder gave to the next one.
        link: Public name of the delegation, empty at the root of a task.
        task: The task, or sub-task, it belongs to.
        proven: Whether the agent was authenticated (it opened the session), or the holder before has signed the
            delegation (of a bound task); else a holder has only written the name.
        assurance: How the holder was authenticated; ``bearer`` means possession alone, empty means not recorded.
        allowed: Its own allowed calls.
        denied: Its own denied calls.
        other: Its other records: events, running work that was ended, gaps.
        key: Its public key, 43 characters, if a record of a bound task's call has it; else empty.
        decisions: Its own records, in order; if there were many, not all of them.
        children: Its delegations by link, in the order of their first records.
    """

    name: str
    link: str = ""
    task: str | None = None
    proven: bool = False
    assurance: str = "bearer"
    allowed: int = 0
    denied: int = 0
    other: int = 0
    key: str = ""
    decisions: list[TrailLine] = field(default_factory=list)
    children: dict[str, "Node"] = field(default_factory=dict)

    def add(self, line: TrailLine) -> None:
        """Append a record, and count it."""
        self.decisions.append(line)
        self.allowed += line.allowed
        self.denied += line.outcome == "deny"
        self.other += line.outcome not in ("allow", "deny")

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all nodes below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return the node and its children as JSON values."""
        return {
            "name": self.name,
            "link": self.link,
            "task": self.task,
            "proven": self.proven,
            "assurance": self.assurance,
            "key": self.key,
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
        subject: Issuer and subject of the person on whose behalf the session runs, or None.
        target: That subject's target, where only the target is recorded.
        policies: Digests of the policies that its tokens were minted under.
        tasks: Trees by task id (empty for the session's own token), in the order of their first decisions.
    """

    session: str
    agent: str = ""
    subject: tuple[str, str] | None = None
    target: str | None = None
    policies: list[str] = field(default_factory=list)
    tasks: dict[str, Node] = field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """Number of allowed calls."""
        return sum(node.allowed for root in self.tasks.values() for node in root.walk())

    @property
    def denied(self) -> int:
        """Number of denied calls."""
        return sum(node.denied for root in self.tasks.values() for node in root.walk())

    def add(self, decision: Decision) -> None:
        """Add a decision of this session; add decisions in the order of their times."""
        facts = decision.facts
        self.agent, self.subject = facts.agent, facts.subject or self.subject
        if facts.policy and facts.policy not in self.policies:
            self.policies.append(facts.policy)
        task = facts.task or ""
        node = self.tasks.setdefault(task, Node(facts.agent, task=facts.task, proven=True, assurance=facts.assurance))
        shown = decision.to_dict()
        keys = keys_in(shown)
        node.key = keys.get(task) or node.key
        for name, link in list(zip(facts.named, facts.links, strict=False))[:_MAX_DEPTH]:
            node = node.children.setdefault(link, Node(name, link, facts.task, assurance=facts.assurance))
            node.key, node.proven = keys.get(link) or node.key, node.proven or facts.assurance == BOUND
        for task in facts.tasks[:_MAX_DEPTH]:
            node = node.children.setdefault(f"task:{task}", Node(node.name, task=task, assurance=facts.assurance))
        node.add(TrailLine.of(shown))

    def to_dict(self) -> dict[str, Any]:
        """Return the trail as JSON values."""
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
    """Return the trails in the answers of a mint's log.

    Args:
        nodes: Nodes in the form of ``GET /v1/audit/nodes``: with their counts, parents first.
        records: Records of these nodes.
    """
    built: list[Trail] = []
    places: dict[int, Node] = {}
    roots: dict[int, Trail] = {}
    for row in nodes:
        counts = {"allowed": row["allow"], "denied": row["deny"], "other": row["other"]}
        kind, ref = row["kind"], row["ref"]
        above = nodes[row["parent"]]["node"] if row["parent"] is not None else None
        if above is None:
            roots[row["node"]] = trail = Trail(ref, row["agent"] or row["name"], target=row["subject"])
            built.append(trail)
            places[row["node"]] = Node(trail.agent, proven=True, assurance="", **counts)
            if any(counts.values()):
                trail.tasks[""] = places[row["node"]]
        elif above in roots and kind == "task":
            places[row["node"]] = roots[above].tasks[ref] = Node(row["name"], "", ref, True, "", **counts)
        else:
            parent = places[above]
            link, task = (ref, row["task"]) if kind == "link" else ("", ref)
            name = row["name"] if kind == "link" else parent.name
            node = places[row["node"]] = Node(name, link, task, assurance="", **counts)
            parent.children[link or f"task:{ref}"] = node
    keys: dict[str, str] = {}
    proven: set[str] = set()
    for record in sorted(records, key=lambda record: record["at"] or 0):
        if record["node"] in places:
            node = places[record["node"]]
            node.decisions.append(TrailLine.of(record))
            node.assurance = record.get("assurance") or node.assurance
            keys |= keys_in(record)
            proven |= set(record["links"]) if record.get("assurance") == BOUND else set()
    for node in places.values():
        node.key = keys.get(node.link or node.task or "", "")
        node.proven = node.proven or node.link in proven
    for trail in built:
        lines = [line for root in trail.tasks.values() for node in root.walk() for line in node.decisions]
        policies = [line.shown.get("policy") for line in sorted(lines, key=lambda line: line.at)]
        trail.policies = list(dict.fromkeys(policy for policy in policies if policy))
    return built


def trail(decisions: Iterable[Decision], session: str) -> Trail:
    """Return the trail of one session; empty if no decision names it.

    Args:
        decisions: In the order of their times, as ``read_journal`` yields them.
        session: The session's id.
    """
    built = Trail(session)
    for decision in decisions:
        if decision.facts.session == session:
            built.add(decision)
    return built
