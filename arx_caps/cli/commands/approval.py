# SPDX-License-Identifier: Apache-2.0
"""``arx approval``: what agents ask operators to approve; answer it, and take an answer back.  CONTROL 2.9."""

from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.approval import Approval
from arx_caps.agent.started_task import MAX_WHY
from arx_caps.cli import exit_codes
from arx_caps.cli.approvals import AtMint, discharge_option, receive, show_approval, timeout_option
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.mint_session import Caller, now_ms, open_session_file
from arx_caps.cli.options import Verbs, common_options, pass_console, yes_option
from arx_caps.cli.place import Place, issuer_option, operator_options
from arx_caps.cli.terminal import Console, plain

STATES: Final = ("waiting", "approved", "denied", "withdrawn", "expired", "ended")
MANY: Final = 1000


def _short(_context: click.Context, _option: click.Parameter, why: str | None) -> str | None:
    if why is not None and len(why) > MAX_WHY:
        raise click.BadParameter(f"{MAX_WHY} characters at most, got {len(why)}")
    return why


why_option = click.option(
    "--why", metavar="TEXT", callback=_short, help="why, for the record and for the agent; name no person in it"
)


@click.group("approval", cls=Verbs)
def approval_command() -> None:
    """Answer what agents ask to have approved."""


@approval_command.command("list")
@click.option(
    "--state", type=click.Choice([*STATES, "all"]), default="waiting", show_default=True, help="how they stand"
)
@click.option("--agent", help="asked for by this agent")
@click.option("--template", help="in tasks of this template")
@click.option("--task", help="in this task")
@click.option("--of", "of", metavar="SESSION", help="in this session")
@click.option("--session", "file", metavar="FILE", help="a session file: its own; without one, as an operator")
@click.option("--limit", type=click.IntRange(1, MANY), default=100, show_default=True, help="the newest so many")
@operator_options
@common_options
@pass_console
def list_approvals(
    console: Console, /, place: Place, state: str, of: str | None, file: str | None, limit: int, **asked: str | None
) -> None:
    """List what waits for an answer, the newest first: who wants what, with which arguments, for whom and why."""
    query = {**asked, "session": of, "state": None if state == "all" else state}
    found, more = _caller(file, place).rows("/v1/approvals", "approvals", query, limit=limit)
    at_ms = now_ms()
    shown = {"approvals": found, "more": more}
    console.data("approvals", shown, lambda: "\n\n".join([show_approval(each, at_ms, whole=False) for each in found]))
    if not found:
        console.say("no approval is like that" if state == "all" else f"no approval is {state}")
    if more:
        console.hint(f"these are the newest {limit}; --limit shows more")
    waiting = next((each["id"] for each in found if each.get("state") == "waiting"), None)
    if waiting is not None and file is None:
        console.hint(f"arx approval approve {plain(waiting)} shows it once more and asks; `arx approval deny` says no")


@approval_command.command("show")
@click.argument("approval")
@click.option("--session", "file", metavar="FILE", help="its session file; without one, as an operator")
@operator_options
@common_options
@pass_console
def show(console: Console, place: Place, approval: str, file: str | None) -> None:
    """Show one approval whole."""
    _checked(approval)
    _tell(console, _look(_caller(file, place), approval))


@approval_command.command("approve")
@click.argument("approval")
@why_option
@yes_option
@operator_options
@common_options
@pass_console
def approve(console: Console, place: Place, approval: str, why: str | None, yes: bool) -> None:
    """Approve this one call, with these very arguments, after showing them.

    Where several operators have to, each says yes with a key of their own.

    \b
        arx approval approve a-abcdefghijklmnop --operator-key ada.key
    """
    _checked(approval)
    mint = place.mint()
    asked = _look(mint, approval)
    _refuse_answered(asked)
    console.confirm(f"{_show(asked)}\n\napprove it?", yes=yes)  # shown with the question, whatever is kept quiet
    try:
        given = _answer(mint, approval, "approve", why)
    except Stop as error:
        if error.code == "frozen" and error.hint is None:
            error.hint = f"arx task show {plain(asked.get('task'))}: its task, session or agent is frozen until a thaw"
        raise
    _tell(console, given)
    if given.get("state") == "waiting":
        console.hint("it waits for another operator's yes")
    else:
        console.hint(f"arx approval withdraw {approval} takes it back")


