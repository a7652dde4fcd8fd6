# SPDX-License-Identifier: Apache-2.0
"""``arx policy``: check, explain, test, draft, compare, activate, list and show policies."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arx_caps.cli.access.place import Place, mint_options, operator_options
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.commands.policy.draft import draft_command, gap_command
from arx_caps.cli.commands.policy.source import IN_FORCE, any_policy, fetch_policy, kept_policy, policy_of_file
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import Verbs, command_options, out_option, yes_option
from arx_caps.cli.parse import Duration, pairs_option, read_pairs
from arx_caps.cli.resources import POLICIES, Listed, list_of
from arx_caps.cli.terminal import Console, pairs, plain, table
from arx_caps.settings.durations import show_time
from arx_caps.text.caveat_text import after_any, show_json
from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import OK

if TYPE_CHECKING:
    from arx_caps.mint.policy.model import Policy

_file_option = click.option("--file", help="policy file [the policy in force at the mint]")
_SIGNS = {"granted": "+", "no longer granted": "-", "changed": "~"}


@click.group("policy", cls=Verbs)
def policy_command() -> None:
    """Check, explain, test, draft, compare and activate policies."""


@policy_command.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@command_options
def check(console: Console, file: str) -> None:
    """Check a policy file; exit with 1 and print line and key of each mistake.

    It prints all mistakes in the form of the tables, and one in the meaning of each table, at most 20 in all.  Of a
    valid policy it shows each task whose agents can read untrusted data, read private data and send, with the entries
    that end it, as far as [tool] describes the tools.
    """
    from arx_caps.cli.commands.policy.ways_out import warnings_about, ways_out
    from arx_caps.mint.policy.model import Policy

    try:
        policy = Policy.load(file)
    except SettingsError as error:
        # The file may have been changed in between: then its own mistake is all that is known of it.
        first, *further = Policy.mistakes(file) or [error]
        raise Stop(str(first), DENIED, code=error.code, further=further) from error
    value = {
        "digest": policy.digest,
        "audiences": sorted(policy.audiences),
        "sessions": sorted(policy.sessions),
        "tasks": sorted(policy.templates),
    }
    shown = [(name, ", ".join(said) if isinstance(said, list) else said) for name, said in value.items()]
    found, warnings = ways_out(policy.document), warnings_about(policy)
    whole = {**value, "ways_out": [each._asdict() for each in found], "warnings": warnings}
    console.data("policy", whole, lambda: "\n\n".join([pairs(shown), *[each.text() for each in found], *warnings]))
    if not policy.templates:
        console.hint("the policy grants nothing: add a [task.NAME] (see docs/policy.md)")


@policy_command.command("explain")
@click.option("--agent", required=True, help="path of the agent")
@click.option("--task", required=True, help="name of the task in the policy")
@pairs_option("--param", "params", "parameter of the task")
@click.option("--tool", "tools", multiple=True, help="attenuate to this tool or pattern; repeatable")
@click.option("--ttl", type=Duration(), help="requested lifetime, such as 5m [the policy's]")
@click.option("--depth", type=click.IntRange(0), help="number of delegations that may follow [the policy's]")
@click.option("--call", "tool", help="tool of a call in the task [only the task is asked for]")
@pairs_option("--arg", "args", "argument of the call")
@click.option("--peer", help="network address that the call comes from, for a task with `net`")
@click.option(
    "--subject", nargs=2, metavar="ISSUER SUB", help="subject of the session: the URL of the issuer, and `sub`"
)
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="claim of the subject; repeatable")
@_file_option
@operator_options
def explain(
    console: Console,
    /,
    place: Place,
    agent: str,
    task: str,
    file: str | None,
    subject: tuple[str, str] | None,
    claims: tuple[str, ...],
    params: tuple[str, ...],
    tools: tuple[str, ...],
    tool: str | None,
    args: tuple[str, ...],
    peer: str | None,
    **less: Any,
) -> None:
    """Print what a task would grant to an agent; if nothing, print the reasons and the needed changes, and exit with 1.

    With --call it also prints whether a call in the task would be allowed, and exits with 1 if not.  Limits of the
    service's own are not known here: it can refuse the call all the same (over_service_limit).

    \b
        arx policy explain --agent acme/support/triage --task refund --param order_id=o-1001 --param amount=50
    """
    from arx_caps.mint.policy.explain import show_explained
    from arx_caps.mint.tasks.policy_questions import PolicyQuestion, QuestionSubject, ask_policy

    if tool is None and (args or peer):
        raise click.UsageError("--arg and --peer are about a call: add --call TOOL")
    policy = policy_of_file(file) if file is not None else kept_policy(place, IN_FORCE)
    question = PolicyQuestion(
        agent=agent,
        task=task,
        params=read_pairs(params),
        subject=QuestionSubject(issuer=subject[0], sub=subject[1], claims=read_pairs(claims)) if subject else None,
        tool=tool,
        args=read_pairs(args),
        peer=peer,
    )
    reply = ask_policy(policy, question, tools=tools or None, **less)
    value = {"policy": policy.digest, "agent": agent, **show_explained(reply.explained)}
    if tool is not None:
        value["call"] = {"tool": tool, "code": reply.code, **reply._asdict()}
        value["call"] |= {"service_limits": "unknown"}
        del value["call"]["explained"]
    console.data("explanation", value, lambda: "\n".join(_explained(value)))
    click.get_current_context().exit(0 if reply.code == OK else DENIED)


@policy_command.command("test")
@click.argument("policy_file", metavar="POLICY", type=click.Path(exists=True, dir_okay=False))
@click.argument("questions", type=click.Path(exists=True, dir_okay=False))
@command_options
def test(console: Console, policy_file: str, questions: str) -> None:
    """Ask the file POLICY each question of the file QUESTIONS; exit with 1 if an answer is not the expected one.

    It needs no mint and no key.
    """
    from arx_caps.mint.tasks.policy_questions import ask_policy, load_questions

    policy = policy_of_file(policy_file)
    try:
        asked = load_questions(questions)
    except SettingsError as error:
        raise Stop(str(error), DENIED, code=error.code, further=getattr(error, "further", ())) from error
    replies = [(question, ask_policy(policy, question)) for question in asked]
    results = [
        {
            "name": question.name,
            "passed": reply.answers(question),
            "expect": question.expect,
            "need": question.need,
            "code": reply.code,
            "why": reply.why,
            "audience": reply.audience,
            "approval": reply.approval,
        }
        for question, reply in replies
    ]
    failed = sum(not result["passed"] for result in results)
    rows = [
        ("passed" if each["passed"] else "FAILED", each["name"], _wanted(each), _got(each), each["why"] or "")
        for each in results
    ]
    value = {"policy": policy.digest, "results": results, "failed": failed}
    console.data("policy-test", value, lambda: table(("", "QUESTION", "EXPECTED", "GOT", "WHY"), rows))
    console.say(f"{len(results) - failed} of {len(results)} answers are as expected")
    click.get_current_context().exit(DENIED if failed else 0)


@policy_command.command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="[NEW]", required=False)
@click.option(
    "--fail-on",
    type=click.Choice(["widening", "unclear"]),
    help="exit with 1 if a difference widens or is unclear (widening), or is unclear (unclear) [never]",
)
@operator_options
def diff(console: Console, place: Place, old: str, new: str | None, fail_on: str | None) -> None:
    """Compare two policies by what they grant; OLD alone is compared with the policy in force.

    OLD and NEW are files, digests or `in-force`.  Marks: + only allows more (widening), - only allows less (narrowing),
    ~ may do both (unclear).  Two files need no mint and no key.
    """
    from arx_caps.mint.policy.diff import compare

    first, second = (
        (any_policy(place, IN_FORCE), any_policy(place, old))
        if new is None
        else (any_policy(place, old), any_policy(place, new))
    )
    found = compare(first, second)
    counts = {name: sum(each.direction == name for each in found) for name in ("widening", "narrowing", "unclear")}
    refused = {None: 0, "unclear": counts["unclear"], "widening": counts["widening"] + counts["unclear"]}[fail_on]
    value = {"old": first.digest, "new": second.digest, "differences": [each.shown() for each in found]}
    lines = [_difference(each._asdict()) for each in found] or ["no difference"]
    console.data("policy-diff", value | counts | {"failed": bool(refused)}, lambda: "\n".join(lines))
    if refused:
        also = "; --fail-on widening counts what is unclear, as it may widen" if fail_on == "widening" else ""
        console.say(f"{counts['widening']} widening (+), {counts['unclear']} unclear (~){also}")
    click.get_current_context().exit(DENIED if refused else 0)


@policy_command.command("show")
@click.argument("digest", default=IN_FORCE)
@out_option
@operator_options
def show(console: Console, place: Place, digest: str, out: Path | None) -> None:
    """Show the text of the policy DIGEST, as a token or a decision names it [in-force]."""
    answer = fetch_policy(place, digest)
    if out is not None:
        write_private(out, answer["policy"])
        answer = {**answer, "policy": None, "file": str(out)}
    shown = [(name, _when(name, answer[name])) for name in answer if name != "policy"]
    console.data("policy", answer, lambda: answer["policy"] or pairs(shown))


@policy_command.command("list")
@list_of(
    POLICIES,
    "POLICY: digest, STATE, LAST PUT IN FORCE: in_force_at, BY",
    {"STATE": lambda row: "in force" if row["in_force"] else ""},
)
def list_policies(_: Listed) -> None:
    """List all policies that were in force, the newest first."""


@policy_command.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@mint_options
@yes_option
@command_options
def load(console: Console, place: Place, file: str, yes: bool) -> None:
    """Activate the policy FILE at every mint of the realm; running tasks keep their grants.

    The called mint replaces its own policy file.  A policy that grants nothing needs a confirmation.
    """
    # Parsed here first: a mistake is reported with its line before the mint is called.
    policy = policy_of_file(file)
    if not policy.sessions or not policy.templates:
        # An empty file parses as a policy, and would end all new work.
        console.confirm(f"{_taken_away(place, policy)}\n\nactivate a policy that grants nothing?", yes=yes)
    answer = place.mint().call("POST", POLICIES.path, {"policy": policy.text.source})
    console.data("policy", answer, lambda: pairs([("in force", answer["digest"]), ("before", answer["before"])]))
    if answer["digest"] != answer["before"]:
        console.hint(f"`arx policy diff {answer['before']} {answer['digest']}` shows the changes")
        console.say(
            "the called mint has replaced its policy file; those of other mints are unchanged; "
            f"`arx policy show {answer['before']} --out FILE` writes the previous policy"
        )


@policy_command.command("reload")
@operator_options
def reload(console: Console, place: Place) -> None:
    """Make the mint activate its own policy file, as SIGHUP does."""
    answer = place.mint().call("POST", f"{POLICIES.path}/reload")
    console.data("policy", answer, lambda: pairs([("in force", answer["digest"]), ("before", answer["before"])]))


for _command in (draft_command, gap_command):
    policy_command.add_command(_command)


def _taken_away(place: Place, new: "Policy") -> str:
    """Return what the policy in force grants and this one does not."""
    from arx_caps.mint.policy.diff import compare

    try:
        old = kept_policy(place, IN_FORCE)
    except SettingsError as error:  # written by a version whose policies this one refuses
        return f"the policy in force cannot be read here: {error}"
    return "\n".join(_difference(each._asdict()) for each in compare(old, new))


def _explained(value: dict[str, Any]) -> list[str]:
    """Return an explanation as text for people."""
    lines = [f"policy {value['policy']}", ""]
    for name in ("session", "task"):
        part = value[name]
        if not part["granted"]:
            lines.append(f"no {name}: {plain(part['why'])}")
            lines += [f"  needed: {plain(each)}" for each in part["takes"]]
            continue
        limits = [(key, _in_words(said)) for key, said in part.items() if key not in ("granted", "audiences")]
        lines += [f"a {name}", pairs(limits, "  ")]
        for audience, given in part.get("audiences", {}).items():
            lines.append(f"  at {plain(audience)} ({plain(', '.join(given['origins']))})")
            lines += [f"    {_rule(rule)}" for rule in given["allow"]]
            lines += [f"    attenuated to {plain(tool)}" for tool in given.get("attenuated_to", [])]
            for terms in given.get("approvals", []):
                lines.append(f"    {plain(' and '.join(terms['tools']))} needs an approval {_approval(terms)}")
    if call := value.get("call"):
        answer = (
            f"allowed at {call['audience']}, unless limits of its own refuse it"
            if call["code"] == OK
            else f"refused ({call['code']}): {call['why']}"
        )
        needs = f", with an approval {_approval(call['approval'])}" if call["approval"] else ""
        lines.append(f"the call {plain(call['tool'])}: {plain(answer)}{needs}")
    return lines


def _wanted(result: dict[str, Any]) -> str:
    return f"{result['expect']}{_by(result['need'])}"


def _got(result: dict[str, Any]) -> str:
    need = result["approval"]["need"] if result["approval"] is not None else 0
    return f"{result['code']}{_by(need if need or result['need'] is not None else None)}"


def _by(need: int | None) -> str:
    """Return how many approvals a call needs, as text behind a code; None is not shown."""
    return "" if need is None else f", {need} approval{'s' * (need != 1)}"


def _difference(found: dict[str, Any]) -> str:
    before, after = (_said(found[side]) for side in ("before", "after"))
    if found["member"] == "approvals" and found["kind"] != "changed":
        before, after = before or "none", after or "none"  # a `+` alone would read as an additional approval
    arrow = " -> ".join(side for side in (before, after) if side is not None)
    return f"{_SIGNS[found['kind']]} {plain(found['place'])}: {found['member']} {arrow}"


def _said(value: Any) -> str | None:
    if isinstance(value, dict) and "need" in value:
        return f"{plain(value['tool'])} {_approval(value)}"
    if isinstance(value, dict) and "tool" in value:
        return _rule(value)
    return None if value is None else plain(value if isinstance(value, str) else show_json(value))


def _rule(rule: dict[str, Any]) -> str:
    args = rule.get("args")
    if args is None:
        return plain(f"{rule['tool']}(anything)")
    shown = ", ".join(f"{name}: {show_json(each)}" for name, each in args.items())
    return plain(f"{rule['tool']}({shown})")


def _approval(terms: dict[str, Any]) -> str:
    """Return the terms of an approval as text."""
    who = "an operator" if terms["need"] == 1 else f"{terms['need']} operators"
    times = "one call" if terms["once"] else "calls"
    once = f" once {after_any(terms['when'])}" if terms.get("when") else ""
    return f"by {who}{once}, good for {times} within {terms['ttl']}"


def _in_words(value: Any) -> Any:
    return (", ".join(map(str, value)) or None) if isinstance(value, list) else value


def _when(name: str, value: Any) -> Any:
    return show_time(value) if name.endswith("_at") else value if isinstance(value, str) else json.dumps(value)
