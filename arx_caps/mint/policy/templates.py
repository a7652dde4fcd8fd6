# SPDX-License-Identifier: Apache-2.0
"""Rules with parameters: ``params`` and ``allow`` of a template, and how they are filled in.

``"$name"`` is a placeholder for one whole value, in ``equal`` (also written as a bare value), ``range``, ``min`` and
``max``, also inside ``each`` and ``fields``.  ``$$`` is a dollar sign.  Which agents may start a task is in ``model``.
``tasks.token_factory`` makes a token's caveats of the rules.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

from msgspec import Meta
from msgspec.structs import replace

from arx_caps.settings.toml_file import TomlEntry, TomlTable, raise_mistakes, text_that
from arx_verifier import names
from arx_verifier.constraints.constraint import Constraint, ConstraintLike, kinds_of, read_constraint
from arx_verifier.constraints.rule import Rule, read_rule
from arx_verifier.constraints.scalars import NUMBERS, TEXTS
from arx_verifier.errors import MalformedTokenError, shorten

SUBJECT: Final = "subject"  # ``$subject``: the session's subject, a value that the mint alone fills in
ToolPattern: TypeAlias = Annotated[str, text_that(names.is_tool_pattern, "a tool's name, `prefix.*` or `*`")]
Params: TypeAlias = Mapping[str, ConstraintLike]

_STEP: Final = re.compile(r"\[(\d{1,9})\]|\.(\w+)")  # of a path in msgspec's errors
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ONE_DOLLAR: Final = re.compile(r"(?<!\$)(?:\$\$)*\$(?!\$)")
_INTEGERS: Final = frozenset(["integer"])
_OTHER_BOUND: Final = {"min": "max", "max": "min"}


# Words of other languages for constraints, and what to write for each.
_PATTERN: Final = (
    "there are no regular expressions: write `glob` for a pattern, `any_of` for several, `length` for a size, "
    "`subpath` for a folder; docs/constraints.md has each need"
)
_SYNONYMS: Final = (
    dict.fromkeys(("regex", "regexp", "pattern", "matches", "match", "re"), _PATTERN)
    | dict.fromkeys(("in", "enum", "values", "oneof", "allowed"), "write `one_of`")
    | dict.fromkeys(("not_in", "nin", "forbidden"), "write `none_of`")
    | dict.fromkeys(
        ("prefix", "startswith", "starts_with", "suffix", "endswith", "ends_with"),
        ('write `glob`, such as { glob = "o-*" }, or `subpath` for a folder'),
    )
    | dict.fromkeys(("le", "lte", "maximum", "at_most"), "write `max`")
    | dict.fromkeys(("ge", "gte", "minimum", "at_least"), "write `min`")
    | dict.fromkeys(("lt", "exclusiveMaximum"), "write `max`, which allows the bound itself")
    | dict.fromkeys(("gt", "exclusiveMinimum"), "write `min`, which allows the bound itself")
    | dict.fromkeys(("eq", "const", "value", "equals"), "write `equal`, or the value alone")
    | dict.fromkeys(("ne", "not_equal"), "write `not`")
    | dict.fromkeys(("maxLength", "maxlen"), "write `max_length`")
    | dict.fromkeys(("minLength", "minlen"), "write `min_length`")
    | dict.fromkeys(("items",), "write `each`")
    | dict.fromkeys(("properties",), "write `fields`")
    | dict.fromkeys(("between",), "write `range`")
)


def overlap(first: str, second: str) -> bool:
    """Return whether some tool matches both of two names or patterns."""
    return names.matches_tool(first, second) or names.matches_tool(second, first)


class TemplateRule(TomlTable, frozen=True, kw_only=True):
    """A rule whose parameters are not filled in yet.

    Attributes:
        tool: A tool's name, ``prefix.*`` or ``*``.
        at: The audience whose token gets the rule.
        args: Constraints by argument, as written; None for any arguments.
        any: True if any arguments are allowed; otherwise None.
    """

    tool: ToolPattern
    at: Annotated[str, Meta(min_length=1)] = ""
    args: dict[str, Any] | None = None
    any: bool | None = None

    @property
    def names_subject(self) -> bool:
        """Whether an argument is ``$subject``."""
        return _names(self.args, f"${SUBJECT}")

    def fill(self, values: Mapping[str, Any]) -> Rule:
        """Return the rule with values in place of its parameters.

        Args:
            values: Checked values by parameter.

        Raises:
            MalformedTokenError: A value does not fit its place, for example a lower bound above the upper one.
        """
        if self.args is None:
            return read_rule({"tool": self.tool})
        return read_rule({"tool": self.tool, "args": _put(self.args, values)})

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the rule's arguments for a person, with the parameters that are known; None for any arguments.

        Args:
            values: Values by parameter; a parameter that is not among them stays ``$name``.
        """
        if self.args is None:
            return None
        shown: dict[str, Any] = _put(self.args, _Known(values))
        return shown


