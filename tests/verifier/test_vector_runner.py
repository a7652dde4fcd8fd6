# SPDX-License-Identifier: Apache-2.0
"""The runner of the vectors: it passes our verifier, and finds an implementation that is wrong, ends or hangs."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.house.pages import ROOT, blocks
from tests.vectors.families import FAMILIES, FOLDER, LEVELS, Vector, judge, load
from tests.vectors.run import FaultError, Outcome, Process, ask_all, main, results, select

pytestmark = pytest.mark.servers  # nearly every test starts an implementation

NO_FAMILIES = {"libmacaroons", "log"}  # of any macaroon library; of an auditor of the log (LOG 1)
SUBJECT = [sys.executable, "-m", "tests.vectors.subject"]
NAME = "aud-other"  # the vector at which a wrong subject is wrong
# A subject whose answers are ours, but for a change.  Its output goes to the runner alone.
CHANGED = f"""
import json, logging, os, subprocess, sys, time
logging.disable()
from tests.vectors.subject import ANSWERS
before = {{}}
for line in sys.stdin:
    question = json.loads(line)
    named = {{"family": question["family"], "name": question["name"]}}
    answer = named | ANSWERS[question["family"]](question["input"])
    here = question["name"] == "{NAME}"
    levels = question["levels"]
    CHANGE
    print(json.dumps(answer), flush=True)
    before = answer
