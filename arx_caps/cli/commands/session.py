# SPDX-License-Identifier: Apache-2.0
"""``arx session``: open and renew a session as an agent; list, show, freeze and end sessions as an operator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.sessions.agent import on_behalf, read_token_file
from arx_caps.cli.access.mint_session import Caller, Unreachable, load_key, open_session_file, session_object
from arx_caps.cli.access.place import Place, issuer_option, operator_options
from arx_caps.cli.access.secure_files import write_object
from arx_caps.cli.display import Row, facts_of, table_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, command_options, limit_option, out_option, yes_option
from arx_caps.cli.parse import STATES, Duration
from arx_caps.cli.resources import SESSIONS, hint_more
from arx_caps.cli.target_commands import FREEZE, THAW, target_command
from arx_caps.cli.terminal import Console, json_line, pairs, plain
from arx_caps.credentials.keyfile import SigningKey

_COLUMNS: Final = (
    "SESSION: id, AGENT, STATE, TASKS, ALLOWED, DENIED, LAST TOOL: last_tool, OPENED: opened_at, EXPIRES: expires_at, "
    "PURPOSE"
)
_token_file = click.Path(dir_okay=False, path_type=Path)


@click.group("session", cls=Verbs)
def session_command() -> None:
    """Open, list, renew, freeze and end sessions."""


@session_command.command("open")
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="key file of the agent")
@click.option(
    "--workload-token",
    type=_token_file,
    help="file with the platform's token for the agent, instead of --key; requires --issuer",
)
@click.option("--id-token", type=_token_file, help="file with the ID token of the session's subject")
@click.option(
    "--access-token",
    type=_token_file,
    help="file with the access token of the session's subject, instead of --id-token",
)
@click.option("--ttl", type=Duration(), help="requested lifetime, such as 30m [the policy's]")
@click.option("--purpose", help="purpose of the session, recorded in the audit log")
@issuer_option
@out_option
@command_options
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
    """Open a session as an agent, and write a session file, a secret, for `arx task start`.

    The agent authenticates with its key, or with a token of its platform that the policy accepts.

    \b
        arx session open --key triage.key.json --purpose "a refund" --out session.json
    """
    if (key_file is None) == (workload_token is None):
        raise click.UsageError("expected --key FILE or --workload-token FILE")
    subject = on_behalf(*(None if file is None else read_token_file(file) for file in (id_token, access_token)))
    said = {**subject, "ttl": ttl, "purpose": purpose}
    # The session is bound to a new key, so that a copied token without the file is of no use.
    session_key = SigningKey.generate()
    if key_file is not None:
        key = load_key(key_file, "agent")
        caller = Caller(issuer or key.issuer, session_key, ca=key.ca)
        answer = caller.call("POST", SESSIONS.path, lambda: {"assertion": caller.assertion(key), **said})
    elif issuer is not None:
        caller, token = Caller(issuer, session_key), read_token_file(str(workload_token))
        answer = caller.call("POST", SESSIONS.path, {"workload_token": token, **said})
    else:
        raise click.UsageError("--workload-token requires --issuer URL")
    session = answer["session"]
    file = session_object(caller, session, answer["token"])
    if out is None:
        console.raw(json_line("session", file))
    else:
        write_object(out, file)
        value = {"session": session, "file": str(out)}
        console.data("session", value, lambda: pairs([*facts_of(session), ("file", out)]))
    console.hint(f"`arx kill session {session.get('id')}` revokes it and all its tokens")


@session_command.command("list")
@click.option("--agent", help="show only this agent, or as acme/** it and those below it")
@click.option("--subject", help="show only this subject, as its issuer names it")
@click.option("--template", help="show only sessions with a task of this template")
@click.option("--state", type=click.Choice(STATES), help="show only this state")
@click.option("--text", help="show only those with this text in agent, purpose or subject, or this id")
@limit_option("show the newest N sessions", 1000)
@operator_options
def list_sessions(console: Console, /, place: Place, limit: int, **filters: str | None) -> None:
    """List the sessions that match all filters, the newest first, with their calls."""
    sessions: list[dict[str, Any]] = []
    activity: dict[str, dict[str, Any]] = {}
    more = False
    for answer in place.mint().pages(SESSIONS.path, "sessions", filters | {"counts": "true"}, limit=limit):
        sessions += answer["sessions"]
        activity |= answer.get("activity", {})
        more = "next" in answer
    value = {"sessions": sessions, "activity": activity, "more": more}
    rows = [activity.get(session["id"], {}) | session for session in sessions]
    console.data("sessions", value, lambda: table_of(rows, _COLUMNS, {"TASKS": _show_tasks}))
    hint_more(console, more, limit)


@session_command.command("show")
@click.argument("session")
@operator_options
def show(console: Console, session: str, place: Place) -> None:
    """Show a session, its tasks and its delegations: their calls, their states, and what each removed.

    `arx audit trail --session` shows the records.
    """
    SESSIONS.check(session)
    mint = place.mint()
    answer = mint.call("GET", SESSIONS.path_of(session))
    found, tasks = answer.get("session", {}), answer.get("tasks", [])
    try:
        nodes = mint.call("GET", f"{SESSIONS.path_of(session)}/tree")["nodes"]
    except Unreachable as error:  # of the log's database: in an emergency, what the mint knows is enough
        nodes = None
        console.say(f"without the delegations: {error}")
    value = {"session": found, "tasks": tasks, "more": "next" in answer, "tree": nodes}
    shown_tasks = table_of(tasks, "TASK: id, TEMPLATE, STATE, STARTED: started_at, EXPIRES: expires_at")
    parts = [pairs(facts_of(found)), shown_tasks, *(["\n".join(_drawn(nodes))] if nodes else [])]
    console.data("session", value, lambda: "\n\n".join(parts))
    if "next" in answer:
        console.hint(f"`arx task list --of {session}` lists more tasks than these newest {len(tasks)}")
    if found.get("state") in ("killed", "frozen"):
        console.hint("`arx kills list` shows by whom, when and why")  # perhaps its agent's or its person's


def _drawn(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a session's tree."""
    below: dict[int | None, list[int]] = {}
    for place, node in enumerate(nodes):
        below.setdefault(node["parent"], []).append(place)

    def lines(place: int, first: str, rest: str) -> Iterator[str]:
        node, children = nodes[place], below.get(place, [])
        counts = f"{node['allowed']} allowed, {node['denied']} denied"
        yield plain(f"{first}{node['name']}  {node['target']}  {counts}  {node['state']}")
        bar = rest + ("│  " if children else "   ")
        for text in node["removes"] or []:
            yield plain(f"{bar}removes {text}")
        for child in children:
            last = child == children[-1]
            yield from lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    for root in below.get(None, []):
        yield from lines(root, "", "")


