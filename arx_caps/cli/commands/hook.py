# SPDX-License-Identifier: Apache-2.0
"""``arx hook``: decide on the calls of a coding agent's own tools."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.cli.access.credentials import holder_key_option, read_holder_key
from arx_caps.cli.options import Verbs, command_options
from arx_caps.cli.terminal import Console

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_LIMIT_S: Final = 20.0


@click.group("hook", cls=Verbs)
def hook_command() -> None:
    """Decide on the calls of a coding agent's own tools, such as its shell."""


@hook_command.command("claude-code")
@click.option("--task", "file", type=_FILE, help="file of the task's bundle, mode 0600 [ARX_TASK_FILE or ARX_TASK]")
@holder_key_option
@click.option("--audience", help="service whose token is used, if the task has several")
@click.option("--decider", type=_FILE, metavar="SOCKET", help="socket of `arx hook serve`, which decides and records")
@click.option("--offline", is_flag=True, help="judge by the token alone: no record, no kill, no budget")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 50),  # below the 60 s after which Claude Code runs the tool
    default=_LIMIT_S,
    metavar="SECONDS",
    help="refuse a call without a decision after this time [20]",
)
@click.option("--print-config", is_flag=True, help="print what Claude Code's settings.json needs")
@command_options
def claude_code(
    console: Console, /, decider: Path | None, *, offline: bool, timeout: float, print_config: bool, **held: Any
) -> None:
    """Answer Claude Code's hook PreToolUse: refuse each call that the task does not allow.

    Claude Code starts this command before each call of a tool, with the call on stdin.  Exit code 0: the call is
    allowed, and Claude Code's own rules apply; 2: it is refused, and the model reads why.  An error refuses too.

    \b
        arx hook claude-code --task task.bundle --decider /run/arx/hook.sock --print-config
    """
    if (decider is None) is not offline:
        raise click.UsageError("expected --decider SOCKET, or --offline for a judgment without a record")
    if print_config:
        _print_config(console, decider=decider, **held)
        return
    _end_after(timeout)
    text = _refusal(decider=decider, **held)
    if text is not None:
        _block(text)


@hook_command.command("serve")
@click.argument("service", metavar="SERVICE_FILE", type=_FILE)
@click.option("--socket", "path", type=_FILE, required=True, help="Unix socket that hooks ask at")
@click.option("--group", help="group whose users may ask, too [this user alone]")
@command_options
def serve(console: Console, /, service: Path, path: Path, group: str | None) -> None:
    """Decide on the calls of hooks with the keys in SERVICE_FILE, and record each decision, until it is stopped.

    Run it as another user than the agent, which then has no key and cannot end this process.

    \b
        arx hook serve laptop.arx.json --socket /run/arx/hook.sock --group coders
    """
    from arx_caps.hook.decider import bind_decider, serve_decider

    def on_ready(audience: str) -> None:
        where = str(path.absolute())
        console.data("hook", {"audience": audience, "socket": where}, f"deciding for {audience} at {where}")

    with bind_decider(path, group) as listener:
        serve_decider(service, listener, on_ready)
    console.say("stopped")


def _refusal(file: Path | None, holder_key: Path | None, audience: str | None, decider: Path | None) -> str | None:
    """Return why the call on stdin is refused, for the model; None if it is allowed."""
    name = ""
    # All of it: what goes wrong here, in whatever module, must refuse the call.
    try:
        from arx_caps.agent import Task
        from arx_caps.hook.claude_code import read_call
        from arx_caps.hook.judges import ask_decider, audience_of, judge_offline
        from arx_verifier.errors import ArxError

        try:
            raw = sys.stdin.buffer.read()
            name = _name_in(raw)
            call = read_call(raw)
            if not call.tool:
                return None
            key = read_holder_key(holder_key)
            task = Task.from_env(key=key) if file is None else Task.load(file, key=key)
            task.check_key()
            service = audience_of(task, audience)
            if decider is None:
                return judge_offline(task, service, *call)
            return ask_decider(decider, task, service, *call)
        except ArxError as error:
            # Its own words: those of its code are for callers of a service.
            text = " ".join(str(error).split())
            return f"{name or 'The call'} was refused: {text}. Make a call that is allowed, or say what is missing."
    except Exception as error:  # its text could have a secret
        return f"{name or 'The call'} was refused: the hook of ARx failed ({type(error).__name__}). Stop, and say so."


def _name_in(raw: bytes) -> str:
    """Return the agent's name of the tool, for a refusal alone."""
    try:
        name = json.loads(raw)["tool_name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) and name.isprintable() and len(name) <= 128 else ""


def _block(text: str) -> None:
    """Refuse the call and end the process.

    Claude Code reads the answer on stdout; whatever it makes of that, this exit code alone stops the call, with the
    text on stderr.
    """
    from arx_caps.hook.claude_code import BLOCKED, deny

    try:
        sys.stdout.write(deny(text) + "\n")
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    finally:
        os._exit(BLOCKED)  # an error while the interpreter ends would change the exit code


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, _block, ["The call was refused: no decision came in time. Try it once more."])
    timer.daemon = True
    timer.start()


def _print_config(
    console: Console, file: Path | None, holder_key: Path | None, audience: str | None, decider: Path | None
) -> None:
    from arx_caps.connect.client_config import arx_command
    from arx_caps.hook.claude_code import settings

    command = [*arx_command(), "hook", "claude-code"]
    for option, value in (("--task", file), ("--holder-key", holder_key), ("--decider", decider)):
        command += [] if value is None else [option, str(value.absolute())]
    command += [] if audience is None else ["--audience", audience]
    command += ["--offline"] if decider is None else []
    entry = settings(command)
    console.data("hook_config", {"client": "claude-code", "config": entry}, json.dumps(entry, indent=2))
    console.hint("add it to the managed settings of Claude Code, which the agent cannot change")
