# SPDX-License-Identifier: Apache-2.0
"""``arx session``: open one as an agent; list, look at and end them as an operator."""

from pathlib import Path
from typing import Any

import click

from arx_caps.agent.agent import on_behalf, read_token_file
from arx_caps.cli.display import facts_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.mint_session import Caller, load_key, open_session_file, session_object
from arx_caps.cli.options import Verbs, common_options, out_option, pass_console, yes_option
from arx_caps.cli.parse import STATES, Duration
from arx_caps.cli.place import Place, issuer_option, operator_options
from arx_caps.cli.secure_files import write_object
from arx_caps.cli.target_commands import FREEZE, THAW, target_command
from arx_caps.cli.terminal import Console, json_line, pairs, table, tree
from arx_caps.durations import show_time
from arx_caps.keyfile import SigningKey

_token_file = click.Path(dir_okay=False, path_type=Path)


@click.group("session", cls=Verbs)
def session_command() -> None:
    """Open, list, renew, freeze and end sessions."""


@session_command.command("open")
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="the agent's key file")
@click.option(
    "--workload-token", type=_token_file, help="instead: the token that the platform gives it; needs --issuer"
)
@click.option("--id-token", type=_token_file, help="on whose behalf: a file with their ID token")
@click.option("--access-token", type=_token_file, help="in its place: a file with their access token")
@click.option("--ttl", type=Duration(), help="a shorter life than the policy's, such as 30m")
@click.option("--purpose", help="what the session is for; goes into the record")
@issuer_option
@out_option
@common_options
@pass_console
def open_(
    console: Console,
    key_file: Path | None,
    workload_token: Path | None,
    id_token: Path | None,
    access_token: Path | None,
    ttl: str | None,
    purpose: str | None,
    issuer: str | None,
    out: Path | None,
) -> None:
    """Open a session as an agent; writes a session file, a secret, for `arx task start`.

    An agent is known by its key, or by a token of its platform that the policy takes for it.

    \b
        arx session open --key triage.key.json --purpose "a refund" --out session.json
    """
    if (key_file is None) == (workload_token is None):
        raise click.UsageError("say who this is: --key FILE, or --workload-token FILE")
    said = on_behalf(*(None if file is None else read_token_file(file) for file in (id_token, access_token)))
    said |= {name: text for name, text in (("ttl", ttl), ("purpose", purpose)) if text is not None}
    session_key = SigningKey.generate()
    if key_file is not None:
        key = load_key(key_file, "agent")
        caller = Caller(issuer or key.issuer, session_key, ca=key.ca)
        answer = caller.call("POST", "/v1/sessions", lambda: {"assertion": caller.assertion(key), **said})
    elif issuer is not None:
        caller, token = Caller(issuer, session_key), read_token_file(str(workload_token))
        answer = caller.call("POST", "/v1/sessions", {"workload_token": token, **said})
    else:
        raise click.UsageError("a workload's token does not say where the mint is: --issuer URL")
    session = answer["session"]
    file = session_object(caller, session, answer["token"])
    if out is None:
        console.raw(json_line("session", file))
    else:
        write_object(out, file)
        value = {"session": session, "file": str(out)}
        console.data("session", value, lambda: pairs([*facts_of(session), ("file", out)]))
    console.hint(f"arx kill session {session.get('id')} ends it, and everything that came of it")


@session_command.command("list")
@click.option("--agent", help="only those of this agent")
@click.option("--subject", help="only those on behalf of whom an issuer calls this")
@click.option("--template", help="only those in which a task of this template was started")
@click.option("--state", type=click.Choice(STATES), help="only those in this state")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="the newest so many")
@operator_options
@common_options
@pass_console
def list_sessions(
    console: Console,
    place: Place,
    agent: str | None,
    subject: str | None,
    template: str | None,
    state: str | None,
    limit: int,
) -> None:
    """List sessions, the newest first.  All filters hold together."""
    wanted = {"agent": agent, "subject": subject, "template": template, "state": state}
    sessions, more = place.mint().rows("/v1/sessions", "sessions", wanted, limit=limit)
    heads = ("SESSION", "AGENT", "STATE", "OPENED", "EXPIRES", "PURPOSE")
    rows = [
        (s.get("id"), s.get("agent"), s.get("state"), *_times(s, "opened_at", "expires_at"), s.get("purpose"))
        for s in sessions
    ]
    console.data("sessions", {"sessions": sessions, "more": more}, lambda: table(heads, rows))
    if more:
        console.hint(f"these are the newest {limit}; --limit shows more")


