# SPDX-License-Identifier: Apache-2.0
"""``arx decisions``: the decisions in the journals of this machine.  SPEC 12."""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import realm_dir_option
from arx_caps.cli.display import HEADS, row_of, write_records
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options
from arx_caps.cli.parse import Since
from arx_caps.cli.terminal import Console, record_table, tree, widths_of
from arx_caps.text.trail import trail
from arx_verifier.errors import REASONS
from arx_verifier.journal.decision import COUNTED, GAP, OK, Decision
from arx_verifier.journal.reader import Damage, read_journal
from arx_verifier.journal.writer import DROPPED, LOST
from arx_verifier.names import is_path_pattern, matches_path, matches_tool
from arx_verifier.service import read_service_file

CODES: Final = {"allow", "deny", "end", "would_refuse", "effect", OK, COUNTED, GAP, LOST, DROPPED, *REASONS}


class Filter(NamedTuple):
    """The selected decisions; a member that is None selects all.

    Attributes:
        session: The session's id.
        agent: A path or a pattern: of the authenticated agent, or of an agent that a delegation names.
        code: A reason code, or ``allow`` or ``deny``.
        tool: A tool or a pattern.
        since: The earliest time, ms since the Unix epoch.
    """

    session: str | None = None
    agent: str | None = None
    code: str | None = None
    tool: str | None = None
    since: int | None = None

    def takes(self, decision: Decision) -> bool:
        """Return whether the filter selects a decision."""
        facts = decision.facts
        return (
            (self.since is None or decision.at >= self.since)
            and (self.session is None or facts.session == self.session)
            and (
                self.code is None
                or self.code in (decision.code, decision.outcome, *(each.code for each in decision.counts))
                or (decision.gap is not None and self.code == decision.gap.why)
            )
            and (self.tool is None or matches_tool(self.tool, decision.tool))
            and (self.agent is None or any(matches_path(self.agent, name) for name in (facts.agent, *facts.named)))
        )


@click.command("decisions")
@click.option("--session", help="show this session, as a tree")
@click.option("--agent", help="show only chains with this agent, or a pattern such as acme/**")
@click.option("--code", help="show only this reason code, or allow or deny")
@click.option("--tool", help="show only this tool, or a pattern such as orders.*")
@click.option("--since", type=Since(), help="show decisions from this time on: a time, or an age such as 2h")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="show the last N decisions"
)
@click.option("--follow", "-f", is_flag=True, help="then show each new decision")
@click.option("--jsonl", is_flag=True, help="write one JSON object per line")
@click.option(
    "--journal",
    "journals",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    envvar="ARX_JOURNAL",
    help="folder of journals, or service file that names one; repeatable [journals of the realm's folder]",
)
@realm_dir_option
@command_options
def decisions_command(
    console: Console,
    /,
    realm_dir: Path,
    journals: tuple[Path, ...],
    limit: int,
    follow: bool,
    jsonl: bool,
    **filters: Any,
) -> None:
    """Show the decisions in the journals of this machine, with their reasons.

    A service that joined has its journal beside its service file, not in the realm's folder: give --journal FILE.

    \b
        arx decisions --code deny --follow
    """
    wanted = _checked(Filter(**filters))
    folders = [_folder_of(each) for each in journals] or [realm_dir / "journals"]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        hint = "give the realm's folder with --realm-dir or ARX_HOME, or a folder or service file with --journal"
        raise Stop(f"{missing[0]}: no such folder of journals", hint=hint, code="no_journal")
    # The journals of services that joined are not in the realm's folder, so an empty result may be incomplete.
    elsewhere = None if journals else "give --journal FILE for a service that joined: it has its own journal"
    damage: list[Damage] = []
    found = filter(wanted.takes, read_journal(*folders, on_damage=damage.append))
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends --follow
            _follow(console, folders, wanted, damage.append, limit, jsonl=jsonl or console.json)
    elif jsonl:
        newest = deque(found, maxlen=limit)
        write_records(console, "decision", [each.to_dict() for each in newest], (), jsonl=True)
    elif wanted.session is not None:
        session_trail = trail(found, wanted.session)
        if not session_trail.tasks:
            message = f"no decision of session {wanted.session} in these journals"
            raise Stop(message, exit_codes.DENIED, hint=elsewhere, code="unknown_session")
        console.data("trail", session_trail.to_dict(), lambda: tree(session_trail))
    else:
        _table(console, deque(found, maxlen=limit), elsewhere)
    # Records after a damaged one are still read; exit code 3 reports that the output is incomplete.
    for each in damage:
        console.say(f"damaged: {each}")
    click.get_current_context().exit(exit_codes.INCOMPLETE if damage else exit_codes.OK)


def _folder_of(path: Path) -> Path:
    """Return a journal's folder: the path itself, or the folder that a service file names."""
    if not path.is_file():
        return path
    journal = read_service_file(path).journal
    if journal is None:
        raise Stop(
            f"{path}: expected a `journal` in this service file", hint="give the journal's folder", code="no_journal"
        )
    if not Path(journal).is_dir():
        hint = "its service has recorded no decision on this machine; start it, or read the journal where it runs"
        raise Stop(f"{path}: its journal {journal} does not exist", hint=hint, code="no_journal")
    return Path(journal)


def _checked(wanted: Filter) -> Filter:
    """Return the filter, or raise if no decision can match it.

    Raises:
        click.BadParameter: The agent is no path or pattern, or the code is unknown.
    """
    # A typing error would give an empty table, which reads as "nothing was refused".
    if wanted.agent is not None and not is_path_pattern(wanted.agent):
        raise click.BadParameter(
            f"expected an agent path or a pattern, got {wanted.agent[:60]!r}", param_hint="--agent"
        )
    if wanted.code is not None and wanted.code not in CODES:
        near = get_close_matches(wanted.code, CODES, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise click.BadParameter(
            f"expected allow, deny or a reason code, got {wanted.code[:60]!r}{meant}", param_hint="--code"
        )
    return wanted


def _follow(
    console: Console,
    folders: Sequence[Path],
    wanted: Filter,
    on_damage: Callable[[Damage], None],
    limit: int,
    *,
    jsonl: bool,
) -> None:
    """Write the last decisions, then each new one."""
    # The journals are read twice: from the end for the last decisions, then from the start to follow them.  ``known``
    # has the last sequence of each run, so that no decision is written twice.
    known: dict[str, int] = {}
    past: deque[Decision] = deque(maxlen=limit)
    for decision in read_journal(*folders, on_damage=lambda _: None):
        known[decision.boot] = decision.sequence
        if wanted.takes(decision):
            past.append(decision)
    shown = [each.to_dict() for each in past]
    widths = widths_of([HEADS, *map(row_of, shown)])
    write_records(console, "decision", shown, widths, jsonl=jsonl)
    for decision in read_journal(*folders, follow=True, on_damage=on_damage):
        if decision.sequence > known.get(decision.boot, 0) and wanted.takes(decision):
            write_records(console, "decision", [decision.to_dict()], widths, jsonl=jsonl)


def _table(console: Console, found: deque[Decision], elsewhere: str | None) -> None:
    shown = [decision.to_dict() for decision in found]
    console.data("decisions", {"decisions": shown}, lambda: record_table(HEADS, [row_of(each) for each in shown]))
    if not found:
        console.say("no decision in these journals matches")
        if elsewhere is not None:
            console.hint(elsewhere)
