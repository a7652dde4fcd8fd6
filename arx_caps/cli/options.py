# SPDX-License-Identifier: Apache-2.0
"""The options of every command, those of several commands, and groups that list their verbs."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from arx_caps.cli.terminal import Console

F = TypeVar("F", bound=Callable[..., Any])

_COMMON: Final = {
    "json": ("--json", "write one JSON object instead of text"),
    "quiet": ("--quiet", "write only data and errors"),
    "no_input": ("--no-input", "never prompt; exit with 2 if a confirmation is needed and --yes is missing"),
    "debug": ("--debug", "print the traceback of an error"),
    "wide": ("--wide", "do not fit tables to the terminal: no id is shortened"),
}

_pass_console = click.make_pass_decorator(Console, ensure=True)


def options_of(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return a decorator that adds options and arguments, in the order in which the help lists them."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def common_options(function: F) -> F:
    """Add the options of every command, such as ``--json``; they set the console and pass no argument."""
    for name, (flag, text) in reversed(_COMMON.items()):
        flags = (flag, "-q") if name == "quiet" else (flag,)
        function = click.option(
            f"common_{name}", *flags, is_flag=True, expose_value=False, callback=_set, envvar=_envvar(name), help=text
        )(function)
    return function


def command_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command; the function gets the console as its first argument."""
    return common_options(_pass_console(function))


def _envvar(name: str) -> str:
    return "ARX_" + name.upper()


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        assert param.name is not None
        setattr(ctx.ensure_object(Console), param.name.removeprefix("common_"), True)


class NearestGroup(click.Group):
    """A group that names the nearest command after a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that a line names, or raise with the command that is nearest."""
        from difflib import get_close_matches  # imported on use: only a mistake needs it

        names = self.list_commands(ctx)
        # While a shell completes a line, its words may be anything: an error would be printed into the line.
        known = ctx.resilient_parsing or args[0] in names
        near = [] if known else get_close_matches(args[0], names, 1)
        if near:
            ctx.fail(f"no such command {args[0][:60]!r}: did you mean `{ctx.command_path} {near[0]}`?")
        return super().resolve_command(ctx, args)


class Verbs(NearestGroup):
    """A noun with its verbs; the help lists the whole first paragraph of each.

    Args:
        default_verb: The verb of a line that names none; None if each line must name one.
        takes_file: Whether a line may begin with the file of the default verb.
        settings: As of ``click.Group``.
    """

    def __init__(self, *args: Any, default_verb: str | None = None, takes_file: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.default_verb, self._takes_file = default_verb, takes_file

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a line; one without a verb has the default verb."""
        # While a shell completes a line, the verb may be what it completes.
        return super().parse_args(ctx, args if ctx.resilient_parsing else self.with_verb(args, ctx.help_option_names))

    def with_verb(self, args: list[str], helps: Sequence[str] = ()) -> list[str]:
        """Return a line with its verb.

        Args:
            args: The line.
            helps: The options that ask for help, which need none.
        """
        names_none = not args or (args[0].startswith("-") and args[0] not in helps)
        if args and self._takes_file and not args[0].startswith("-"):
            names_none = args[0] not in self.commands
        return args if self.default_verb is None or not names_none else [self.default_verb, *args]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their first paragraphs."""
        rows = []  # click itself cuts a help text after 45 characters
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, " ".join((command.help or "").split("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


Verbs.group_class = Verbs
_THUMBPRINT: Final = re.compile(r"-[A-Za-z0-9_-]{42}")


class KidCommand(click.Command):
    """A command whose last argument is a key's thumbprint, which may begin with ``-``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move a thumbprint that looks like an option after ``--``, where click expects arguments."""
        kids = [arg for arg in args if _THUMBPRINT.fullmatch(arg)]
        if kids and "--" not in args:
            args = [arg for arg in args if arg not in kids] + ["--", *kids]
        return super().parse_args(ctx, args)


def limit_option(text: str, default: int, most: int = 1_000_000) -> Callable[[F], F]:
    """Return the option ``--limit`` of a command that lists.

    Args:
        text: The help.
        default: The number of rows without the option.
        most: The largest number.
    """
    return click.option("--limit", type=click.IntRange(1, most), default=default, show_default=True, help=text)


def _address(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from arx_verifier.addresses import read_port  # imported on use: `arx --help` needs no verifier

    if value is not None and (":" not in value or read_port(value.rpartition(":")[2]) is None):
        raise click.BadParameter(f"expected HOST:PORT such as 127.0.0.1:9701, got {value}")
    return value


metrics_option = click.option(
    "--metrics", metavar="HOST:PORT", callback=_address, help="address of /metrics, /healthz and /readyz [none]"
)
reason_option = click.option("--reason", required=True, help="reason, recorded in the audit log; name no person in it")
yes_option = click.option("--yes", "-y", is_flag=True, help="do not ask for confirmation")
out_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="file to write (mode 0600) [stdout]",
)
