# SPDX-License-Identifier: Apache-2.0
"""Rules with parameters, and the rules that come out when these are filled in.

``"$name"`` stands for one whole value, where a constraint compares with a value: ``equal`` (also written as a bare
value), ``range``, ``min`` and ``max``.  It is never part of a text, a pattern, a tool or a name, so that no parameter's
value can widen what it is put into.  ``$$`` is one dollar.  Who may start a task is left to ``policy``.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from arx_caps.mint.kinds import NUMBERS, TEXTS, kinds_of
from arx_caps.mint.policy_text import Section
from arx_verifier import names
from arx_verifier.constraints import Constraint, ConstraintLike, Rule, read_constraint, read_rule
from arx_verifier.errors import MalformedTokenError

SUBJECT: Final = "subject"  # ``$subject``: on whose behalf the session runs, which the mint alone fills in

_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ONE_DOLLAR: Final = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")
_OTHER_BOUND: Final = {"min": "max", "max": "min"}


def overlap(one: str, other: str) -> bool:
    """Tell whether two tools, names or patterns, speak of one tool."""
    return names.matches_tool(one, other) or names.matches_tool(other, one)


class Parameter(NamedTuple):
    """The place of a parameter in a rule: its value will stand here, with its type."""

    name: str


class TemplateRule(NamedTuple):
    """A rule in which parameters are not filled in yet.

    Attributes:
        at: The audience whose token gets it.
        tool: Exact, ``prefix.*`` or ``*``.
        args: Constraints by argument, as plain data with ``Parameter`` in it; None for any arguments.
    """

    at: str
    tool: str
    args: dict[str, Any] | None

    @property
    def names_subject(self) -> bool:
        """Whether it says ``$subject``."""
        return _names(self.args, Parameter(SUBJECT))

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


def read_params(section: Section, written: Any) -> dict[str, ConstraintLike]:
    """Read a template's parameters: a constraint each.

    Raises:
        SettingsError: A name or a constraint that is not allowed, or that no single value can keep.
    """
    table = section.inner(("params",), written)
    params = {}
    for name in written:
        if _PARAMETER.fullmatch(name) is None:
            raise table.error(name, "a parameter's name is [a-z][a-z0-9_]*, at most 32 characters")
        if name == SUBJECT:
            raise table.error(name, "kept for the session's subject: no agent gives it")
        reader = _Reader(table, name, {})
        constraint = _read(table, name, reader.literals(written[name]))
        if isinstance(constraint, Constraint) and constraint.optional:
            raise table.error(name, "a parameter is always given: leave `optional` out")
        if not kinds_of(constraint):
            raise table.error(name, "no single value (text, an integer, true or false) can keep this")
        params[name] = constraint
    return params


def read_template_rule(
    section: Section, params: Mapping[str, ConstraintLike], audiences: tuple[str, ...]
) -> TemplateRule:
    """Read one rule of a template's ``allow``.

    Raises:
        SettingsError: A mistake anywhere in it, a parameter that is not declared, or no audience to give it to.
    """
    tool, at = section.take_text("tool"), section.take_text("at", None)
    written, any_args = section.take("args", None), section.take_flag("any")
    section.finish()
    if not names.is_tool_pattern(tool):
        raise section.error("tool", "expected a tool's name, `prefix.*` or `*`")
    if at is None:
        at = tool.partition(".")[0]
        if at not in audiences:
            raise section.error(
                "tool", f'`{at}` is none of the task\'s audiences: add at = "{audiences[0]}", or another'
            )
    elif at not in audiences:
        raise section.error("at", f"expected one of the task's audiences: {', '.join(audiences)}")
    if (written is None) != any_args:
        raise section.error(None, "say either args = { … }, with {} for none, or any = true for any arguments at all")
    if written is None:
        return TemplateRule(at, tool, None)
    table = section.inner(("args",), written)
    args = {}
    for name, constraint in written.items():
        reader = _Reader(table, name, params)
        filled = args[reader.literal(name)] = reader.constraint(constraint)
        # All that needs no value is checked now: a policy that could never grant is refused when it is loaded.
        _read(table, name, _sample(filled))
    return TemplateRule(at, tool, args)


class _Reader:
    """Turn one argument's constraint into plain data, with ``Parameter`` wherever ``"$name"`` may stand."""

    def __init__(self, section: Section, name: str, params: Mapping[str, ConstraintLike]) -> None:
        self._section = section
        self._name = name
        self._params = params

    def constraint(self, written: Any) -> Any:
        """Read a constraint or a part of one."""
        if not isinstance(written, dict):
            return self._place(written)
        return {word: self._operand(word, operand) for word, operand in written.items()}

    def literals(self, written: Any) -> Any:
        """Read plain data in which no parameter may stand."""
        if isinstance(written, str):
            return self.literal(written)
        if isinstance(written, list):
            return [self.literals(item) for item in written]
        if isinstance(written, dict):
            return {self.literal(key): self.literals(item) for key, item in written.items()}
        return written

    def literal(self, text: str) -> str:
        """Read ``$$`` as one dollar; a single one is a mistake here."""
        if _ONE_DOLLAR.search(text) is not None:
            raise self._error(
                f'"{text[:60]}": a parameter stands alone, as a whole value, in equal, range, min or max of an '
                "argument; write $$ for a dollar"
            )
        return text.replace("$$", "$")

    def _operand(self, word: str, operand: Any) -> Any:
        if word == "equal":
            return self._place(operand)
        if word in _OTHER_BOUND:
            return self._bound(operand, None)
        if word == "range" and isinstance(operand, list) and len(operand) == 2:
            return [self._bound(operand[0], operand[1]), self._bound(operand[1], operand[0])]
        if word == "not":
            return self.constraint(operand)
        if word in ("all_of", "any_of") and isinstance(operand, list):
            return [self.constraint(part) for part in operand]
        return self.literals(operand)

    def _place(self, written: Any) -> Any:
        if not isinstance(written, str) or not written.startswith("$") or written.startswith("$$"):
            return self.literals(written)
        name = written[1:]
        if name not in self._params and name != SUBJECT:
            known = ", ".join(f"${known}" for known in self._params) or "none"
            raise self._error(
                f'"{written[:60]}" is no parameter of this task, which has: {known}; $$ is a dollar, and $subject on '
                "whose behalf the session runs"
            )
        return Parameter(name)

    def _bound(self, written: Any, other: Any) -> Any:
        place = self._place(written)
        if isinstance(place, Parameter):
            kinds = TEXTS if place.name == SUBJECT else kinds_of(self._params[place.name])
            wanted = frozenset(["integer"]) if type(other) is int else NUMBERS
            if not kinds <= wanted:
                can, must = (" or ".join(sorted(which)) for which in (kinds, wanted))
                raise self._error(f"${place.name} can be {can}, and a bound here must be {must}")
        return place

    def _error(self, message: str) -> Exception:
        return self._section.error(self._name, message)


