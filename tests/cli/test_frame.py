# SPDX-License-Identifier: Apache-2.0
"""The command's frame: help, version, completion, documentation, colours and environment."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from arx_caps.cli.app import NOUNS
from arx_caps.cli.terminal import plain, table
from arx_caps.settings.durations import show_span
from tests.cli.helpers import arx, bundle
from tests.cli.reference import commands

ROOT = Path(__file__).parents[2]


NAMED = {
    "runs": "arx audit runs",
    "policies": "arx policy list",
    "notifications": "arx webhook failed",
    "holder-keys": "arx key holders",
    "kills": "arx kills list",
    "freezes": "arx frozen list",
}
SHOWN_BY_NAME = {"budgets": {"task", "link", "pool"}}  # the argument of `arx budget show`


def test_what_a_list_can_be_asked_for_is_an_option() -> None:
    """
    Each filter of a list at the mint is one of the command that shows it.
    """
    from arx_caps.mint.api.app import ENDPOINTS
    from arx_caps.mint.api.pagination import PageQuery

    options = {words: {option for each in command.params for option in each.opts} for words, command in commands()}
    lists = [each for each in ENDPOINTS if issubclass(each.query, PageQuery)]
    assert len(lists) >= 7
    for each in lists:
        noun = each.path.rsplit("/", 1)[1]
        words = NAMED.get(noun, f"arx {noun[:-1]} list")
        asked = set(each.query.__struct_fields__) - {"limit", "after", "counts"} - SHOWN_BY_NAME.get(noun, set())
        wanted = {"--of" if (noun, name) == ("tasks", "session") else f"--{name}" for name in asked}
        assert wanted <= options[words], words


def test_help_imports_nothing_but_click() -> None:
    """
    ``arx --help`` is quick because no noun is loaded for it.
    """
    script = (
        "import sys\nfrom arx_caps.cli.app import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'httpx', 'redis', 'joserfc', 'cryptography', 'sqlalchemy', 'starlette', 'msgspec'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(noun in done.stdout for noun in NOUNS)


def test_commands_load_nothing_of_the_command_line_of_httpx() -> None:
    """
    A command that sends requests loads neither rich nor pygments for them.
    """
    script = "import sys, arx_caps.cli.app, httpx; assert not {'rich', 'pygments'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_every_command_has_help_that_works() -> None:
    """
    ``--help`` of every command exits with 0, and each option says what it is for.
    """
    for words, command in commands():
        assert arx(*words.split()[1:], "--help").exit_code == 0
        assert all(param.help for param in command.params if isinstance(param, click.Option)), words


def test_a_noun_lists_its_verbs_in_whole_sentences() -> None:
    """
    What ``arx NOUN --help`` says of each verb is its first sentence, and not the beginning of it.
    """
    for words, command in commands():
        if isinstance(command, click.Group):
            output = " ".join(arx(*words.split()[1:], "--help").out.split())
            for verb, inner in command.commands.items():
                assert f"{verb} {' '.join((inner.help or '').partition(chr(10) * 2)[0].split())}" in output, words


def test_version() -> None:
    """
    ``arx --version`` is one line.
    """
    assert arx("--version").out.startswith("arx ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """
    Each shell gets a script that asks ``arx`` itself.
    """
    ran = arx("completion", shell)
    assert ran.exit_code == 0
    assert "_ARX_COMPLETE" in ran.out


def test_completion_completes_nouns_and_verbs() -> None:
    """
    The script's question is answered without running anything.
    """
    asked = {"_ARX_COMPLETE": "bash_complete", "COMP_WORDS": "arx token ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "arx_caps.cli"], capture_output=True, text=True, env={**os.environ, **asked}, timeout=60
    )
    assert {"plain,inspect", "plain,delegate", "plain,explain"} <= set(done.stdout.split())


@pytest.mark.slow
def test_completion_after_a_mistyped_noun_prints_nothing() -> None:
    """A shell shows what the command prints: an error would be in the middle of the line that is typed."""
    asked = {"_ARX_COMPLETE": "bash_complete", "COMP_WORDS": "arx tokne ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "arx_caps.cli"], capture_output=True, text=True, env={**os.environ, **asked}, timeout=60
    )
    assert done.stderr == ""


def test_quiet_leaves_data_and_errors_alone() -> None:
    """
    ``--quiet`` silences hints and notes, never data or what is wrong.
    """
    words = ("token", "delegate", "acme/w", "--in", "-", "--quiet")
    ran = arx(*words, stdin=bundle().encode())
    assert ran.out.startswith("arxb1_")
    assert ran.err == ""
    assert arx("-q", "token", "inspect", "/nonexistent").err.startswith("arx: ")


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    """
    A flag wins over its variable, the variable over the default.
    """
    (tmp_path / "policy.toml").write_text("")
    assert "arx/policy/1" in arx("policy", "check", tmp_path / "policy.toml", env={"ARX_JSON": "1"}).out
    missing = tmp_path / "from-environment"
    assert "from-environment" in arx("decisions", env={"ARX_HOME": str(missing)}).err
    ran = arx("decisions", "--realm-dir", tmp_path / "from-flag", env={"ARX_HOME": str(missing)})
    assert "from-flag" in ran.err


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    """
    Every user of the machine can read a command line.
    """
    for url in (
        "redis://:hunter2@127.0.0.1:1/0",
        "redis+sentinel://127.0.0.1:1/kills?sentinel_password=hunter2",
        "rediss://127.0.0.1:1?ssl_password=hunter2",
        "redis://[:hunter2@",
    ):
        ran = arx("verifier", "list", "--realm", "acme", "--store", url)
        assert ran.exit_code == 2
        assert "hunter2" not in ran.out + ran.err
    ran = arx("verifier", "list", "--realm", "acme", env={"ARX_STORE_URL": "redis://:hunter2@127.0.0.1:1/0"})
    assert ran.exit_code == 5
    assert "hunter2" not in ran.out + ran.err


def test_text_for_people() -> None:
    """
    Spans are short, tables line up, control characters are shown.
    """
    assert [show_span(ms) for ms in (999, 60_000, 3_661_000, 90_000_000)] == ["999 ms", "1m", "1h 1m", "1d 1h"]
    assert plain("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert table(("A", "B"), [("x", None), ("long", 1)]).splitlines()[1:] == ["x     -", "long  1"]


@pytest.mark.parametrize("noun", ["frozen", "kills"])
def test_a_noun_that_is_read_needs_no_verb(noun: str, tmp_path: Path) -> None:
    """
    A line without a verb is that of ``list``, with its options; help and other verbs are as of any noun.
    """
    env = {"ARX_HOME": str(tmp_path)}
    listed = arx(noun, "list", env=env)
    assert "no such key file of an operator" in listed.err
    assert arx(noun, env=env) == listed
    assert arx(noun, "--json", env=env) == arx(noun, "list", "--json", env=env)
    assert arx(noun, "--colour", env=env).err == arx(noun, "list", "--colour", env=env).err
    assert "\nCommands:\n  list " in arx(noun, "--help").out
    assert "did you mean" in arx(noun, "lits", env=env).err


def test_decisions_take_a_short_limit(tmp_path: Path) -> None:
    """
    ``-n`` is ``--limit``, as of the shell's own commands for the last lines.
    """
    (tmp_path / "journals").mkdir()
    env = {"ARX_HOME": str(tmp_path)}
    assert arx("decisions", "-n", "2", env=env) == arx("decisions", "--limit", "2", env=env)
    assert arx("decisions", "-n", "0", env=env).exit_code == 2
