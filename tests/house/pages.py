# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation, their examples, and how what is shown is compared."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "verifier/README.md",
        "docs/tutorial.md",
        "docs/python.md",
        "docs/settings.md",
        "docs/service.md",
        "docs/api.md",
        "docs/audit.md",
        "docs/comparison.md",
        "docs/compatibility.md",
        "docs/packages.md",
        "docs/people.md",
        "docs/concepts.md",
        "docs/coding-agents.md",
        "docs/constraints.md",
        "docs/connect.md",
        "docs/gateway.md",
        "docs/deciders.md",
        "docs/oauth.md",
        "docs/glossary.md",
        "docs/identity.md",
        "docs/limits.md",
        "docs/models.md",
        "docs/memory.md",
        "docs/operations.md",
        "docs/policy.md",
        "docs/production.md",
        "docs/readiness.md",
        "docs/reasons.md",
        "docs/revocation.md",
        "docs/run.md",
        "docs/scale.md",
        "docs/store.md",
        "docs/typescript.md",
        "docs/verify-a-release.md",
        "docs/performance.md",
        "docs/spec/CONTROL.md",
        "docs/spec/LOG.md",
        "docs/spec/OAUTH.md",
        "docs/spec/README.md",
        "verifier/BUDGETS.md",
        "verifier/MEMORY.md",
        "verifier/SPEC.md",
    )
] + sorted((ROOT / "docs" / "adapters").glob("*.md"))


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of prose before it."""

    language: str
    text: str
    before: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, or of a section of it."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], page[: match.start()].strip().rpartition("\n")[2]) for match in found]


def section(page: str, title: str) -> str:
    """Return a section of a page."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def matches(shown: str, written: str) -> bool:
    """Return whether lines are as they are shown."""
    pattern = r"[^\n]*".join(map(re.escape, _spaced(shown).split("…")))
    return re.fullmatch(pattern, _spaced(written)) is not None


def _spaced(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())
