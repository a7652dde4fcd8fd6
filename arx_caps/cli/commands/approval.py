# SPDX-License-Identifier: Apache-2.0
"""``arx approval``: list, show, approve, deny and withdraw approvals, and wait for one.  CONTROL 2.9."""

from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.sessions.started_task import MAX_WHY
from arx_caps.agent.tasks.approval import Approval
from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller, open_session_file
from arx_caps.cli.access.place import Place, issuer_option, operator_options
from arx_caps.cli.approvals import CommandSession, discharge_option, receive, show_approval, timeout_option
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import Verbs, command_options, limit_option, yes_option
from arx_caps.cli.resources import APPROVALS, caller_of, hint_more
from arx_caps.cli.terminal import Console, plain
from arx_verifier.clock import now_ms

STATES: Final = ("waiting", "approved", "denied", "withdrawn", "expired", "ended")
MANY: Final = 1000


def _short(_context: click.Context, _option: click.Parameter, why: str | None) -> str | None:
    if why is not None and len(why) > MAX_WHY:
        raise click.BadParameter(f"expected at most {MAX_WHY} characters, got {len(why)}")
    return why


why_option = click.option(
    "--why", metavar="TEXT", callback=_short, help="reason, recorded and shown to the agent; name no person in it"
)


@click.group("approval", cls=Verbs)
def approval_command() -> None:
    """List, approve, deny and withdraw approvals that agents request."""


@approval_command.command("list")
@click.option(
    "--state",
    type=click.Choice([*STATES, "all"]),
    default="waiting",
    show_default=True,
    help="show approvals in this state",
)
@click.option("--agent", help="show only requests of this agent")
@click.option("--template", help="show only tasks of this template")
@click.option("--task", help="show only this task")
@click.option("--of", "of", metavar="SESSION", help="show only this session")
@click.option("--session", "file", metavar="FILE", help="session file: act as its agent [as an operator]")
@limit_option("show the newest N approvals", 100, MANY)
@operator_options
def list_approvals(
    console: Console, /, place: Place, state: str, of: str | None, file: str | None, limit: int, **asked: str | None
) -> None:
    """List approvals that wait for an answer, the newest first, with agent, call, subject and reason."""
    query = {**asked, "session": of, "state": None if state == "all" else state}
    found, more = APPROVALS.rows(caller_of(file, place), query, limit)
    at_ms = now_ms()
    shown = {"approvals": found, "more": more}
    console.data("approvals", shown, lambda: "\n\n".join([show_approval(each, at_ms, whole=False) for each in found]))
    if not found:
        console.say("no approval matches" if state == "all" else f"no approval is {state}")
    hint_more(console, more, limit)
    waiting = next((each["id"] for each in found if each.get("state") == "waiting"), None)
    if waiting is not None and file is None:
        console.hint(
            f"`arx approval approve {plain(waiting)}` shows it and asks; `arx approval deny {plain(waiting)}` denies it"
        )


@approval_command.command("show")
@click.argument("approval")
@click.option("--session", "file", metavar="FILE", help="session file: act as its agent [as an operator]")
@operator_options
def show(console: Console, place: Place, approval: str, file: str | None) -> None:
    """Show an approval with all arguments."""
    APPROVALS.check(approval)
    _write(console, _look(caller_of(file, place), approval))


@approval_command.command("approve")
@click.argument("approval")
@why_option
@yes_option
@operator_options
def approve(console: Console, place: Place, approval: str, why: str | None, yes: bool) -> None:
    """Show a call with its exact arguments, ask, and approve it.

    If the policy requires several operators, each approves with their own key.

    \b
        arx approval approve a-abcdefghijklmnop --operator-key ada.key
    """
    APPROVALS.check(approval)
    mint = place.mint()
    # Shown from the mint's answer, not from arguments: the operator approves what the agent requested.
    asked = _look(mint, approval)
    _refuse_answered(asked)
    console.confirm(f"{_show(asked)}\n\napprove this call?", yes=yes)  # --quiet hides no part of the question
    try:
        given = _answer(mint, approval, "approve", why)
    except Stop as error:
        if error.code == "frozen" and error.hint is None:
            error.hint = f"thaw its task, session or agent first: `arx task show {plain(asked.get('task'))}` shows them"
        raise
    _write(console, given)
    if given.get("state") == "waiting":
        console.hint("another operator must approve it as well")
    else:
        console.hint(f"`arx approval withdraw {approval}` withdraws it")


