# SPDX-License-Identifier: Apache-2.0
"""The ``arx`` command: its nouns, and the end of every command.

An error ends in one line on stderr, a hint if there is one, and an exit code of ``exit_codes``; ``--debug`` adds the
traceback.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.options import NearestGroup, common_options
from arx_caps.cli.terminal import Console, json_line, plain

# httpx loads its own command line where rich is installed: 4 MB and 70 ms of each command, which uses none of it.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # to import, there is no such module

# A noun's module is imported on use: `arx --help` needs nothing but click, and parts of ARx may not be installed.
GROUPS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "Realm": {
        "init": ("init", "make a realm: its folder, its keys and its first operator"),
        "up": ("up", "run the whole realm on this machine"),
        "demo": ("demo", "show ARx at work on this machine: agents, attacks, a kill"),
        "mint": ("mint", "run the mint alone, with your own revocation store"),
        "relay": ("relay", "follow the revocation store on behalf of many verifiers"),
        "redis": ("redis", "prepare your own revocation store: its users and functions"),
        "key": ("key", "create, rotate, retire and reseal root keys, and create holder keys"),
        "backup": ("backup", "back up the realm while its mints serve, and try a backup"),
        "restore": ("backup", "restore a backup into an empty place"),
        "doctor": ("doctor.command", "check the realm, and print how to repair what is wrong"),
        "health": ("health", "ask a mint or a gateway whether it is ready"),
    },
    "Watch": {
        "console": ("console", "open the operators' pages in a browser"),
        "status": ("console", "show whether the mint grants, its verifiers and its audit log"),
        "top": ("top", "show sessions, decisions, refusals and kills, live"),
        "webhook": ("webhook", "send notifications to receivers: approvals, kills, a halted log"),
    },
    "Policy": {
        "policy": ("policy.command", "check, query, draft, compare and activate policies"),
    },
    "Operators, agents and services": {
        "operator": ("operator", "enrol operators, set their roles, recover access"),
        "login": ("login", "log in as an operator at the login of your organization"),
        "logout": ("login", "end a login"),
        "whoami": ("operator", "show the operator of a key, and its permissions"),
        "agent": ("agent", "enrol, describe, list and deactivate agents"),
        "service": ("service", "enrol tool services, and replace their keys"),
        "apply": ("apply.command", "enrol and invite the services of a file"),
        "client": ("client", "register OAuth clients for agents"),
        "connection": ("connection", "list and end accounts of people at upstreams, and rotate their keys"),
    },
    "Sessions, tasks and tokens": {
        "session": ("session", "open, list, renew, freeze and end sessions"),
        "task": ("task", "start, attenuate, extend, show and finish tasks; request approvals"),
        "budget": ("budget", "show what is left of budgets, and top up a pool"),
        "marks": ("marks", "show the marks of a session, and lift one"),
        "approval": ("approval", "list, approve, deny and withdraw approvals"),
        "token": ("token.command", "inspect, delegate and explain tokens and bundles"),
        "connect": ("connect", "sign the messages of a stock MCP client with a task"),
        "run": ("run", "run a command under a task, without secrets"),
        "hook": ("hook", "decide on the calls of a coding agent's own tools"),
        "gateway": ("gateway", "guard tools that cannot embed a verifier"),
    },
    "Kills and freezes": {
        "kill": ("kill", "revoke the tokens of a target, and print which verifiers confirmed"),
        "freeze": ("kill", "refuse the tokens of a target until it is thawed"),
        "thaw": ("kill", "end a freeze, including the freeze that a kill leaves"),
        "frozen": ("frozen", "list what is refused now, by whom, since when and why"),
        "memory": ("memory", "taint what a target wrote into memories, or trust it again"),
        "kills": ("kills", "list past kills, freezes and thaws, and their confirmations"),
        "verifier": ("verifier", "list the verifiers and the revocations that they have applied"),
    },
    "Decisions and audit": {
        "decisions": ("decisions", "show the decisions in local journals, and their reasons"),
        "audit": ("audit.command", "query, verify, export and prune the audit log"),
        "ship": ("ship", "send a service's records to the mint"),
        "witness": ("witness", "cosign the checkpoints of audit logs as a witness"),
    },
    "Shell": {
        "completion": ("completion", "print a shell's completion script"),
    },
}
NOUNS: Final = {noun: row for group in GROUPS.values() for noun, row in group.items()}
EXTRAS: Final[Mapping[str, str]] = {
    "aiohttp": "gateway",
    "prometheus_client": "mint",
    "sqlalchemy": "mint",
    "starlette": "mint",
    "uvicorn": "mint",
    "uvloop": "gateway",
}
POSIX: Final = frozenset({"fcntl", "grp", "pwd", "resource"})  # modules that Windows lacks


class LazyGroup(NearestGroup):
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
        """Write the nouns from the table in their groups, without importing their modules."""
        width = max(map(len, NOUNS))
        for heading, nouns in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(noun.ljust(width), help_text) for noun, (_, help_text) in nouns.items()])

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run a command line and exit with its code."""
        # click would print errors in its own form and exit with its own codes, so it is not run in standalone mode.
        argv = list(sys.argv[1:] if args is None else args)
        console = Console()
        extra |= {"standalone_mode": False, "obj": console, "prog_name": "arx"}
        try:
            code: Any = super().main(argv, **extra)
            sys.stdout.flush()  # here, so that a full disk or a closed pipe is an error of the command
        except Exception as error:
            # A usage error can occur before the options were parsed, so the arguments are searched as well.
            code = _end(error, console, as_json=console.json or "--json" in argv, debug="--debug" in argv)
        raise SystemExit(code if isinstance(code, int) else exit_codes.OK)


