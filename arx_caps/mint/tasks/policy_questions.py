# SPDX-License-Identifier: Apache-2.0
"""Ask a policy whether a task, and a call in it, would be allowed; read such questions with their expected answers.

Neither a mint nor a key is needed: the token of a call is made with a key of its own, is judged by a verifier, and
never leaves this module.
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta, field
from msgspec.structs import replace

from arx_caps.mint.context import Born
from arx_caps.mint.db.tables import AgentRow
from arx_caps.mint.policy.approvals import show_terms
from arx_caps.mint.policy.explain import Explained, PolicyRefusal, explain_grant
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.marks import MEMBERS
from arx_caps.mint.policy.members import members_of
from arx_caps.mint.policy.model import CODE, Policy, TaskGrant
from arx_caps.mint.tasks.token_factory import Birth, caveats_of, new_link, new_name
from arx_caps.settings.toml_file import MISLEADING, TomlEntry, TomlTable, read_toml, several
from arx_verifier import jcs, names
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, MalformedTokenError, RequestError, refusal
from arx_verifier.journal.decision import OK, InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier

Text = Annotated[str, Meta(min_length=1, max_length=256)]
_KID: Final = "question.0"
_REALM: Final = "question"
_BARE: Final = re.compile("[A-Za-z0-9_-]+")
_ESCAPED: Final = re.compile(f"\x7f|{MISLEADING.pattern}")


class QuestionSubject(TomlTable, frozen=True, kw_only=True):
    """The subject on whose behalf the session would run.

    Attributes:
        issuer: The URL of the issuer.
        sub: The issuer's name of the subject.
        claims: Further claims of the subject.
    """

    issuer: Text
    sub: Text
    claims: dict[str, Any] = field(default_factory=dict)


class PolicyQuestion(TomlTable, frozen=True, kw_only=True):
    """Whether an agent would get a task, and with ``tool`` whether a call in it would be allowed.

    Attributes:
        name: The question's name in a file.
        agent: The agent's path.
        task: The template's name.
        params: Values for its parameters.
        subject: The subject of the session, or None.
        tool: The tool of a call in the task; None to ask for the task alone.
        args: The arguments of the call.
        peer: The network address that the call comes from, or None.
        expect: The code of the expected answer: ``ok``, or that of a refusal.
        need: How many operators must be needed to approve the call; None if that is not asked.
    """

    name: Text = "question"
    agent: Text
    task: Text
    params: dict[str, Any] = field(default_factory=dict)
    subject: QuestionSubject | None = None
    tool: Text | None = None
    args: dict[str, Any] = field(default_factory=dict)
    peer: Text | None = None
    expect: Text = OK
    need: Annotated[int, Meta(ge=0, le=8)] | None = None


class QuestionFile(TomlTable, frozen=True, kw_only=True):
    """A file of questions."""

    question: Annotated[tuple[PolicyQuestion, ...], several("question", "for example [[question]]")]


class PolicyReply(NamedTuple):
    """A policy's answer to a question.

    Attributes:
        code: ``ok``, or the code of the refusal.
        why: The refusal as a sentence; None if it is allowed.
        explained: What the session and the task would be, or the changes that would grant them.
        audience: Where the call would go; None without a call, or without a task.
        approval: The terms of the approval that the call needs, or None.
    """

    code: str
    why: str | None
    explained: Explained
    audience: str | None = None
    approval: dict[str, Any] | None = None

    def answers(self, question: PolicyQuestion) -> bool:
        """Return whether the answer is the expected one."""
        need = self.approval["need"] if self.approval is not None else 0
        return self.code == question.expect and question.need in (None, need)


_NO_ROWS: Final[dict[str, None]] = dict.fromkeys((*MEMBERS, "opened"))


def load_questions(path: str) -> tuple[PolicyQuestion, ...]:
    """Parse a file of questions.

    Raises:
        SettingsError: It cannot be read, has no question, or has a mistake, with file, line and key.
    """
    entry = TomlEntry(read_toml(path, CODE))
    file: QuestionFile = entry.read(QuestionFile, entry.text.document)
    first: dict[str, int] = {}
    for index, question in enumerate(file.question):
        each = entry.at("question", index)
        if "name" not in entry.text.document["question"][index]:
            raise each.error('needs `name`, such as "refunds end at 100"')
        if first.setdefault(question.name, index) != index:
            raise each.at("name").error("expected a name of its own, got that of another question")
        if question.tool is None and (question.args or question.peer or question.need is not None):
            raise each.error("`args`, `peer` and `need` are about a call: add `tool`")
        for member in ("params", "args", "subject"):
            try:
                jcs.jcs(entry.text.document["question"][index].get(member, {}))
            except RequestError as error:
                raise each.at(member).error(f"{error}; write a date as text") from error
    return file.question


def ask_policy(
    policy: Policy,
    question: PolicyQuestion,
    *,
    ttl: str | None = None,
    tools: tuple[str, ...] | None = None,
    depth: int | None = None,
) -> PolicyReply:
    """Return what a policy answers.

    Args:
        policy: The policy.
        question: The question.
        ttl: A shorter lifetime, as a duration such as ``5m``.
        tools: Fewer tools.
        depth: Fewer delegations.
    """
    said = question.subject
    subject = Subject(said.issuer, said.sub, said.claims) if said is not None else None
    explained = explain_grant(
        policy,
        agent=question.agent,
        task=question.task,
        params=question.params,
        ttl=ttl,
        tools=tools,
        depth=depth,
        subject=subject,
    )
    for part in explained:
        if isinstance(part, PolicyRefusal):
            return PolicyReply(part.code, part.why, explained)
    assert isinstance(explained.task, TaskGrant)
    if question.tool is None:
        return PolicyReply(OK, None, explained)
    return _judge(policy, explained.task, question, subject, explained)


def write_question(question: PolicyQuestion, reply: PolicyReply, number: int | None = None) -> str:
    """Return a question in the form of a file, with the answer as the expected one.

    Args:
        question: The question; its name is made of what it asks.
        reply: The answer.
        number: A number that makes its name different from those of others in the file, or None.
    """
    need = reply.approval["need"] if reply.approval is not None else 0 if question.tool and reply.code == OK else None
    said = f"{question.agent}: {question.tool or question.task} {'is allowed' if reply.code == OK else 'is refused'}"
    name = said[:256] if number is None else f"{number}. {said}"[:256]
    shown = members_of(replace(question, name=name, expect=reply.code, need=need))
    members = {key: value for key, value in shown.items() if value not in (None, {})}
    return "\n".join(["[[question]]", *(f"{key} = {toml_value(value)}" for key, value in members.items())])


def toml_key(name: str) -> str:
    """Return a name as a key of TOML."""
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        members = ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {members} }}" if members else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    # A JSON text is one of TOML, but for DEL and what a file may not show; other values are spelled alike.
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _judge(
    policy: Policy, grant: TaskGrant, question: PolicyQuestion, subject: Subject | None, explained: Explained
) -> PolicyReply:
    first: PolicyReply | None = None
    tool = str(question.tool)
    # A service that has a rule for the tool is asked first: its refusal says what is wrong with the arguments.
    fitting = sorted(grant.rules, key=lambda name: not any(names.matches_tool(r.tool, tool) for r in grant.rules[name]))
    for audience in fitting:
        code, why = _decide(policy, grant, audience, question, subject)
        needed = [
            terms
            for terms in grant.approvals.get(audience, ())
            if any(names.matches_tool(pattern, tool) for pattern in terms.tools)
        ]
        approval = show_terms(needed[0]) if needed and code == OK else None
        reply = PolicyReply(code, why, explained, audience, approval)
        if code == OK:
            return reply
        first = first or reply
    return first or PolicyReply("tool_not_allowed", "the task is for no service", explained)


def _decide(
    policy: Policy, grant: TaskGrant, audience: str, question: PolicyQuestion, subject: Subject | None
) -> tuple[str, str | None]:
    now, key, epochs = now_ms(), secrets.token_bytes(32), UnsafeLocalEpochs()
    agent = AgentRow(path=question.agent, status="active", metadata={}, created_at=0)
    ring = KeyRing({_KID: key}, realm=_REALM)
    born = Born(epochs.incarnation, epochs.seq)
    end, session, task = now + min(grant.ttl_ms, ring.max_ttl_ms), new_name("s-"), new_name("t-")
    birth = Birth(agent, born, session, task, policy.digest, now, end, 0, new_link(), subject)
    # Without the proof of a call, budgets and marks: the question is what the policy allows, and not who sends it, nor
    # what a task has spent or done.
    caveats = tuple(
        replace(each, require=None, fresh=None, **_NO_ROWS)
        for each in caveats_of(grant, now, now)[audience]
        if each.spend is None
    )
    try:
        token = Macaroon.mint(birth.identifier(audience, _KID, key), key=key, realm=_REALM, caveats=caveats)
    except (AttenuationError, MalformedTokenError) as error:
        return "bad_parameters", f"what this task grants at {audience} does not fit into a token: {error}"
    request = AccessRequest(str(question.tool), question.args, now, peer=question.peer)
    verifier = Verifier(audience=audience, keys=ring, epochs=epochs, decisions=InMemoryDecisions())
    decision = verifier.decide(token.encode(), request)
    if decision.code == OK:
        return OK, None
    return decision.code, str(refusal(decision.code, tuple(decision.all_failures())))
