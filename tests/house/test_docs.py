# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is what happens: its examples run, its commands exist, its settings are all of them.

A ``console`` block is typed line by line, a ``python`` block is a file, a ``text`` block what the one before it writes.
In what is shown ``…`` stands for any text, and columns may be apart as they like.
"""

import ast
import contextlib
import importlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from arx_caps.cli.app import cli
from arx_caps.realm import SETTINGS
from arx_verifier.service import ServiceFile
from tests.cli.live import live_realm
from tests.cli.reference import commands

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "SECURITY.md",
        "verifier/README.md",
        "docs/settings.md",
        "docs/audit.md",
        "docs/concepts.md",
        "docs/identity.md",
        "docs/operations.md",
        "docs/policy.md",
        "docs/revocation.md",
        "docs/scale.md",
        "docs/store.md",
        "docs/performance.md",
    )
]
DEADLINE_S = 60.0
LEASE_S = 1.2  # a little more than the default lease


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of prose before it."""

    language: str
    text: str
    before: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, or of a section of it."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], page[: match.start()].strip().rpartition("\n")[2]) for match in found]


def section(title: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def matches(shown: str, written: str) -> bool:
    """Tell whether lines are as they are shown."""
    pattern = r"[^\n]*".join(map(re.escape, _spaced(shown).split("…")))
    return re.fullmatch(pattern, _spaced(written)) is not None


def _spaced(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def environment() -> dict[str, str]:
    """Return a person's environment: ``arx`` is found, no variable of ARx is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARX_", "PYTHON"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONUNBUFFERED": "1"}


def run_python(file: Path, *options: str) -> str:
    """Run a file as a person does, and return what it writes."""
    done = subprocess.run(
        [sys.executable, *options, file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_first_example_says_what_it_shows(tmp_path: Path) -> None:
    """
    The README's first example runs as it stands, and writes what stands below it.
    """
    example, shown = blocks(README)[:2]
    assert (example.language, shown.language) == ("python", "text")
    (tmp_path / "example.py").write_text(example.text, encoding="utf-8")
    written = run_python(tmp_path / "example.py", "-W", "error")
    assert matches(shown.text, written), written


class Reader:
    """Somebody who does what a section says, in an empty folder, at ports that are free.

    Args:
        folder: The folder.
        ports: What to put for the ports that the section names.
    """

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder, self._ports = folder, ports
        self._behind: list[subprocess.Popen[str]] = []
        self._script, self._up_since = "", 0.0

    def here(self, text: str) -> str:
        """Put this machine's ports for those that are shown."""
        for shown, port in self._ports.items():
            text = text.replace(f":{shown}", f":{port}").replace(f"--port {shown}", f"--port {port}")
        return text

    def console(self, text: str) -> None:
        """Type each command and compare what it writes, where that is shown."""
        for entry in re.findall(r"^\$ (.*\n(?:(?!\$ ).*\n)*)", self.here(text), re.MULTILINE):
            command, _, shown = entry.partition("\n")
            if command.startswith("arx kill"):
                # A person is slower: within its first lease a store does not know yet who else holds one.
                time.sleep(max(0.0, self._up_since + LEASE_S - time.monotonic()))
            if command.endswith("&"):
                self._start(command.removesuffix("&").strip(), shown)
            else:
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=self.folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    env=environment(),
                    timeout=DEADLINE_S,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}"
                assert not shown or matches(shown, done.stdout), f"{command}\n{done.stdout}"
            if command.startswith("arx init"):
                policy = self.folder / ".arx" / "policy.toml"
                policy.write_text(self.here(policy.read_text("utf-8")), "utf-8")

    def _start(self, command: str, shown: str) -> None:
        """Start a command behind the prompt, and wait for its first line, or for its port."""
        log = (self.folder / f"log-{len(self._behind)}").open("w")
        with log:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                stdout=subprocess.PIPE if shown else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment(),
            )
        self._behind.append(process)
        if shown:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert matches(shown, line), line or Path(log.name).read_text()
            self._up_since = time.monotonic()
            return
        port, deadline = int(command.rpartition("--port ")[2].split()[0]), time.monotonic() + DEADLINE_S
        while True:
            assert process.poll() is None, Path(log.name).read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.02)

    def python(self, block: Block) -> None:
        """Write a file, or go on with it where the page says so; what it writes is looked at with the next block."""
        name = re.search(r"`(\w+\.py)`:$", block.before)
        assert name is not None, f"which file is this? {block.before}"
        goes_on = "At the end of" in block.before
        file = self.folder / name[1]
        before = file.read_text("utf-8") if goes_on else ""
        file.write_text(before + self.here(block.text), "utf-8")
        self._script = name[1]

    def text(self, shown: str) -> None:
        """Run the last file, and compare the end of what it writes."""
        written = run_python(self.folder / self._script)
        last = written.splitlines()[-len(shown.splitlines()) :]
        assert matches(self.here(shown), "\n".join(last)), written

    def stop(self) -> list[int]:
        """End what was started, the last first, and say how each ended."""
        codes = []
        for process in reversed(self._behind):
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            codes.append(process.returncode)
        self._behind.clear()
        return codes