def _end(error: Exception, console: Console, *, as_json: bool, debug: bool) -> int:
    """Report an error on stderr, and on stdout under ``--json``; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader closed the pipe (`arx decisions | head`); without this the interpreter reports it again at exit.
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
    further = [str(mistake) for mistake in getattr(error, "further", ())]
    for line in (message, *further):
        click.echo(f"arx: {plain(line)}", err=True)
    if hint:
        console.hint(hint)
    # A script that reads stdout gets the error there as well; a person reads stderr.
    if as_json:
        value = {"code": code, "error": message, "exit_code": exit_code, "hint": hint}
        click.echo(json_line("error", value | ({"further": further} if further else {})))
    return exit_code


def _describe(error: Exception) -> tuple[str, str, int, str | None]:
    """Return message, code, exit code and hint of the error that ended a command."""
    from arx_verifier.errors import ArxError

    if isinstance(error, exit_codes.Stop):
        return str(error), error.code, error.exit_code, error.hint
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx is not None else "arx"
        return _ours(error.format_message()), "usage", exit_codes.USAGE, f"`{where} --help` lists arguments and options"
    if isinstance(error, click.ClickException):
        return _ours(error.format_message()), "usage", exit_codes.USAGE, None
    if isinstance(error, click.Abort):
        return "interrupted", "interrupted", exit_codes.INTERRUPTED, None
    if isinstance(error, ArxError):
        hint = error.hint
        if str(error) == "the store did not answer":
            hint = "start it (`arx up`, or the server at `store` in realm.toml); `arx doctor` checks it"
        return str(error), error.code, exit_codes.exit_of(error), hint
    extra = EXTRAS.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
    if extra is not None:
        from arx_caps.installation import install_line  # reads the metadata: `arx --help` needs none

        return (
            "this command needs a part of ARx that is not installed",
            "not_installed",
            exit_codes.USAGE,
            f"install it: {install_line(extra)}",
        )
    if isinstance(error, ModuleNotFoundError) and error.name in POSIX:
        from arx_verifier._platform import posix_alone

        hint = "run it on such a system, or in a container there"
        return posix_alone("this command"), "not_installed", exit_codes.USAGE, hint
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", "file", exit_codes.USAGE, None
    # The text of an unexpected error could contain a token, so the message has its type alone.
    return f"internal error: {type(error).__name__}", "internal", exit_codes.INTERNAL, "add --debug for the traceback"


def _ours(message: str) -> str:
    """Return a message of click in ARx's form: small first letter, one line, no full stop."""
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
