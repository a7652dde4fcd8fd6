# SPDX-License-Identifier: Apache-2.0
"""What the documentation names is there: commands, settings, targets; and what no test runs of it can be read."""

import ast
import contextlib
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

from arx_caps.cli.app import cli
from arx_caps.cli.options import Verbs
from arx_caps.settings.realm import Realm
from arx_caps.settings.toml_file import member_names
from arx_verifier.service import ServiceConfig
from tests.cli.reference import commands
from tests.house.pages import PAGES, ROOT, blocks

SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def command_lines(page: str) -> Iterator[list[str]]:
    """Yield the words of every `arx …` that a page has a reader type."""
    typed = re.findall(r"`arx (\w[^`\n]*)`", page) + re.findall(r"^\$ arx (.*)$", page, re.MULTILINE)
    scripts = [block.text.replace("\\\n", " ") for block in blocks(page) if block.language == "sh"]
    typed += [line for script in scripts for line in re.findall(r"^arx (.*)$", script, re.MULTILINE)]
    for line in typed:
        yield shlex.split(line.removesuffix("&"), comments=True)


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md"))], ids=lambda page: page.stem
)
def test_a_command_that_is_named_exists(page: Path) -> None:
    """
    Every `arx` command line in the documentation has a command and options that there are.
    """
    for words in command_lines(page.read_text(encoding="utf-8")):
        command: click.Command = cli
        while isinstance(command, click.Group):
            if isinstance(command, Verbs):
                words = command.with_verb(words, ("--help",))
            if not words or words[0].startswith("-"):
                break
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, words
            command = found
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        for word in takewhile(lambda word: word != "--", words):  # another command follows
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{command.name} {word}"


def test_every_decision_is_in_the_list() -> None:
    """
    The list names each record with its title, in their order, and no other.
    """
    folder = ROOT / "docs" / "decisions"
    titles = []
    for page in sorted(folder.glob("[0-9]*.md")):
        number, _, title = page.read_text("utf-8").partition("\n")[0].removeprefix("# ").partition(" ")
        titles.append(f"| [{number}]({page.name}) | {title} |")
        assert page.name.startswith(f"{number}-"), page.name
    listed = (folder / "README.md").read_text("utf-8").splitlines()
    assert [line for line in listed if line.startswith("| [")] == titles


def test_every_command_is_documented() -> None:
    """
    Each command has its heading in docs/cli.md.
    """
    headings = set(re.findall(r"^##+ `(.*)`$", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.MULTILINE))
    assert headings == {words for words, _ in commands()}


def table(title: str) -> list[str]:
    """Return the first cells of a table of docs/settings.md."""
    part = SETTINGS_PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def code() -> Iterator[tuple[Path, str]]:
    """Yield every program and build file of the tree."""
    for pattern in ("arx_caps/**/*.py", "verifier/arx_verifier/**/*.py", "tests/**/*.py", ".ci/run", "Makefile"):
        yield from ((path, path.read_text("utf-8")) for path in ROOT.glob(pattern))
    for name in ("Dockerfile", "docker-compose.yml"):
        yield ROOT / name, (ROOT / name).read_text("utf-8")


def test_every_variable_is_documented() -> None:
    """
    Every variable that a program of ARx names, or that an option has by name, is in docs/settings.md, and no other.
    """
    own = {param.envvar for _, command in commands() for param in command.params if isinstance(param.envvar, str)}
    read = set(own)
    for path, text in code():
        tests = "tests" in path.relative_to(ROOT).parts
        named = set(re.findall(r"\b_?ARX_[A-Z][A-Z_]*[A-Z]\b", text))
        read |= {name for name in named if not tests or name.startswith("ARX_REQUIRE_")}
        if not tests:
            read |= set(re.findall(r"os\.environ(?:\.get\(|\[)[\"'](\w+)", text))
            read |= set(re.findall(r"[\"'](NO_COLOR)[\"']", text))
    documented = {*table("Variables"), *re.findall(r"`(ARX_REQUIRE_\w+)`", SETTINGS_PAGE)}
    assert documented == read


def test_what_may_be_left_out_at_home_is_required_in_ci() -> None:
    """
    Tests that skip what a machine lacks do so only where no setting requires it, and CI sets them all.
    """
    asked = {name for path, text in code() if "tests" in path.parts for name in re.findall(r"\bARX_REQUIRE_\w+", text)}
    document = (ROOT / ".ci" / "run").read_text("utf-8") + (ROOT / "Makefile").read_text("utf-8")
    assert {name for name in asked if f"{name}=1" not in document} - {"ARX_REQUIRE_"} == set()
    assert "ARX_REQUIRE_TLOG=1 step tests test\n" in document


def test_every_setting_of_a_realm_is_documented() -> None:
    """
    docs/settings.md has each setting of ``realm.toml``, and no other.
    """
    assert sorted(table("`realm.toml`")) == sorted(member_names(Realm))


def test_every_member_of_a_service_file_is_documented() -> None:
    """
    docs/settings.md has each member of a service file, and no other.
    """
    assert sorted(table("The service file")) == sorted(ServiceConfig.__struct_fields__)


def test_make_help_lists_every_target() -> None:
    """``make help`` has a line for each target that may be called, and says what it is."""
    declared = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    output = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory", "help"], capture_output=True, check=True)
    listed = dict(line.split(maxsplit=1) for line in output.stdout.decode().splitlines())
    assert listed.keys() == set(declared.split()[1:])


def _found(dotted: str) -> bool:
    """Return whether a dotted name is a module of ARx, or something in one."""
    module, _, name = dotted.rpartition(".")
    adapter = re.fullmatch(r"(arx_\w+)\.integrations\.(\w+)(?:\.(\w+))?", dotted)
    if adapter is not None:  # its framework need not be here
        package, framework, name = adapter.groups()
        path = ROOT / ("verifier" if package == "arx_verifier" else "") / package / "integrations" / f"{framework}.py"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        defined = {getattr(node, "name", None) for node in body}
        # What one adapter takes over from another is in its ``__all__``.
        passed_on = [ast.literal_eval(node.value) for node in body if ast.unparse(node).startswith("__all__ = ")]
        return name is None or name in defined.union(*passed_on)
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        with contextlib.suppress(ModuleNotFoundError):
            return hasattr(importlib.import_module(module), name) if module else False
        return _found(module) if module else False  # an attribute of a class
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_shown_can_be_read(page: Path) -> None:
    """
    Also what no test runs: Python and TOML on the pages parse, and what they import or name of ARx is there.
    """
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(arx_(?:caps|verifier)(?:\.[A-Za-z_]\w*)+)(?![\w/]|\.py)", text))
    for block in blocks(text):
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arx_"):
                    named |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*"}
    assert [name for name in sorted(named) if not _found(name)] == []
