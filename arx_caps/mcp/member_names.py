# SPDX-License-Identifier: Apache-2.0
"""Names in JSON that servers of other languages take for one: Go and ASP.NET ignore their case."""

from typing import Any, Final

from arx_verifier.errors import RequestError

# The letters whose case Unicode 16 and 17 added.  Python 3.14 folds the former, 3.11 to 3.13 neither: servers may.
_FOLDED: Final = {0x1C89: 0x1C8A, 0xA7CB: 0x0264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x019B}
_FOLDED.update({letter: letter + 0x20 for letter in range(0x10D50, 0x10D66)})
_FOLDED.update({0xA7CE: 0xA7CF, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5})
_FOLDED.update({letter: letter + 0x1B for letter in range(0x16EA0, 0x16EB9)})


def check_names(value: Any) -> None:
    """Require that no object, at any depth, has two names that differ in case alone.

    Args:
        value: Plain data of at most 32 levels.

    Raises:
        RequestError: One has: a server may read the name that no rule was applied to.
    """
    if type(value) is dict:
        if len({name.casefold().translate(_FOLDED) for name in value}) != len(value):
            raise RequestError("the JSON has two names in one object that differ in case alone")
        value = value.values()
    for each in value:
        if type(each) is dict or type(each) is list:
            check_names(each)
