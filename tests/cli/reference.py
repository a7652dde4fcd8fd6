# SPDX-License-Identifier: Apache-2.0
"""Write docs/cli.md from the commands themselves: ``python -m tests.cli.reference > docs/cli.md``."""

import inspect
import textwrap
from collections.abc import Iterator

import click

from arx_caps.cli.app import cli
from arx_caps.cli.options import common_options

HEAD = """\
# The `arx` command

<!-- Written by `python -m tests.cli.reference`; a test holds it and the command together. -->

For operators and developers at a shell.
At the end of this page you know every command with its options, its output and its exit codes.

Data goes to stdout, everything else to stderr.
`--json` writes one object with a `schema`, `arx/<noun>/1`; commands that go on (`--follow`,
`arx ship`) write one per line.
On a terminal, tables and trees have colours and fit its width; a pipe and `--quiet` get plain text.
In a table that is too wide for the terminal, ids are shortened in the middle, and the last columns
may be left out, which it says; a record goes on below instead. `--wide` and a pipe show all.
With `--json` an error is an object as well, `arx/error/1`.
Long work then writes its progress to stderr every 5 s, `arx/progress/1`; `--quiet` leaves it out.
A message is one line; the line `hint: …` after it has the next step.

| exit code | means |
| --- | --- |
| 0 | ok; for `kill`, `freeze` and `thaw`: every verifier has confirmed |
| 1 | a check failed: denied, tampered, refused by the policy |
| 2 | usage: the command line or a file is invalid |
| 3 | incomplete or unknown: done in part, or the outcome is unknown |
| 4 | not authenticated |
| 5 | the mint or the store did not answer |
| 70 | an internal error; `--debug` prints the traceback |

A secret is never part of the command line: tokens, bundles and session files are read from a file,
or from stdin as `-`.
Output names them by fingerprint, unless the token or bundle is the result; `--out` writes it to a
file of mode 0600.

An option takes precedence over its environment variable, the variable over the realm's folder and
its `realm.toml`, and the folder over the default.
Every option has a variable: `--ttl` of `arx session open` is `ARX_SESSION_OPEN_TTL`, unless the
table names another one. `NO_COLOR` and `TERM=dumb` are respected.
`arx completion bash|zsh|fish` prints a completion script.

Every command takes `--json`, `--quiet`, `--no-input` (never prompt; a confirmation then needs
`--yes`), `--debug`, `--wide` and `--help`.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words, groups before what is in them."""
    ctx = click.Context(cli, info_name="arx", **cli.context_settings)
    for noun in cli.list_commands(ctx):
        command = cli.get_command(ctx, noun)
        assert command is not None
        yield from _within(f"arx {noun}", command)


def _within(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for verb, inner in command.commands.items():
            yield from _within(f"{words} {verb}", inner)


def reference() -> str:
    """Return the text of docs/cli.md."""
    return HEAD + "".join(_section(words, command) for words, command in commands())


def _section(words: str, command: click.Command) -> str:
    text = "\n\n".join(map(_paragraph, inspect.cleandoc(command.help or "").split("\n\n")))
    lines = [f"\n{'##' if words.count(' ') == 1 else '###'} `{words}`", "", *text.splitlines()]
    if isinstance(command, click.Group):
        return "\n".join(lines) + "\n"
    common = {param.name for param in common_options(lambda: None).__click_params__}  # type: ignore[attr-defined]
    own = [param for param in command.params if param.name not in common]
    arguments = [param.make_metavar(click.Context(command)) for param in own if isinstance(param, click.Argument)]
    options = [param for param in own if isinstance(param, click.Option)]
    lines += ["", f"    {' '.join([words, '[OPTIONS]' if options else '', *arguments]).replace('  ', ' ')}"]
    if options:
        lines += ["", "| option | |", "| --- | --- |", *(_row(command, option) for option in options)]
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    """Wrap a paragraph of help; lines after a mark of click stay as they are."""
    if text.startswith("\b\n"):
        return text.removeprefix("\b\n")
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)


def _row(command: click.Command, option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
    notes = [option.help or ""]
    if option.required:
        notes.append("required")
    if option.show_default and not option.is_flag:
        notes.append(f"default {option.default}")
    if option.envvar:
        notes.append(f"`{option.envvar}`")
    return f"| {names}{value} | {'; '.join(notes)} |".replace("|bool", "")


if __name__ == "__main__":
    print(reference(), end="")
