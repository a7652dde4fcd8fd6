# SPDX-License-Identifier: Apache-2.0
"""Read a TOML file strictly into annotated classes, and name the line of each mistake.

The annotations of a class are the grammar of its table.  The class is a struct of msgspec, a dataclass or a named
tuple; its member ``idle_ms`` is ``idle`` in the file.  What a file means beyond its form is for its own module.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Meta, Struct, inspect

from arx_caps.settings.durations import MAX_MS, format_duration, parse_duration
from arx_verifier.errors import SettingsError, shorten

KeyPath: TypeAlias = tuple[str | int, ...]

MAX_BYTES: Final = 1 << 20  # far above any file that a person could review
MAX_MISTAKES: Final = 20
# Characters that make an editor or a terminal show another text than the one that is parsed: control characters beyond
# ASCII, and marks that turn the direction of writing (CVE-2021-42574).
MISLEADING: Final = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# A dotted key of n parts takes time and memory that grow with n squared, for the lines of its prefixes.
MAX_PARTS: Final = 64  # the same number is in _LONG_KEY, which takes at most this many steps for each character

_MAX_DIGITS: Final = 4300  # of a number that Python converts
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_VALUE: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[^,\]}#\n]+', re.DOTALL
)
_LONG_KEY: Final = re.compile(
    r"""(?<![A-Za-z0-9_\\-])(?:(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}"""
)
_AT_LINE: Final = re.compile(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", re.DOTALL)


class TomlError(SettingsError):
    """A mistake at one key of a file.

    Attributes:
        path: The keys and indices that lead to it.
        line: Its line; 0 if the setting is in no file.
        unknown: Whether the key itself is unknown.
        further: The other mistakes of the file that were found with it, in the order of the file.
    """

    path: KeyPath = ()
    line: int = 0
    unknown: bool = False
    further: tuple["TomlError", ...] = ()


def raise_mistakes(mistakes: Iterable[TomlError]) -> None:
    """Raise the first mistake of a file, with the others; nothing without any.

    Args:
        mistakes: The mistakes, in any order.

    Raises:
        TomlError: The first in the file, with at most ``MAX_MISTAKES`` in all.
    """
    ordered = sorted(mistakes, key=lambda mistake: mistake.line)
    if ordered:
        ordered[0].further = tuple(ordered[1:MAX_MISTAKES])
        raise ordered[0]


class Given:
    """Settings that are in no file, such as the options of a command.

    Attributes:
        document: The settings as plain data.
        code: The code of errors.
    """

    def __init__(self, document: dict[str, Any], code: str = SettingsError.code) -> None:
        """Take the settings."""
        self.document, self.code = document, code

    def error(self, path: KeyPath, message: str) -> TomlError:
        """Return an error about one setting."""
        return self._error(path, f"invalid {_dotted(path)}: {message}")

    def line(self, path: KeyPath) -> int:  # noqa: ARG002 - a file has lines
        """Return 0."""
        return 0

    def _error(self, path: KeyPath, text: str) -> TomlError:
        error = TomlError(text, code=self.code)
        error.path, error.line = path, self.line(path)
        return error


class TomlText(Given):
    """A text in TOML: the parsed document, and the lines of its keys.

    Attributes:
        name: The file's name in errors.
        source: The text as written.
        lines: The line of each key.
    """

    def __init__(self, text: str, name: str, code: str = SettingsError.code) -> None:
        """Parse a text.

        Raises:
            SettingsError: It is not TOML, nests too deep, or has characters that misrepresent it on a screen.
        """
        super().__init__({}, code)
        self.name, self.source = name, text
        self.lines: dict[KeyPath, int] = {}
        # Before ``tomllib``, which needs time that grows with the square of a key's parts.
        long = _LONG_KEY.search(text)
        if long is not None:
            raise self.too_deep(text.count("\n", 0, long.start()) + 1)
        try:
            self.document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # Python's own for a number of too many digits
            raise self._not_toml(error) from error
        misleading = MISLEADING.search(text)
        if misleading is not None:
            number = f"{ord(misleading[0]):04x}"
            wrong = f"U+{number.upper()} makes the file look different from what it says"
            line = text.count("\n", 0, misleading.start()) + 1
            raise self._at(line, f"{wrong}; in a text, write it as \\u{number}")
        _Scan(self).run()

    def error(self, path: KeyPath, message: str) -> TomlError:
        """Return an error about one key, with file, line and the key's whole path."""
        place = f"{_dotted(path)}: " if path else ""
        return self._error(path, f"{self.name}:{self.line(path)}: {place}{message}")

    def line(self, path: KeyPath) -> int:
        """Return the line of a key, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def too_deep(self, line: int) -> SettingsError:
        """Return the error about a line whose keys or values have too many levels."""
        return self._at(line, f"expected at most {MAX_PARTS} levels of nesting, got more")

    def _at(self, line: int, message: str) -> SettingsError:
        return SettingsError(f"{self.name}:{line}: {message}", code=self.code)

    def _not_toml(self, error: Exception) -> SettingsError:
        match = _AT_LINE.match(str(error))
        line = int(match[2] or self.source.count("\n") + 1) if match is not None else None
        # Before the error the text is TOML: the key can be named.
        scan = _Scan(self, last=line)
        with suppress(_NotTomlError):
            scan.run()
        if match is None and scan.huge is not None:
            return self.error(scan.huge, "expected an integer that a computer word can hold, got thousands of digits")
        if match is None:
            return SettingsError(f"{self.name}: not TOML: {error}", code=self.code)
        if scan.double is not None:
            key, first = _dotted(scan.double), self.line(scan.double)
            wrong = f"expected the key once, got it again; line {first} has it as well"
            return self._error(scan.double, f"{self.name}:{line}: {key}: {wrong}")
        return self._at(line or 1, f"not TOML: {match[1]}")


class TomlTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a file: a field for each member, with the member's name or ``name=``."""


class TomlEntry(NamedTuple):
    """An entry of a file, for errors about it.

    Attributes:
        text: The file's text, or settings without a file.
        path: The keys and indices that lead to the entry; empty for the whole file.
    """

    text: Given
    path: KeyPath = ()

    def at(self, *path: str | int) -> "TomlEntry":
        """Return an entry inside this one."""
        return TomlEntry(self.text, (*self.path, *path))

    def error(self, message: str) -> TomlError:
        """Return an error about this entry, with file, line and the key's whole path."""
        return self.text.error(self.path, message)

    def read(self, kind: Any, data: Any, **given: Any) -> Any:
        """Convert the entry's data to a class or another type.

        Args:
            kind: An annotated class, or another type that a TOML value can have.
            data: The entry as plain data.
            **given: Members that the file does not write, such as a table's name.

        Raises:
            TomlError: A member is unknown or missing, or has a value that its type does not allow; with all others.
        """
        reading = _Reading()
        value = reading.value(self, _form(kind), data, given)
        raise_mistakes(reading.mistakes)
        return value

    def unknown_keys(
        self, written: Iterable[str], known: Collection[str], hints: Mapping[str, str] = MappingProxyType({})
    ) -> list[TomlError]:
        """Return an error for each of the first unknown keys, with the nearest known one, or all of them.

        Args:
            written: The keys.
            known: The known ones.
            hints: What to write instead of a key of another language.
        """
        # An ignored key may have been meant as a restriction.
        errors: list[TomlError] = []
        for key in written:
            # To find the nearest of many keys takes long: an operator could keep a mint busy with unknown ones.
            if key not in known and len(errors) < MAX_MISTAKES:
                near = get_close_matches(key, known, 1, 0.75)
                meant = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(sorted(known))}"
                error = self.at(key).error(f"unknown key; {hints.get(key, meant)}")
                error.unknown = True
                errors.append(error)
        return errors