@approval_command.command("deny")
@click.argument("approval")
@why_option
@operator_options
def deny(console: Console, place: Place, approval: str, why: str | None) -> None:
    """Deny a call: the agent gets the reason, and may request another approval.

    A client with an access token may not, for the same call, while its task lives.
    """
    APPROVALS.check(approval)
    _write(console, _answer(place.mint(), approval, "deny", why))


@approval_command.command("withdraw")
@click.argument("approval")
@yes_option
@operator_options
def withdraw(console: Console, place: Place, approval: str, yes: bool) -> None:
    """Withdraw an approval: services refuse it from now on; the agent's task continues.

    Exit code 0: every verifier has confirmed; 3: not known.
    """
    APPROVALS.check(approval)
    mint = place.mint()
    if not yes:
        console.confirm(f"{_show(_look(mint, approval))}\n\nwithdraw this approval?", yes=False)
    answer = _call(mint, "DELETE", APPROVALS.path_of(approval))
    kill, state = answer.get("kill") or {}, plain(answer["approval"].get("state"))
    outcome = f"{approval} withdrawn: {plain(kill.get('summary', 'no discharge was issued'))}"
    if state != "withdrawn":
        outcome = f"{approval} is {state}: it cannot be withdrawn"
    console.data("approval", answer, outcome)
    # Without a discharge that was issued, there is nothing to confirm.
    sure = kill.get("status", "confirmed") == "confirmed"
    click.get_current_context().exit(exit_codes.OK if sure else exit_codes.INCOMPLETE)


@approval_command.command("wait")
@click.argument("approval")
@click.option("--session", "file", metavar="FILE", required=True, help="session file, `-` for stdin")
@timeout_option
@discharge_option
@issuer_option
@command_options
def wait(
    console: Console, approval: str, file: str, timeout: str | None, discharge: Path | None, issuer: str | None
) -> None:
    """Wait, as the agent that requested it (`arx task ask`), until operators have answered.

    Exit code 1: denied or ended; 3: no answer in time.
    """
    APPROVALS.check(approval)
    caller, session = open_session_file(file, issuer)
    mint = CommandSession(caller, session)
    receive(console, Approval(_look(caller, approval), asker=mint), mint, timeout, discharge)


def _look(mint: Caller, approval: str) -> dict[str, Any]:
    return dict(_call(mint, "GET", APPROVALS.path_of(approval))["approval"])


def _answer(mint: Caller, approval: str, outcome: str, why: str | None) -> dict[str, Any]:
    body = {"approval": approval, "outcome": outcome, "why": why}
    return dict(_call(mint, "POST", APPROVALS.path, body)["approval"])


def _call(mint: Caller, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the mint about one approval; raise with a hint if it does not exist."""
    try:
        return mint.call(method, path, body)
    except Stop as error:
        if error.code == "not_found":
            error.hint = "`arx approval list --state all` lists every approval"
        raise


def _refuse_answered(asked: dict[str, Any]) -> None:
    """Raise if the approval does not wait for an answer."""
    if asked.get("state") != "waiting":
        message = f"cannot approve {asked.get('id')}: expected state waiting, got {asked.get('state')}"
        raise Stop(message, DENIED, hint="`arx approval list` lists those that wait", code="conflict")


def _show(about: dict[str, Any]) -> str:
    return show_approval(about, now_ms())


def _write(console: Console, about: dict[str, Any]) -> None:
    console.data("approval", {"approval": about}, lambda: _show(about))
