# SPDX-License-Identifier: Apache-2.0
"""From what a holder wants to leave to the caveat that says it.  SPEC 6, 7.

A caveat only takes away, so nothing here can widen a task.  What is checked is whether the result is of use: a tool
that the task does not allow, an argument that no tool takes, or a misspelt constraint is told to the holder now, not to
its sub-agent by a service later.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from arx_caps.agent.outline import Outline, meet
from arx_caps.durations import parse_duration
from arx_verifier.arguments import ConstraintLike, read_constraint
from arx_verifier.caveats import Caveat
from arx_verifier.constraints import Rule
from arx_verifier.errors import AttenuationError, MalformedTokenError, shorten
from arx_verifier.macaroon import MAX_HOPS
from arx_verifier.names import is_tool_pattern, matches_tool

Constraints = dict[str, ConstraintLike]


def caveats_for(
    outlines: Mapping[str, Outline],
    *,
    now: int,
    tools: Sequence[str] | None = None,
    args: Mapping[str, Any] | None = None,
    ttl: str | None = None,
    depth: int | None = None,
) -> dict[str, Caveat | None]:
    """Write what is to be taken away from each token of a bundle.

    Args:
        outlines: What the tokens say now, by audience.
        now: The holder's clock, ms since the Unix epoch.
        tools: As for ``rules_for``.
        args: As for ``rules_for``.
        ttl: Life from now on, such as ``"60s"``.
        depth: How many hand-overs may follow.

    Returns:
        A caveat by audience, None where there is nothing to take away.  An audience that would have no tool left is not
        in it.

    Raises:
        AttenuationError: As ``rules_for``; or a ``ttl`` or ``depth`` that cannot be.
    """
    rules = rules_for(outlines, tools, args)
    exp = None if ttl is None else now + _life(ttl)
    if depth is not None and not 0 <= depth <= MAX_HOPS:
        raise AttenuationError(f"depth is a number of hand-overs from 0 to {MAX_HOPS}")
    written = {audience: Caveat(allow=allow, depth=depth, exp=exp) for audience, allow in rules.items()}
    return {audience: None if caveat == Caveat() else caveat.check() for audience, caveat in written.items()}


def rules_for(
    outlines: Mapping[str, Outline], tools: Sequence[str] | None, args: Mapping[str, Any] | None
) -> dict[str, tuple[Rule, ...] | None]:
    """Work out the ``allow`` that narrows each token of a bundle.

    Args:
        outlines: What the tokens say now, by audience.
        tools: Tools or patterns to leave; None leaves every tool.
        args: Argument to constraint, for every tool left that can take it; or tool to such a mapping.

    Returns:
        The rules by audience: None where nothing of this token is taken away.  An audience that would have no tool left
        is not in it.

    Raises:
        AttenuationError: A tool the task does not allow, an argument that no tool takes, a constraint that is none, or
            ``args`` that can be read in two ways.
    """
    if tools is None and not args:
        return dict.fromkeys(outlines)
    left = {audience: _tools_left(held, tools) for audience, held in outlines.items()}
    every = sorted({tool for found in left.values() for tool in found})
    for tool in tools if tools is not None else ():
        if tool not in every:
            raise AttenuationError(f"no rule of this task allows {shorten(tool)}; {_allowed(outlines)}")
    if not every:
        raise AttenuationError(f"there is nothing to narrow: {_allowed(outlines)}")
    by_tool = _by_tool(args or {}, tools, every)
    rules: dict[str, tuple[Rule, ...] | None] = {}
    for audience, found in left.items():
        made = tuple([_rule(outlines[audience], tool, by_tool[tool]) for tool in found])
        if made:
            rules[audience] = None if tools is None and all(rule.args is None for rule in made) else made
    _refuse_unused(by_tool, rules)
    return rules


def _tools_left(held: Outline, tools: Sequence[str] | None) -> list[str]:
    allowed = held.tools
    if tools is None:
        return list(allowed)
    if isinstance(tools, str):
        raise TypeError("tools is a list of tool names, not one text")
    if not tools:
        raise AttenuationError("tools is empty: leave it out to keep every tool, or name at least one")
    for tool in tools:
        if not is_tool_pattern(tool):
            raise AttenuationError(f"{shorten(tool)} is not a tool's name, 'prefix.*' or '*'")
    return [tool for tool in dict.fromkeys(tools) if any(meet(tool, pattern) is not None for pattern in allowed)]


def _rule(held: Outline, tool: str, constraints: Constraints) -> Rule:
    # An argument that the token's own rules refuse for this tool needs no constraint, and one would end the tool: what
    # a rule names must be there.
    kept = {name: constraint for name, constraint in constraints.items() if held.takes(tool, name)}
    return Rule(tool=tool, args=kept, open=True) if kept else Rule(tool=tool)


def _by_tool(args: Mapping[str, Any], tools: Sequence[str] | None, every: Sequence[str]) -> dict[str, Constraints]:
    """Read either form of ``args`` into constraints for each tool."""
    # Under a rule `*` any name could be a tool's: there, only tools that are listed are meant as such.
    known = tools if tools is not None else [tool for tool in every if tool != "*"]
    if not (args and all(isinstance(value, Mapping) and _covers(known, name) for name, value in args.items())):
        return dict.fromkeys(every, _read(args, known))
    flat, nested = _readable(args), {tool: _readable(arguments) for tool, arguments in args.items()}
    if None in nested.values():
        if flat is not None:
            return dict.fromkeys(every, flat)
        nested = {tool: _read(arguments, ()) for tool, arguments in args.items()}  # says what is wrong
    elif flat is not None:
        raise AttenuationError(
            f"args can be read by argument and by tool ({', '.join(args)}): write {{tool: {{argument: constraint}}}}"
        )
    for tool in nested:
        wider = [other for other in every if other != tool and meet(other, tool) is not None]
        if wider:
            # One matching rule is enough, so the wider one would let through what this one is to stop.
            raise AttenuationError(
                f"{', '.join(wider)} would still allow any {tool}: list the tools to leave in `tools`"
            )
    return {tool: nested.get(tool) or {} for tool in every}


def _read(args: Mapping[str, Any], known: Sequence[str]) -> Constraints:
    read: Constraints = {}
    for name, value in args.items():
        try:
            read[name] = read_constraint(value)
        except MalformedTokenError as error:
            by_tool = f" (args by tool may name {', '.join(known)})" if known and isinstance(value, Mapping) else ""
            raise AttenuationError(f"args: {shorten(name)}: {error}{by_tool}") from error
    return read


def _readable(args: Mapping[str, Any]) -> Constraints | None:
    try:
        return _read(args, ())
    except AttenuationError:
        return None


def _covers(known: Sequence[str], name: str) -> bool:
    return any(matches_tool(pattern, name) for pattern in known)


def _refuse_unused(by_tool: Mapping[str, Constraints], rules: Mapping[str, tuple[Rule, ...] | None]) -> None:
    """A constraint that stands in no rule was misspelt, or guards what cannot come: the holder should know."""
    kept = {name for made in rules.values() for rule in made or () for name in rule.args or ()}
    unused = sorted({name for constraints in by_tool.values() for name in constraints} - kept)
    if unused:
        raise AttenuationError(f"no tool of this hand-over takes an argument {', '.join(map(shorten, unused))}")


def _allowed(outlines: Mapping[str, Outline]) -> str:
    each = [f"{', '.join(held.tools) or 'nothing'} at {audience}" for audience, held in outlines.items()]
    return f"it allows {'; '.join(each)}"


def _life(ttl: str) -> int:
    try:
        length = parse_duration(ttl)
    except ValueError as error:
        raise AttenuationError(f"ttl: {error}") from error
    if length == 0:
        raise AttenuationError("ttl: a task that lives 0 ms is of no use")
    return length
