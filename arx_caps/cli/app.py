# SPDX-License-Identifier: Apache-2.0
"""The ``arx`` command's frame: which nouns there are, and how every command ends.

A noun's module is imported when it is used, so that ``arx --help`` needs nothing but click.  Whatever goes wrong ends
in one line on stderr and an exit code of ``exit_codes``; a traceback is shown only with ``--debug``.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.options import common_options
from arx_caps.cli.terminal import Console, json_line, plain

NOUNS: Final[Mapping[str, tuple[str, str]]] = {
    "init": ("init", "make a realm: its folder, keys and first operator"),
    "up": ("up", "run the whole realm on this machine"),
    "mint": ("mint", "run the mint alone, with a store of your own"),
    "relay": ("relay", "follow the store once for many verifiers"),
    "doctor": ("doctor.command", "look for what is wrong, and say how to mend it"),
    "policy": ("policy", "check a policy, ask it, compare, put it in force"),
    "operator": ("operator", "enrol operators, give them roles, get back in"),
    "whoami": ("operator", "show who a key makes you, and what you may do"),
    "agent": ("agent", "enrol, describe, list and deactivate agents"),
    "service": ("service", "enrol tool services, and keep their keys fresh"),
    "key": ("key", "make, rotate, retire and reseal root keys"),
    "ship": ("ship", "send a service's records to the mint, beside the service"),
    "session": ("session", "open, list, renew, freeze and end sessions"),
    "task": ("task", "start, attenuate, extend, look at and finish tasks; ask for approvals"),
    "approval": ("approval", "answer what agents ask to have approved"),
    "token": ("token.command", "read, delegate and explain tokens and bundles"),
    "kill": ("kill", "end what lives in a target, and see who confirmed"),
    "freeze": ("kill", "refuse a target until it is thawed"),
    "thaw": ("kill", "end a freeze, also the one that a kill of an agent or a person left"),
    "verifier": ("verifier", "list the verifiers and what they have applied"),
    "redis": ("redis", "prepare a store of your own: its users, its functions"),
    "decisions": ("decisions", "show what verifiers decided, and why"),
    "audit": ("audit.command", "ask the audit log; check it, and proofs of it, offline"),
    "witness": ("witness", "cosign the checkpoints of other people's logs"),
    "completion": ("completion", "write a shell's completion script"),
}
EXTRAS: Final[Mapping[str, str]] = {"sqlalchemy": "mint", "starlette": "mint", "uvicorn": "mint"}


class LazyGroup(click.Group):
    """A group that imports a noun's module only when the noun is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        """Return the nouns in the table's order."""
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click calls it so
        """Import the module of a noun and return its command."""
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"arx_caps.cli.commands.{NOUNS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click calls it so
        """Write the list of nouns from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(noun, help_text) for noun, (_, help_text) in NOUNS.items()])

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit with its code."""
        argv = list(sys.argv[1:] if args is None else args)
        console = Console()
        extra |= {"standalone_mode": False, "obj": console, "prog_name": "arx"}
        try:
            code: Any = super().main(argv, **extra)
            sys.stdout.flush()
        except Exception as error:
            code = _end(error, console, as_json=console.json or "--json" in argv, debug="--debug" in argv)
        raise SystemExit(code if isinstance(code, int) else exit_codes.OK)


def _end(error: Exception, console: Console, *, as_json: bool, debug: bool) -> int:
    """Report an error to a person and a script, and return the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader has gone (`arx decisions | head`); the interpreter must not complain about it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return exit_codes.USAGE
    if isinstance(error, click.Abort) and sys.stderr.isatty():
        click.echo(err=True)  # after the terminal's own ^C
    message, code, exit_code, hint = _describe(error)
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"arx: {plain(message)}", err=True)
    if hint:
        console.hint(hint)
    if as_json:
        click.echo(json_line("error", {"code": code, "error": message, "exit_code": exit_code, "hint": hint}))
    return exit_code


def _describe(error: Exception) -> tuple[str, str, int, str | None]:
    """Return message, code, exit code and hint of whatever ended a command."""
    from arx_verifier.errors import ArxError

    if isinstance(error, exit_codes.Stop):
        return str(error), error.code, error.exit_code, error.hint
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx is not None else "arx"
        return _ours(error.format_message()), "usage", exit_codes.USAGE, f"{where} --help"
    if isinstance(error, click.ClickException):
        return _ours(error.format_message()), "usage", exit_codes.USAGE, None
    if isinstance(error, click.Abort):
        return "interrupted", "interrupted", exit_codes.INTERRUPTED, None
    if isinstance(error, ArxError):
        hint = None
        if str(error) == "the store did not answer":
            hint = "see that it runs (`arx up`, or the server of `store` in realm.toml); `arx doctor` looks at it"
        return str(error), error.code, exit_codes.exit_of(error), hint
    extra = EXTRAS.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if extra is not None:
        return (
            "a part that this needs is not installed",
            "not_installed",
            exit_codes.USAGE,
            f"pip install 'arx-caps[{extra}]'",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", "file", exit_codes.USAGE, None
    # The text of an unexpected error could hold anything, a token included: its type says enough here.
    return f"internal error: {type(error).__name__}", "internal", exit_codes.INTERNAL, "run it again with --debug"


def _ours(message: str) -> str:
    """Put a message of click into ARx's form."""
    return (message[:1].lower() + message[1:]).rstrip(".").replace("\n", " ")


@click.group(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": "ARX", "help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 check failed or denied, 2 usage, 3 incomplete or unknown, 4 not authenticated, "
    "5 unreachable, 70 internal error.",
)
@click.version_option(package_name="arx-caps", prog_name="arx", message="%(prog)s %(version)s")
@common_options
def cli() -> None:
    """Authenticate and authorize AI agents: tokens that attenuate offline, kills that are confirmed."""


def main() -> NoReturn:
    """Run ``arx``."""
    cli.main()
