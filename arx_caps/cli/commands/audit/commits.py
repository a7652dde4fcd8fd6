# SPDX-License-Identifier: Apache-2.0
"""``arx audit commits``: who pushed what to a repository of git, for whom.  SPEC 8.7, 12.8."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.commands.audit.effects import calls_and_effects
from arx_caps.cli.display import Cell, table_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.log_query import Asking, question_options
from arx_caps.cli.options import limit_option
from arx_caps.cli.resources import SERVICES
from arx_caps.cli.terminal import Console
from arx_caps.text.effects import KnownEffect

_COLUMNS: Final = "TIME: at, RESULT, PERSON, AGENT, TASK, SESSION, REF, OLD, NEW, DECISION: id"
_CELLS: Final[dict[str, Cell]] = {
    "TIME": time_of("at"),
    "RESULT": lambda row: f"refused: {row['code']}" if row["result"] == "refused" else row["result"],
    "PERSON": lambda row: (row["subject"] or {}).get("subject") or "",
    "AGENT": lambda row: " -> ".join((row["agent"], *row["named"])),
    "REF": lambda row: row["ref"] or "?",
    "OLD": lambda row: (row["old"] or "")[:12],
    "NEW": lambda row: (row["new"] or "")[:12],
}
_COMMIT: Final = re.compile("[0-9a-f]{4,64}")
_OBJECT: Final = "[0-9a-f]{40}(?:[0-9a-f]{24})?"
_UPDATE: Final = re.compile(f"({_OBJECT}) ({_OBJECT}) (.+)")
_FACTS: Final = ("at", "code", "agent", "named", "subject", "task", "tasks", "session", "service", "id", "leaf")


@click.command("commits")
@click.argument("repo")
@question_options
@click.option("--ref", help="show only this ref, or a pattern such as refs/heads/agent/*")
@click.option("--commit", metavar="ID", help="show only pushes that made this commit, or a prefix of it, a ref's tip")
@click.option(
    "--git",
    "clone",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="clone in which to look for --commit between the tips as well",
)
@limit_option("show the newest N updates", 200, 100_000)
@operator_options
def commits_command(
    console: Console,
    place: Place,
    repo: str,
    asking: Asking,
    ref: str | None,
    commit: str | None,
    clone: Path | None,
    limit: int,
) -> None:
    """Show who pushed what to REPO, such as acme/app, through a gateway: person, agent, task, ref, old and new commit.

    A record has the tips of refs alone, of the first eight updates of a push.  With --git, the commits between two tips
    are those of your clone: fetch first.  A push that created its ref is shown for each commit in its history.
    Without --tool, pushes are the calls of the tool `push` of each service.  A ref or a repository that is not recorded
    is shown as `?`.

    \b
        arx audit commits acme/app --commit 9fceb02 --git .
    """
    if "reason" in asking.query or (clone and not commit):
        raise Stop("invalid options: expected no --reason, and --git with --commit alone", code="usage")
    if commit and not _COMMIT.fullmatch(commit):
        raise Stop(f"invalid --commit: expected 4-64 lowercase hex digits, got {commit!r:.80}", code="usage")
    mint = place.mint()
    tool = asking.query.get("tool")
    tools = [tool] if tool else [f"{service['audience']}.push" for service in SERVICES.rows(mint)[0]]
    rows: list[dict[str, Any]] = []
    for name in tools:
        rows += updates_of(*calls_and_effects(mint, {**asking.query, "tool": name}, "allow", "deny"))
    rows = [row for row in rows if row["repo"] in (repo, None) and (not ref or fnmatchcase(row["ref"] or "", ref))]
    rows.sort(key=lambda row: int(row["at"]))
    if commit and clone:
        rows = list(_walked(console, rows, clone, commit))
    elif commit:
        tips = [row for row in rows if row["new"] and row["new"].strip("0") and row["new"].startswith(commit)]
        rows = [row | {"commit": "tip"} for row in tips]
    if commit and not rows:
        hint = (
            "fetch into the clone, or leave --ref and times out" if clone else "add --git DIR: only tips are recorded"
        )
        raise Stop(f"no recorded push to {repo} brought {commit}", exit_codes.DENIED, hint=hint, code="unknown_commit")
    rows = rows[-limit:]
    columns = f"{_COLUMNS}, COMMIT" if commit else _COLUMNS
    console.data("audit-commits", {"repo": repo, "updates": rows}, lambda: table_of(rows, columns, _CELLS))


def _walked(console: Console, rows: Iterable[dict[str, Any]], clone: Path, commit: str) -> Iterator[dict[str, Any]]:
    """Yield the updates that brought a commit to their ref, by a clone."""
    found = _git(clone, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found.returncode:
        raise Stop(f"{clone}: expected one commit {commit}, found none or several", code="unknown_commit")
    whole, missing = found.stdout.strip(), 0
    for row in rows:
        if row["new"] is None or not row["new"].strip("0"):
            continue
        created = not row["old"].strip("0")
        has, had = (
            _git(clone, "merge-base", "--is-ancestor", whole, tip).returncode for tip in (row["new"], row["old"])
        )
        had = 1 if created else had
        if max(has, had) > 1:
            missing += 1
        elif (has, had) == (0, 1):
            place = "tip" if row["new"] == whole else "history" if created else "between"
            yield row | {"commit": place}
    if missing:
        console.hint(f"{clone} lacks tips of {missing} updates, which are left out: fetch them")


def _git(clone: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    if (program := shutil.which("git")) is None:
        raise Stop("git: expected this program on PATH, found none", code="not_installed")
    words = (program, "-C", str(clone), *words)
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def updates_of(calls: Iterable[Mapping[str, Any]], effects: Iterable[KnownEffect]) -> Iterator[dict[str, Any]]:
    """Yield each update of a ref that a push asked for, in the order of the log.

    Its ``old`` and ``new`` are None where they are not recorded: of a refused push, of one whose process died, and of
    each update after the eighth.  ``repo`` is None if the record does not name it.

    Args:
        calls: The records of decisions about tools that push, as the log shows them.
        effects: The effects of those that were allowed.
    """
    known = {effect.allowed["id"]: effect for effect in effects}
    for shown in calls:
        arguments = _arguments(shown)
        if arguments is None:
            continue
        effect = known.get(shown["id"])
        record = (effect and effect.record) or {}
        ids = [_UPDATE.fullmatch(part) for part in (record.get("external_id") or "").split(", ") if part]
        push = {name: shown[name] for name in _FACTS}
        push |= {"repo": arguments.get("repo"), "result": effect.result if effect else "refused"}
        # Without their arguments the text of the effect has the refs, and may have cut them.
        for ref, its in zip_longest(arguments.get("refs") or [None], [each for each in ids if each]):
            yield push | {"ref": ref or (its and its[3]), "old": its and its[1], "new": its and its[2]}


def _arguments(shown: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a push, empty if the record has lost them; None for a tool that does not push to git."""
    if shown.get("arguments") == "" or shown["erased"]:  # too long for a record, or erased
        return {}
    found = json.loads(shown.get("arguments") or "{}")
    return found if isinstance(found.get("repo"), str) and isinstance(found.get("refs"), list) else None
