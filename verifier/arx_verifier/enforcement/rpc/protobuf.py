# SPDX-License-Identifier: Apache-2.0
"""The arguments of a call whose request is a protobuf message, for the service and for its caller.  SPEC 8.2.

This module imports no framework: it reads a message by its own reflection.
"""

from base64 import b64encode
from collections.abc import Collection
from typing import Any

from arx_verifier.errors import RequestError


def arguments_of(message: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a message by their names.

    A field that holds its default and does not track its presence is absent, as it is on the wire.  An enum is the name
    of its value, bytes are base64.

    Args:
        message: The message.
        without: Fields to leave out.

    Raises:
        RequestError: The message has fields that its type does not know, or extensions.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize():
        # The tool could pass them on, and no rule was applied to them.
        raise RequestError("the message has unknown fields")
    return {name: value for name, value in _fields(message).items() if name not in without}


def _fields(message: Any) -> dict[str, Any]:
    found = {}
    for field, value in message.ListFields():
        if field.is_extension:
            raise RequestError("the message has an extension")
        found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if hasattr(value, "items"):
        inner = field.message_type.fields_by_name["value"]
        # JSON names members by text: true, false, or the digits of an integer.
        return {_name(key): _value(inner, value[key]) for key in value}
    if hasattr(value, "ListFields"):
        return _fields(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, int):
        kind = field.enum_type
        known = None if kind is None else kind.values_by_number.get(value)
        return value if known is None else known.name
    return [_value(field, one) for one in value]


def _name(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
