# SPDX-License-Identifier: Apache-2.0
"""Rules with parameters: which values a parameter may have, and the rules that come out when it is filled in.

``"$name"`` stands for one whole value, where a constraint compares with a value: ``equal`` (also written as a bare
value), ``range``, ``min`` and ``max``.  It is never part of a text, a pattern, a tool or a name, so that no parameter's
value can widen what it is put into.  ``$$`` is one dollar.  Who may start a task is left to ``model``.

The kinds of value that can keep a constraint are worked out from the constraint alone.  So a policy is refused when it
is loaded, not when a task is started, if no value of a parameter could be compared where it is used.  Text that is a
decimal number is a kind of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta
from msgspec.structs import replace

from arx_caps.mint.policy.parse import PolicyEntry, PolicyTable, text_that
from arx_verifier import names
from arx_verifier.constraints import (
    NUMBERS,
    TEXTS,
    Constraint,
    ConstraintLike,
    Rule,
    kinds_of,
    read_constraint,
    read_rule,
)
from arx_verifier.errors import MalformedTokenError, shorten

SUBJECT: Final = "subject"  # ``$subject``: on whose behalf the session runs, which the mint alone fills in
ToolPattern: TypeAlias = Annotated[str, text_that(names.is_tool_pattern, "a tool's name, `prefix.*` or `*`")]
Params: TypeAlias = Mapping[str, ConstraintLike]

_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ONE_DOLLAR: Final = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")
_INTEGERS: Final = frozenset(["integer"])
_OTHER_BOUND: Final = {"min": "max", "max": "min"}


def overlap(one: str, other: str) -> bool:
    """Tell whether two tools, names or patterns, speak of one tool."""
    return names.matches_tool(one, other) or names.matches_tool(other, one)


class TemplateRule(PolicyTable, frozen=True, kw_only=True):
    """A rule in which parameters are not filled in yet.

    Attributes:
        tool: Exact, ``prefix.*`` or ``*``.
        at: The audience whose token gets it.
        args: Constraints by argument, as they are written; None for any arguments.
        any: True where any arguments are allowed.
    """

    tool: ToolPattern
    at: Annotated[str, Meta(min_length=1)] = ""
    args: dict[str, Any] | None = None
    any: bool | None = None

    @property
    def names_subject(self) -> bool:
        """Whether it says ``$subject``."""
        return _names(self.args, f"${SUBJECT}")

    def fill(self, values: Mapping[str, Any]) -> Rule:
        """Put values in the parameters' places.

        Args:
            values: Checked values by parameter.

        Raises:
            MalformedTokenError: A value does not fit its place, for example a lower bound above the upper one.
        """
        if self.args is None:
            return read_rule({"tool": self.tool})
        return read_rule({"tool": self.tool, "args": _put(self.args, values)})


def read_params(entry: PolicyEntry, written: Mapping[str, Any]) -> dict[str, ConstraintLike]:
    """Read a template's parameters: a constraint each.

    Raises:
        SettingsError: A name or a constraint that is not allowed, or that no single value can keep.
    """
    params = {}
    for name, data in written.items():
        param = entry.at(name)
        if _PARAMETER.fullmatch(name) is None:
            raise param.error("a parameter's name is [a-z][a-z0-9_]*, at most 32 characters")
        if name == SUBJECT:
            raise param.error("kept for the session's subject: no agent gives it")
        constraint = _read(param, _literal(param, data))
        if isinstance(constraint, Constraint) and constraint.optional:
            raise param.error("a parameter is always given: leave `optional` out")
        if not kinds_of(constraint):
            raise param.error("no single value (text, an integer, true or false) can keep this")
        params[name] = constraint
    return params


def check_rule(entry: PolicyEntry, rule: TemplateRule, params: Params, audiences: Sequence[str]) -> TemplateRule:
    """Check one rule of a template's ``allow``, and return it with its audience.

    Raises:
        SettingsError: A mistake in its arguments, a parameter that is not declared, or no audience to give it to.
    """
    at = rule.at or rule.tool.partition(".")[0]
    if at not in audiences:
        known = ", ".join(audiences)
        raise entry.at("at").error(f"expected one of the task's audiences ({known}), got {shorten(at)}; write at = …")
    if (rule.args is None) != (rule.any is True):
        raise entry.error("say either args = { … }, with {} for none, or any = true for any arguments at all")
    for name, constraint in (rule.args or {}).items():
        argument = entry.at("args", name)
        _literal(argument, name)
        # All that needs no value is checked now: a policy that could never grant is refused when it is loaded.
        _read(argument, _sample(argument, constraint, params))
    return replace(rule, at=at, any=rule.any or None)


def _sample(entry: PolicyEntry, written: Any, params: Params) -> Any:
    """Fill an argument's constraint with values that fit whatever stands beside them, to check all the rest.

    Raises:
        SettingsError: A ``"$name"`` that is no parameter, or stands where none may.
    """
    if not isinstance(written, dict):
        return _sample_value(entry, written, "any value", params)
    sample: dict[str, Any] = {}
    for word, operand in written.items():
        part = entry.at(word)
        if word == "equal":
            sample[word] = _sample_value(part, operand, "any value", params)
        elif word in _OTHER_BOUND:
            sample[word] = _sample_bound(part, operand, written.get(_OTHER_BOUND[word]), NUMBERS, params)
        elif word == "range" and isinstance(operand, list) and len(operand) == 2:
            sides = zip(operand, reversed(operand), strict=True)
            sample[word] = [
                _sample_bound(part.at(index), bound, other, _INTEGERS if type(other) is int else NUMBERS, params)
                for index, (bound, other) in enumerate(sides)
            ]
        elif word == "not":
            sample[word] = _sample(part, operand, params)
        elif word in ("all_of", "any_of") and isinstance(operand, list):
            sample[word] = [_sample(part.at(index), each, params) for index, each in enumerate(operand)]
        else:
            sample[word] = _literal(part, operand)
    return sample


def _sample_value(entry: PolicyEntry, written: Any, value: Any, params: Params) -> Any:
    if not _is_parameter(written):
        return _literal(entry, written)
    if written[1:] not in (*params, SUBJECT):
        known = ", ".join(f"${name}" for name in params) or "none"
        raise entry.error(
            f'"{written[:60]}" is no parameter of this task, which has: {known}; $$ is a dollar, and $subject on whose '
            "behalf the session runs"
        )
    return value


def _sample_bound(entry: PolicyEntry, written: Any, other: Any, wanted: frozenset[str], params: Params) -> Any:
    value = _sample_value(entry, written, 0 if other is None or _is_parameter(other) else other, params)
    if _is_parameter(written):
        kinds = TEXTS if written[1:] == SUBJECT else kinds_of(params[written[1:]])
        if not kinds <= wanted:
            can, must = (" or ".join(sorted(which)) for which in (kinds, wanted))
            raise entry.error(f"{written} can be {can}, and a bound here must be {must}")
    return value


def _literal(entry: PolicyEntry, written: Any) -> Any:
    """Read data in which no parameter may stand: a single dollar is a mistake, and two are one."""
    if isinstance(written, str):
        if _ONE_DOLLAR.search(written) is not None:
            raise entry.error(
                f'"{written[:60]}": a parameter stands alone, as a whole value, in equal, range, min or max of an '
                "argument; write $$ for a dollar"
            )
        return written.replace("$$", "$")
    if isinstance(written, list):
        return [_literal(entry.at(index), item) for index, item in enumerate(written)]
    if isinstance(written, dict):
        return {_literal(entry.at(key), key): _literal(entry.at(key), item) for key, item in written.items()}
    return written


def _is_parameter(written: Any) -> bool:
    return isinstance(written, str) and written.startswith("$") and not written.startswith("$$")


def _read(entry: PolicyEntry, data: Any) -> ConstraintLike:
    if isinstance(data, dict):
        entry.refuse_unknown(data, Constraint.__struct_encode_fields__)
    try:
        return read_constraint(data)
    except MalformedTokenError as error:
        part, wrong = entry.inner(str(error))
        hint = "; write a decimal as text, such as '10.5'" if "float" in wrong else ""
        if part == entry and isinstance(data, dict):
            alone = (word for word, operand in data.items() if _mistake({word: operand}) == wrong)
            part = entry.at(*next(zip(alone, strict=True), ()))
        raise part.error(f"{wrong.removeprefix(f'{part.path[-1]}: ')}{hint}") from error


def _mistake(data: Any) -> str | None:
    try:
        read_constraint(data)
    except MalformedTokenError as error:
        return str(error)
    return None


def _put(data: Any, values: Mapping[str, Any]) -> Any:
    """Put values in their places, and one dollar for two; what is put in is not looked at again."""
    if isinstance(data, str):
        return values[data[1:]] if _is_parameter(data) else data.replace("$$", "$")
    if isinstance(data, list):
        return [_put(item, values) for item in data]
    if isinstance(data, dict):
        return {key.replace("$$", "$"): _put(item, values) for key, item in data.items()}
    return data


def _names(data: Any, parameter: str) -> bool:
    if isinstance(data, dict):
        data = list(data.values())
    return data == parameter or (isinstance(data, list) and any(_names(item, parameter) for item in data))
