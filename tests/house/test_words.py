# SPDX-License-Identifier: Apache-2.0
"""One word for each concept: docs/glossary.md has it, and its former words stand nowhere."""

import re
import subprocess

import pytest

from tests.house.pages import ROOT

FORMER = {
    "delegate": r"hand(ed|s|ing)?[-_]?over\b|hand-over|hand_to\b",
    "target": r"kill[-_ ]scope|agent_scopes|subject_scope",
    "freeze, thaw": r"\bban(s|ned|ning)?\b|\breinstate|\blift(s|ed|ing)? the (freeze|ban)",
    "revoked": r"\bkill floors?\b|\.floors\b",
    "journal": r"\bspool(s|ed|ing)?\b",
    "recheck": r"grant\.checkpoint|checkpoint_async",
    "third-party caveat": r"\bRequirement\b|\bread_demand\b",
    "incarnation": r"\"inc\"|\.inc\b(?!\()",
}


@pytest.mark.parametrize("word", FORMER)
def test_a_concept_has_one_word(word: str) -> None:
    """
    No file of code or docs has a former word of this concept.
    """
    pattern = re.compile(FORMER[word])
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found = []
    for name in listed.splitlines():
        if (
            not name.endswith((".py", ".md", ".lua", ".toml", ".sql", ".yml", ".c"))
            or name == "tests/house/test_words.py"
        ):
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []
