# SPDX-License-Identifier: Apache-2.0
"""``arx decisions``: what the verifiers of this machine decided, from their journals.  SPEC 12.

A session is shown as a tree, everything else as a table.  Damage in a journal is reported on stderr.  The
records after it are still read, and the command exits with 3, because its output is incomplete.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.display import HEADS, row_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import realm_dir_option
from arx_caps.cli.terminal import Console, align, json_line, table, tree, widths_of
from arx_caps.trail import trail
from arx_verifier.errors import REASONS
from arx_verifier.journal import COUNTED, DROPPED, GAP, LOST, OK, Damage, Decision, read_journal
from arx_verifier.names import is_path_pattern, matches_path, matches_tool
from arx_verifier.service import read_service_file

CODES: Final = {"allow", "deny", "end", OK, COUNTED, GAP, LOST, DROPPED, *REASONS}


class Filter(NamedTuple):
    """What to show; a member that is None lets everything through.

    Attributes:
        session: The session's id.
        agent: A path or a pattern: the proven agent, or anyone in the chain.
        code: A reason code, or ``allow`` or ``deny``.
        tool: A tool or a pattern.
    """

    session: str | None = None
    agent: str | None = None
    code: str | None = None
    tool: str | None = None

    def takes(self, decision: Decision) -> bool:
        """Return whether a decision is to be shown."""
        facts = decision.facts
        return (
            (self.session is None or facts.session == self.session)
            and (
                self.code is None
                or self.code in (decision.code, decision.outcome, *(each.code for each in decision.counts))
                or (decision.gap is not None and self.code == decision.gap.why)
            )
            and (self.tool is None or matches_tool(self.tool, decision.tool))
            and (self.agent is None or any(matches_path(self.agent, name) for name in (facts.agent, *facts.named)))
        )


@click.command("decisions")
@click.option("--session", help="tell this session as a tree")
@click.option("--agent", help="only where this agent (or pattern, acme/**) stands in the chain")
@click.option("--code", help="only this reason code, or `allow` or `deny`")
@click.option("--tool", help="only this tool, or a pattern such as orders.*")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="only the last so many"
)
@click.option("--follow", "-f", is_flag=True, help="then go on with what is decided from now on")
@click.option("--jsonl", is_flag=True, help="write one JSON object a line")
@click.option(
    "--journal",
    "journals",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    envvar="ARX_JOURNAL",
    help="a folder of journals, or a service file, which names its own; may be repeated; else the realm folder's",
)
@realm_dir_option
@common_options
@pass_console
def decisions_command(
    console: Console,
    /,
    realm_dir: Path,
    journals: tuple[Path, ...],
    limit: int,
    follow: bool,
    jsonl: bool,
    **filters: str | None,
) -> None:
    """Show what verifiers decided, and why; the records of this machine's journals.

    The journal of a service that joined lies beside its service file and not in the realm's folder: --journal FILE.

    \b
        arx decisions --code deny --follow
    """
    folders = [_folder_of(each) for each in journals] or [realm_dir / "journals"]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        hint = (
            "name the realm's folder with --realm-dir or ARX_HOME, or another folder or a service file with --journal"
        )
        raise Stop(f"{missing[0]}: there are no journals", hint=hint, code="no_journal")
    elsewhere = None if journals else "a service that joined has a journal of its own: --journal with its service file"
    wanted = _checked(Filter(**filters))
    damage: list[Damage] = []
    found = filter(wanted.takes, read_journal(*folders, on_damage=damage.append))
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # how following ends
            _follow(console, folders, wanted, damage.append, limit, jsonl=jsonl or console.json)
    elif jsonl:
        for decision in deque(found, maxlen=limit):
            console.raw(json_line("decision", decision.to_dict()))
    elif wanted.session is not None:
        session_trail = trail(found, wanted.session)
        if not session_trail.tasks:
            said = f"no decision names session {wanted.session}"
            raise Stop(said, exit_codes.DENIED, hint=elsewhere, code="unknown_session")
        console.data("trail", session_trail.to_dict(), lambda: tree(session_trail))
    else:
        _table(console, deque(found, maxlen=limit), elsewhere)
    for each in damage:
        console.say(f"damaged: {each}")
    click.get_current_context().exit(exit_codes.INCOMPLETE if damage else exit_codes.OK)


def _folder_of(path: Path) -> Path:
    """Return a journal's folder: the path itself, or what a service file names."""
    if not path.is_file():
        return path
    journal = read_service_file(path).journal
    if journal is None:
        raise Stop(f"{path} names no journal", hint="give the journal's folder", code="no_journal")
    return Path(journal)


def _checked(wanted: Filter) -> Filter:
    """Refuse a filter that nothing could ever pass: it is a slip, and an empty table would hide it.

    Raises:
        click.BadParameter: The agent is no path or pattern, or there is no such code.
    """
    if wanted.agent is not None and not is_path_pattern(wanted.agent):
        raise click.BadParameter(f"{wanted.agent[:60]!r} is no agent path or pattern", param_hint="--agent")
    if wanted.code is not None and wanted.code not in CODES:
        near = get_close_matches(wanted.code, CODES, 1)
        said = f"; is it {near[0]}?" if near else ": allow, deny, or a code that `arx decisions` shows as WHY"
        raise click.BadParameter(f"there is no code {wanted.code[:60]!r}{said}", param_hint="--code")
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
    """Write the last decisions and then each new one; the first records are read twice and written once."""
    known: dict[str, int] = {}
    past: deque[Decision] = deque(maxlen=limit)
    for decision in read_journal(*folders, on_damage=lambda _: None):
        known[decision.boot] = decision.sequence
        if wanted.takes(decision):
            past.append(decision)
    widths = widths_of([HEADS, *(row_of(each.to_dict()) for each in past)])
    for decision in past:
        _write_line(console, decision, widths, jsonl)
    for decision in read_journal(*folders, follow=True, on_damage=on_damage):
        if decision.sequence > known.get(decision.boot, 0) and wanted.takes(decision):
            _write_line(console, decision, widths, jsonl)


def _write_line(console: Console, decision: Decision, widths: Sequence[int], jsonl: bool) -> None:
    if jsonl:
        console.raw(json_line("decision", decision.to_dict()))
    else:
        console.raw(align(row_of(decision.to_dict()), widths))


def _table(console: Console, found: deque[Decision], elsewhere: str | None) -> None:
    shown = [decision.to_dict() for decision in found]
    console.data("decisions", {"decisions": shown}, lambda: table(HEADS, [row_of(each) for each in shown]))
    if not found:
        console.say("no decision in these journals is like that")
        if elsewhere is not None:
            console.hint(elsewhere)