def _show_tasks(row: Row) -> str | None:
    """Return the templates of a session's tasks, with their numbers."""
    templates = row.get("templates") or {}
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in templates.items()) or None


@session_command.command("renew")
@click.option("--session", "file", metavar="FILE", required=True, help="session file, which is replaced; `-` for stdin")
@issuer_option
@out_option
@command_options
def renew(console: Console, file: str, issuer: str | None, out: Path | None) -> None:
    """Extend a session as its agent, within its absolute limit.

    The new token goes to the session file, or to --out; from stdin, to stdout.
    """
    caller, known = open_session_file(file, issuer)
    answer = caller.call("POST", f"{SESSIONS.path_of(str(known.get('id')))}/renew")
    session = answer["session"]
    renewed = session_object(caller, session, answer["token"])
    if file == "-" and out is None:
        console.raw(json_line("session", renewed))
        return
    write_object(out or Path(file), renewed)
    value = {"session": session, "file": str(out or file)}
    console.data("session", value, lambda: pairs([*facts_of(session), ("file", out or file)]))


for _action, _text in (
    (FREEZE, "Refuse every token and renewal of these sessions until they are thawed."),
    (THAW, "End the freeze of these sessions."),
):
    session_command.add_command(target_command(_action, _text, "session"))


@session_command.command("end")
@click.argument("session", required=False)
@click.option("--session", "file", metavar="FILE", help="session file: end its session, as its agent")
@yes_option
@operator_options
def end(console: Console, place: Place, session: str | None, file: str | None, yes: bool) -> None:
    """End a session and revoke all its tokens."""
    if (session is None) == (file is None):
        raise click.UsageError("expected the id of a session, or --session FILE")
    caller: Caller | None = None
    if file is not None:
        caller, known = open_session_file(file, place.issuer)
        session = str(known.get("id"))
    session = SESSIONS.check(str(session))
    console.confirm(f"end {session} and revoke all its tokens?", yes=yes or file is not None)
    try:
        answer = (caller or place.mint()).call("DELETE", SESSIONS.path_of(session))
    except Stop as error:
        # A refusal of the session's own token means that the session has ended, as requested.
        if caller is None or error.code not in ("revoked", "expired", "session_ended"):
            raise
        answer = {"session": {"id": session}, "kill": None}
    kill = answer.get("kill") or {}  # None if the session had ended before
    console.data("session", answer, lambda: f"{session} ended: {kill.get('summary', 'it had ended before')}")
