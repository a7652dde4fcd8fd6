# SPDX-License-Identifier: Apache-2.0
"""What a terminal gets that a pipe does not: tables and trees in colours that fit it, and progress."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from arx_caps.cli.terminal import Console, Progress, record_table, shorten_cells
from arx_caps.settings.durations import show_time
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal
from tests.cli.helpers import SESSION
from tests.servers import child

EVIL = "[red]x[/red] :smile: [link=http://a.example]y\x1b[2J\u202e\x07"
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with one refusal, whose texts are as a holder and a caller chose them."""
    folder = tmp_path_factory.mktemp("terminal")
    facts = ChainFacts(agent="acme/support/triage", session=SESSION, task="t-" + "a" * 16, audience="orders")
    failure = Failure("caveat 2", "amount range", "[0,5]", f'"{EVIL}"')
    with_failure = Decision("argument_not_allowed", 1_760_000_000_000, facts, EVIL, failures=(failure,))
    sink = Journal(folder / "orders", "orders-1", "orders")
    sink.append(with_failure)
    sink.close()
    return folder


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    return kept | {"TERM": "xterm", "COLUMNS": "80", "PYTHONPROFILEIMPORTTIME": "1"} | more


def read_all(terminal: int) -> bytes:
    """Read what a terminal shows, until the last process has closed it."""
    shown = b""
    try:
        while more := os.read(terminal, 65536):
            shown += more
    except OSError:  # how Linux reports that the other end is closed
        pass
    os.close(terminal)
    return shown.replace(b"\r\n", b"\n")


def decisions(journal: Path, *words: str, on_terminal: bool, **more: str) -> tuple[bytes, bool]:
    """Run ``arx decisions`` and return what it wrote, and whether it imported rich."""
    command = [sys.executable, "-m", "arx_caps.cli", "decisions", "--journal", str(journal), *words]
    terminal, theirs = pty.openpty() if on_terminal else os.pipe()
    with child(command, stdout=theirs, stderr=subprocess.PIPE, env=environment(**more)) as process:
        os.close(theirs)
        shown = read_all(terminal)
        assert process.stderr is not None
        imported = process.stderr.read()
        assert process.wait(60) == 0, imported[-2000:]
    return shown, b"| rich\n" in imported or b" rich." in imported


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--session", SESSION)], ids=["table", "tree"])
def test_a_terminal_gets_colours_and_lines_that_fit_it(journal: Path, words: tuple[str, ...]) -> None:
    """
    No line is wider than the terminal: a record and a tree go on below. A wide terminal's lines are those that a pipe
    gets, and so are those with ``--wide``.
    """
    shown, rich = decisions(journal, *words, on_terminal=True)
    assert rich == bool(words)  # lines of records need none of it
    assert COLOUR.search(shown)
    assert max(len(line) for line in COLOUR.sub(b"", shown).decode().splitlines()) <= 80
    wide, _ = decisions(journal, *words, on_terminal=True, COLUMNS="500")
    piped, _ = decisions(journal, *words, on_terminal=False)
    if words:  # what is too long goes on below, whole
        assert re.sub(rb"\s", b"", COLOUR.sub(b"", shown)) == re.sub(rb"\s", b"", piped)
    else:
        assert re.sub(rb"\s", b"", COLOUR.sub(b"", shown)).count(b"amount") == 1
    assert "…".encode() not in shown
    if not words:
        assert decisions(journal, "--wide", on_terminal=True)[0] == piped
    lines = [line.rstrip() for line in COLOUR.sub(b"", wide).splitlines()]
    assert lines == piped.splitlines()


@pytest.mark.parametrize("words", [(), ("--session", SESSION)], ids=["table", "tree"])
@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colours_where_they_are_not_wanted(journal: Path, words: tuple[str, ...], setting: dict[str, str]) -> None:
    """
    With NO_COLOR, and on a terminal that knows no control sequence, not one is written.
    """
    shown, _ = decisions(journal, *words, on_terminal=True, **setting)
    assert b"\x1b" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--session", SESSION)], ids=["table", "tree"])
def test_a_pipe_and_quiet_get_plain_text_without_rich(journal: Path, words: tuple[str, ...]) -> None:
    """
    A pipe, --quiet and --json get the same bytes wherever they go, and rich is not imported for them.
    """
    piped, rich = decisions(journal, *words, on_terminal=False)
    assert not rich
    assert decisions(journal, *words, "--quiet", on_terminal=True) == (piped, False)
    records, rich = decisions(journal, *words, "--json", on_terminal=False)
    assert not rich
    assert decisions(journal, *words, "--json", on_terminal=True) == (records, False)


@pytest.mark.parametrize("words", [(), ("--session", SESSION)], ids=["table", "tree"])
def test_data_is_no_markup_and_steers_no_terminal(journal: Path, words: tuple[str, ...]) -> None:
    """
    Markup, an emoji's name and a link are shown as they were sent; control characters and bidi marks are escaped.
    """
    shown, _ = decisions(journal, *words, on_terminal=True, COLUMNS="500")
    text = COLOUR.sub(b"", shown).decode()
    assert "[red]x[/red] :smile: [link=http://a.example]y" in text
    assert not set(text) & set("\x1b\x07\u202e")


