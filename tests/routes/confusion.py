# SPDX-License-Identifier: Apache-2.0
"""The error of all twins, and the texts that some readers take for numbers."""

import random
from decimal import Decimal
from typing import Any, Final

# Other digits of Unicode, signs, separators and exponents, which `int` and `float` of Python read, or JSON.
_CHARACTERS: Final = "0011778899..--+_eE \u0667\uff17x"
NUMBERS: Final = (
    *("007", "7.0", "7.50", "+7", "-7", "-0", "-0.0", "7_0", "1e3", "1e-7", "1E3", " 7", "7 ", "0x7", ".5", "5."),
    *("nan", "inf", "Infinity", "9007199254740991", "9007199254740992", "-9007199254740993", "0" * 40 + "7"),
    *("12345678901234567890", "12345678901234567890.5", "0.1000000000000000055", "1e400", "\u0667", "\uff17"),
)
MAX_INTEGER: Final = 2**53 - 1


def draw_number(drawn: random.Random) -> str:
    """Draw a text that a reader may take for a number."""
    if drawn.random() < 0.5:
        return drawn.choice(NUMBERS)
    return "".join(drawn.choices(_CHARACTERS, k=drawn.randint(1, 6)))


def judged_of(value: Any) -> Any:
    """Return how a parameter of the path that an endpoint got must have been judged: as that number, or as text.

    It is another formulation than that of the verifier.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)
    if isinstance(value, (float, Decimal)):
        return judged_of(int(value)) if value == int(value) else float(value)
    return str(value)


class ConfusedError(AssertionError):
    """Something ran that was not judged, or was refused without a reason."""