"""
END = "if here: sys.exit(3)"
PAGE = (ROOT / "docs" / "spec" / "README.md").read_text(encoding="utf-8")


def asked(change: str, vectors: Sequence[Vector], timeout: float = 60) -> list[Outcome]:
    """Ask our verifier with a change to its answers."""
    return ask_all([sys.executable, "-c", CHANGED.replace("CHANGE", change)], vectors, timeout)


def wrong(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.vector.name: outcome.why for outcome in outcomes if outcome.why is not None}


@pytest.mark.slow
def test_our_verifier_passes_every_level() -> None:
    """As a process, by the command line; a level that has no vectors is no level that is passed."""
    command = [sys.executable, "-m", "tests.vectors.run", "--json", "--", *SUBJECT]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=600)
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["wrong"]) == (0, []), ran.stderr
    assert found["asked"] == len([*load()])
    assert {level: row["result"] for level, row in found["levels"].items()} == {
        level: "passed" if any(level in vector.levels for vector in load()) else "not asked" for level in LEVELS
    }


def test_every_folder_of_vectors_is_a_family() -> None:
    """A new family is asked as soon as its folder exists."""
    assert {path.name for path in FOLDER.iterdir() if [*path.glob("*.json")]} - NO_FAMILIES == set(FAMILIES)
    assert {vector.family for vector in load()} == set(FAMILIES)


def test_no_question_has_its_answer() -> None:
    """What is asked has neither the answer nor the comment, which would give it away."""
    for vector in load():
        answers = {"kept", "body", "leaf_hash"} if vector.family == "records" else {"expect"}
        assert not {*answers, "comment", "spec"} & vector.input.keys(), vector.path
        assert vector.answer.keys() in ({"code"}, {"output"})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('if here: answer["code"] = "grant"', 'expected {"code": "wrong_audience"}, got {"code": "grant"}'),
        ('if here: answer["code"] = "malformed"', 'got {"code": "malformed"}'),
        ('if here: answer["note"] = "x"', "got {"),
        ("if here: answer = named", "got {}"),
        ('if here: answer = named | {"output": "wrong_audience"}', "got {"),
        ('if here: answer = named | {"unsupported": "bound"}', "must be one of the vector's levels, bearer"),
        ('if here: answer = named | {"unsupported": ["bearer"]}', "must be one of the vector's levels"),
        ('if here: answer = named | {"unsupported": "bearer"}', "bearer is answered in part"),
        (END, "ended with code 3"),
        ("if here: os.abort()", "ended with code -6"),
        ("if here: sys.stdout.close(); sys.stdout = open(os.devnull, 'w'); os.close(1)", "closed its output"),
        ("if here: print('hello', flush=True); continue", "expected a JSON object on one line, got 'hello"),
        ("if here: print('[1]', flush=True); continue", "expected a JSON object on one line"),
        ("if here: print('[' * 100_000, flush=True); continue", "expected a JSON object on one line"),
        ("if here: os.write(1, bytes([255, 10])); continue", "expected a JSON object on one line"),
        ("if here: print('x' * (2 << 20), flush=True); continue", "expected at most 1048576 bytes"),
        ("if here: answer = before", f'expected the answer to tokens/{NAME}, got one to "tokens/'),
        ('if here: answer["name"] = "\\ud800\\x1b[2J"', 'got one to "tokens/\\ud800\\u001b[2J"'),
        ("if here: answer = named | {'output': eval('[' * 90 + ']' * 90)}", "got {"),
        (
            "if here: print(json.dumps(named)[:-1], ',\"output\":', '[' * 985 + ']' * 985, '}', flush=True); continue",
            "e",
        ),
        ("if here: os.write(1, json.dumps(answer).encode()); time.sleep(600)", "no answer within"),
        ("if here: time.sleep(600)", "no answer within"),
    ],
)
def test_a_wrong_answer_is_found(change: str, why: str) -> None:
    """At its vector alone: after an end, a hang or rubbish, the implementation is started again for the next ones."""
    vectors = select(["bearer"], "tokens/aud")
    began = time.monotonic()
    found = asked(change, vectors, timeout=4 if "sleep" in change else 60)
    assert time.monotonic() - began < 300
    assert list(wrong(found)) == [NAME]
    assert why in wrong(found)[NAME]
    assert {level: row.result for level, row in results(found).items()}["bearer"] == "failed"


def test_answers_ahead_of_their_questions_are_found() -> None:
    """Two lines at once: the second is no answer, whatever it has."""
    found = wrong(asked("print(json.dumps(answer), flush=True)", select(["bearer"], "tokens/aud")))
    assert found
    expected = ("a line that no question asked for", "an answer before the question", "got one to", "not asked after")
    assert all(any(text in why for text in expected) for why in found.values())


def test_an_implementation_that_always_ends_is_given_up() -> None:
    """After three faults the rest is not asked, and counts as wrong."""
    vectors = select([], "")
    found = ask_all([sys.executable, "-c", "raise SystemExit(5)"], vectors, 60)
    reasons = [outcome.why for outcome in found]
    assert reasons[:3] == ["the implementation ended with code 5"] * 3
    assert set(reasons[3:]) == {"not asked after 3 faults"}
    assert len(found) == len(vectors)
    assert {row.result for row in results(found).values()} <= {"failed", "not asked"}


def test_a_fault_leaves_the_other_levels_as_they_are() -> None:
    """A holder's library that ends at one token has no bearer level, and still its own."""
    change = f'answer = named | {{"unsupported": "bearer"}} if "bearer" in levels else answer\n    {END}'
    found = asked(change, [*select(["holder"], ""), *select(["bearer"], "tokens/aud")])
    assert list(wrong(found)) == [NAME]
    assert [row.result for row in results(found).values()][:2] == ["passed", "failed"]


def test_an_implementation_that_reads_nothing_is_not_waited_for() -> None:
    """A question that is longer than a pipe holds is written within the same time."""
    large = Vector("tokens", "large", ("bearer",), {"token": "x" * (1 << 20)}, {"code": "malformed"})
    process = Process([sys.executable, "-c", "import time; time.sleep(600)"], 1)
    process._patience = 1
    with pytest.raises(FaultError, match="no answer within 1 s"):
        process.ask(large)
    process.close()


