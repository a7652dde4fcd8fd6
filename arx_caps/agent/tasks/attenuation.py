# SPDX-License-Identifier: Apache-2.0
"""From what a holder wants to leave to the caveat that says it.  SPEC 6, 7, 15.1.

A caveat only takes away, so nothing here can widen a task.  What is checked is whether the result is of use: a tool
that the task does not allow, an argument that no tool takes, or a value that no rule lets through.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from arx_caps.agent.tasks.clashes import clash
from arx_caps.agent.tasks.outline import Outline, meet
from arx_caps.settings.durations import parse_duration
from arx_verifier.amounts import Amount
from arx_verifier.constraints.constraint import Constraint, ConstraintLike, read_constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError, MalformedTokenError, shorten
from arx_verifier.names import is_tool_pattern, matches_tool
from arx_verifier.token.caveats import MAX_HOPS, Caveat, spend_caveats
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import HOP_BYTES, Macaroon

Constraints = dict[str, ConstraintLike]


def caveats_for(
    outlines: Mapping[str, Outline],
    *,
    now: int,
    tools: Sequence[str] | None = None,
    args: Mapping[str, Any] | None = None,
    ttl: str | None = None,
    depth: int | None = None,
    audiences: Sequence[str] | None = None,
) -> dict[str, Caveat | None]:
    """Return the caveats that attenuate the tokens of a bundle.

    Args:
        outlines: What the tokens say now, by audience.
        now: The holder's clock, ms since the Unix epoch.
        tools: Tools or patterns to leave; None leaves every tool.
        args: Argument to constraint, for every tool left that can take it; or tool to such a mapping.
        ttl: Life from now on, such as ``"60s"``.
        depth: How many delegations may follow.
        audiences: The services to leave; None leaves those that still have a tool.

    Returns:
        By audience that is left the caveat, the same one for each; None where there is nothing to take away.

    Raises:
        AttenuationError: A tool the task does not allow, an argument that no tool takes, a constraint that is none,
            ``args`` that can be read in two ways, a ``ttl`` or ``depth`` that cannot be, or nothing would be left.
    """
    # A text is a sequence as well: its characters would be read as names.
    if isinstance(audiences, str):
        raise TypeError("audiences is a list of names, not one text")
    chosen = outlines if audiences is None else {each: outlines[each] for each in dict.fromkeys(audiences)}
    allow = _rules_for(chosen, tools, args)
    left = [each for each, held in chosen.items() if tools is None or _tools_at(held, tools)]
    idle = [each for each in chosen if each not in left]
    # Reported to the holder now, not to its sub-agent by a service later.
    if (audiences is not None and idle) or not left:
        raise AttenuationError(f"no tool would be left at {', '.join(idle) or 'any service: audiences is empty'}")
    if depth is not None and not 0 <= depth <= MAX_HOPS:
        raise AttenuationError(f"depth is a number of delegations from 0 to {MAX_HOPS}")
    exp = None if ttl is None else now + _life(ttl)
    # Said, and not only left out: or a service that may exchange its token would reach what was left out.
    only = None if audiences is None else tuple(sorted(left))
    if allow is None and only is None and depth is None and exp is None:
        return dict.fromkeys(left)
    # The same caveat in every token: a service may exchange its token for one of another audience,
    # where no other token of the bundle counts.
    return dict.fromkeys(left, Caveat(allow=allow, aud=only, depth=depth, exp=exp))


def pools_for(
    outlines: Mapping[str, Outline], holder: str, budget: Mapping[str, Amount] | None, per: str = "task"
) -> tuple[Caveat, ...]:
    """Return the caveats that open a holder's pools, for each token of a bundle.  SPEC 17.1.

    Args:
        outlines: What the tokens say now, by audience.
        holder: The holder whose calls draw from them.
        budget: What each pool has, by unit: a number or decimal text; None opens none.
        per: ``task``, ``hour`` or ``day``.

    Raises:
        AttenuationError: A unit or an amount is wrong.
    """
    if not budget:
        return ()
    # Not this holder's clock, which may be ahead of the ledger's: that would refuse a pool of the future.
    opened = min(held.identifier.iat for held in outlines.values())
    try:
        return tuple([caveat.check() for caveat in spend_caveats(holder.rpartition("/")[2], budget, per, opened)])
    except MalformedTokenError as error:
        raise AttenuationError(str(error)) from error


def delegate_tokens(
    tokens: Mapping[str, Macaroon],
    to: str,
    caveats: Mapping[str, Caveat | None],
    *,
    key: str | None = None,
    by: HolderKey | None = None,
    pools: Sequence[Caveat] = (),
) -> dict[str, Macaroon]:
    """Return attenuated tokens for the next holder; all have the same link.

    Args:
        tokens: The holder's tokens, by audience.
        to: The next holder's agent path.
        caveats: The added caveat by audience, None for no restriction; other audiences are left out.
        key: The next holder's public key, for bound tokens.
        by: The holder's key, for bound tokens.
        pools: Caveats that open budgets of the next holder, in each token.

    Raises:
        AttenuationError: A token is one-shot, would become too large, or is bound and a key is missing.
    """
    # One hop for all tokens: the link derived from it is what a kill of this delegation names.
    hop = os.urandom(HOP_BYTES)
    given = {
        audience: tokens[audience].delegate(to, caveat, hop=hop, key=key, by=by) for audience, caveat in caveats.items()
    }
    return with_pools(given, pools)


def with_pools(tokens: dict[str, Macaroon], pools: Sequence[Caveat]) -> dict[str, Macaroon]:
    """Return tokens with caveats that open budgets, in each."""
    return {audience: token.attenuate(*pools) for audience, token in tokens.items()} if pools else tokens


def _rules_for(
    outlines: Mapping[str, Outline], tools: Sequence[str] | None, args: Mapping[str, Any] | None
) -> tuple[Rule, ...] | None:
    """Return the ``allow`` that attenuates every token of a bundle; None if none is needed."""
    if tools is None and not args:
        return None
    every = _tools_left(outlines, tools)
    # `args` has two forms; which one it is decides whether an absent argument is refused.
    by_tool, by_argument = _by_tool(args or {}, tools, every)
    names = sorted({name for constraints in by_tool.values() for name in constraints})
    if tools is None and not names:
        return None
    taking = {
        name: [tool for tool in every if name in by_tool[tool] and _takes(outlines, tool, name)] for name in names
    }
    unused = [name for name in names if not taking[name]]
    if unused:
        # It was misspelt, or guards what cannot come: the holder should know.
        raise AttenuationError(f"no tool of this delegation takes an argument {', '.join(map(shorten, unused))}")
    must = {name: _must(outlines, taking[name], name) if by_argument else taking[name] for name in names}
    if by_argument and tools is None and not any(must.values()):
        # One rule for all tools, also for those that only a service reaches, which this bundle cannot name.
        rules: tuple[Rule, ...] = (_rule("*", by_tool[every[0]], must),)
    else:
        rules = tuple([_rule(tool, by_tool[tool], must) for tool in every])
    _refuse_the_useless(outlines, every, rules, each=tools is not None)
    return rules


def _tools_left(outlines: Mapping[str, Outline], tools: Sequence[str] | None) -> list[str]:
    if tools is None:
        every = sorted({tool for held in outlines.values() for tool in held.tools})
        if not every:
            raise AttenuationError(f"there is nothing to attenuate: {_allowed(outlines)}")
        return every
    if isinstance(tools, str):
        raise TypeError("tools is a list of tool names, not one text")
    if not tools:
        raise AttenuationError("tools is empty: leave it out to keep every tool, or name at least one")
    for tool in tools:
        if not is_tool_pattern(tool):
            raise AttenuationError(f"{shorten(tool)} is not a tool's name, 'prefix.*' or '*'")
        if not any(_tools_at(held, [tool]) for held in outlines.values()):
            raise AttenuationError(f"no rule of this task allows {shorten(tool)}; {_allowed(outlines)}")
    return list(dict.fromkeys(tools))


def _tools_at(held: Outline, tools: Sequence[str]) -> list[str]:
    return [tool for tool in tools if any(meet(tool, pattern) is not None for pattern in held.tools)]


def _takes(outlines: Mapping[str, Outline], tool: str, name: str) -> bool:
    return any(held.takes(tool, name) for held in outlines.values())


def _must(outlines: Mapping[str, Outline], taking: Sequence[str], name: str) -> list[str]:
    """Find the tools whose calls need an argument because of this caveat.

    Returns:
        Tools whose rules name the argument and let it be absent.
    """
    # Where the mint's own rules require an argument, they do so beside any caveat.  Where they let it be absent, a call
    # without it could mean more than any value that is left: all orders instead of one.
    # A tool that takes any arguments may not have this one: requiring it could forbid the tool altogether, so it is
    # constrained only when it comes, unless the holder names the tool.
    return [
        tool
        for tool in taking
        if any(
            held.names(tool, name) and held.takes(tool, name) and not held.needs(tool, name)
            for held in outlines.values()
        )
    ]


def _rule(tool: str, constraints: Constraints, must: Mapping[str, Sequence[str]]) -> Rule:
    if not constraints:
        return Rule(tool=tool)
    # One matching rule of a caveat is enough, so a wider pattern requires what any tool within it does.
    args = {
        name: constraint if any(meet(tool, other) is not None for other in must[name]) else _if_there(constraint)
        for name, constraint in constraints.items()
    }
    return Rule(tool=tool, args=args, open=True)


def _if_there(constraint: ConstraintLike) -> Constraint:
    if isinstance(constraint, Constraint):
        return msgspec.structs.replace(constraint, optional=True)
    return Constraint(equal=constraint, optional=True)


def _refuse_the_useless(
    outlines: Mapping[str, Outline], every: Sequence[str], rules: Sequence[Rule], *, each: bool
) -> None:
    """Refuse a caveat under which no tool could be called; of tools that were listed, each has to be."""
    dead: dict[str, str] = {}
    for tool in every:
        clashes = [clash(held, tool, rules) for held in outlines.values() if _tools_at(held, [tool])]
        # Of several services that have the tool, one that may allow it is enough.
        if None not in clashes:
            dead[tool] = str(clashes[0])
    if dead and (each or len(dead) == len(every)):
        raise AttenuationError(
            f"no call would be allowed: {'; '.join([f'{tool}: {why}' for tool, why in dead.items()][:4])}"
        )


def _by_tool(
    args: Mapping[str, Any], tools: Sequence[str] | None, every: Sequence[str]
) -> tuple[dict[str, Constraints], bool]:
    """Read either form of ``args`` into constraints for each tool; return whether it was by argument."""
    # Under a rule `*` any name could be a tool's: there, only tools that are listed are meant as such.
    known = tools if tools is not None else [tool for tool in every if tool != "*"]
    if not (args and all(isinstance(value, Mapping) and _covers(known, name) for name, value in args.items())):
        return dict.fromkeys(every, _read(args, known)), True
    # A tool can be named as an argument is.  Guessing wrong would constrain other calls than the holder meant, so what
    # can be read in both ways is refused.
    flat, nested = _readable(args), {tool: _readable(arguments) for tool, arguments in args.items()}
    if None in nested.values():
        if flat is not None:
            return dict.fromkeys(every, flat), True
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
    return {tool: nested.get(tool) or {} for tool in every}, False


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


def _allowed(outlines: Mapping[str, Outline]) -> str:
    each = [f"{', '.join(held.tools) or 'nothing'} at {audience}" for audience, held in outlines.items()]
    return f"it allows {'; '.join(each)}"


def _life(ttl: str) -> int:
    try:
        length = parse_duration(ttl)
    except ValueError as error:
        raise AttenuationError(f"ttl: {error}") from error
    # A token that ends now is refused by every service, as an expired one and not as a mistake.
    if length == 0:
        raise AttenuationError("ttl: a task that lives 0 ms is of no use")
    return length
