# SPDX-License-Identifier: Apache-2.0
"""The tasks in which an agent can send private data to the author of a text that it has read.

An agent that can read private data, read untrusted data and send does so if that text asks for it.  A row of ``after``
between the three ends it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from arx_caps.mint.policy.directions import meet_of
from arx_caps.mint.policy.marks import PRIVATE, UNTRUSTED, MarkEntry, returning, sending, warnings_of
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.tables import PolicyDocument, Template
from arx_verifier.names import matches_tool

_READS: Final = (UNTRUSTED, PRIVATE)
_Reads = Mapping[str, Mapping[str, Sequence[str]]]


class WayOut(NamedTuple):
    """A task whose agents can read private data, read untrusted data, and send.

    Attributes:
        task: The template's name.
        sends: Its tools that send, without a row between them and the two others.
        untrusted: By template the tools that return untrusted data, of all templates that one of its agents may have.
        private: The same for private data.
        rows: By template the entries that would end it, by member.
    """

    task: str
    sends: tuple[str, ...]
    untrusted: dict[str, list[str]]
    private: dict[str, list[str]]
    rows: dict[str, dict[str, list[dict[str, Any]]]]

    def text(self) -> str:
        """Return it for a person, with the entries as a policy writes them."""
        lines = [f"task {self.task} can send what its agents have read: {', '.join(self.sends)}"]
        for what, found in ((UNTRUSTED, self.untrusted), (PRIVATE, self.private)):
            lines += [f"  {what} data from {', '.join(tools)} in task {name}" for name, tools in found.items()]
        lines.append("these entries end it:")
        for name, members in self.rows.items():
            lines.append(f"  [task.{name}]")
            for member, entries in members.items():
                lines += [f"  {member} = [", *[f"    {_inline(entry)}," for entry in entries], "  ]"]
        return "\n".join(lines)


def ways_out(document: PolicyDocument) -> list[WayOut]:
    """Return the ways out of a policy, one for each task that sends.

    Args:
        document: The policy's tables.
    """
    found = []
    for name, template in document.task.items():
        # Marks are of a session, and one session has all tasks that its agent starts.
        others = {other: each for other, each in document.task.items() if each is template or _share(template, each)}
        reads = {what: _reads(others, document, what) for what in _READS}
        sends = [
            tool for tool in sending(template.rules, document.tool) if not _is_guarded(template, tool, reads, others)
        ]
        if sends and all(reads.values()):
            rows = _rows(name, sends, reads, others)
            found.append(WayOut(name, tuple(sends), reads[UNTRUSTED], reads[PRIVATE], rows))
    return found


def warnings_about(policy: Policy) -> list[str]:
    """Return all warnings about the rows of a valid policy."""
    return [*uncarried(policy), *unset(policy.document), *unanswered(policy.document)]


def uncarried(policy: Policy) -> list[str]:
    """Return a warning for each table of sessions of which an agent may have several open at once, if marks carry."""
    if not policy.carry_ms or not warnings_of(policy.templates.values()):
        return []
    several = [name for name, terms in policy.sessions.items() if terms.max_open != 1]
    why = "sessions that are open at the same time do not share what is set after they were opened"
    return [f"session {name}: max_open should be 1: {why}" for name in several]


def unset(document: PolicyDocument) -> list[str]:
    """Return a warning for each mark of ``after`` that no row sets in a session which has the template.

    A service may set it by ``grant.mark`` or a declaration, so it is no mistake of the policy alone.

    Args:
        document: The policy's tables.
    """
    found = []
    for name, template in document.task.items():
        having = [each for each in document.task.values() if each is template or _share(template, each)]
        settable = {mark.set for each in having for mark in each.marks}
        if template.preset is not None:
            settable |= set(_READS)  # a preset has its row also where no tool returns one of the two
        for mark in dict.fromkeys(mark for row in template.after for mark in row.mark if mark not in settable):
            found.append(f"task {name}: no entry of `marks` sets `{mark}` of `after`: only a service can set it")
    return found


def unanswered(document: PolicyDocument) -> list[str]:
    """Return a warning for each proof of an effect: a decider refuses the tools, whose answers it does not see."""
    return [
        f"task {name}: a decider refuses {', '.join(row.tools or ())}: it sees no answer, which proves `{row.proof}`"
        for name, template in document.task.items()
        for row in template.marks
        if row.on is not None
    ]


def _share(one: Template, other: Template) -> bool:
    return any(meet_of(first, second) is not None for first in one.agents for second in other.agents)


def _reads(templates: Mapping[str, Template], document: PolicyDocument, what: str) -> dict[str, list[str]]:
    found = {name: returning(what, each.rules, document.tool) for name, each in templates.items()}
    return {name: tools for name, tools in found.items() if tools}


def _is_guarded(template: Template, tool: str, reads: _Reads, templates: Mapping[str, Template]) -> bool:
    """Return whether a row refuses a tool once both were read: all of its marks are set then, of whatever name."""
    return any(
        _covers(row.tools, tool)
        and all(any(_set_all(mark, reads[what], templates) for what in _READS) for mark in row.mark)
        for row in template.after
    )


def _set_all(mark: str, reads: Mapping[str, Sequence[str]], templates: Mapping[str, Template]) -> bool:
    """Return whether each of these tools sets a mark."""
    return all(_sets(templates[name].marks, tool, mark) for name, tools in reads.items() for tool in tools)


def _sets(entries: Sequence[MarkEntry], tool: str, mark: str) -> bool:
    return any(entry.set == mark and entry.per == "session" and _covers(entry.tools or (), tool) for entry in entries)


def _covers(patterns: Sequence[str], tool: str) -> bool:
    return any(matches_tool(pattern, tool) for pattern in patterns)


def _rows(
    task: str, sends: Sequence[str], reads: _Reads, templates: Mapping[str, Template]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for what, by_template in reads.items():
        for name, tools in by_template.items():
            missing = [tool for tool in tools if not _sets(templates[name].marks, tool, what)]
            if missing:
                rows.setdefault(name, {}).setdefault("marks", []).append({"tools": missing, "set": what})
    ended = [row.tools for row in templates[task].after if set(row.mark) <= set(_READS)]
    missing = [tool for tool in sends if not any(_covers(tools, tool) for tools in ended)]
    if missing:
        rows.setdefault(task, {})["after"] = [{"mark": list(_READS), "tools": missing}]
    return rows


def _inline(entry: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in entry.items()) + " }"