SECRET: Final = Meta(extra={"secret": True})  # a text that no error shows, nor the tables around it
UNWRITTEN: Final = Meta(extra={"unwritten": True})  # not in the file: a table's name, or given by its reader
REPEATABLE: Final = Meta(extra={"repeatable": True})  # a list that may have a text twice


def checked_text(mistake: Callable[[str], str | None]) -> Meta:
    """Return the mark of a text type that ``mistake`` checks; it returns None for a valid text."""
    return Meta(extra={"mistake": mistake})


def text_that(fits: Callable[[str], object], expected: str) -> Meta:
    """Return the mark of a text type that passes a test.

    Args:
        fits: The test; a true result accepts the text.
        expected: What errors say was expected.
    """
    return Meta(extra={"mistake": lambda text: None if fits(text) else "", "expected": expected})


def duration(*, least: int = 1, most: int = MAX_MS) -> Meta:
    """Return the mark of an integer of ms that a file writes as a duration.

    Args:
        least: The smallest value, ms.
        most: The largest value, ms.
    """
    return Meta(ge=least, le=most, extra={"parse": _parse_duration, "show": format_duration})


def several(what: str, hint: str, most: int | None = None) -> Meta:
    """Return the mark of a list or a table that must not be empty.

    Args:
        what: What an element is.
        hint: An example, or the way to leave the member out.
        most: The most elements.
    """
    size = f" with at least one {what}" if most is None else f" with 1 to {most} {what}s"
    return Meta(min_length=1, max_length=most, extra={"size": size, "hint": f"; {hint}"})


