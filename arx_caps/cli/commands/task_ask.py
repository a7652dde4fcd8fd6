# SPDX-License-Identifier: Apache-2.0
"""``arx task ask``: have operators approve one call, as the agent that makes it, and wait for an answer.  SPEC 20.8."""

from pathlib import Path

import click

from arx_caps.agent.started import StartedTask
from arx_caps.cli.approval_text import show_approval
from arx_caps.cli.approvals import AtMint, discharge_option, receive, timeout_option
from arx_caps.cli.credentials import read_bundle
from arx_caps.cli.mint_session import now_ms
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.parse import read_pairs
from arx_caps.cli.place import issuer_option
from arx_caps.cli.session_file import open_session_file
from arx_caps.cli.terminal import Console


@click.command("ask")
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
