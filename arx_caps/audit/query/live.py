# SPDX-License-Identifier: Apache-2.0
"""Whether a record that was just appended matches a question, without the database.

One reader of the log serves all viewers of new records, each with a filter of its own.  A record of a task, delegation
or agent matches if it is theirs or of what came from them; ``questions`` also finds what they came from.
"""

from collections.abc import Mapping
from typing import Any

from arx_caps.audit.ingest.entries import place_of_event
from arx_caps.audit.query.node_search import Question
from arx_verifier.names import matches_path, matches_tool
from arx_verifier.token.targets import subject_target


def matches(question: Question, shown: Mapping[str, Any]) -> bool:
    """Return whether a record matches a question; the question's times are ignored.

    Args:
        question: The filter.
        shown: The record, as ``show_record`` returns it.
    """
    if shown["type"] == "unreadable":
        return question == Question()
    if shown["type"] == "event":
        facts = shown["named"]
        place = place_of_event(shown["by"], facts | (shown["facts"] or {}))
        agents, links, subject = [place.agent], [facts.get("link")], place.subject
        tool, words = shown["kind"], ["event"]
        tasks, session = [facts.get("task")], facts.get("session")
    else:
        agents, links, person = [shown["agent"], *shown["named"]], shown["links"], shown["subject"]
        tool, words = shown["tool"], [shown["outcome"], shown["code"]]
        words += [counted["code"] for counted in shown["counts"]]
        tasks, session = [shown["task"], *shown["tasks"]], shown["session"]
        subject = subject_target(person["issuer"], person["subject"]) if question.subject and person else None
    wants_task = question.task or question.granted
    return (
        (question.session is None or question.session == session)
        and (wants_task is None or wants_task in tasks)
        and (question.link is None or question.link in links)
        and (question.agent is None or any(agent and _is(question.agent, agent) for agent in agents))
        and (question.subject is None or question.subject == subject)
        and (question.tool is None or question.tool == tool or matches_tool(question.tool, tool))
        and (question.connection is None or question.connection in f"{shown.get('named')}{shown.get('credential')}")
        and (question.reason is None or question.reason in words)
    )


def _is(pattern: str, agent: str) -> bool:
    return matches_path(pattern, agent) if "*" in pattern else pattern == agent
