# SPDX-License-Identifier: Apache-2.0
"""The site of the documentation: MkDocs calls these functions while it builds (``make docs``).

A page of the repository that is not in ``docs`` becomes a page of the site without a copy, and links between pages
are rewritten to the site's paths.  A link to another file of the repository becomes its text.
"""

import importlib
import os
import posixpath
import re
from typing import Any, Final

from tests.house import matrix
from tests.house.pages import ROOT
from tests.house.tables import public_names

# Pages outside of docs, and their paths on the site.
ELSEWHERE: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "tests/advisories/README.md": "advisories.md",
    "tests/vectors/README.md": "vectors.md",
    "verifier/BUDGETS.md": "spec/BUDGETS.md",
    "verifier/MEMORY.md": "spec/MEMORY.md",
    "verifier/README.md": "verifier.md",
    "verifier/SPEC.md": "spec/SPEC.md",
}
# Pages that went into others: the sections of released versions in the changelog stay as they were.
MOVED: Final = {"docs/adapters/fastmcp.md": "docs/adapters/mcp.md", "docs/gateway-operations.md": "docs/operations.md"}
_MATRIX: Final = "spec/matrix.md"
_WALKS: Final = "walks.md"
_SOURCE: Final = {site: source for source, site in ELSEWHERE.items()}
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCE: Final = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_COMMENT: Final = re.compile(r"^<!-- .*? -->$", re.MULTILINE | re.DOTALL)
_ROW: Final = re.compile(r"^\|.*$", re.MULTILINE)
_CODE: Final = re.compile(r"`[^`]*`")
_NAMES_OF: Final = re.compile(r"^<!-- reference: (\S+) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put every decision, and every part of the specification, into the navigation."""
    docs = ROOT / "docs"
    records = [f"decisions/{path.name}" for path in sorted((docs / "decisions").glob("[0-9]*.md"))]
    parts = [f"spec/{path.name}" for path in sorted((docs / "spec").glob("*.md")) if path.name != "README.md"]
    listed = {
        "DECISIONS": ["decisions/README.md", "decisions/history.md", *records],
        "SPECIFICATION": ["spec/README.md", "spec/SPEC.md", "spec/BUDGETS.md", "spec/MEMORY.md", *parts, _MATRIX],
    }
    config["nav"] = [
        {title: listed.get(entry, entry) if isinstance(entry, str) else entry}
        for part in config["nav"]
        for title, entry in part.items()
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs, and the two that are made by the tests."""
    from mkdocs.structure.files import File  # the tests import this module without MkDocs

    from tests.house import walks  # imports the whole product

    for source, site in ELSEWHERE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, _MATRIX, content=matrix.page()))
    files.append(File.generated(config, _WALKS, content=walks.page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page's text for the site."""
    site = page.file.src_uri
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _prose(part, site) for part in parts)


def _prose(text: str, site: str) -> str:
    text = _LINK.sub(lambda match: link(match, site), text)
    text = _NAMES_OF.sub(lambda match: _reference(match[1]), text)
    # In a table, GitHub needs an escaped bar in code; Python-Markdown shows the backslash.
    text = _ROW.sub(lambda row: _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), text)
    # Python-Markdown takes a table directly below a comment for a part of the comment.
    return _COMMENT.sub(r"\n\g<0>\n", text)


def link(match: re.Match[str], site: str) -> str:
    """Return a link of a page, with the target's path on the site.

    Args:
        match: The link as the repository has it.
        site: The page's path on the site.
    """
    image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if re.match(r"[a-z]+:", target):
        return match[0]
    source = _SOURCE.get(site, f"docs/{site}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    path = MOVED.get(path, path)
    there = ELSEWHERE.get(path, path.removeprefix("docs/"))
    shown = there != path and path.endswith((".md", ".svg"))
    if shown or not (ROOT / path).exists():  # MkDocs reports what does not exist
        there = os.path.relpath(there, posixpath.dirname(site) or ".")
        return f"{image}[{text}]({there}{anchor})"
    return text


def _reference(module: str) -> str:
    """Return the directives that document each public name of a module."""
    package = importlib.import_module(module)
    # A class has one heading on the page: that of the package which defines it, and not of one that exports it too.
    own = (
        name
        for name in public_names(package)
        if getattr(package, name).__module__.startswith(f"{module.partition('.')[0]}.")
    )
    return "".join(f"\n::: {module}.{name}\n" for name in own)