def test_progress_shows_count_and_time_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A terminal sees how many are done, of how many, and for how long; the line is gone in the end.
    """
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress(Console(), "the mint is at it") as progress:
            shown = b""
            while b"the mint is at it" not in shown:
                shown += os.read(terminal, 65536)
            progress.show(1000, 4000)
            while not re.search(rb"1,000 of 4,000 records.*0:00:0\d", COLOUR.sub(b"", shown)):
                shown += os.read(terminal, 65536)
            progress._began -= 10  # it began ten seconds ago
            progress.show(2000, 4000)
            while not re.search(rb"2,000 of 4,000 records, \d+ a second, \d+s left", COLOUR.sub(b"", shown)):
                shown += os.read(terminal, 65536)
        for quiet in ("quiet", "json"):
            console = Console()
            setattr(console, quiet, True)
            with Progress(console) as progress:
                progress.show(1, 2)
        stderr.flush()
        monkeypatch.undo()
    last = read_all(terminal)
    assert b"records" not in last.rpartition(b"\x1b[2K")[2]
    assert b"1 of 2" not in last


def test_progress_for_a_script_is_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json each line of it is an object, now and then; stdout has the one object of the result."""
    console = Console()
    console.json = True
    with Progress(console) as progress:
        progress.show(1, 4000)  # too early to say anything
        progress._began -= 10
        progress._shown_at -= 10
        progress.show(1000, 4000)
        progress.show(1001, 4000)  # too soon after the last
        progress._shown_at -= 10
        progress.show(2000, 0)
    console.data("audit-check", {"records": 4000}, "")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": "arx/audit-check/1", "records": 4000}
    known, unknown = map(json.loads, err.splitlines())
    assert (known["schema"], known["done"], known["of"]) == ("arx/progress/1", 1000, 4000)
    assert 90 <= known["per_second"] <= 100
    assert 30_000 <= known["left_ms"] <= 33_000
    assert (unknown["done"], unknown["of"], unknown["left_ms"]) == (2000, None, None)
    console.quiet = True
    with Progress(console) as progress:
        progress._shown_at -= 10
        progress.show(1, 2)
    assert capsys.readouterr().err == ""


def test_records_go_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal a record has all its cells, and no line is longer than the terminal; a pipe gets a table."""
    heads = ("TIME", "OUTCOME", "AGENT", "WHY")
    rows = [
        (show_time(time.time_ns() // 1_000_000), "allow", "acme/a", "-"),
        ("2020-01-02 03:04:05Z", "deny", " -> ".join(["acme/research/market"] * 5), "the tool must be search.web"),
    ]
    assert len(record_table(heads, rows).splitlines()) == 3
    monkeypatch.setattr("arx_caps.cli.terminal.on_terminal", lambda: True)
    monkeypatch.setattr("arx_caps.cli.terminal.columns", lambda: 60)
    first, *second = click.unstyle(record_table(heads, rows)).splitlines()
    assert first.split() == [rows[0][0][11:], "allow", "acme/a"]
    assert max(map(len, second)) <= 60
    assert all(line.startswith("    ") for line in second[1:])
    assert " ".join("\n".join(second).split()) == f"01-02 03:04Z deny {rows[1][2]} {rows[1][3]}"


def test_a_table_gives_way_only_as_far_as_it_must() -> None:
    """
    The longest ids go first and in their middle, those of the first column last; a time loses its date of today; what
    is left too wide loses its last columns. A table that fits is as it was.
    """
    heads = ("SESSION", "AGENT", "STATE", "WHY")
    row = ["s-abcdefghijklmnop", "acme/support/triage/with/a/long/path/to/it", "open", "a test"]
    assert shorten_cells(heads, [row], 200) == [row]
    (narrow,) = shorten_cells(heads, [row], 70)
    assert (narrow[0], narrow[2:]) == (row[0], row[2:])
    assert narrow[1].startswith("acme/support/")
    assert narrow[1].endswith("path/to/it")
    assert len(narrow[0]) + len(narrow[1]) + len("STATE") + len(row[3]) + 2 * 3 == 70
    times = [["2020-01-02 03:04:05Z"], [show_time(time.time_ns() // 1_000_000)]]
    (past,), (today,) = shorten_cells(("TIME",), times, 12)
    assert (past, today) == ("01-02 03:04Z", times[1][0][11:])
    assert shorten_cells(("TIME",), times, 80) == times
    (least,) = shorten_cells(heads, [row], 30)
    assert [len(cell) for cell in least] == [17, 11]
    (copied,) = shorten_cells(heads, [row], 48)
    assert copied[0] == row[0]
    assert shorten_cells(heads, [], 10) == []
