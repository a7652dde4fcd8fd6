# SPDX-License-Identifier: Apache-2.0
"""``arx task``: start, attenuate, extend, finish, list and show tasks; request approvals.  SPEC 6, CONTROL 2.8."""

from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.sessions.started_task import StartedTask
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.cli.access.credentials import read_bundle
from arx_caps.cli.access.mint_session import open_session_file
from arx_caps.cli.access.place import Place, issuer_option, operator_options
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.approvals import CommandSession, discharge_option, receive, show_approval, timeout_option
from arx_caps.cli.display import facts_of, table_of
from arx_caps.cli.options import Verbs, command_options, limit_option, options_of, out_option
from arx_caps.cli.parse import STATES, Duration, attenuation_options, pairs_option, read_attenuation, read_pairs
from arx_caps.cli.resources import APPROVALS, TASKS, Listed, caller_of, hint_more, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.cli.token_description import fingerprint
from arx_verifier.clock import now_ms

# Of a request for a grant that allows less than its template.
_request_options: Final = options_of(
    click.option("--tool", "tools", multiple=True, help="tool to request; repeatable [all tools of the template]"),
    click.option("--ttl", type=Duration(), help="requested lifetime, such as 5m [the template's]"),
    click.option("--depth", type=click.IntRange(0, 16), help="number of delegations that may follow [the template's]"),
)


def _less(tools: tuple[str, ...], ttl: str | None, depth: int | None) -> dict[str, Any]:
    """Return the values of ``_request_options`` as members of the request."""
    return {"tools": tools or None, "ttl": ttl, "depth": depth}


@click.group("task", cls=Verbs)
def task_command() -> None:
    """Start, attenuate, extend, list, show and finish tasks; request approvals."""


@task_command.command("ask")
@click.option("--in", "held", required=True, metavar="FILE", help="bundle of the task, `-` for stdin")
@click.option("--session", "file", metavar="FILE", required=True, help="session file, `-` for stdin")
@click.option("--tool", required=True, help="tool of the call")
@pairs_option("--arg", "arguments", "argument of the call")
@click.option("--why", metavar="TEXT", help="reason of the call, for the operators")
@click.option("--audience", help="service of the call, if several require an approval of this tool")
@click.option("--wait", is_flag=True, help="wait until operators have answered")
@timeout_option
@discharge_option
@issuer_option
@command_options
def ask_command(
    console: Console,
    held: str,
    file: str,
    tool: str,
    arguments: tuple[str, ...],
    why: str | None,
    audience: str | None,
    wait: bool,
    timeout: str | None,
    discharge: Path | None,
    issuer: str | None,
) -> None:
    """Request the approval of a call with exactly these arguments.

    VALUE is an integer or a boolean if it looks like one, else text.  --wait, --timeout and --discharge wait for the
    answer.

    Exit code 1: denied; 3: no answer in time.

    \b
        arx task ask --in task.bundle --session session.json --tool payments.refund \\
            --arg order_id=o-1001 --arg amount=50 --why "charged twice" --discharge refund.approval
    """
    bundle = read_bundle(held)
    caller, session = open_session_file(file, issuer)
    mint = CommandSession(caller, session)
    # The library checks first that the task allows the call: operators should not be asked in vain.
    task = StartedTask(bundle, session=mint)
    asked = task.ask_approval(tool, read_pairs(arguments), why=why, audience=audience)
    if wait or timeout is not None or discharge is not None:
        receive(console, asked, mint, timeout, discharge)
        return
    about = caller.call("GET", APPROVALS.path_of(asked.id))["approval"]
    console.data("approval", {"approval": about}, lambda: show_approval(about, now_ms()))
    console.hint(f"`arx approval wait {asked.id} --session {file} --discharge FILE` waits for the answer")


@task_command.command("start")
@click.argument("template")
@click.option("--session", "file", metavar="FILE", required=True, help="session file, `-` for stdin")
@pairs_option("--param", "params", "parameter of the template")
@_request_options
@click.option("--parent", metavar="TASK", help="task of this session that the new task ends with")
@click.option("--key", metavar="PUBLIC", help="public key that a bound task is bound to [that of the session]")
@issuer_option
@out_option
@command_options
def start(
    console: Console,
    /,
    template: str,
    file: str,
    params: tuple[str, ...],
    parent: str | None,
    key: str | None,
    issuer: str | None,
    out: Path | None,
    **less: Any,
) -> None:
    """Start a task of TEMPLATE and write its bundle, a secret, to stdout or a file.

    VALUE is an integer or a boolean if it looks like one, else text.

    \b
        arx task start refund --session session.json --param order_id=o-1001 --param amount=50 --out task.bundle
    """
    caller, _ = open_session_file(file, issuer)
    parent = None if parent is None else TASKS.check(parent)
    body = {"template": template, "params": read_pairs(params), "holder": key, "parent": parent}
    answer = caller.call("POST", TASKS.path, body | _less(**less))
    task = answer["task"]
    _give(console, {"task": task}, str(answer["bundle"]), out)
    console.hint(f"`arx task finish {task.get('id')} --session {file}` finishes it")


