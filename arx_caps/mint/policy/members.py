# SPDX-License-Identifier: Apache-2.0
"""The members of a policy's tables: what each grants or restricts, and how the file writes its value.

``settings.toml_file`` reads them; what their tables mean is in ``tables`` and its neighbours.
"""

from typing import Any, Final

import msgspec
from msgspec import Meta, inspect

from arx_caps.settings.toml_file import TomlTable, fields_of

# What one more entry of a list does, for comparisons of policies.
GRANTS: Final = Meta(extra={"entry": "grants"})
RESTRICTS: Final = Meta(extra={"entry": "restricts"})
EITHER: Final = Meta(extra={"entry": "either"})  # a warning restricts, a proof grants: shown as changed
ANY_IF_EMPTY: Final = Meta(extra={"entry": "grants", "empty": "any"})  # an empty list is no restriction
IN_TOKENS: Final = Meta(extra={"in_tokens": True})  # the mint's caveat has the member under the same name


def as_written(value: Any) -> Any:
    """Return a value as plain data with the file's names and spellings, lists as tuples."""
    if isinstance(value, TomlTable):
        return {name: shown for name, shown in members_of(value).items() if shown is not None}
    if isinstance(value, tuple):
        return tuple(map(as_written, value))
    return msgspec.json.decode(msgspec.json.encode(value))


def members_of(table: TomlTable) -> dict[str, Any]:
    """Return each member of a table, as ``as_written`` does; None for one left out."""
    members = {}
    for field, _, marks in fields_of(type(table)):
        value = getattr(table, field.name)
        members[field.encode_name] = None if value is None else marks.get("show", as_written)(value)
    return members


def marks_of(kind: type[TomlTable]) -> dict[str, dict[str, Any]]:
    """Return the marks of each member, by its name in the file; an integer is a ``limit``."""
    return {
        field.encode_name: {**marks, "limit": isinstance(form, inspect.IntType)}
        for field, form, marks in fields_of(kind)
    }


def in_tokens(table: TomlTable) -> dict[str, Any]:
    """Return the members that tokens carry, without those that restrict nothing."""
    return {
        field.name: value
        for field, _, marks in fields_of(type(table))
        if marks.get("in_tokens")
        and ((value := getattr(table, field.name)) not in (None, ()) or value != field.default)
    }


def write_member(kind: type[TomlTable], name: str, value: Any) -> Any:
    """Return a member's value as the file writes it."""
    (marks,) = [marks for field, _, marks in fields_of(kind) if field.name == name]
    shown = marks.get("show", as_written)(value)
    return list(shown) if isinstance(shown, tuple) else shown
