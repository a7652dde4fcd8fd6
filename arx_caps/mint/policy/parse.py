# SPDX-License-Identifier: Apache-2.0
"""A policy's TOML: the text with the line of each key, and conversion of tables to structs.

An error names the file, the line and the whole path of the key.  The tables are in ``tables``, and the meaning of their
members in ``model``.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct, inspect

from arx_caps.settings.durations import MAX_MS, format_duration, parse_duration
from arx_verifier.errors import SettingsError, shorten

Path: TypeAlias = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_VALUE: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[^,\]}#\n]+', re.DOTALL
)
# Characters that make an editor or a terminal show another text than the one that is parsed: control characters beyond
# ASCII, and marks that turn the direction of writing (CVE-2021-42574).
MISLEADING: Final = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# A dotted key of n parts takes time and memory that grow with n squared, for the lines of its prefixes.
MAX_PARTS: Final = 64  # the same number is in _LONG_KEY, which takes at most this many steps for each character
_LONG_KEY: Final = re.compile(
    r"""(?<![A-Za-z0-9_\\-])(?:(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}"""
)
_PLACE: Final = re.compile(r"\[(\d{1,9})\]|\.(\w+)")  # a step of a path in msgspec's errors
_AT_LINE: Final = re.compile(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", re.DOTALL)


class PolicyError(SettingsError):
    """A mistake at one key of a policy.

    Attributes:
        path: The keys and indices that lead to it.
        unknown: Whether the key itself is unknown.
    """

    code = "policy"
    path: Path = ()
    unknown: bool = False


class PolicyText:
    """A policy's text: the parsed document, and the lines of its keys.

    Attributes:
        name: The file's name in errors.
        document: The whole document as plain data.
        source: The text as written.
    """

    def __init__(self, text: str, name: str) -> None:
        """Parse a text.

        Raises:
            SettingsError: It is not TOML, nests too deep, or has characters that misrepresent it on a screen.
        """
        self.name, self.source = name, text
        self._lines: dict[Path, int] = {}
        # Before ``tomllib``, which needs time that grows with the square of a key's parts.
        long = _LONG_KEY.search(text)
        if long is not None:
            raise _too_deep(name, text.count("\n", 0, long.start()) + 1)
        try:
            self.document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # Python's own for a number of too many digits
            match = _AT_LINE.match(str(error))
            line = f":{match[2] or text.count(chr(10)) + 1}" if match else ""
            raise SettingsError(f"{name}{line}: not TOML: {match[1] if match else error}", code="policy") from error
        misleading = MISLEADING.search(text)
        if misleading is not None:
            at, number = text.count("\n", 0, misleading.start()) + 1, f"{ord(misleading[0]):04x}"
            wrong = f"U+{number.upper()} makes the file look different from what it says"
            raise SettingsError(f"{name}:{at}: {wrong}; in a text, write it as \\u{number}", code="policy")
        _Scan(text, name, self._lines).run()

    def error(self, path: Path, message: str) -> PolicyError:
        """Return an error about one key, with file, line and the key's whole path."""
        error = PolicyError(f"{self.name}:{self.line(path)}: {_dotted(path)}: {message}", code="policy")
        error.path = path
        return error

    def line(self, path: Path) -> int:
        """Return the line of a key, or of the nearest table around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


class PolicyTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a policy: a field for each member, with the member's name or ``name=``."""


class PolicyEntry(NamedTuple):
    """An entry of a policy, for errors about it.

    Attributes:
        text: The policy's text.
        path: The keys and indices that lead to the entry; empty for the whole policy.
    """

    text: PolicyText
    path: Path = ()

    def at(self, *path: str | int) -> "PolicyEntry":
        """Return an entry inside this one."""
        return PolicyEntry(self.text, (*self.path, *path))

    def error(self, message: str) -> PolicyError:
        """Return an error about this entry, with file, line and the key's whole path."""
        return self.text.error(self.path, message)

    def read(self, kind: Any, data: Any, **given: Any) -> Any:
        """Convert the entry's data to a table or another type.

        Args:
            kind: A ``PolicyTable``, or another type that msgspec converts to.
            data: The entry as plain data.
            **given: Fields of the table that the file does not write, such as its name.

        Raises:
            SettingsError: A member is unknown or missing, or has a value that its type does not allow.
        """
        ready = _parse(self, _form(kind), data, given)
        try:
            return msgspec.convert(ready | given if given and isinstance(ready, dict) else ready, kind)
        except msgspec.ValidationError as error:
            raise self._refusal(_form(kind), data, str(error)) from error

    def read_named(self, kind: Any, tables: Mapping[str, Any]) -> dict[str, Any]:
        """Convert named tables, each by itself.

        Raises:
            SettingsError: A member is unknown or missing, or has a value that its type does not allow.
        """
        return {name: self.at(name).read(kind, data, name=name) for name, data in tables.items()}

    def refuse_unknown(
        self, written: Collection[str], known: Collection[str], hints: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Refuse an unknown key.

        Args:
            written: The keys.
            known: The known ones.
            hints: What to write instead of a key of another language.

        Raises:
            SettingsError: With the nearest known key, and all of them.
        """
        # An ignored key may have been meant as a restriction.
        for key in written:
            if key not in known:
                meant = "".join(f"did you mean `{near}`? " for near in get_close_matches(key, known, 1))
                meant = f"{hints[key]}; " if key in hints else meant
                error = self.at(key).error(f"unknown key; {meant}known here: {', '.join(sorted(known))}")
                error.unknown = True
                raise error

    def inner(self, message: str) -> tuple["PolicyEntry", str]:
        """Return the entry inside this one that an error of msgspec is about, and the error's text."""
        # The last one: the text before it quotes the policy, which may contain the same characters.
        wrong, separator, path = message.rpartition(" - at `$")
        if not separator:
            return self, message
        return self.at(*(int(index) if index else key for index, key in _PLACE.findall(path))), wrong

    def _refusal(self, form: inspect.Type, data: Any, message: str) -> SettingsError:
        entry, wrong = self.inner(message)
        for step in entry.path[len(self.path) :]:
            form, _ = _bare(form)
            data = data[step]
            if isinstance(form, inspect.StructType):
                form = next(field.type for field in form.fields if field.encode_name == step)
            elif isinstance(form, inspect.VarTupleType):
                form = form.item_type
        if wrong.startswith(_MISSING):
            return entry.error(f"needs {wrong.removeprefix(_MISSING)}")
        return entry.error(f"expected {_describe(form)}, got {shorten(data)}{_bare(form)[1].get('hint', '')}")


def checked_text(mistake: Callable[[str], str | None]) -> Meta:
    """Return the mark of a text type that ``mistake`` checks; it returns None for a valid text."""

    def parse(value: Any) -> Any:
        if isinstance(value, str) and (wrong := mistake(value)) is not None:
            raise ValueError(wrong)
        return value

    return Meta(extra={"parse": parse})


def text_that(fits: Callable[[str], object], expected: str) -> Meta:
    """Return the mark of a text type that passes a test.

    Args:
        fits: The test; a true result accepts the text.
        expected: What errors say was expected.
    """
    return checked_text(lambda text: None if fits(text) else f"expected {expected}; got {shorten(text)}")


def _parse_duration(value: Any) -> int:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; got {shorten(value)}") from error


def duration(*, least: int = 1, most: int = MAX_MS) -> Meta:
    """Return the mark of an integer of ms that a policy writes as a duration.

    Args:
        least: The smallest value, ms.
        most: The largest value, ms.
    """
    return Meta(ge=least, le=most, extra={"parse": _parse_duration, "show": format_duration})


# What one more entry of a list does, for comparisons of policies.
GRANTS: Final = Meta(extra={"entry": "grants"})
RESTRICTS: Final = Meta(extra={"entry": "restricts"})
ANY_IF_EMPTY: Final = Meta(extra={"entry": "grants", "empty": "any"})  # an empty list is no restriction
IN_TOKENS: Final = Meta(extra={"in_tokens": True})  # the mint's caveat has the member under the same name


def several(what: str, hint: str, most: int | None = None) -> Meta:
    """Return the mark of a list or a table that must not be empty.

    Args:
        what: What an element is.
        hint: An example, or the way to leave the member out.
        most: The most elements.
    """
    size = f" with at least one {what}" if most is None else f" with 1 to {most} {what}s"
    return Meta(min_length=1, max_length=most, extra={"size": size, "hint": f"; {hint}"})


def as_written(value: Any) -> Any:
    """Return a value as plain data with the file's names and spellings, lists as tuples."""
    if isinstance(value, PolicyTable):
        return {name: shown for name, shown in members_of(value).items() if shown is not None}
    if isinstance(value, tuple):
        return tuple(map(as_written, value))
    return msgspec.json.decode(msgspec.json.encode(value))


def members_of(table: PolicyTable) -> dict[str, Any]:
    """Return each member of a table, as ``as_written`` does; None for one left out."""
    members = {}
    for field in _form(type(table)).fields:
        value = getattr(table, field.name)
        show = _bare(field.type)[1].get("show", as_written)
        members[field.encode_name] = None if value is None else show(value)
    return members


def _parse(entry: PolicyEntry, form: inspect.Type, data: Any, given: Mapping[str, Any] = {}) -> Any:
    """Parse texts with a parser in their type; refuse unknown keys and repeated texts."""
    form, meta = _bare(form)
    if "parse" in meta:
        try:
            return meta["parse"](data)
        except ValueError as error:
            raise entry.error(str(error)) from error
    if isinstance(form, inspect.VarTupleType) and isinstance(data, list):
        first: dict[str, int] = {}
        for index, item in enumerate(data):
            # A repeated entry is most likely a mistyped other one.
            if isinstance(item, str) and first.setdefault(item, index) != index:
                raise entry.at(index).error(f"{shorten(item)} is listed twice")
        return [_parse(entry.at(index), form.item_type, item) for index, item in enumerate(data)]
    if isinstance(form, inspect.StructType) and isinstance(data, dict):
        known = {field.encode_name: field.type for field in form.fields}
        for key, value in given.items():
            _parse(entry, known.pop(key), value)
        entry.refuse_unknown(data, known)
        return {key: _parse(entry.at(key), known[key], value) for key, value in data.items()}
    return data


def marks_of(kind: type[PolicyTable]) -> dict[str, dict[str, Any]]:
    """Return the marks of each member, by its name in the file; an integer is a ``limit``."""
    marks = {}
    for field in _form(kind).fields:
        form, extra = _bare(field.type)
        marks[field.encode_name] = {**extra, "limit": isinstance(form, inspect.IntType)}
    return marks


def in_tokens(table: PolicyTable) -> dict[str, Any]:
    """Return the members that tokens carry, without those that restrict nothing."""
    return {
        field.name: value
        for field in _form(type(table)).fields
        if _bare(field.type)[1].get("in_tokens")
        and ((value := getattr(table, field.name)) not in (None, ()) or value != field.default)
    }


def write_member(kind: type[PolicyTable], name: str, value: Any) -> Any:
    """Return a member's value as the file writes it."""
    (field,) = [field for field in _form(kind).fields if field.name == name]
    shown = _bare(field.type)[1].get("show", as_written)(value)
    return list(shown) if isinstance(shown, tuple) else shown


@cache
def _form(kind: Any) -> Any:
    return inspect.type_info(kind)


def _bare(form: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """Return a type without its marks, and the marks; of an optional type, the type."""
    if isinstance(form, inspect.UnionType):
        form = next(member for member in form.types if not isinstance(member, inspect.NoneType))
    return (form.type, form.extra or {}) if isinstance(form, inspect.Metadata) else (form, {})


_MISSING: Final = "Object missing required field "
_SHAPES: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "text in quotes",
    inspect.BoolType: "true or false",
    inspect.VarTupleType: "a list",
    inspect.DictType: "a table",
    inspect.StructType: "a table",
}


def _describe(form: inspect.Type) -> str:
    form, meta = _bare(form)
    if isinstance(form, inspect.IntType):
        noun, show = ("a duration", meta["show"]) if "show" in meta else ("an integer", str)
        return f"{noun}, {show(form.ge)} to {show(form.le)}"
    if isinstance(form, inspect.LiteralType):
        return f"{'one of ' * (len(form.values) > 1)}{', '.join(map(shorten, form.values))}"
    return f"{_SHAPES[type(form)]}{meta.get('size', '')}"


class _Scan:
    """Walk a text that ``tomllib`` accepted, and record the line of every key."""

    # Its assertions hold for valid TOML only, so it runs after ``tomllib``, which discards the lines.

    def __init__(self, text: str, name: str, lines: dict[Path, int]) -> None:
        # As ``tomllib`` reads it: one character for each end of a line.
        self._text, self._name, self._lines = text.replace("\r\n", "\n"), name, lines
        self._at = 0
        self._counted, self._line_here = 0, 1
        self._counts: dict[Path, int] = {}

    def run(self) -> None:
        base: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                base = self._header()
            else:
                self._pair(base)

    def _header(self) -> Path:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        path: Path = ()
        # Every prefix gets a line as well, for errors about a table that is only a part of a header.
        keys = self._keys()
        for index, key in enumerate(keys):
            path = (*path, key)
            # Each [[header]] begins another element of its list; a [header] below it is of the last element.
            if many and index == len(keys) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            self._note(path)
            if path in self._counts:
                path = (*path, self._counts[path])
                self._note(path)
        self._at += 2 if many else 1
        return path

    def _pair(self, base: Path) -> None:
        path = base
        for key in self._keys():
            path = (*path, key)
            self._note(path)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self._text, self._at)
            assert match is not None, "tomllib has accepted this text"
            raw = match[0]
            keys.append(raw if raw[0] not in "\"'" else next(iter(tomllib.loads(f"{raw} = 1"))))
            self._at = match.end()
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening not in "[{":
            match = _VALUE.match(self._text, self._at)
            assert match is not None, "tomllib has accepted this text"
            self._at = match.end()
            return
        self._at += 1
        closing = "]" if opening == "[" else "}"
        index = 0
        while self._text[self._skip(_BLANK)] != closing:
            if self._text[self._at] == ",":
                self._at += 1
            elif opening == "[":
                self._note((*path, index))
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)
        self._at += 1

    def _skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at

    def _note(self, path: Path) -> None:
        line = self._line()
        if len(path) > MAX_PARTS:
            raise _too_deep(self._name, line)
        self._lines.setdefault(path, line)

    def _line(self) -> int:
        # Counts on from the last key: counting from the start each time would take time that grows with the square.
        self._line_here += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line_here


def _too_deep(name: str, line: int) -> SettingsError:
    return SettingsError(f"{name}:{line}: expected at most {MAX_PARTS} levels of nesting, got more", code="policy")


def _dotted(path: Path) -> str:
    shown = ""
    for part in path:
        shown += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if shown else ''}{part}"
    return shown or "the policy"