def free_ports(count: int) -> list[int]:
    """Return loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with an empty folder."""
    mint, orders = map(str, free_ports(2))
    someone = Reader(tmp_path, {"8700": mint, "9001": orders})
    yield someone
    someone.stop()


@pytest.mark.servers
def test_one_machine_goes_as_the_readme_says(reader: Reader) -> None:
    """
    "On one machine", from top to bottom, against real processes; what stands in it is what they say.
    """
    for block in blocks(section("On one machine")):
        if block.language == "console":
            reader.console(block.text)
        elif block.language == "python":
            reader.python(block)
        else:
            assert block.language == "text"
            reader.text(block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.servers
def test_the_concepts_go_as_the_page_says(reader: Reader) -> None:
    """
    docs/concepts.md: its example runs as it stands, against a mint that was begun as it says.
    """
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    for block in blocks(page.partition("\n## Sessions\n")[0]):
        getattr(reader, block.language)(block if block.language == "python" else block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.servers
def test_an_issuer_is_believed_as_the_page_says(reader: Reader) -> None:
    """
    docs/identity.md: a workload without a key opens sessions on behalf of a person, with an issuer that the page makes.
    """
    for block in blocks((ROOT / "docs" / "identity.md").read_text("utf-8")):
        if block.language == "toml":
            (reader.folder / "policy.toml").write_text(reader.here(block.text), "utf-8")
        elif block.language != "sh":
            getattr(reader, block.language)(block if block.language == "python" else block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.servers
def test_an_auditor_checks_as_the_page_says(tmp_path: Path) -> None:
    """
    What docs/audit.md tells an owner and an auditor to type, top to bottom, with a realm whose log has begun.
    """
    page = (ROOT / "docs" / "audit.md").read_text("utf-8")
    with live_realm(tmp_path / ".arx", free_ports(1)[0]) as live:
        checkpoint = live.folder / "log" / "checkpoint"
        live.until(lambda: checkpoint.exists() and checkpoint.read_text().splitlines()[1] != "0")
        someone = Reader(tmp_path, {})
        for block in blocks(page):
            if block.language == "console":
                someone.console(block.text)
    assert (tmp_path / "backup.db").stat().st_size > 0


def command_lines(page: str) -> Iterator[list[str]]:
    """Yield the words of every `arx …` that a page tells somebody to type."""
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
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, words
            command = found
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{command.name} {word}"


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
            read |= set(re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)", text))
            read |= set(re.findall(r"[\"'](NO_COLOR)[\"']", text))
    documented = {*table("Variables"), *re.findall(r"`(ARX_REQUIRE_\w+)`", SETTINGS_PAGE)}
    assert documented == read


def test_what_may_be_left_out_at_home_is_required_in_ci() -> None:
    """
    Tests that pass over what a machine lacks do so only where nobody says that it must be there, and CI says so.
    """
    asked = {name for path, text in code() if "tests" in path.parts for name in re.findall(r"\bARX_REQUIRE_\w+", text)}
    said = (ROOT / ".ci" / "run").read_text("utf-8") + (ROOT / "Makefile").read_text("utf-8")
    assert {name for name in asked if f"{name}=1" not in said} - {"ARX_REQUIRE_"} == set()
    assert "ARX_REQUIRE_TLOG=1 make test\n" in said


def test_every_setting_of_a_realm_is_documented() -> None:
    """
    docs/settings.md has each setting of ``realm.toml``, and no other.
    """
    assert sorted(table("`realm.toml`")) == sorted(SETTINGS)


def test_every_member_of_a_service_file_is_documented() -> None:
    """
    docs/settings.md has each member of a service file, and no other.
    """
    assert sorted(table("The service file")) == sorted(ServiceFile.__struct_fields__)


def test_make_help_lists_every_target() -> None:
    """``make help`` has a line for each target that may be called, and says what it is."""
    declared = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    told = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory", "help"], capture_output=True, check=True)
    listed = dict(line.split(maxsplit=1) for line in told.stdout.decode().splitlines())
    assert listed.keys() == set(declared.split()[1:])


def _found(dotted: str) -> bool:
    """Tell whether a dotted name is a module of ARx, or something in one."""
    module, _, name = dotted.rpartition(".")
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