class _Known(dict[str, Any]):
    """Values by parameter, in which an unknown parameter stands for itself."""

    def __missing__(self, name: str) -> str:
        return f"${name}"


def read_params(entry: TomlEntry, written: Mapping[str, Any]) -> dict[str, ConstraintLike]:
    """Parse a template's parameters: a constraint for each.

    Raises:
        SettingsError: A name or a constraint is not allowed, or no single value can satisfy it.
    """
    params = {}
    for name, data in written.items():
        param = entry.at(name)
        if _PARAMETER.fullmatch(name) is None:
            raise param.error("expected a parameter's name: [a-z][a-z0-9_]*, at most 32 characters")
        # An agent that could give it would choose the subject on whose behalf it acts.
        if name == SUBJECT:
            raise param.error("reserved for the session's subject; take another name")
        _refuse_unknown(param, data)
        constraint = _read(param, _literal(param, data))
        if isinstance(constraint, Constraint) and constraint.optional:
            raise param.error("a parameter is always given; leave `optional` out")
        # Decided from the constraint alone, so that the policy is refused when it is loaded and not at each start.
        if not kinds_of(constraint):
            raise param.error("no single value (text, an integer, true or false) can satisfy this")
        params[name] = constraint
    return params


def check_rule(entry: TomlEntry, rule: TemplateRule, params: Params, audiences: Sequence[str]) -> TemplateRule:
    """Check one rule of a template's ``allow``, and return it with its audience.

    Args:
        entry: The rule's entry, for errors.
        rule: The rule.
        params: The template's parameters.
        audiences: The template's audiences.

    Raises:
        SettingsError: An argument has a mistake, a parameter is not declared, or the audience is unknown.
    """
    # Each rule goes into one audience's token: a service learns nothing of what the task may do elsewhere.
    at = rule.at or rule.tool.partition(".")[0]
    if at not in audiences:
        known = ", ".join(audiences)
        raise entry.at("at").error(f"expected one of the task's audiences ({known}), got {shorten(at)}; write at = …")
    if (rule.args is None) != (rule.any is True):
        # A forgotten ``args`` must not grant every argument.
        raise entry.error("expected either args = { … }, with {} for none, or any = true for any arguments")
    for name, constraint in (rule.args or {}).items():
        argument = entry.at("args", name)
        _literal(argument, name)
        _refuse_unknown(argument, constraint)
        # Sample values stand for the parameters: a rule that no value satisfies is refused when the policy is loaded.
        _read(argument, _sample(argument, constraint, params))
    return replace(rule, at=at, any=rule.any or None)


def _refuse_unknown(entry: TomlEntry, data: Any) -> None:
    """Refuse an unknown member of a constraint or of one inside it, before what its operand may be."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            _refuse_unknown(entry.at(index), item)
    if isinstance(data, dict):
        raise_mistakes(entry.unknown_keys(data, Constraint.__struct_encode_fields__, _SYNONYMS))
        for word, operand in data.items():
            if word in ("all_of", "any_of", "each", "not"):
                _refuse_unknown(entry.at(word), operand)
            elif word == "fields" and isinstance(operand, dict):
                for name, item in operand.items():
                    _refuse_unknown(entry.at(word, name), item)


def _sample(entry: TomlEntry, written: Any, params: Params) -> Any:
    """Return an argument's constraint with sample values in place of parameters.

    The samples fit the operands beside them, so that an error is about what is written.

    Raises:
        SettingsError: A ``"$name"`` is no parameter, or is in a place where none may be.
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
        elif word == "fields" and isinstance(operand, dict):
            inside = {_literal(part.at(name), name): (part.at(name), item) for name, item in operand.items()}
            sample[word] = {name: _sample(*place, params) for name, place in inside.items()}
        elif word in ("all_of", "any_of", "each") and isinstance(operand, list):
            sample[word] = [_sample(part.at(index), item, params) for index, item in enumerate(operand)]
        elif word in ("not", "each"):
            sample[word] = _sample(part, operand, params)
        else:
            sample[word] = _literal(part, operand)
    return sample