def part(prefix: str) -> Meta:
    """Return the mark of a class whose members are in the table around it, all with a prefix.

    Args:
        prefix: The prefix; may be empty.
    """
    return Meta(extra={"prefix": prefix})


def synonyms(words: Mapping[str, str]) -> Meta:
    """Return the mark of a class for whose members a file may have other words.

    Args:
        words: What to write instead of each.
    """
    return Meta(extra={"synonyms": words})


def read_toml(path: Path | str, code: str = SettingsError.code) -> TomlText:
    """Read and parse a TOML file.

    Args:
        path: The file.
        code: The code of errors about it.

    Raises:
        SettingsError: The file cannot be read, is not UTF-8, exceeds 1 MiB, or is not TOML.
    """
    try:
        raw = Path(path).read_bytes()
        text = raw.decode()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", code=code) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 (byte {error.start})", code=code) from error
    if len(raw) > MAX_BYTES:
        raise SettingsError(f"{path}: expected at most {MAX_BYTES} bytes, got {len(raw)}", code=code)
    return TomlText(text, str(path), code)


def member_names(kind: Any) -> list[str]:
    """Return the names that a file writes for the members of a class, those of its parts included."""
    return _names(_form(kind))


def fields_of(kind: Any) -> list[tuple[inspect.Field, inspect.Type, dict[str, Any]]]:
    """Return each field of a class with its type and its marks."""
    return _fields(_form(kind))


