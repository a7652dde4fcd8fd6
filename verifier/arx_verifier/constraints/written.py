# SPDX-License-Identifier: Apache-2.0
"""Check what a holder writes where the holder writes it: rules, constraints and caveats made in Python.  SPEC 6, 7.

Decoding, ``msgspec.convert`` and ``msgspec.structs.replace`` do not come this way; what they read is checked where it
is compiled.  Nothing here keeps a compiled test, so that writing a rule warms no verifier's memory.
"""

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from arx_verifier.errors import AttenuationError, TokenError, shorten
from arx_verifier.jcs import encode

# msgspec would write these as text of its own choice, which no caller's argument is.
_NO_TEXT: Final = (bytes, bytearray, memoryview, datetime, date, time, timedelta)
_EXAMPLES: Final = {
    "allow": '(Rule(tool="orders.get"),)',
    "args": '{"amount": Constraint(max=20), "currency": "EUR"}',
}


class Checked(Protocol):
    """A struct that can check its operands, which its types cannot."""

    def check_written(self) -> None:
        """Refuse operands that SPEC does not allow.

        Raises:
            TokenError: Such an operand.
        """


class Written(msgspec.StructMeta):
    """The type of structs that are checked when they are called, and have the form that a verifier reads.

    A call returns lists as tuples and plain dicts as the structs that they describe.
    """

    if not TYPE_CHECKING:  # a checker is to see the members of each struct

        def __call__(self, *args: Any, **members: Any) -> Any:
            """Make the struct and check it.

            Raises:
                AttenuationError: A member that is unknown, of another type, or not allowed by SPEC 6 or 7.
            """
            try:
                made = super().__call__(*args, **members)
            except TypeError as error:
                known = ", ".join(self.__struct_fields__)
                raise AttenuationError(
                    f"{self.__name__}: expected members among {known}, by name, got {_shown(args, members)}: {error}"
                ) from error
            try:
                read = msgspec.convert(msgspec.to_builtins(made, builtin_types=_NO_TEXT), self)
                read.check_written()
                encode(read)  # half of a surrogate pair, which the types let through
            except msgspec.ValidationError as error:
                raise _of_type(self.__name__, members, error) from error
            except (TokenError, TypeError, RecursionError) as error:
                why = " ".join(str(error).split())
                raise AttenuationError(f"{self.__name__}: {why}, got {_shown(args, members)}") from error
            return read


def _of_type(name: str, members: dict[str, Any], error: msgspec.ValidationError) -> AttenuationError:
    """Write msgspec's error in the words of ARx: the member, what it takes, and what it got."""
    text, _, path = str(error).partition(" - at `$")  # such as: Expected `int`, got `str` - at `$.allow[0].open`
    place, expected = path.strip(".`"), "expected" + text.partition(", got `")[0].removeprefix("Expected")
    member = place.partition(".")[0].partition("[")[0]
    if member in _EXAMPLES:
        expected = f"expected such as {_EXAMPLES[member]}"
    got = _value(members[member]) if member in members else _shown((), members)
    return AttenuationError(f"{f'{name} {place}'.rstrip()}: {expected}, got {got}")


def _shown(args: tuple[Any, ...], members: dict[str, Any]) -> str:
    """Write a call's arguments; long ones shortened."""
    each = [*map(_value, args), *(f"{name}={_value(value)}" for name, value in members.items() if value is not None)]
    return ", ".join(each)[:400] or "nothing"


def _value(value: Any) -> str:
    if type(value) is tuple:
        return f"({', '.join(map(_value, value[:4]))}{', …' if len(value) > 4 else ',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return "{" + ", ".join([f"{_value(name)}: {_value(item)}" for name, item in list(value.items())[:4]]) + "}"
    if isinstance(value, msgspec.Struct):
        return type(value).__name__
    return shorten(value)
