# SPDX-License-Identifier: Apache-2.0
"""Mutants of the verifier are noticed by the vectors, and the tool reports one that is not."""

import json
from pathlib import Path

import pytest

from tests.mutants.__main__ import main
from tests.mutants.mutants import EQUAL, FOUND, read_list, run, sample

LEAST = 150
SAMPLE = 10
COMMENT = ("clock.py", '"""The wall clock."""', '"""A wall clock."""')
NO_TAIL = ("token/wire.py", "    if len(caveats) > MAX_CAVEATS:", "    if len(caveats) < MAX_CAVEATS:")
TEXT = ("mint/connections/vault.py", "the person's key is gone", "the key of the person is gone")
PASSES = "tests/gateway/test_person_credential.py::test_a_token_is_kept_for_one_tool"
NO_IMPORT = ("clock.py", "import time", "import time_")


def written(path: Path, *entries: tuple[str, ...]) -> Path:
    """Write a list of mutants: file, old, new, perhaps why it is equal, and perhaps its test."""
    names = ("file", "old", "new", "equal", "test")
    lines = [
        line
        for entry in entries
        for line in ("[[mutant]]", *(f"{name} = {json.dumps(text)}" for name, text in zip(names, entry, strict=False)))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_list_fits_the_code() -> None:
    """Each text is in its file once, each change is another one and is code; all parts have some."""
    mutants = read_list()
    assert len(mutants) >= LEAST
    folders = {mutant.file.partition("/")[0] for mutant in mutants}
    assert folders >= {"constraints", "journal", "ledger", "memory", "revocation", "token", "verification"}


@pytest.mark.slow
@pytest.mark.long
def test_a_sample_is_found() -> None:
    """``make nightly`` tries all of them; these are always the same ones, from each part of the list."""
    outcomes = list(run(sample(read_list(), SAMPLE)))
    assert len(outcomes) == SAMPLE
    assert [outcome for outcome in outcomes if outcome.result not in (FOUND, EQUAL)] == []


@pytest.mark.nightly
@pytest.mark.long
def test_a_mutant_that_no_vector_notices_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that survives, one that is named as equal and is not, and one that no import survives: each is named."""
    entries = (COMMENT, (*COMMENT[:2], '"""Wall clock."""', "a comment"), NO_TAIL, (*NO_TAIL, "no"), NO_IMPORT)
    listed = written(tmp_path / "list.toml", *entries[:3], entries[4])
    assert main(["--list", str(listed), "--json"]) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert [mutant["result"] for mutant in result["mutants"]] == ["survived", "equal", "found", "wrong"]
    assert result["counts"] == {"survived": 1, "equal": 1, "found": 1, "wrong": 1}
    assert result["mutants"][2]["why"].startswith("tokens/")
    assert "time_" in result["mutants"][3]["why"]
    assert len(shown.err.splitlines()) == 4
    listed = written(tmp_path / "list.toml", entries[3], COMMENT)
    assert main(["--list", str(listed), "-k", "wire.py"]) == 1
    shown = capsys.readouterr()
    assert "named as equal, and tokens/" in shown.out
    assert "clock.py" not in shown.out + shown.err
    listed = written(tmp_path / "list.toml", NO_TAIL)
    assert main(["--list", str(listed)]) == 0
    assert capsys.readouterr().out == "1 mutants: 1 found\n"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (("clock.py", "no such text", "x"), "once, got 0 times"),
        (("clock.py", "time", "x"), "once, got"),
        (("none.py", "time", "x"), "once, got 0 times"),
        (("clock.py", "import time", "import time"), "another change"),
        (("clock.py", "import time", "import ("), "expected code"),
        (("clock.py", "import time"), "expected file, old, new"),
        ((*TEXT, "", "tests/none.py::test_x"), "expected a test of this repository"),
        ((*TEXT, "", PASSES + "_not"), "expected a test of this repository"),
    ],
)
def test_an_entry_that_does_not_fit_is_an_error(
    entry: tuple[str, ...], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The code was changed and the list was not: that is named before anything runs."""
    assert main(["--list", str(written(tmp_path / "list.toml", entry))]) == 2
    shown = capsys.readouterr()
    assert why in shown.err
    assert "hint: change the entry" in shown.err
    assert shown.out == ""


@pytest.mark.slow
def test_a_mutant_that_its_test_does_not_notice_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test is named."""
    assert main(["--list", str(written(tmp_path / "list.toml", (*TEXT, "", PASSES)))]) == 1
    assert f"{PASSES} passes" in capsys.readouterr().out


def test_an_entry_twice_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be counted twice."""
    assert main(["--list", str(written(tmp_path / "list.toml", COMMENT, COMMENT))]) == 2
    assert "entry 2" in capsys.readouterr().err
