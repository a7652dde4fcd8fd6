# SPDX-License-Identifier: Apache-2.0
"""*Policy*: what is in force and was, what differs, and whether something would be allowed, and why not."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

from arx_caps.console.command import quoted
from arx_caps.console.render import exact
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.policy import IN_FORCE, get_policy, list_policies
from arx_caps.mint.api.routes.policy_questions import (
    add_policy_test,
    ask_policy_route,
    compare_policies,
    remove_policy_test,
    run_policy_tests,
)
from arx_verifier.errors import RequestError

HOME: Final = "/console/policy"
SHOWN: Final = 20
_FIELDS: Final = ("agent", "task", "params", "issuer", "subject", "claims", "tool", "args")


def show_policy(visit: Visit) -> Response:
    """Show the policy in force, and those before."""
    policies = visit.call(list_policies, query={"limit": SHOWN, "after": visit.query.get("after")})
    return visit.render(
        "policy.html",
        title="Policy",
        command="arx policy show; arx policy list",
        policy=visit.call(get_policy, path={"digest": IN_FORCE}),
        policies=policies.policies,
        next=policies.next or None,
    )


def show_version(visit: Visit) -> Response:
    """Show one policy, and how it differs from the one that is in force."""
    digest = visit.request.path_params["digest"]
    policy = visit.call(get_policy, path={"digest": digest})
    return visit.render(
        "policy_version.html",
        title=f"Policy {policy.digest}",
        command=f"arx policy diff {quoted(digest)} {IN_FORCE}",
        policy=policy,
        diff=visit.call(compare_policies, path={"old": digest, "new": IN_FORCE}),
        show=lambda value: value if isinstance(value, str) else exact(value),
    )


def show_questions(visit: Visit) -> Response:
    """Show the form that asks the policy, its answer, and the kept questions with their answers."""
    values = {name: visit.query.get(name, "") for name in _FIELDS}
    reply, error = None, None
    if values["agent"] or values["task"]:
        # A mistake in the form is shown beside it, with what was typed.
        try:
            reply = visit.call(ask_policy_route, body={"question": _question(values)})
        except RequestError as wrong:
            error = str(wrong)
    results = visit.call(run_policy_tests, body={})
    return visit.render(
        "policy_questions.html",
        title="Would it be allowed?",
        command=_command(_question(values), reply.code) if reply is not None else "arx policy test run",
        values=values,
        reply=reply,
        error=error,
        results=results,
        explained=json.dumps(reply.explained, indent=2, ensure_ascii=True) if reply is not None else "",
        link=_link,
    )


def keep_question(visit: Visit) -> Response:
    """Keep a question as a test."""
    question = _question({name: visit.form.get(name, "") for name in _FIELDS})
    body = {"name": visit.form.get("name", ""), "question": question, "expect": visit.form.get("expect", "")}
    visit.call(add_policy_test, body=body)
    return visit.redirect(f"{HOME}/questions")


def remove_question(visit: Visit) -> Response:
    """Remove a kept question."""
    visit.call(remove_policy_test, path={"name": visit.form.get("name", "")})
    return visit.redirect(f"{HOME}/questions")


def _question(values: Mapping[str, str]) -> dict[str, Any]:
    question: dict[str, Any] = {"agent": values["agent"].strip(), "task": values["task"].strip()}
    question["params"] = _members("parameters", values["params"])
    if values["subject"]:
        claims = _members("claims", values["claims"])
        question["subject"] = {"issuer": values["issuer"].strip(), "name": values["subject"].strip(), "claims": claims}
    if values["tool"]:
        question |= {"tool": values["tool"].strip(), "args": _members("arguments", values["args"])}
    return question


def _command(question: Mapping[str, Any], code: str) -> str:
    """Return the command that asks whether the task is granted; of a call, the one that keeps the question."""
    words = [("agent", question["agent"]), ("task", question["task"]), *_assigned("param", question["params"])]
    if said := question.get("subject"):
        words += [("subject", said["issuer"]), ("", said["name"]), *_assigned("claim", said["claims"])]
    elif "tool" in question:
        words += [("call", question["tool"]), *_assigned("arg", question["args"]), ("expect", code)]
        return _spell("arx policy test add NAME", words)
    return _spell("arx policy explain", words)


def _assigned(option: str, members: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (option, f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}")
        for name, value in members.items()
    ]


def _spell(words: str, options: list[tuple[str, str]]) -> str:
    return " ".join([words, *(f"--{name} {quoted(value)}" if name else quoted(value) for name, value in options)])


def _members(what: str, text: str) -> dict[str, Any]:
    """Return ``name=value`` lines as an object; a value is JSON if it is some, else text."""
    members: dict[str, Any] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise RequestError(f"invalid {what}: expected a line name=value, got {line[:60]!r}")
        members[name.strip()] = value.strip()
        with contextlib.suppress(msgspec.DecodeError):
            members[name.strip()] = msgspec.json.decode(value.strip())
    return members


def _link(test: Any) -> dict[str, str]:
    """Return a kept question as the fields of the form."""
    question = test.question
    fields = {"agent": question.agent, "task": question.task, "params": _lines(question.params)}
    if question.subject is not None:
        said = question.subject
        fields |= {"issuer": said.issuer, "subject": said.name, "claims": _lines(said.claims)}
    if question.tool is not None:
        fields |= {"tool": question.tool, "args": _lines(question.args)}
    return fields


def _lines(members: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}={exact(value)}" for name, value in members.items())


PAGES: Final = (
    Page("GET", HOME, show_policy),
    Page("GET", f"{HOME}/questions", show_questions),
    Page("POST", f"{HOME}/questions", keep_question),
    Page("POST", f"{HOME}/questions/remove", remove_question),
    Page("GET", f"{HOME}/{{digest}}", show_version),
)
