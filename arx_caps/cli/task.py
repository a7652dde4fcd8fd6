# SPDX-License-Identifier: Apache-2.0
"""``arx task``: start a task from a template of the policy, and finish it."""

from pathlib import Path

import click

from arx_caps.cli.agent import facts_of
from arx_caps.cli.files import write_private
from arx_caps.cli.frame import common_options, out_option, pass_console
from arx_caps.cli.output import Console, pairs
from arx_caps.cli.place import Place, issuer_option, operator_options
from arx_caps.cli.reading import fingerprint
from arx_caps.cli.session_file import open_session_file
from arx_caps.cli.values import Duration, read_pairs


@click.group("task")
def task_command() -> None:
    """Start and finish tasks."""


@task_command.command("start")
@click.argument("template")
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="a parameter; name:=JSON for any value")
@click.option("--tool", "tools", multiple=True, help="ask for this tool alone; may be repeated")
@click.option("--ttl", type=Duration(), help="a shorter life than the template's")
@click.option("--depth", type=click.IntRange(0, 16), help="fewer hand-overs than the template's")
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
    issuer: str | None,
    out: Path | None,
) -> None:
    """Start a task from TEMPLATE and write its bundle, a secret, to stdout or a file.

    A VALUE is an integer or a boolean if it looks like one, else text.
    """
    caller, _ = open_session_file(file, issuer)
    body = {"template": template, "params": read_pairs(params), "ttl": ttl, "depth": depth}
    answer = caller.call("POST", "/v1/tasks", body | {"tools": list(tools) or None})
    task, bundle = answer["task"], str(answer["bundle"])
    value = {"task": task, "fingerprint": fingerprint(bundle)}
    if out is not None:
        write_private(out, bundle + "\n")
        console.data("task", value | {"out": str(out)}, lambda: pairs([*facts_of(task), ("bundle", out)]))
    else:
        console.data("task", value | {"bundle": bundle}, bundle)
    console.hint(f"arx task finish {task.get('id')} --session {file} ends it")


@task_command.command("finish")
@click.argument("task")
@click.option("--session", "file", metavar="FILE", help="its session file; without one, as an operator")
@operator_options
@common_options
@pass_console
def finish(console: Console, task: str, file: str | None, place: Place) -> None:
    """Finish a task: its tokens, also those handed over, are dead."""
    if not task.startswith("t-") or not task.removeprefix("t-").isalnum() or not task.isascii():
        raise click.BadParameter(f"{task[:60]!r} is not a task's id such as t-abcdefghijklmnop")
    caller = open_session_file(file, place.issuer)[0] if file is not None else place.mint()
    answer = caller.call("DELETE", f"/v1/tasks/{task}")
    kill = answer.get("kill") or {}
    console.data("task", answer, lambda: f"{task} finished: {kill.get('summary', 'it had ended before')}")
