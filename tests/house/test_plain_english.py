# SPDX-License-Identifier: Apache-2.0
"""Plain English: texts name the actor, and have one term for each concept.

A text is a line of a page, a comment, a docstring or another string of code, such as an error, and the name of a
function.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator

from tests.house.pages import ROOT

# Name the actor (caller, holder, mint, operator, attacker) or the thing instead.
UNNAMED = r"who(so)?ever|somebody|someone|nobody|anybody|everybody|such a one|so many,|what is there|is not there"
# Metaphors and words of the house: report, return, print; is in; compare with; remove; refused; accepted once.
METAPHORS = (
    r"tells?|told|says so|(is|was) said|stands? in|holds? to|takes? out|puts? behind|worth nothing|good once|"
    r"goes without|the habit of"
)
AVOIDED = re.compile(rf"\b({UNNAMED}|{METAPHORS})\b", re.IGNORECASE)
WORDS_IN = (".c", ".h", ".lua", ".md", ".py", ".toml", ".yml", "Dockerfile", "Makefile")

# Whole packages, so that a new room is among them.
AREAS = (
    "CONTRIBUTING.md",
    "Dockerfile",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "arx_caps",
    "deploy",
    "docker-compose.yml",
    "docs",
    "examples",
    "tests",
    "verifier",
)
OTHERWISE = {  # beginnings of files in these areas that are not checked, and why
    "docs/decisions/": "records of their time",
    "tests/house/test_plain_english.py": "lists the words",
}
EXCEPTIONS = {  # lines with an avoided word, by a part of the line, and why
    '"whoever", "somebody" or "told"': "names words to avoid",
}


def texts_of(name: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of text in a file with their numbers: of Python, its comments, strings and names."""
    if not name.endswith(".py"):
        yield from enumerate(source.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        # A word alone is a name, such as the tag of a message.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from enumerate(node.value.splitlines(), start=node.lineno)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name.replace("_", " ")


def test_texts_are_plain_english() -> None:
    """
    No text of these areas has an avoided word, but for the exceptions, each of which there is.
    """
    command = ["git", "ls-files", "--", *AREAS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    found, met = [], set()
    for name in listed.splitlines():
        if not name.endswith(WORDS_IN) or name.startswith(tuple(OTHERWISE)):
            continue
        for number, line in texts_of(name, (ROOT / name).read_text(encoding="utf-8")):
            if AVOIDED.search(line):
                known = {part for part in EXCEPTIONS if part in line}
                met |= known
                if not known:
                    found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert found == []
    assert met == set(EXCEPTIONS), "an exception that no line needs"