@task_command.command("attenuate")
@click.option("--in", "held", required=True, metavar="FILE", help="bundle of the task, `-` for stdin")
@click.option("--session", "file", metavar="FILE", required=True, help="session file, `-` for stdin")
@attenuation_options
@issuer_option
@out_option
@command_options
def attenuate(console: Console, /, held: str, file: str, issuer: str | None, out: Path | None, **less: Any) -> None:
    """Attenuate a task for all its holders: revoke its tokens, and write a bundle that allows less.

    To attenuate only what another agent gets, use `arx token delegate`, which needs no mint.
    """
    task = StartedTask(read_bundle(held), session=CommandSession(*open_session_file(file, issuer)))
    left = task.attenuate_for_all(**read_attenuation(less))
    _give(console, {"task": _facts(left)}, left.encode(), out)


@task_command.command("extend")
@click.argument("task")
@click.argument("template", required=False)
@click.option("--session", "file", metavar="FILE", required=True, help="session file, `-` for stdin")
@pairs_option("--param", "params", "changed parameter")
@_request_options
@click.option("--link", help="link of the grant to extend, as `arx task show` lists it [the newest]")
@issuer_option
@out_option
@command_options
def extend(
    console: Console,
    /,
    task: str,
    template: str | None,
    file: str,
    params: tuple[str, ...],
    link: str | None,
    issuer: str | None,
    out: Path | None,
    **less: Any,
) -> None:
    """Add a grant to a running TASK and write its bundle, a secret; existing grants keep their own end.

    Omitted options are as in the extended grant: --ttl alone prolongs it.
    """
    path = f"{TASKS.path_of(task)}/extend"
    caller, session = open_session_file(file, issuer)
    body = {"template": template, "params": read_pairs(params) or None, "link": link}
    answer = caller.call("POST", path, body | _less(**less))
    added = StartedTask(Bundle.parse(str(answer["bundle"])), session=CommandSession(caller, session))
    _give(console, {"task": answer["task"], "added": _facts(added)}, str(answer["bundle"]), out)


@task_command.command("list")
@click.option("--of", "session", metavar="SESSION", help="show only this session")
@click.option("--session", "file", metavar="FILE", help="session file: list its tasks, as its agent [as an operator]")
@click.option("--agent", help="show only this agent")
@click.option("--template", help="show only this template")
@click.option("--state", type=click.Choice(STATES), help="show only this state")
@limit_option("show the newest N tasks", 1000)
@list_of(TASKS, "TASK: id, SESSION, TEMPLATE, STATE, STARTED: started_at, EXPIRES: expires_at")
def list_tasks(listed: Listed) -> None:
    """List the tasks that match all filters, the newest first."""
    hint_more(listed.console, listed.more, listed.limit)


@task_command.command("show")
@click.argument("task")
@click.option("--session", "file", metavar="FILE", help="session file: act as its agent [as an operator]")
@operator_options
def show(console: Console, place: Place, task: str, file: str | None) -> None:
    """Show a task and its grants, the newest first."""
    path = TASKS.path_of(task)
    answer = caller_of(file, place).call("GET", path)
    found, grants = answer["task"], answer.get("grants", [])
    value = {"task": found, "grants": grants}
    columns = "LINK, TEMPLATE, AUDIENCES, GRANTED: granted_at, EXPIRES: expires_at, ENDED: ended_at"
    console.data("task", value, lambda: pairs(facts_of(found)) + "\n\n" + table_of(grants, columns))


@task_command.command("finish")
@click.argument("task")
@click.option("--session", "file", metavar="FILE", help="session file: act as its agent [as an operator]")
@operator_options
def finish(console: Console, task: str, file: str | None, place: Place) -> None:
    """Finish a task and revoke all its tokens, including delegated ones."""
    path = TASKS.path_of(task)
    answer = caller_of(file, place).call("DELETE", path)
    kill = answer.get("kill") or {}
    console.data("task", answer, lambda: f"{task} finished: {kill.get('summary', 'it had ended before')}")


def _give(console: Console, value: dict[str, Any], bundle: str, out: Path | None) -> None:
    """Write a bundle, a secret, to stdout or to a file."""
    # With --out, the bundle is in the file alone; a log of stdout then has its fingerprint.
    value["fingerprint"] = fingerprint(bundle)
    if out is not None:
        write_private(out, bundle + "\n")
        shown = value.get("added", value["task"])
        console.data("task", value | {"out": str(out)}, lambda: pairs([*facts_of(shown), ("bundle", out)]))
    else:
        console.data("task", value | {"bundle": bundle}, bundle)


def _facts(task: StartedTask) -> dict[str, Any]:
    facts = {"id": task.id, "session": task.session, "agent": task.agent, "audiences": list(task.audiences)}
    return facts | {"link": task.link, "expires_at": task.expires_at}
