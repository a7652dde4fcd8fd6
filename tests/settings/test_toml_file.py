# SPDX-License-Identifier: Apache-2.0
"""Files in TOML: each class that one is read into names the line of each mistake, and shows no secret."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, inspect

from arx_caps.cli.commands.apply.services_file import ServicesFile
from arx_caps.gateway.base.settings import GatewayFile
from arx_caps.mint.policy.tables import PolicyDocument
from arx_caps.mint.tasks.policy_questions import QuestionFile
from arx_caps.settings.realm import Realm
from arx_caps.settings.toml_file import (
    MAX_MISTAKES,
    Given,
    TomlEntry,
    TomlError,
    TomlTable,
    TomlText,
    fields_of,
    member_names,
    read_toml,
)
from arx_verifier.errors import SettingsError

FILES: Final = (Realm, GatewayFile, PolicyDocument, QuestionFile, ServicesFile)
CLASSES: Final = (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)
SECRET: Final = "hunter2"


class Member(NamedTuple):
    """A member that a file may have.

    Attributes:
        kind: The class of the file.
        head: The headers of its table, and of a list's element around it.
        path: The path of the table in errors.
        name: Its name.
        form: Its type.
        is_secret: Whether it may be a secret.
        takes_text: Whether it is a list that a file may write as one text.
    """

    kind: Any
    head: str
    path: str
    name: str
    form: inspect.Type
    is_secret: bool
    takes_text: bool

    def text(self, value: str) -> tuple[str, int]:
        """Return a file with the member, and the member's line."""
        head = f"# A comment\n\n{self.head}"
        return f"{head}{self.name} = {value}\n", head.count("\n") + 1

    @property
    def place(self) -> str:
        """The path of the member in errors."""
        return f"{self.path}.{self.name}" if self.path else self.name


def members(
    kind: Any, form: Any, table: str = "", head: str = "", path: str = "", prefix: str = ""
) -> Iterator[Member]:
    """Yield each member of a class, and those of the classes inside it."""
    for field, inner, marks in fields_of(form.cls):
        name = prefix + field.encode_name.removesuffix("_ms")
        if "unwritten" in marks:
            continue
        if "prefix" in marks:
            yield from members(kind, inner, table, head, path, marks["prefix"])
            continue
        inside: Any = getattr(inner, "value_type", getattr(inner, "item_type", None))
        is_secret = "secret" in (marks | (getattr(inside, "extra", None) or {}))
        takes_text = "parse" in marks and isinstance(inner, inspect.VarTupleType)
        yield Member(kind, head, path, name, inner, is_secret, takes_text)
        below, place = f"{table}.{name}".lstrip("."), f"{path}.{name}".lstrip(".")
        around = head if head.startswith("[[") else ""
        if isinstance(inner, CLASSES):
            yield from members(kind, inner, below, f"{around}[{below}]\n", place)
        elif isinstance(inner, inspect.DictType) and isinstance(inside, CLASSES):
            yield from members(kind, inside, f"{below}.x", f"{around}[{below}.x]\n", f"{place}.x")
        elif isinstance(inside, CLASSES):
            yield from members(kind, inside, below, f"{around}[[{below}]]\n", f"{place}[1]")


MEMBERS: Final = [member for kind in FILES for member in members(kind, inspect.type_info(kind))]
# A value of each type of TOML, and which types of members take it.
VALUES: Final = {
    "1979-05-27": (),
    "0.5": (),
    "true": (inspect.BoolType,),
    "-1": (inspect.IntType,),
    '"\u00e9 no such value"': (inspect.StrType, inspect.LiteralType),
    "[]": (inspect.VarTupleType,),
    "{}": (inspect.DictType, *CLASSES),
}


def mistakes(kind: Any, text: str) -> list[TomlError]:
    """Return the mistakes of a file."""
    extra = {"folder": Path("/realm")} if kind is Realm else {}
    entry = TomlEntry(TomlText(text, "file.toml"))
    try:
        entry.read(kind, entry.text.document, **extra)
    except TomlError as error:
        return [error, *error.further]
    return []