@session_command.command("show")
@click.argument("session")
@operator_options
@common_options
@pass_console
def show(console: Console, session: str, place: Place) -> None:
    """Show one session, its tasks, and who was handed what, with the counts of what was allowed and denied.

    The tree is drawn from the audit log; `arx audit trail --session` shows the records in it.
    """
    from arx_caps.trail import trails_of_log

    _checked(session)
    answer = place.mint().call("GET", f"/v1/sessions/{session}")
    found, tasks = answer.get("session", {}), answer.get("tasks", [])
    heads = ("TASK", "TEMPLATE", "STATE", "STARTED", "EXPIRES")
    rows = [(t.get("id"), t.get("template"), t.get("state"), *_times(t, "started_at", "expires_at")) for t in tasks]
    delegation = answer.get("delegation")
    value = {"session": found, "tasks": tasks, "more": "next" in answer, "delegation": delegation}
    shown_trails = trails_of_log(delegation["nodes"]) if delegation is not None else []
    console.data(
        "session", value, lambda: "\n\n".join([pairs(facts_of(found)), table(heads, rows), *map(tree, shown_trails)])
    )
    if "next" in answer:
        console.hint(f"these are its newest {len(tasks)} tasks; `arx task list --of {session}` shows more")


@session_command.command("renew")
@click.option("--session", "file", metavar="FILE", required=True, help="the session file; it is written anew")
@issuer_option
@out_option
@common_options
@pass_console
def renew(console: Console, file: str, issuer: str | None, out: Path | None) -> None:
    """Let a session end later, as its agent, within its absolute limit.

    The new token replaces the old one in the session file, or goes to another with --out; from stdin, to stdout.
    """
    caller, known = open_session_file(file, issuer)
    answer = caller.call("POST", f"/v1/sessions/{_checked(str(known.get('id')))}/renew")
    session = answer["session"]
    renewed = session_object(caller, session, answer["token"])
    if file == "-" and out is None:
        console.raw(json_line("session", renewed))
        return
    write_object(out or Path(file), renewed)
    value = {"session": session, "file": str(out or file)}
    console.data("session", value, lambda: pairs([*facts_of(session), ("file", out or file)]))


for _action, _text in (
    (FREEZE, "Refuse every token of these sessions, and their renewal, until they are thawed."),
    (THAW, "End the freeze of these sessions."),
):
    session_command.add_command(target_command(_action, _text, "session"))


@session_command.command("end")
@click.argument("session", required=False)
@click.option("--session", "file", metavar="FILE", help="end the session of this session file, as its agent")
@yes_option
@operator_options
@common_options
@pass_console
def end(console: Console, place: Place, session: str | None, file: str | None, yes: bool) -> None:
    """End a session, and with it every token that came of it."""
    if (session is None) == (file is None):
        raise click.UsageError("give the session's id, or its agent's --session FILE")
    caller: Caller | None = None
    if file is not None:
        caller, known = open_session_file(file, place.issuer)
        session = str(known.get("id"))
    session = _checked(str(session))
    console.confirm(f"end {session} and everything that came of it?", yes=yes or file is not None)
    try:
        answer = (caller or place.mint()).call("DELETE", f"/v1/sessions/{session}")
    except Stop as error:
        # Its own token says no more than that the session is over, which is what was asked for.
        if caller is None or error.code not in ("revoked", "expired", "session_ended"):
            raise
        answer = {"session": {"id": session}, "kill": None}
    kill = answer.get("kill") or {}
    console.data("session", answer, lambda: f"{session} ended: {kill.get('summary', 'it had ended before')}")


def _checked(session: str) -> str:
    if not session.startswith("s-") or not session.removeprefix("s-").isalnum() or not session.isascii():
        raise click.BadParameter(f"{session[:60]!r} is not a session's id such as s-abcdefghijklmnop")
    return session


def _times(row: dict[str, Any], *names: str) -> tuple[str | None, ...]:
    return tuple(show_time(row[name]) if isinstance(row.get(name), int) else None for name in names)
