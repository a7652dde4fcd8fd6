# SPDX-License-Identifier: Apache-2.0
"""``arx task``: start, attenuate, extend, finish, list and show tasks; ask for approvals.  SPEC 6, CONTROL 2.8."""

from pathlib import Path
from typing import Any

import click

from arx_caps.agent.bundle import Bundle
from arx_caps.agent.started_task import StartedTask
from arx_caps.cli.approvals import AtMint, discharge_option, receive, show_approval, timeout_option
from arx_caps.cli.credentials import read_bundle
from arx_caps.cli.display import facts_of
from arx_caps.cli.mint_session import Caller, now_ms, open_session_file
from arx_caps.cli.options import Verbs, common_options, out_option, pass_console
from arx_caps.cli.parse import STATES, Duration, read_pairs
from arx_caps.cli.place import Place, issuer_option, operator_options
from arx_caps.cli.secure_files import write_private
from arx_caps.cli.terminal import Console, pairs, table
from arx_caps.cli.token_description import fingerprint
from arx_caps.durations import show_time


@click.group("task", cls=Verbs)
def task_command() -> None:
    """Start, attenuate, extend, look at and finish tasks; ask for approvals."""


@task_command.command("ask")
@click.option("--in", "held", required=True, metavar="FILE", help="the bundle, as `arx task start` wrote it")
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@click.option("--tool", required=True, help="the tool that is to be called")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="one of its arguments; name:=JSON")
@click.option("--why", metavar="TEXT", help="why it is to be done, in words for whoever decides")
@click.option("--audience", help="the service that is called, where several ask for an approval of this tool")
@click.option("--wait", is_flag=True, help="wait until operators have answered")
@timeout_option
@discharge_option
@issuer_option
@common_options
@pass_console
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
    """Ask operators to approve one call; its arguments are approved as they are.

    A VALUE is an integer or a boolean if it looks like one, else text.  With --wait, --timeout or --discharge it waits
    for the answer, and exits with 1 when that is no, with 3 when none came in time.

    \b
        arx task ask --in task.bundle --session session.json --tool payments.refund \\
            --arg order_id=o-1001 --arg amount=50 --why "charged twice" --discharge refund.approval
    """
    bundle = read_bundle(held)
    caller, _ = open_session_file(file, issuer)
    mint = AtMint(caller)
    task = StartedTask(bundle, session=mint)
    asked = task.ask_approval(tool, read_pairs(arguments), why=why, audience=audience)
    if wait or timeout is not None or discharge is not None:
        receive(console, asked, mint, timeout, discharge)
        return
    about = caller.call("GET", f"/v1/approvals/{asked.id}")["approval"]
    console.data("approval", {"approval": about}, lambda: show_approval(about, now_ms()))
    console.hint(f"arx approval wait {asked.id} --session {file} --discharge FILE waits for the answer")


@task_command.command("start")
@click.argument("template")
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="a parameter; name:=JSON for any value")
@click.option("--tool", "tools", multiple=True, help="ask for this tool alone; may be repeated")
@click.option("--ttl", type=Duration(), help="a shorter life than the template's")
@click.option("--depth", type=click.IntRange(0, 16), help="fewer delegations than the template's")
@click.option("--parent", metavar="TASK", help="a task of this session that it is a part of, and ends with")
@issuer_option
@out_option
@common_options
@pass_console
def start(
    console: Console,
    template: str,
    file: str,
    params: tuple[str, ...],
    tools: tuple[str, ...],
    ttl: str | None,
    depth: int | None,
    parent: str | None,
    issuer: str | None,
    out: Path | None,
) -> None:
    """Start a task from TEMPLATE and write its bundle, a secret, to stdout or a file.

    A VALUE is an integer or a boolean if it looks like one, else text.

    \b
        arx task start refund --session session.json --param order_id=o-1001 --param amount=50 --out task.bundle
    """
    caller, _ = open_session_file(file, issuer)
    body: dict[str, Any] = {"template": template, "params": read_pairs(params), "ttl": ttl, "depth": depth}
    body |= {"tools": list(tools) or None, "parent": None if parent is None else _checked(parent)}
    answer = caller.call("POST", "/v1/tasks", body)
    task = answer["task"]
    _give(console, {"task": task}, str(answer["bundle"]), out)
    console.hint(f"arx task finish {task.get('id')} --session {file} ends it")


@task_command.command("attenuate")
@click.option("--in", "held", required=True, metavar="FILE", help="the bundle, as `arx task start` wrote it")
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@click.option("--tool", "tools", multiple=True, help="a tool that stays allowed; may be repeated; all when left out")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=JSON", help="attenuate an argument of every tool left")
@click.option("--audience", "audiences", multiple=True, help="keep only this service's token; may be repeated")
@click.option("--ttl", type=Duration(), help="how long it works from now on; never longer than before")
@click.option("--depth", type=click.IntRange(0, 16), help="how many delegations may follow")
@issuer_option
@out_option
@common_options
@pass_console
def attenuate(
    console: Console,
    held: str,
    file: str,
    tools: tuple[str, ...],
    arguments: tuple[str, ...],
    audiences: tuple[str, ...],
    ttl: str | None,
    depth: int | None,
    issuer: str | None,
    out: Path | None,
) -> None:
    """Attenuate a task for everybody who holds it: every token of it that is out is revoked, and less is signed anew.

    To delegate less and keep the rest, `arx token delegate` needs no mint.
    """
    task = StartedTask(read_bundle(held), session=AtMint(open_session_file(file, issuer)[0]))
    left = task.attenuate_for_all(
        tools=list(tools) or None,
        args=read_pairs(arguments, constraints=True) or None,
        ttl=ttl,
        depth=depth,
        audiences=list(audiences) or None,
    )
    _give(console, {"task": _facts(left)}, left.encode(), out)


