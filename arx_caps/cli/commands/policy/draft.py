# SPDX-License-Identifier: Apache-2.0
"""``arx policy draft`` and ``arx policy gap``: from recorded calls to a policy, and from a policy to recorded calls."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.commands.policy.source import IN_FORCE, any_policy, kept_policy
from arx_caps.cli.display import table_of
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.log_query import Asking
from arx_caps.cli.options import options_of, out_option
from arx_caps.cli.parse import Since, read_texts
from arx_caps.cli.resources import SESSIONS
from arx_caps.cli.terminal import Console
from arx_caps.settings.durations import show_time
from arx_caps.text.caveat_text import show_json
from arx_verifier.names import is_audience, is_path_pattern

if TYPE_CHECKING:
    from arx_caps.mint.drafts.calls import RecordedCall

_file: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_calls_options: Final = options_of(
    click.option(
        "--from", "since", type=Since(), help="take the calls in the mint's log from this time on, such as 7d"
    ),
    click.option(
        "--calls",
        "files",
        multiple=True,
        type=_file,
        help="take the calls of this file, one JSON object a line; repeatable",
    ),
)


@click.command("draft")
@_calls_options
@click.option(
    "--document",
    "documents",
    multiple=True,
    metavar="NAME=FILE",
    help="of the service NAME, its OpenAPI 3 document, or its answer to `tools/list` of MCP, in JSON; repeatable",
)
@click.option(
    "--agent",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="draft for these agents alone, those of one pattern together; repeatable [each agent by itself]",
)
@click.option(
    "--min-seen",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="leave out, as a comment, each rule that was seen in fewer sessions",
)
@click.option(
    "--questions", type=click.Path(dir_okay=False, path_type=Path), help="file to write for `arx policy test`"
)
@out_option
@operator_options
def draft_command(
    console: Console,
    /,
    place: Place,
    since: int | None,
    files: tuple[Path, ...],
    documents: tuple[str, ...],
    patterns: tuple[str, ...],
    min_seen: int,
    questions: Path | None,
    out: Path | None,
) -> None:
    """Draft a policy from recorded calls, or from documents of services; read each line before you use it.

    Of recorded calls it makes a task for each agent and purpose of a session, with the narrowest rules that allow what
    was seen.  A document alone gives a task for what only reads, and one for the rest; beside calls, it adds what it
    says of their tools.

    \b
        arx policy draft --from 7d --out draft.toml --questions questions.toml
    """
    from arx_caps.mint.drafts.draft import draft_templates
    from arx_caps.mint.drafts.gap import find_gap
    from arx_caps.mint.drafts.policy_file import show_template, write_policy, write_questions
    from arx_caps.mint.drafts.schemas import add_notes, propose_templates, read_tools
    from arx_caps.mint.policy.model import Policy

    if wrong := [pattern for pattern in patterns if not is_path_pattern(pattern)]:
        raise click.BadParameter(f"expected a pattern such as acme/support/*, got {wrong[0][:60]!r}")
    is_seen = since is not None or bool(files)
    named = read_texts(documents, "--document", "NAME=FILE with the name of a service", is_audience)
    tools = {name: read_tools(Path(file), name) for name, file in named.items()}
    if not is_seen and not (tools and patterns):
        raise click.UsageError("expected --from or --calls, or a document and --agent PATTERN")
    calls = _read_calls(place, since, files)
    templates = draft_templates(calls, patterns, min_seen) if is_seen else propose_templates(tools, list(patterns))
    unseen = add_notes(templates, tools)
    origins: dict[str, Any] = {} if since is None else kept_policy(place, IN_FORCE).audiences
    text = write_policy(templates, origins, min_seen, unseen)
    policy = Policy.parse(text, str(out or "draft"))
    asked, unasked = ([], 0) if questions is None else write_questions(policy, templates)
    for path, content in ((out, text), (questions, "\n\n".join(asked) + "\n")):
        if path is not None:
            write_private(path, content)
    kept = [call for each in templates for call in each.kept_calls]
    counts = {"calls": sum(len(each.calls) for each in templates), "kept": len(kept), "questions": len(asked)}
    counts["refused"] = sum(len(each.calls) for each in find_gap(policy, kept).refused)
    value = {"policy": text, "templates": list(map(show_template, templates)), "unseen": unseen, **counts}
    console.data("policy-draft", value, "" if out is not None else text.rstrip("\n"))
    if unasked:
        console.say(f"{unasked} more questions do not fit into a file that `arx policy test` reads")
    if is_seen:
        left = counts["calls"] - counts["kept"]
        console.say(f"it refuses {counts['refused']} of the {counts['kept']} calls of its rules")
        if left:
            console.hint(f"{left} calls of fewer sessions have their rules as comments; --min-seen 1 keeps all rules")


@click.command("gap")
@click.argument("which", metavar="POLICY")
@_calls_options
@operator_options
def gap_command(console: Console, place: Place, which: str, since: int | None, files: tuple[Path, ...]) -> None:
    """Print the recorded calls that POLICY would refuse, and its rules that none used; exit with 1 if it refuses one.

    POLICY is a file, a digest or `in-force`.  Agent, session, tool and arguments are judged, each task with the
    parameters that fit its calls best; subjects, networks, approvals, budgets and lifetimes are not.

    \b
        arx policy gap draft.toml --from 7d
    """
    from arx_caps.mint.drafts.gap import find_gap

    if since is None and not files:
        raise click.UsageError("expected --from or --calls")
    policy, calls = any_policy(place, which), _read_calls(place, since, files)
    gap = find_gap(policy, calls)
    count = sum(len(each.calls) for each in gap.refused)
    value: dict[str, Any] = {
        "policy": policy.digest,
        "calls": len(calls),
        "refused": [each.shown() for each in gap.refused],
        "unknown": len(gap.unknown),
        "unused": gap.unused(policy),
    }
    console.data("policy-gap", value, lambda: "\n\n".join(_shown_gap(**value)))
    unknown = f"; {len(gap.unknown)} have no recorded arguments to judge" if gap.unknown else ""
    console.say(f"it would refuse {count} of {len(calls)} calls{unknown}")
    click.get_current_context().exit(DENIED if count else 0)


def _shown_gap(refused: list[dict[str, Any]], unused: list[dict[str, Any]], **_: Any) -> Iterator[str]:
    if refused:
        columns = "REFUSED: tool, AGENT, CALLS, SESSIONS, LAST, WHY"
        yield table_of(refused, columns, {"LAST": lambda row: row["last"] and show_time(row["last"])})
    if unused:
        shown = {"ARGUMENTS": lambda row: "any" if row["args"] is None else show_json(row["args"])}
        yield table_of(unused, "UNUSED: tool, TASK, LINE, ARGUMENTS", shown)


def _read_calls(place: Place, since: int | None, files: Iterable[Path]) -> list["RecordedCall"]:
    from arx_caps.mint.drafts.calls import load_calls, read_calls

    calls = [call for file in files for call in load_calls(file)]
    if since is not None:
        mint = place.mint()
        sessions = (each for answer in mint.pages(SESSIONS.path, "sessions") for each in answer["sessions"])
        purposes = {each["id"]: each["purpose"] or "" for each in sessions}
        for page in Asking({"since": since}).rising(mint):
            calls += read_calls(page["records"], purposes)
    if not calls and (since is not None or files):
        hint = "`arx audit runs` lists the services whose records the log has"
        raise Stop("no recorded call was allowed or would have been refused", DENIED, hint=hint, code="no_calls")
    return calls
