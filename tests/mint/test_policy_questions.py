# SPDX-License-Identifier: Apache-2.0
"""Questions to a policy, in a file beside it: asked without a mint, and answered like the mint and a verifier."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.cli import exit_codes
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.tasks.policy_questions import (
    PolicyQuestion,
    QuestionSubject,
    ask_policy,
    load_questions,
    write_question,
)
from tests.cli.helpers import arx
from tests.mint.approvals import POLICY

ISSUER = '[issuer.id]\nurl = "https://id.example"\njwks = "id.json"\naudience = ["arx"]\nalgorithms = ["ES256"]\n'
NET = 'net = ["10.0.0.0/8"]\napprovals'
QUESTION = """
[[question]]
name = "small"
agent = "acme/support/triage"
task = "refund"
params = { order_id = "o-1" }
tool = "payments.refund"
args = { order_id = "o-1", amount = 50 }
"""


def asked(**members: Any) -> PolicyQuestion:
    first: dict[str, Any] = {"agent": "acme/support/triage", "task": "refund", "params": {"order_id": "o-1"}}
    return PolicyQuestion(**{**first, **members})


def call(**args: Any) -> dict[str, Any]:
    return {"tool": "payments.refund", "args": args}


@pytest.mark.parametrize(
    ("members", "code", "message"),
    [
        ({}, "ok", ""),
        (call(order_id="o-1", amount=50), "ok", ""),
        (call(order_id="o-1", amount=501), "argument_not_allowed", "amount must be"),
        (call(order_id="o-2", amount=5), "argument_not_allowed", "order_id must be"),
        ({"tool": "mail.send"}, "tool_not_allowed", ""),
        ({"params": {}}, "bad_parameters", "order_id"),
        ({"task": "absent"}, "unknown_task", "absent"),
        ({"agent": "other/x"}, "session_not_allowed", "other/x"),
        ({"subject": QuestionSubject(issuer="https://id.example", sub="ann")}, "subject_not_allowed", ""),
    ],
)
def test_the_policy_answers_like_the_mint_and_a_verifier(members: dict[str, Any], code: str, message: str) -> None:
    """Allowed, or refused with the code and the sentence."""
    reply = ask_policy(Policy.parse(POLICY, "policy.toml"), asked(**members))
    assert reply.code == code
    assert message in (reply.why or "")


def test_a_network_is_asked_for() -> None:
    """A call of a task with ``net`` is allowed from its networks alone."""
    policy = Policy.parse(POLICY.replace("approvals", NET, 1), "policy.toml")
    small = call(order_id="o-1", amount=50)
    assert ask_policy(policy, asked(**small)).code != "ok"
    assert ask_policy(policy, asked(**small, peer="10.1.2.3")).code == "ok"
    assert ask_policy(policy, asked(**small, peer="11.1.2.3")).code != "ok"


def files(folder: Path, questions: str, policy: str = POLICY) -> tuple[Path, Path]:
    (folder / "policy.toml").write_text(policy)
    (folder / "questions.toml").write_text(questions)
    return folder / "policy.toml", folder / "questions.toml"


def test_an_answer_that_differs_fails(tmp_path: Path) -> None:
    """The code, or the number of approvals; with exit code 1, and each question in the JSON."""
    ran = arx("policy", "test", *files(tmp_path, QUESTION + "need = 1"), "--json")
    assert (ran.exit_code, ran.json["failed"], ran.json["results"][0]["passed"]) == (0, 0, True)
    for change, policy in (
        ('expect = "argument_not_allowed"', POLICY),
        ("need = 2", POLICY),
        ("need = 0", POLICY),
        ("", POLICY.replace("[1, 500]", "[1, 40]")),
    ):
        ran = arx("policy", "test", *files(tmp_path, QUESTION + change, policy), "--json")
        assert (ran.exit_code, ran.json["failed"]) == (exit_codes.DENIED, 1), change
    ran = arx("policy", "test", *files(tmp_path, QUESTION, "x = 1"))
    assert (ran.exit_code, "policy.toml:1: x: unknown key" in ran.err) == (exit_codes.DENIED, True)


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ("", "questions.toml:1: "),
        ("question = []", "a list with at least one question"),
        (QUESTION + QUESTION, "questions.toml:11: question[2].name: expected a name of its own"),
        (QUESTION + "expects = 1", "questions.toml:9: question[1].expects: unknown key; did you mean `expect`?"),
        (QUESTION.replace("name", "# name"), "needs `name`"),
        (QUESTION.replace("tool", "# tool"), "question[1]: `args`, `peer` and `need` are about a call: add `tool`"),
        (QUESTION.replace("50", "2026-12-01"), "questions.toml:8: question[1].args: "),
        (QUESTION.replace("[[", "["), "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_refused(tmp_path: Path, questions: str, words: str) -> None:
    """With file, line and key: a question that was not asked would pass for one that was."""
    ran = arx("policy", "test", *files(tmp_path, questions))
    assert (ran.exit_code, ran.out) == (exit_codes.DENIED, "")
    assert words in ran.err


scalars = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.integers(-5, 5) | st.booleans()
values = st.recursive(
    scalars,
    lambda item: st.lists(item, max_size=2) | st.dictionaries(st.text('a.\x7f"$ é', max_size=3), item, max_size=2),
)


@given(args=st.dictionaries(st.text('a-.\x7f"é', min_size=1, max_size=3), values, max_size=2))
def test_a_written_question_is_read_as_it_was(args: dict[str, Any]) -> None:
    """Whatever texts, lists and objects its arguments have."""
    question = asked(tool="payments.refund", args=args)
    text = write_question(question, ask_policy(Policy.parse(POLICY, "policy.toml"), question))
    [read] = tomllib.loads(text)["question"]
    assert read.get("args", {}) == args
    assert (read["agent"], read["expect"]) == ("acme/support/triage", "argument_not_allowed")


def test_a_subject_is_read(tmp_path: Path) -> None:
    """The issuer, the name and the claims decide as a session's do."""
    behalf = (
        POLICY.replace("[session]", "[session.own]")
        + ISSUER
        + '[session.behalf]\nagents = ["corp/*"]\nttl = "1h"\nsubject = "required"\n'
    )
    behalf += 'subjects = [{ issuer = "id", claims = { groups = "staff" } }]\n'
    text = QUESTION.replace("acme/support/triage", "corp/x")
    text += 'subject = { issuer = "https://id.example", sub = "ann", claims = { groups = "staff" } }\n'
    [question] = load_questions(str(files(tmp_path, text)[1]))
    assert ask_policy(Policy.parse(behalf, "policy.toml"), question).code == "unknown_task"
    other = load_questions(str(files(tmp_path, text.replace('"staff"', '"guest"'))[1]))[0]
    assert ask_policy(Policy.parse(behalf, "policy.toml"), other).code == "subject_not_allowed"