def _read(section: Section, name: str, data: Any) -> ConstraintLike:
    try:
        return read_constraint(data)
    except MalformedTokenError as error:
        hint = "; write a decimal as text, such as '10.5'" if "float" in str(error) else ""
        raise section.error(name, f"{error}{hint}") from error


def _put(data: Any, values: Mapping[str, Any]) -> Any:
    """Put values in their places; what is put in is not looked at again."""
    if isinstance(data, Parameter):
        return values[data.name]
    if isinstance(data, list):
        return [_put(item, values) for item in data]
    if isinstance(data, dict):
        return {key: _put(item, values) for key, item in data.items()}
    return data


def _names(data: Any, parameter: Parameter) -> bool:
    if isinstance(data, dict):
        return any(_names(item, parameter) for item in data.values())
    # A parameter is a tuple and no list, so that a list's items are looked at and its own are not.
    return data == parameter or (isinstance(data, list) and any(_names(item, parameter) for item in data))


def _sample(data: Any) -> Any:
    """Fill parameters with values that fit whatever stands beside them, to check all the rest."""
    if isinstance(data, Parameter):
        return "any value"
    if isinstance(data, list):
        return [_sample(item) for item in data]
    if not isinstance(data, dict):
        return data
    sample: dict[str, Any] = {}
    for word, operand in data.items():
        if word in _OTHER_BOUND and isinstance(operand, Parameter):
            sample[word] = _literal_or_zero(data.get(_OTHER_BOUND[word]))
        elif word == "range" and isinstance(operand, list) and any(isinstance(bound, Parameter) for bound in operand):
            low, high = operand
            known = _literal_or_zero(high if isinstance(low, Parameter) else low)
            sample[word] = [known, known]
        else:
            sample[word] = _sample(operand)
    return sample


def _literal_or_zero(bound: Any) -> Any:
    return 0 if bound is None or isinstance(bound, Parameter) else bound