def test_every_class_has_members() -> None:
    """The tests below are about those of all files: the tables inside tables included."""
    assert {member.kind for member in MEMBERS} == set(FILES)
    assert {"upstream.x.credential.oauth", "decider.x.actions.x", "task.x.approvals[1]", "question[1].subject", ""} <= {
        member.path for member in MEMBERS
    }
    assert len(MEMBERS) > 150
    assert sum(member.is_secret for member in MEMBERS) > 12


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{member.kind.__name__}.{member.place}")
def test_a_wrong_type_is_named_with_its_line(member: Member) -> None:
    """For each member and each type of TOML that it does not have: file, line and path, once."""
    if isinstance(member.form, inspect.AnyType):
        return
    for value, taken_by in VALUES.items():
        if not isinstance(member.form, taken_by) and not (member.takes_text and inspect.StrType in taken_by):
            text, line = member.text(value)
            place = f"file.toml:{line}: {member.place}: "
            about = [str(error) for error in mistakes(member.kind, text) if str(error).startswith(place)]
            # A part of the settings of a realm may need others beside it.
            assert sum(not error.startswith(f"{place}needs ") for error in about) == 1, (text, about)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{member.kind.__name__}.{member.place}")
def test_an_unknown_and_a_double_key_are_named_with_their_lines(member: Member) -> None:
    """The error for a key that is nearly right has the right one; for a double key, its first line."""
    text, line = member._replace(name=f"{member.name}x").text("1")
    (error,) = (error for error in mistakes(member.kind, text) if error.unknown)
    assert str(error).startswith(f"file.toml:{line}: {member.place}x: unknown key; ")
    if len(member.name) > 3:
        assert f"did you mean `{member.name}`?" in str(error)
    text, line = member.text("1")
    with pytest.raises(SettingsError) as caught:
        TomlText(f"{text}\n{member.name} = 2\n", "file.toml")
    assert str(caught.value) == (
        f"file.toml:{line + 2}: {member.place}: expected the key once, got it again; line {line} has it as well"
    )


@pytest.mark.parametrize(
    "member",
    [member for member in MEMBERS if member.is_secret],
    ids=lambda member: f"{member.kind.__name__}.{member.place}",
)
def test_no_error_shows_a_secret(member: Member) -> None:
    """Nor one of the tables around it, whatever is written in its place."""
    text, _ = member.text(f'"{SECRET}"')
    for written in (
        text,
        member.text(f'["{SECRET}"]')[0],
        member.text(f'{{ a = "{SECRET}", b = ["{SECRET}"] }}')[0],
        *(
            f'{".".join(member.place.split(".")[:depth])} = "{SECRET}"\n'
            for depth in range(1, 5)
            if "[" not in member.place
        ),
    ):
        for error in mistakes(member.kind, written):
            assert SECRET not in f"{error}{error!r}{error.__cause__}", written


class Inner(TomlTable, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=0, le=9)]
    on: bool = False


class Outer(TomlTable, frozen=True, kw_only=True):
    text: Annotated[str, Meta(min_length=1, max_length=3)] = "a"
    kind: Literal["a", "b"] = "a"
    items: Annotated[tuple[Inner, ...], Meta(max_length=2)] = ()
    numbers: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it
    inner: Inner | None = None
    any: Any = None


LEAVES = st.booleans() | st.integers(-2, 11) | st.floats(allow_nan=False) | st.sampled_from(["", "a", "b", "abcd"])
INNER = st.dictionaries(st.sampled_from(["count", "on", "no"]), LEAVES, max_size=3)
OUTER = st.fixed_dictionaries(
    {},
    optional={
        "text": LEAVES,
        "kind": LEAVES,
        "items": st.lists(INNER, max_size=3) | LEAVES,
        "numbers": st.dictionaries(st.sampled_from(["a", "b"]), LEAVES, max_size=2) | LEAVES,
        "inner": INNER | LEAVES,
        "any": LEAVES | st.just(date(2026, 1, 1)),
        "none": LEAVES,
    },
)


@given(OUTER)
def test_the_reader_takes_what_msgspec_takes_strictly(data: dict[str, Any]) -> None:
    """The same values for the same data, and a refusal for the same; a float is no integer."""
    try:
        expected = msgspec.convert(data, Outer)
    except msgspec.ValidationError:
        expected = None
    try:
        read = TomlEntry(Given(data)).read(Outer, data)
    except TomlError:
        read = None
    whole = json.dumps(data, default=str)
    # msgspec takes 1.0 for an integer.
    assert read == expected or (read is None and ".0" in whole)


