# SPDX-License-Identifier: Apache-2.0
"""Names in JSON that servers of other languages take for one: Go and ASP.NET ignore their case."""

from typing import Any

from arx_verifier.errors import RequestError


def check_names(value: Any) -> None:
    """Require that no object, at any depth, has two names that differ in case alone.

    Args:
        value: Plain data of at most 32 levels.

    Raises:
        RequestError: One has: a server may read the name that no rule was applied to.
    """
    if type(value) is dict:
        if len({name.casefold() for name in value}) != len(value):
            raise RequestError("the JSON has two names in one object that differ in case alone")
        value = value.values()
    for each in value:
        if type(each) is dict or type(each) is list:
            check_names(each)