def test_what_a_hanging_implementation_started_ends_with_it(tmp_path: Path) -> None:
    """Its child does not go on after the run."""
    file = tmp_path / "child"
    child = f"child = subprocess.Popen(['sleep', '600']); open({str(file)!r}, 'w').write(str(child.pid))"
    assert wrong(asked(f"if here: {child}; time.sleep(600)", select(["bearer"], "tokens/aud"), timeout=4))
    deadline = time.monotonic() + 60
    while _running(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


REFUSES: dict[str, str] = {"bound": "malformed", "budgets": "budget_unsupported"}


@pytest.mark.parametrize("level", REFUSES)
def test_a_level_may_be_missing_if_its_tokens_are_refused(level: str) -> None:
    """The levels below are passed all the same; a grant there is wrong."""
    refusal = f'{{"code": "{REFUSES[level]}"}} if question["family"] == "tokens" else {{}}'
    lacks = f'named | {{"unsupported": "{level}"}} | ({refusal})'
    vectors = select([], "")
    found = asked(f'answer = {lacks} if "{level}" in levels else answer', vectors)
    assert wrong(found) == {}
    assert {name: row.result for name, row in results(found).items()} == {
        name: "unsupported"
        if name == level
        else "passed"
        if any(name in each.levels for each in vectors)
        else "not asked"
        for name in LEVELS
    }
    [vector] = [
        each for each in vectors if each.path == {"bound": "tokens/bound", "budgets": "tokens/spend-all"}[level]
    ]
    for answer in ({}, {"code": "grant"}, {"code": "expired"}):
        assert judge(vector, {"unsupported": level} | answer) is not None
    assert judge(vector, {"unsupported": level, "code": REFUSES[level]}) is None


@pytest.mark.nightly
def test_a_level_is_passed_with_what_it_builds_on() -> None:
    """A verifier that is wrong about bearer tokens conforms at no level above."""
    found = asked('if here: answer["code"] = "grant"', select(["bound"], ""))
    states = {level: row.result for level, row in results(found).items()}
    assert (states["bearer"], states["bound"], states["memory"]) == ("failed", "failed", "not asked")
    lacks = 'if levels == ["bearer"]: answer = named | {"unsupported": "bearer"}'
    states = {level: row.result for level, row in results(asked(lacks, select(["bound"], ""))).items()}
    assert (states["bearer"], states["bound"]) == ("unsupported", "failed")


def test_the_page_s_implementation_answers_in_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of docs/spec/README.md is wrong nowhere, and passes no level."""
    [example] = [block.text for block in blocks(PAGE) if block.language == "python"]
    file = tmp_path / "example.py"
    file.write_text(example, encoding="utf-8")
    assert main(["--json", "--", sys.executable, str(file)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["wrong"] == []
    assert {row["result"] for row in found["levels"].values()} == {"unsupported"}
    assert len(example.splitlines()) <= 30


def test_the_page_lists_levels_and_options() -> None:
    """docs/spec/README.md has each level in order, each code of a missing level, and each option of the runner."""
    listed = [
        row for row in PAGE.partition("## Levels")[2].partition("## What")[0].splitlines() if row.startswith("| `")
    ]
    assert [row.split("`")[1] for row in listed] == [*LEVELS]
    for level, code in REFUSES.items():
        assert f"without the level `{level}` | `{code}` |" in PAGE
    shown = subprocess.run(
        [sys.executable, "-m", "tests.vectors.run", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    ).stdout
    options: Any = {word.strip(",") for word in shown.split() if word.startswith("--") and word.strip("-")}
    assert all(f"`{option}" in PAGE for option in options - {"--help"})


def test_a_command_that_cannot_start_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code of a wrong command line, as no vector was asked."""
    for words, text in (
        ([], "expected a COMMAND that answers"),
        (["--", "/nowhere/verifier"], "got /nowhere/verifier: No such file"),
        (["-k", "no-such-vector", "--", "true"], "expected a part of a vector's name"),
        (["--level", "bearrer", "--", "true"], "invalid choice"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert text in capsys.readouterr().err


@pytest.mark.nightly
def test_a_part_of_the_vectors_passes_no_level(capsys: pytest.CaptureFixture[str]) -> None:
    """``-k`` judges the answers, and no level; a wrong one is printed with its section and reason."""
    assert main(["-k", "memory/trusted", "--", *SUBJECT]) == 0
    assert "memory    part" in capsys.readouterr().out
    assert main(["-k", NAME, "--", "cat"]) == 1
    assert f"tokens/{NAME} (SPEC 6.1, " in capsys.readouterr().out