def test_all_mistakes_come_together_in_the_order_of_the_file() -> None:
    """The first is the error, the others are with it; at most 20."""
    text = "text = 5\nnone = 1\nitems = [{ on = 1 }, { count = 12 }]\n[inner]\ncont = 1\n"
    with pytest.raises(TomlError) as caught:
        TomlEntry(TomlText(text, "f")).read(Outer, TomlText(text, "f").document)
    assert [str(error) for error in (caught.value, *caught.value.further)] == [
        "f:1: text: expected text in quotes, got 5",
        "f:2: none: unknown key; known here: any, inner, items, kind, numbers, text",
        "f:3: items[1].on: expected true or false, got 1",
        "f:3: items[1]: needs `count`",
        "f:3: items[2].count: expected an integer, 0 to 9, got 12",
        "f:4: inner: needs `count`",
        "f:5: inner.cont: unknown key; did you mean `count`?",
    ]
    many = {f"none{number}": 1 for number in range(50)}
    with pytest.raises(TomlError) as caught:
        TomlEntry(Given(many)).read(Outer, many)
    assert len(caught.value.further) == MAX_MISTAKES - 1


class Counted(Given):
    """Settings that count the errors about them."""

    count = 0

    def error(self, path: Any, message: str) -> TomlError:
        self.count += 1
        return super().error(path, message)


@pytest.mark.parametrize(
    "data",
    [
        {f"none{number}": 1 for number in range(500)},
        {"items": [{"on": 1, "none": 1}] * 2, "numbers": {f"a{number}": "" for number in range(500)}},
        {"items": [{}] * 2, "numbers": dict.fromkeys(map(str, range(500)), True)},
    ],
    ids=["unknown keys", "wrong values", "flags"],
)
def test_a_file_full_of_mistakes_costs_no_more(data: dict[str, Any]) -> None:
    """The search ends with the most mistakes that are shown: an error for each of a million keys would take long."""
    settings = Counted(data)
    with pytest.raises(TomlError):
        TomlEntry(settings).read(Outer, data)
    assert settings.count <= 2 * MAX_MISTAKES


DOUBLES: Final = {
    "a = 1\nb = 2\na = 3\n": (3, "a", 1),
    "[a]\n[b]\n[a]\n": (3, "a", 1),
    "a.b = 1\n\na.b = 2\n": (3, "a.b", 1),
    "a = { b = 1, c = 2, b = 3 }\n": (1, "a.b", 1),
    "a = { b = 1, c = 2, b = 3 ]]]\n": (1, "a.b", 1),
    '"a" = 1\n\'a\' = """\n\n"""\n': (4, "a", 1),
    "[[a]]\nb = 1\n[[a]]\nb = 1\nb = 2\n": (5, "a[2].b", 4),
    "[a.b]\n[a]\nc = 1\n[a.b]\n": (4, "a.b", 1),
    "[a]\nb = 1\n[a.b]\n": (3, "a.b", 2),
}


@pytest.mark.parametrize("text", DOUBLES)
def test_a_key_that_is_there_twice_is_named(text: str) -> None:
    """With both lines, in every way to write one."""
    line, key, first = DOUBLES[text]
    with pytest.raises(SettingsError) as caught:
        TomlText(text, "f")
    expected = f"f:{line}: {key}: expected the key once, got it again; line {first} has it as well"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = \n", "f:2: not TOML: Invalid value"),
        ("a = 127.0.0.1:1\n", "f:1: not TOML: Expected newline"),
        ("a = 1\n\nb = [1,\n", "f:4: not TOML: "),
        ('a = "x\n', "f:1: not TOML: Illegal character"),
        ("a.b = 1\n[a]\n", "f:2: not TOML: Cannot declare"),
        ("x = 1\na = " + "1" * 5000, "f:2: a: expected an integer that a computer word can hold"),
        ("x = 1\na = " + "[" * 5000, "f:2: expected at most 64 levels of nesting, got more"),
        ("x = 1\na = '\u202e'\n", "f:2: U+202E makes the file look different"),
    ],
)
def test_what_is_no_toml_has_its_line(text: str, message: str) -> None:
    """As far as the text has one."""
    with pytest.raises(SettingsError) as caught:
        TomlText(text, "f", code="other")
    assert str(caught.value).startswith(message)
    assert caught.value.code == "other"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, or huge."""
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    for name in ("none.toml", ".", "latin.toml", "huge.toml"):
        with pytest.raises(SettingsError, match=str(tmp_path)):
            read_toml(tmp_path / name)


def test_names_of_members() -> None:
    """As the file writes them, those of parts with their prefix, and none that the file does not have."""
    names = member_names(Realm)
    assert {"max_ttl", "agent_rate", "console_idle", "clients_unused", "login_client_secret"} <= set(names)
    assert not {"folder", "limits", "login", "max_ttl_ms"} & set(names)
