# SPDX-License-Identifier: Apache-2.0
"""``arx marks``: show the marks of a session, and lift one.  SPEC 21."""

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import Row, table_of
from arx_caps.cli.options import Verbs, yes_option
from arx_caps.cli.resources import SESSIONS
from arx_caps.cli.terminal import Console


@click.group("marks", cls=Verbs)
def marks_command() -> None:
    """Show the marks of a session, and lift one."""


@marks_command.command("show")
@click.argument("session")
@operator_options
def show(console: Console, session: str, place: Place) -> None:
    """Show the marks of a session, each with the call that set it and that call's record in the audit log.

    A mark of a task or a link binds no other.  `arx audit show RECORD` shows the record.
    """
    answer = place.mint().call("GET", f"{SESSIONS.path_of(session)}/marks")
    console.data("marks", answer, lambda: _table(answer["marks"]))
    if not answer["marks"]:
        console.say(f"no mark is set in {session}")
    if answer["lost"]:
        console.hint("the ledger may have lost marks: each warning counts as set, and no proof; open another session")


@marks_command.command("lift")
@click.argument("session")
@click.argument("mark")
@click.option("--reason", required=True, help="reason, recorded in the audit log")
@yes_option
@operator_options
def lift(console: Console, session: str, mark: str, reason: str, place: Place, yes: bool) -> None:
    """Lift a MARK of a session, a warning or a proof; a later call may set it again.

    Of a session whose marks may be lost, none can be lifted.

    \b
        arx marks lift s-abcdefghijklmnop untrusted --reason "the page was ours"
    """
    path = f"{SESSIONS.path_of(session)}/marks/lift"
    console.confirm(f"lift {mark[:64]} of {session}?", yes=yes)
    answer = place.mint().call("POST", path, {"mark": mark, "reason": reason})
    console.data("marks", answer, lambda: _table(answer["lifted"]))
    if not answer["lifted"]:
        console.say(f"nothing was lifted: {mark[:64]} is not set in {session}")


def _table(marks: list[Row]) -> str:
    columns = "MARK, KIND, OF, TASK OR LINK: ref, SET: set_at, TOOL, SERVICE, RECORD"
    return table_of(marks, columns) if marks else ""
