# SPDX-License-Identifier: Apache-2.0
"""What every command has: the common options, and the console they set.  Names of other options, where they repeat."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from arx_caps.cli.terminal import Console

F = TypeVar("F", bound=Callable[..., Any])

_COMMON: Final = {
    "json": ("--json", "write one JSON object instead of text"),
    "quiet": ("--quiet", "write nothing but data and errors"),
    "no_input": ("--no-input", "never ask; what would need a yes ends with 2"),
    "debug": ("--debug", "show a traceback when something is wrong inside"),
}

pass_console = click.make_pass_decorator(Console, ensure=True)


def common_options(function: F) -> F:
    """Add ``--json``, ``--quiet``, ``--no-input`` and ``--debug``; they set the console and reach no function."""
    for name, (flag, text) in reversed(_COMMON.items()):
        flags = (flag, "-q") if name == "quiet" else (flag,)
        function = click.option(
            f"common_{name}", *flags, is_flag=True, expose_value=False, callback=_set, envvar=_envvar(name), help=text
        )(function)
    return function


def _envvar(name: str) -> str:
    return "ARX_" + name.upper()


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        assert param.name is not None
        setattr(ctx.ensure_object(Console), param.name.removeprefix("common_"), True)


class Verbs(click.Group):
    """A noun with its verbs; each verb's first sentence is listed whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their whole first sentences, which click would cut."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, " ".join((command.help or "").split("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


Verbs.group_class = Verbs
_THUMBPRINT: Final = re.compile(r"-[A-Za-z0-9_-]{42}")


class KidCommand(click.Command):
    """A command whose last argument is a key's thumbprint: one of 64 begins with ``-``, and is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put a thumbprint that looks like an option behind ``--``, where only arguments stand."""
        kids = [arg for arg in args if _THUMBPRINT.fullmatch(arg)]
        if kids and "--" not in args:
            args = [arg for arg in args if arg not in kids] + ["--", *kids]
        return super().parse_args(ctx, args)


yes_option = click.option("--yes", "-y", is_flag=True, help="do not ask")
out_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="write it to this file (mode 0600) instead of stdout",
)
