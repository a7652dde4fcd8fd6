# SPDX-License-Identifier: Apache-2.0
"""An empty page of the console named a guide that does not exist, and a key that no template of a policy has."""

import re
from collections.abc import Iterator
from html import unescape

import click
import pytest
from msgspec.structs import fields

from arx_caps.cli.app import cli
from arx_caps.mint.policy.tables import Template
from tests.house.pages import ROOT

CONSOLE = ROOT / "arx_caps" / "console"
SOURCES = [*sorted((CONSOLE / "templates").glob("*.html")), *sorted(CONSOLE.rglob("*.py"))]


def named(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield each match of a pattern in the console's own texts, with its file."""
    for path in SOURCES:
        for found in re.finditer(pattern, path.read_text(encoding="utf-8")):
            yield path.name, unescape(found[1])


def find_command(words: list[str]) -> click.Command | None:
    """Return the command that words begin with, or None if one of them is no command."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            return command
        found = command.get_command(click.Context(command), word)
        if found is None:
            return None
        command = found
    return command


def test_each_page_of_the_guides_exists() -> None:
    """A name such as docs/service.md."""
    pages = set(named(r"\b(docs/[\w/.-]+\.md)"))
    assert len(pages) >= 4
    assert [(file, page) for file, page in pages if not (ROOT / page).is_file()] == []


def test_each_command_exists() -> None:
    """Each command in an example, and each option of it."""
    commands = {(file, line) for file, line in named(r"[`>]arx ([a-z][^`<{]*)[`<]")}
    assert len(commands) >= 10
    for file, line in commands:
        words = line.split()
        command = find_command([word for word in words if re.fullmatch("[a-z-]+", word) and not word.startswith("-")])
        assert command is not None, f"{file}: arx {line}"
        assert not isinstance(command, click.Group), f"{file}: arx {line}"
        options = {text for parameter in command.params for text in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, f"{file}: arx {line}"


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        (r"template has <code>(\w+)</code>", {field.encode_name for field in fields(Template)}),
        (r"<code>(\w+)</code> of a template", {field.encode_name for field in fields(Template)}),
    ],
)
def test_each_key_of_a_template_exists(pattern: str, known: set[str]) -> None:
    """A key that an empty page names is one of a policy's template."""
    found = set(named(pattern))
    assert found
    assert [(file, key) for file, key in found if key not in known] == []
