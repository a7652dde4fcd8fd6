# SPDX-License-Identifier: Apache-2.0
"""Read a policy's TOML so that a mistake is told with its file, line and key.

``tomllib`` reads the text; a small scan beside it remembers the line of each key.  A ``Section`` hands out a table's
members by name and type, and refuses what nobody asked for: a key that is not understood could have been a restriction.
What the members mean is left to ``policy`` and ``templates``.
"""

import re
import tomllib
from typing import Any, Final, TypeAlias

from arx_caps.durations import parse_duration
from arx_verifier.errors import SettingsError, shorten

Path: TypeAlias = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_VALUE: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[^,\]}#\n]+', re.DOTALL
)
# What makes an editor or a terminal show another text than the one that is read: control characters beyond ASCII, and
# marks that turn the direction of writing (CVE-2021-42574).
MISLEADING: Final = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# No policy nests deeper.  A key of n parts takes n squared of time to read and of room for the lines of its beginnings.
MAX_PARTS: Final = 64  # as _LONG_KEY says, whose own work is at most so many times the text
_LONG_KEY: Final = re.compile(
    r"""(?<![A-Za-z0-9_\\-])(?:(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}"""
)
_AT_LINE: Final = re.compile(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", re.DOTALL)


class PolicyText:
    """A policy's text, read: the document, and where its keys stand.

    Attributes:
        name: What errors call the file.
        document: The whole document as plain data.
        source: The text as it was written.
    """

    def __init__(self, text: str, name: str) -> None:
        """Read *text*.

        Raises:
            SettingsError: It is not TOML, nests too deep, or has characters that would show it as something else than
                it is.
        """
        self.name, self.source = name, text
        self._lines: dict[Path, int] = {}
        long = _LONG_KEY.search(text)
        if long is not None:
            raise _too_deep(name, text.count("\n", 0, long.start()) + 1)
        try:
            self.document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            told = _AT_LINE.match(str(error))
            line = f":{told[2] or text.count(chr(10)) + 1}" if told else ""
            raise SettingsError(f"{name}{line}: not TOML: {told[1] if told else error}", code="policy") from error
        misleading = MISLEADING.search(text)
        if misleading is not None:
            at, number = text.count("\n", 0, misleading.start()) + 1, f"{ord(misleading[0]):04x}"
            said = f"U+{number.upper()} would have the policy shown otherwise than it is read"
            raise SettingsError(f"{name}:{at}: {said}; in a text, write it as \\u{number}", code="policy")
        _Scan(text, name, self._lines).run()

    def error(self, path: Path, message: str) -> SettingsError:
        """Make the error of one key: file, line, the key's full name, and what to do."""
        return SettingsError(f"{self.name}:{self.line(path)}: {_dotted(path)}: {message}", code="policy")

    def line(self, path: Path) -> int:
        """Return the line of a key, or of the nearest thing around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


class Section:
    """One table of a policy.  Each member is taken once; ``finish`` refuses the rest."""

    def __init__(self, text: PolicyText, path: Path, data: Any) -> None:
        self._text = text
        self.path = path
        if not isinstance(data, dict):
            raise text.error(path, f"expected a table, came {shorten(data)}")
        self._data = dict(data)
        self._known: list[str] = []

    def error(self, key: str | int | None, message: str) -> SettingsError:
        """Make an error about one member, or with None about the table."""
        return self._text.error(self.path if key is None else (*self.path, key), message)

    def inner(self, path: Path, data: Any) -> "Section":
        """Read a table inside this one."""
        return Section(self._text, (*self.path, *path), data)

    def take(self, key: str, default: Any = ...) -> Any:
        """Take a member, whatever it is.

        Raises:
            SettingsError: It is missing and there is no default.
        """
        self._known.append(key)
        if key in self._data:
            return self._data.pop(key)
        if default is ...:
            raise self.error(None, f"needs `{key}`")
        return default

    def take_text(self, key: str, default: Any = ...) -> Any:
        """Take a member that is text."""
        return self._typed(key, default, str, "text in quotes")

    def take_flag(self, key: str, *, default: bool = False) -> bool:
        """Take a member that is ``true`` or ``false``."""
        flag = self.take(key, default)
        if flag is not False and flag is not True:
            raise self.error(key, f"expected true or false, came {shorten(flag)}")
        return flag

    def take_integer(self, key: str, default: Any, most: int, *, least: int = 0) -> Any:
        """Take a member that is an integer from *least* to *most*."""
        value = self._typed(key, default, int, f"an integer, {least} to {most}")
        if value is default:
            return value
        if not least <= value <= most:
            raise self.error(key, f"expected an integer, {least} to {most}, came {value}")
        return value

    def take_duration(self, key: str, default: Any = ..., *, least: int = 1, most: int | None = None) -> Any:
        """Take a duration.

        Args:
            key: The member's name.
            default: What it is when it is not written.
            least: The shortest allowed, ms.
            most: The longest allowed, ms.

        Returns:
            Milliseconds, or *default*.
        """
        value = self.take(key, default)
        if value is default and default is not ...:
            return value
        try:
            length = parse_duration(value)
        except ValueError as error:
            raise self.error(key, f"{error}; came {shorten(value)}") from error
        if length < least or (most is not None and length > most):
            limit = f"at most {most} ms" if most is not None and length > most else f"at least {least} ms"
            raise self.error(key, f"must be {limit}; came {shorten(value)}")
        return length

    def take_texts(self, key: str, default: Any = ...) -> Any:
        """Take a list of text without repetitions, as a tuple."""
        value = self._typed(key, default, list, 'a list such as ["a", "b"]')
        if value is default:
            return value
        seen: set[str] = set()
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise self._text.error((*self.path, key, index), f"expected text in quotes, came {shorten(item)}")
            if item in seen:
                raise self._text.error((*self.path, key, index), f"{shorten(item)} is listed twice")
            seen.add(item)
        return tuple(value)

    def take_sections(self, key: str) -> list[tuple[str, "Section"]]:
        """Take a table of named tables; none at all is an empty list."""
        return self.sections(key, self.take(key, {}))

    def sections(self, key: str, tables: Any) -> list[tuple[str, "Section"]]:
        """Read a table of named tables that was taken."""
        if not isinstance(tables, dict):
            raise self.error(key, f"expected tables such as [{key}.name], came {shorten(tables)}")
        return [(name, self.inner((key, name), data)) for name, data in tables.items()]

    def take_list(self, key: str, example: str) -> list["Section"]:
        """Take a list of tables; none at all is an empty list.

        Args:
            key: The member's name.
            example: How one is written.
        """
        written = self.take(key, None)
        if written is None:
            return []
        if not isinstance(written, list) or not written:
            raise self.error(key, f"expected tables such as {example}, came {shorten(written)}")
        return [self.inner((key, index), data) for index, data in enumerate(written)]

    def finish(self) -> None:
        """Refuse what was not taken.

        Raises:
            SettingsError: A key that is not known here; the known ones are listed.
        """
        for key in self._data:
            raise self.error(key, f"unknown key; known here: {', '.join(sorted(set(self._known)))}")

    def _typed(self, key: str, default: Any, kind: type, wanted: str) -> Any:
        value = self.take(key, default)
        if value is default and default is not ...:
            return value
        if type(value) is not kind:  # not isinstance: true is no integer
            raise self.error(key, f"expected {wanted}, came {shorten(value)}")
        return value


class _Scan:
    """Walk text that ``tomllib`` has accepted, and note the line of every key."""

    def __init__(self, text: str, name: str, lines: dict[Path, int]) -> None:
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
        keys = self._keys()
        for index, key in enumerate(keys):
            path = (*path, key)
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
        # Counted on from where it was: from the beginning for each key, a long policy would take its length squared.
        self._line_here += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line_here


def _too_deep(name: str, line: int) -> SettingsError:
    return SettingsError(
        f"{name}:{line}: nested more than {MAX_PARTS} deep, which nothing in a policy is", code="policy"
    )


def _dotted(path: Path) -> str:
    shown = ""
    for part in path:
        shown += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if shown else ''}{part}"
    return shown or "the policy"