def _bare(form: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """Return a type without its marks, and the marks; of an optional type, the type."""
    if isinstance(form, inspect.Metadata):
        inner, marks = _bare(form.type)
        return inner, {**marks, **(form.extra or {})}
    if isinstance(form, inspect.UnionType):
        return _bare(next(member for member in form.types if not isinstance(member, inspect.NoneType)))
    return form, {}


class _Reading:
    """A conversion, which goes on after a mistake to find the others."""

    def __init__(self) -> None:
        self.mistakes: list[TomlError] = []

    def value(self, entry: TomlEntry, form: inspect.Type, data: Any, given: Mapping[str, Any] = {}) -> Any:
        """Return a value as its type, or anything after a mistake."""
        if len(self.mistakes) >= MAX_MISTAKES:
            return None
        whole, (form, marks) = form, _bare(form)
        try:
            parsed = marks["parse"](data) if "parse" in marks else data
            wrong = marks["mistake"](data) if "mistake" in marks and isinstance(data, str) else None
        except ValueError as error:
            return self._refuse(entry, str(error))
        if wrong is not None:
            return self._refuse(entry, wrong or f"expected {marks['expected']}; got {_shown(whole, data)}")
        if not _fits(form, parsed):
            wanted = f"expected {_describe(form, marks)}, got {_shown(whole, data)}"
            return self._refuse(entry, wanted + marks.get("hint", ""))
        if isinstance(form, inspect.VarTupleType):
            return self._items(entry, form, parsed, "repeatable" in marks)
        if isinstance(form, inspect.DictType):
            is_named = any(
                field.name == "name" and "unwritten" in marks for field, _, marks in _fields(form.value_type)
            )
            return {
                self.value(entry.at(key), form.key_type, key): self.value(
                    entry.at(key), form.value_type, item, {"name": key} if is_named else {}
                )
                for key, item in parsed.items()
            }
        if not isinstance(form, _CLASSES):
            return parsed
        hints = dict(marks.get("synonyms", {}))
        if "name" in given:
            dotted = (key for key, item in parsed.items() if isinstance(item, dict))
            hints |= {key: f'a name with a dot is in quotes: "{given["name"]}.{key}"' for key in dotted}
        self.mistakes += entry.unknown_keys(parsed, _names(form), hints)
        return self._members(entry, form, parsed, given)

    def _items(self, entry: TomlEntry, form: inspect.VarTupleType, items: list[Any], repeatable: bool) -> Any:
        first: dict[str, int] = {}
        for index, item in enumerate(items):
            # A repeated entry is most likely a mistyped other one.
            if isinstance(item, str) and first.setdefault(item, index) != index and not repeatable:
                self._refuse(entry.at(index), f"{_shown(form.item_type, item)} is listed twice")
        return tuple(self.value(entry.at(index), form.item_type, item) for index, item in enumerate(items))

    def _members(
        self, entry: TomlEntry, form: Any, table: Mapping[str, Any], given: Mapping[str, Any], prefix: str = ""
    ) -> Any:
        before, missing, hint, members = len(self.mistakes), [], "", dict(given)
        for field, inner, marks in _fields(form):
            name = _name(field, prefix)
            if field.name in given:
                if isinstance(inner, inspect.StrType):
                    self.value(entry, field.type, given[field.name])
            elif "prefix" in marks:
                if not table.keys().isdisjoint(_names(inner, marks["prefix"])):
                    members[field.name] = self._members(entry, inner, table, {}, marks["prefix"])
            elif name in table:
                members[field.name] = self.value(entry.at(name), field.type, table[name])
            elif field.required:
                missing.append(f"`{name}`")
                hint = marks.get("hint", "")
        if missing:
            written = [name for name in _names(form, prefix) if name in table] if prefix else []
            self._refuse(entry.at(*written[:1]), f"needs {', '.join(missing)}{hint if len(missing) == 1 else ''}")
        return form.cls(**members) if len(self.mistakes) == before else None

    def _refuse(self, entry: TomlEntry, message: str) -> None:
        self.mistakes.append(entry.error(message))


@cache
def _form(kind: Any) -> Any:
    return inspect.type_info(kind)


def _fields(form: Any) -> list[tuple[inspect.Field, inspect.Type, dict[str, Any]]]:
    return [(field, *_bare(field.type)) for field in getattr(form, "fields", ())]


_CLASSES: Final = (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)
_SHAPES: Final[tuple[tuple[Any, type, str], ...]] = (
    (inspect.StrType, str, "text in quotes"),
    (inspect.BoolType, bool, "true or false"),
    (inspect.IntType, int, "an integer"),
    (inspect.LiteralType, str, "one of"),
    (inspect.VarTupleType, list, "a list"),
    ((inspect.DictType, *_CLASSES), dict, "a table"),
    (inspect.AnyType, object, "a value"),
)


def _shape(form: inspect.Type) -> tuple[type, str]:
    """Return the Python type of a value as ``tomllib`` returns it, and what it is called."""
    # A type that is not listed is an error of the program: the value would not be checked.
    return next((kind, noun) for forms, kind, noun in _SHAPES if isinstance(form, forms))


def _fits(form: Any, value: Any) -> bool:
    """Return whether a value has the shape and the size that a type asks for; of its parts nothing is checked."""
    kind, _ = _shape(form)
    if kind is not object and type(value) is not kind:
        return False
    if isinstance(form, inspect.LiteralType):
        return value in form.values
    if isinstance(form, inspect.IntType):
        least, most, size = form.ge, form.le, value
    elif hasattr(form, "min_length"):
        least, most, size = form.min_length, form.max_length, len(value)
    else:
        return True
    return (least is None or size >= least) and (most is None or size <= most)


def _describe(form: Any, marks: Mapping[str, Any]) -> str:
    _, noun = _shape(form)
    if isinstance(form, inspect.LiteralType):
        return f"{f'{noun} ' * (len(form.values) > 1)}{', '.join(map(shorten, form.values))}"
    if isinstance(form, inspect.IntType):
        least, most, show = form.ge, form.le, marks.get("show", str)
        noun = "a duration" if "show" in marks else noun
        return noun if least is None else f"{noun}, {show(least)} {'or more' if most is None else f'to {show(most)}'}"
    return f"{noun}{marks.get('size', '')}"


def _names(form: Any, prefix: str = "") -> list[str]:
    names = []
    for field, inner, marks in _fields(form):
        if "unwritten" not in marks:
            names += _names(inner, marks["prefix"]) if "prefix" in marks else [_name(field, prefix)]
    return names


def _name(field: inspect.Field, prefix: str = "") -> str:
    return prefix + field.encode_name.removesuffix("_ms")


def _hides(form: inspect.Type) -> bool:
    """Return whether a value of a type, or a part of one, may be a secret."""
    inner, marks = _bare(form)
    inside = [getattr(inner, part) for part in ("item_type", "value_type") if hasattr(inner, part)]
    inside += [field.type for field, *_ in _fields(inner)]
    return "secret" in marks or any(map(_hides, inside))


def _shown(form: inspect.Type, value: Any) -> str:
    """Return a value for an error; of one that may be a secret, what kind of value it is."""
    kinds: dict[type, str] = {str: "a text that is not shown", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a number, a flag or a time") if _hides(form) else shorten(value)


def _parse_duration(value: Any) -> int:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; got {shorten(value)}") from error


class _NotTomlError(Exception):
    """The text is not TOML here."""


def _quoted_key(raw: str) -> str:
    try:
        return next(iter(tomllib.loads(f"{raw} = 1")))
    except ValueError as error:  # such as an escape of half a character
        raise _NotTomlError from error


class _Scan:
    """Walk a text as far as it is TOML, and record the line of every key, which ``tomllib`` discards.

    Attributes:
        double: The first key that is there twice; None in a text that ``tomllib`` accepts.
        huge: The first key of a number with more digits than Python converts; None in such a text.
    """

    def __init__(self, text: TomlText, last: int | None = None) -> None:
        # As ``tomllib`` reads it: one character for each end of a line.
        self._text, self._toml, self._last = text.source.replace("\r\n", "\n"), text, last
        self.double: KeyPath | None = None
        self.huge: KeyPath | None = None
        self._at = 0
        self._counted, self._line_here = 0, 1
        self._counts: dict[KeyPath, int] = {}
        self._whole: set[KeyPath] = set()

    def run(self) -> None:
        base: KeyPath = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                base = self._header()
            else:
                self._pair(base)

    def _header(self) -> KeyPath:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        path: KeyPath = ()
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
        self._define(path)
        return path

    def _pair(self, base: KeyPath) -> None:
        path = base
        for key in self._keys():
            path = (*path, key)
            self._note(path)
        self._define(path)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            raw = self._match(_KEY)
            keys.append(raw if raw[0] not in "\"'" else _quoted_key(raw))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        opening = self._next()
        if opening not in "[{":
            if len(self._match(_VALUE)) > _MAX_DIGITS and opening in "+-0123456789":
                self.huge = self.huge or path
            return
        self._at += 1
        closing = "]" if opening == "[" else "}"
        index = 0
        while self._next(_BLANK) != closing:
            if self._text[self._at] == ",":
                self._at += 1
            elif opening == "[":
                self._note((*path, index))
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)
        self._at += 1

    def _next(self, skipped: re.Pattern[str] = _SPACE) -> str:
        if self._skip(skipped) >= len(self._text):
            raise _NotTomlError
        return self._text[self._at]

    def _skip(self, what: re.Pattern[str]) -> int:
        self._match(what)
        return self._at

    def _match(self, what: re.Pattern[str]) -> str:
        match = what.match(self._text, self._at)
        if match is None:
            raise _NotTomlError
        self._at = match.end()
        return match[0]

    def _note(self, path: KeyPath) -> None:
        line = self._line()
        if len(path) > MAX_PARTS:
            raise self._toml.too_deep(line)
        if self._last is not None and line > self._last:
            raise _NotTomlError
        self._toml.lines.setdefault(path, line)

    def _define(self, path: KeyPath) -> None:
        if path in self._whole and self.double is None:
            self.double = path
        self._whole.add(path)

    def _line(self) -> int:
        # Counts on from the last key: counting from the start each time would take time that grows with the square.
        self._line_here += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line_here


def _dotted(path: KeyPath) -> str:
    shown = ""
    for step in path:
        shown += f"[{step + 1}]" if isinstance(step, int) else f"{'.' if shown else ''}{step}"
    return shown