@task_command.command("extend")
@click.argument("task")
@click.argument("template", required=False)
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="a parameter that differs; name:=JSON")
@click.option("--tool", "tools", multiple=True, help="ask for this tool alone; may be repeated")
@click.option("--ttl", type=Duration(), help="a shorter life than the template's")
@click.option("--depth", type=click.IntRange(0, 16), help="fewer delegations than the template's")
@click.option("--link", help="the grant to go on from, as `arx task show` lists it; else the newest")
@issuer_option
@out_option
@common_options
@pass_console
def extend(
    console: Console,
    task: str,
    template: str | None,
    file: str,
    params: tuple[str, ...],
    tools: tuple[str, ...],
    ttl: str | None,
    depth: int | None,
    link: str | None,
    issuer: str | None,
    out: Path | None,
) -> None:
    """Add a grant to a running TASK and write its bundle, a secret; what it has goes on to its own end.

    What is left out is as in the grant that it goes on from: with nothing but --ttl that very grant, for longer.
    """
    path = f"/v1/tasks/{_checked(task)}/extend"
    caller, _ = open_session_file(file, issuer)
    body = {"template": template, "params": read_pairs(params) or None, "tools": list(tools) or None, "link": link}
    answer = caller.call("POST", path, body | {"ttl": ttl, "depth": depth})
    added = StartedTask(Bundle.parse(str(answer["bundle"])), session=AtMint(caller))
    _give(console, {"task": answer["task"], "added": _facts(added)}, str(answer["bundle"]), out)


@task_command.command("list")
@click.option("--of", "session", metavar="SESSION", help="only those of this session")
@click.option("--session", "file", metavar="FILE", help="a session file: its own tasks; without one, as an operator")
@click.option("--agent", help="only those of this agent")
@click.option("--template", help="only those of this template")
@click.option("--state", type=click.Choice(STATES), help="only those in this state")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="the newest so many")
@operator_options
@common_options
@pass_console
def list_tasks(
    console: Console,
    place: Place,
    session: str | None,
    file: str | None,
    agent: str | None,
    template: str | None,
    state: str | None,
    limit: int,
) -> None:
    """List tasks, the newest first.  All filters hold together."""
    wanted = {"session": session, "agent": agent, "template": template, "state": state}
    tasks, more = _caller(file, place).rows("/v1/tasks", "tasks", wanted, limit=limit)
    heads = ("TASK", "SESSION", "TEMPLATE", "STATE", "STARTED", "EXPIRES")
    rows = [
        (t["id"], t["session"], t["template"], t["state"], show_time(t["started_at"]), show_time(t["expires_at"]))
        for t in tasks
    ]
    console.data("tasks", {"tasks": tasks, "more": more}, lambda: table(heads, rows))
    if more:
        console.hint(f"these are the newest {limit}; --limit shows more")


@task_command.command("show")
@click.argument("task")
@click.option("--session", "file", metavar="FILE", help="its session file; without one, as an operator")
@operator_options
@common_options
@pass_console
def show(console: Console, place: Place, task: str, file: str | None) -> None:
    """Show one task and what it was granted, the newest first."""
    path = f"/v1/tasks/{_checked(task)}"
    answer = _caller(file, place).call("GET", path)
    found, grants = answer["task"], answer.get("grants", [])
    heads = ("LINK", "TEMPLATE", "AUDIENCES", "GRANTED", "EXPIRES", "ENDED")
    rows = [
        (
            g["link"],
            g["template"],
            ", ".join(g["audiences"]),
            *(_time(g, name) for name in ("granted", "expires", "ended")),
        )
        for g in grants
    ]
    value = {"task": found, "grants": grants}
    console.data("task", value, lambda: pairs(facts_of(found)) + "\n\n" + table(heads, rows))


@task_command.command("finish")
@click.argument("task")
@click.option("--session", "file", metavar="FILE", help="its session file; without one, as an operator")
@operator_options
@common_options
@pass_console
def finish(console: Console, task: str, file: str | None, place: Place) -> None:
    """Finish a task: its tokens, also those delegated, are dead."""
    path = f"/v1/tasks/{_checked(task)}"
    answer = _caller(file, place).call("DELETE", path)
    kill = answer.get("kill") or {}
    console.data("task", answer, lambda: f"{task} finished: {kill.get('summary', 'it had ended before')}")


def _caller(file: str | None, place: Place) -> Caller:
    return open_session_file(file, place.issuer)[0] if file is not None else place.mint()


def _checked(task: str) -> str:
    if not task.startswith("t-") or not task.removeprefix("t-").isalnum() or not task.isascii():
        raise click.BadParameter(f"{task[:60]!r} is not a task's id such as t-abcdefghijklmnop")
    return task


def _give(console: Console, value: dict[str, Any], bundle: str, out: Path | None) -> None:
    """Write a bundle, a secret, to stdout or to a file."""
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


def _time(row: dict[str, Any], name: str) -> str | None:
    value = row.get(f"{name}_at")
    return show_time(value) if isinstance(value, int) else None
