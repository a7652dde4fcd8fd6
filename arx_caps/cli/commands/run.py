# SPDX-License-Identifier: Apache-2.0
"""``arx run``: run a command under a task, with each of its requests signed by a front beside it."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arx_caps.agent import Task
from arx_caps.cli.access.credentials import holder_key_option, read_holder_key
from arx_caps.cli.access.place import issuer_option
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options, options_of
from arx_caps.cli.parse import pairs_option, read_pairs
from arx_caps.cli.terminal import Console, table
from arx_verifier.errors import ArxError
from arx_verifier.token.holder import HolderKey

if TYPE_CHECKING:
    from arx_caps.agent.sessions.agent import SessionOpener
    from arx_caps.run.command import Launch

_NOT_STARTED: Final = 125  # as env(1) and timeout(1) exit
_WITHOUT: Final = "no box: programs of your user can read this task, and the command can go around the front"
_file: Final = click.Path(dir_okay=False, path_type=Path)
_path: Final = click.Path(path_type=Path)


_who_options: Final = options_of(
    click.option("--key", type=_file, help="key file of the agent: start TASK, and end it with the command"),
    click.option(
        "--workload-token",
        type=_file,
        help="file with the platform's token for the agent, instead of --key; requires --issuer",
    ),
    click.option("--id-token", type=_file, help="file with the ID token of the task's subject"),
    click.option(
        "--access-token", type=_file, help="file with the access token of the task's subject, instead of --id-token"
    ),
    issuer_option,
)


@dataclass(frozen=True)
class _Who:
    """Who starts the task, and on whose behalf."""

    key: Path | None
    workload_token: Path | None
    id_token: Path | None
    access_token: Path | None
    issuer: str | None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(filter(None, (self.key, self.workload_token, self.id_token, self.access_token)))

    def agent(self) -> "SessionOpener":
        from arx_caps.agent import Agent, Workload  # with an HTTP client, which the file of a task has no use for

        if self.key is not None:
            return Agent.from_key_file(self.key, self.issuer)
        if self.workload_token is None or self.issuer is None:
            raise click.UsageError("--workload-token requires --issuer URL")
        return Workload.from_token_file(self.workload_token, self.issuer)

    def subject(self) -> dict[str, Any]:
        from arx_caps.agent.sessions.agent import read_token_file

        files = {"id_token": self.id_token, "access_token": self.access_token}
        return {name: read_token_file(file) for name, file in files.items() if file is not None}


@dataclass(frozen=True)
class _Box:
    """What the user wants of a box, and the files that it must not show."""

    home: Path | None
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    protected: tuple[Path, ...]

    def launch(self, command: tuple[str, ...], variables: Mapping[str, str], socket: Path) -> "Launch":
        from arx_caps.run.box import box_command, open_box
        from arx_caps.run.command import Launch
        from arx_caps.run.secret_files import secret_files

        shown = (Path.cwd(), *filter(None, (self.home,)), *self.reads, *self.writes)
        box = open_box(
            command,
            environment=variables,
            folder=Path.cwd(),
            home=self.home or socket.parent / "home",
            reads=(socket.parent, *self.reads),
            writes=self.writes,
            protected=(*self.protected, *secret_files(*shown)),
        )
        return Launch(box_command(box, socket), box.environment, is_boxed=True)


@click.command("run")
@click.argument("words", metavar="[TASK] -- COMMAND...", nargs=-1)
@click.option("--check", is_flag=True, help="check which programs of this machine follow the front; takes --read alone")
@click.option("--task", "file", type=_file, help="file of the task's bundle, mode 0600; one that replaces it is used")
@_who_options
@pairs_option("--param", "params", "parameter of the template TASK")
@holder_key_option
@click.option("--gateway", metavar="URL", help="gateway of the task [those that the policy names]")
@click.option("--no-box", is_flag=True, help="run the command without a box")
@click.option("--home", type=_path, metavar="DIR", help="home of the command in its box [an empty one of this run]")
@click.option("--read", "reads", type=_path, multiple=True, help="path that the command may read; repeatable")
@click.option("--write", "writes", type=_path, multiple=True, help="path that the command may change; repeatable")
@click.option("--env", "passed", multiple=True, metavar="NAME", help="variable that the command gets too; repeatable")
@click.option("--end-command", is_flag=True, help="send the command SIGTERM after a kill of the task")
@command_options
def run_command(
    console: Console,
    /,
    words: tuple[str, ...],
    check: bool,
    file: Path | None,
    params: tuple[str, ...],
    holder_key: Path | None,
    gateway: str | None,
    no_box: bool,
    home: Path | None,
    reads: tuple[Path, ...],
    writes: tuple[Path, ...],
    passed: tuple[str, ...],
    end_command: bool,
    **options: Any,
) -> None:
    """Run COMMAND under a task: it holds no secret, and each of its requests is a call of the task.

    It runs in a box: it can change the working folder and a home of its own, reads the system, and has no network.
    Unmodified programs such as git, gh and curl reach the hosts of the task's gateways through a front, which signs
    each request.  The gateway decides on it and adds the credential.  Requests to other hosts are refused.

    Exit code: that of COMMAND; 125: it was not started; 126, 127: it cannot be run, as in a shell.

    \b
        arx run --task ~/task.bundle -- git clone https://github.com/acme/app
        arx run --key ~/coder.key.json code --param repo=acme/app -- claude
        arx run --workload-token ~/ci.jwt --issuer https://arx.example code --param repo=acme/app -- ./nightly.sh
        arx run --check
    """
    who = _Who(**options)
    if check:
        others = (*who.files, *words, *params, *writes, *passed, file, who.issuer, holder_key, gateway, home)
        if any(others) or no_box or end_command:
            raise click.UsageError("--check takes --read alone")
        _check(console, reads)
        return
    if sum(each is not None for each in (file, who.key, who.workload_token)) != 1 or (file and who.files):
        raise click.UsageError("expected one of --task FILE, --key FILE and --workload-token FILE")
    template, command = ("", words) if file is not None else ("".join(words[:1]), words[1:])
    if not command:
        raise click.UsageError("expected TASK -- COMMAND")
    if no_box and (home or reads or writes):
        raise click.UsageError("--home, --read and --write are of a box")
    from arx_caps.run.command import hide_process

    hide_process()  # before it reads a task or a key
    logging.basicConfig(level=logging.WARNING, format="arx run: %(message)s")
    box = None if no_box else _Box(home, reads, writes, (*who.files, *filter(None, (file, holder_key))))
    try:
        holder = read_holder_key(holder_key)
        started = _file_task(file, holder) if file else _new_task(who, template, read_pairs(params), holder, box)
        with started as read_task:
            status = _run(console, command, read_task, gateway, passed, box, end_command=end_command)
    except ArxError as error:
        raise Stop(str(error), _NOT_STARTED, hint=error.hint, code=error.code) from error
    raise SystemExit(status)


def _check(console: Console, reads: tuple[Path, ...]) -> None:
    import asyncio

    from arx_caps.run.check import ProgramCheck, check
    from arx_caps.run.folder import run_folder

    try:
        with run_folder() as folder:
            rows = asyncio.run(check(folder, reads))
    except ArxError as error:
        raise Stop(str(error), _NOT_STARTED, hint=error.hint, code=error.code) from error
    shown = [each._asdict() for each in rows]
    console.data("run-check", {"programs": shown}, lambda: table(ProgramCheck._fields, rows))


def _run(
    console: Console,
    command: tuple[str, ...],
    read_task: Callable[[], Task],
    gateway: str | None,
    passed: tuple[str, ...],
    box: _Box | None,
    *,
    end_command: bool,
) -> int:
    import asyncio

    from arx_caps.run.attribution import git_settings
    from arx_caps.run.authority import RunAuthority
    from arx_caps.run.box import PROXY
    from arx_caps.run.command import Launch, RunningCommand
    from arx_caps.run.environment import environment
    from arx_caps.run.folder import run_folder
    from arx_caps.run.front import Front

    running = RunningCommand(command[0], lambda text: console.say(f"arx run: {text}"))

    def on_end() -> None:
        console.say("arx run: an operator ended this task: the gateway refuses each further call of the command")
        if end_command:
            running.end()

    authority = RunAuthority(read_task, on_end, gateway)
    if box is None:
        console.say(f"arx run: {_WITHOUT}")
    with run_folder() as folder:

        def prepare(front: Front) -> Launch:
            ca = folder / "ca.pem"
            ca.write_bytes(front.ca_pem)
            found = environment(
                proxy=front.proxy_url if box is None else PROXY,
                ca_file=ca,
                home=Path.home() if box is None else (box.home or folder / "home"),
                folder=folder,
                hosts=authority.hosts,
                socket=front.socket,
                passed=passed,
                git_settings=git_settings(authority.task, folder, Path.cwd()).items(),
            )
            return Launch(command, found, is_boxed=False) if box is None else box.launch(command, found, front.socket)

        return asyncio.run(running.run(authority, folder, prepare, has_port=box is None))


@contextlib.contextmanager
def _file_task(file: Path, holder: HolderKey | None) -> Iterator[Callable[[], Task]]:
    """Yield what returns the task of a file as it is now."""
    from arx_caps.connect.bundle_file import BundleFile

    bundle = BundleFile(file, key=holder)
    bundle.task.check_key()
    yield lambda: bundle.task


@contextlib.contextmanager
def _new_task(
    who: _Who, template: str, params: dict[str, Any], holder: HolderKey | None, box: _Box | None
) -> Iterator[Callable[[], Task]]:
    """Start a task; yield what returns it, and end it."""
    purpose = "arx run" if box else "arx run, box: none"
    with (
        who.agent() as agent,
        agent.open_session(purpose=purpose, **who.subject()) as session,
        session.start_task(template, params, keep=True, holder_key=holder) as task,
    ):
        yield lambda: task