@approval_command.command("deny")
@click.argument("approval")
@why_option
@operator_options
@common_options
@pass_console
def deny(console: Console, place: Place, approval: str, why: str | None) -> None:
    """Say no: the agent is told, and may ask again."""
    _checked(approval)
    _tell(console, _answer(place.mint(), approval, "deny", why))


@approval_command.command("withdraw")
@click.argument("approval")
@yes_option
@operator_options
@common_options
@pass_console
def withdraw(console: Console, place: Place, approval: str, yes: bool) -> None:
    """Take an approval back: no service takes it any more; the agent's task goes on.

    Exits with 0 only when every verifier has confirmed, with 3 when that is not known.
    """
    _checked(approval)
    mint = place.mint()
    if not yes:
        console.confirm(f"{_show(_look(mint, approval))}\n\nwithdraw it?", yes=False)
    answer = _call(mint, "DELETE", f"/v1/approvals/{approval}")
    kill, state = answer.get("kill") or {}, plain(answer["approval"].get("state"))
    outcome = f"{approval} withdrawn: {plain(kill.get('summary', 'nothing of it was out'))}"
    if state != "withdrawn":
        outcome = f"{approval} is {state} already: there is nothing to withdraw"
    console.data("approval", answer, outcome)
    sure = kill.get("status", "confirmed") == "confirmed"
    click.get_current_context().exit(exit_codes.OK if sure else exit_codes.INCOMPLETE)


@approval_command.command("wait")
@click.argument("approval")
@click.option("--session", "file", metavar="FILE", required=True, help='the session file, "-" for stdin')
@timeout_option
@discharge_option
@issuer_option
@common_options
@pass_console
def wait(
    console: Console, approval: str, file: str, timeout: str | None, discharge: Path | None, issuer: str | None
) -> None:
    """Wait as the agent that asked (`arx task ask`) until operators have answered.

    Exits with 1 when it was denied or is over, with 3 when nobody has answered in time.
    """
    _checked(approval)
    caller, _ = open_session_file(file, issuer)
    mint = AtMint(caller)
    receive(console, Approval(_look(caller, approval), asker=mint), mint, timeout, discharge)


def _caller(file: str | None, place: Place) -> Caller:
    return open_session_file(file, place.issuer)[0] if file is not None else place.mint()


def _look(mint: Caller, approval: str) -> dict[str, Any]:
    return dict(_call(mint, "GET", f"/v1/approvals/{approval}")["approval"])


def _answer(mint: Caller, approval: str, outcome: str, why: str | None) -> dict[str, Any]:
    body = {"approval": approval, "outcome": outcome, "why": why}
    return dict(_call(mint, "POST", "/v1/approvals", body)["approval"])


def _call(mint: Caller, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the mint about one approval; add a hint if it does not exist."""
    try:
        return mint.call(method, path, body)
    except Stop as error:
        if error.code == "not_found":
            error.hint = "arx approval list --state all"
        raise


def _refuse_answered(asked: dict[str, Any]) -> None:
    """Refuse an approval that is no longer waiting, before asking for a yes."""
    if asked.get("state") != "waiting":
        message = f"{asked.get('id')} is {asked.get('state')}: there is nothing left to approve"
        raise Stop(message, DENIED, hint="arx approval list", code="conflict")


def _show(about: dict[str, Any]) -> str:
    return show_approval(about, now_ms())


def _tell(console: Console, about: dict[str, Any]) -> None:
    console.data("approval", {"approval": about}, lambda: _show(about))


def _checked(approval: str) -> None:
    if not approval.startswith("a-") or not approval.removeprefix("a-").isalnum() or not approval.isascii():
        raise click.BadParameter(f"{approval[:60]!r} is not an approval's id such as a-abcdefghijklmnop")