def _sample_value(entry: TomlEntry, written: Any, value: Any, params: Params) -> Any:
    if not is_parameter(written):
        return _literal(entry, written)
    if written[1:] not in (*params, SUBJECT):
        known = ", ".join(f"${name}" for name in params) or "none"
        raise entry.error(
            f'expected a parameter of this task ({known}) or $subject, the session\'s subject, got "{written[:60]}"; '
            "write $$ for a dollar sign"
        )
    return value


def _sample_bound(entry: TomlEntry, written: Any, other: Any, wanted: frozenset[str], params: Params) -> Any:
    value = _sample_value(entry, written, 0 if other is None or is_parameter(other) else other, params)
    if is_parameter(written):
        kinds = TEXTS if written[1:] == SUBJECT else kinds_of(params[written[1:]])
        if not kinds <= wanted:
            # A comparison of other kinds fails at every call: the rule would allow nothing.
            can, must = (" or ".join(sorted(names_of_kinds)) for names_of_kinds in (kinds, wanted))
            raise entry.error(f"{written} can be {can}, but a bound here must be {must}")
    return value


def _literal(entry: TomlEntry, written: Any) -> Any:
    """Return data without parameters, ``$$`` replaced by a dollar sign; refuse a single dollar."""
    if isinstance(written, str):
        # Part of a text, a pattern, a tool or a name, a parameter's value could widen what surrounds it.
        if _ONE_DOLLAR.search(written) is not None:
            raise entry.error(
                f'expected a parameter alone, as a whole value of equal, range, min or max, got "{written[:60]}"; '
                "write $$ for a dollar sign"
            )
        return written.replace("$$", "$")
    if isinstance(written, list):
        return [_literal(entry.at(index), item) for index, item in enumerate(written)]
    if isinstance(written, dict):
        return {_literal(entry.at(key), key): _literal(entry.at(key), item) for key, item in written.items()}
    return written


def is_parameter(written: Any) -> bool:
    """Return whether an operand as written is ``"$name"``, one of a template's parameters."""
    return isinstance(written, str) and written.startswith("$") and not written.startswith("$$")


def _read(entry: TomlEntry, data: Any) -> ConstraintLike:
    if isinstance(data, dict):
        for part, inner in _parts(entry, data):
            _read(part, inner)  # for an error with the line of the member or item
    try:
        return read_constraint(data)
    except MalformedTokenError as error:
        part, wrong = _inside(entry, str(error))
        # Binary floats do not compare exactly, so constraints take decimals as text (SPEC 7).
        hint = '; write a decimal as text, such as "10.5"' if "float" in wrong else ""
        if part == entry and isinstance(data, dict):
            # The error names no member: try each by itself, to name its line.
            alone = (word for word, operand in data.items() if _mistake({word: operand}) == wrong)
            part = entry.at(*next(zip(alone, strict=True), ()))
        raise part.error(f"{wrong.removeprefix(f'{part.path[-1]}: ')}{hint}") from error


def _inside(entry: TomlEntry, message: str) -> tuple[TomlEntry, str]:
    """Return the entry inside an entry that an error of msgspec is about, and the error's text."""
    # The last one: the text before it quotes the policy, which may contain the same characters.
    wrong, separator, path = message.rpartition(" - at `$")
    if not separator:
        return entry, message
    return entry.at(*(int(index) if index else key for index, key in _STEP.findall(path))), wrong


def _parts(entry: TomlEntry, data: Mapping[str, Any]) -> Iterator[tuple[TomlEntry, Any]]:
    """Yield the constraints of an object's members and of a list's items, each with its entry."""
    fields, each = data.get("fields"), data.get("each")
    if isinstance(fields, dict):
        yield from ((entry.at("fields", name), part) for name, part in fields.items())
    if isinstance(each, list):
        yield from ((entry.at("each", index), part) for index, part in enumerate(each))
    elif each is not None:
        yield entry.at("each"), each


def _mistake(data: Any) -> str | None:
    try:
        read_constraint(data)
    except MalformedTokenError as error:
        return str(error)
    return None


def _put(data: Any, values: Mapping[str, Any]) -> Any:
    """Return data with values in place of parameters, and ``$$`` replaced by a dollar sign."""
    if isinstance(data, str):
        # A value is put in as it is: a ``$name`` inside it is not filled in again.
        return values[data[1:]] if is_parameter(data) else data.replace("$$", "$")
    if isinstance(data, list):
        return [_put(item, values) for item in data]
    if isinstance(data, dict):
        return {key.replace("$$", "$"): _put(item, values) for key, item in data.items()}
    return data


def _names(data: Any, parameter: str) -> bool:
    if isinstance(data, dict):
        data = list(data.values())
    return data == parameter or (isinstance(data, list) and any(_names(item, parameter) for item in data))
