# SPDX-License-Identifier: Apache-2.0
"""The first line that changed between the texts of two policies; ``diff`` compares what they mean."""

from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Final

import msgspec

WINDOW: Final = 50  # lines that are compared after the first difference: SequenceMatcher takes time with their square
MAX_CHARS: Final = 160


class LineChange(msgspec.Struct, frozen=True, kw_only=True):
    """A line that changed: its number, its text, and whether it was removed from the older text."""

    line: int
    text: str
    removed: bool


def first_change(older: str, newer: str) -> LineChange | None:
    """Return the first line that differs, without the space around it; None if all are equal.

    An added or changed line has its number in the newer text, a removed one in the older text.

    Args:
        older: The text before.
        newer: The text after.
    """
    old, new = older.splitlines(), newer.splitlines()
    first = next((at for at, (a, b) in enumerate(zip_longest(old, new)) if a != b), None)
    if first is None:
        return None
    gone, come = old[first : first + WINDOW], new[first : first + WINDOW]
    # The first lines differ, so the first step is no equal one; what it deletes may stand on in neither text.
    tag, _, end_of_gone, _, end_of_come = SequenceMatcher(None, gone, come, autojunk=False).get_opcodes()[0]
    removed = tag == "delete"
    lines = gone[:end_of_gone] if removed else come[:end_of_come]
    # An empty line shows nothing: the first with text of the same change, if it has one.
    at = next((at for at, line in enumerate(lines) if line.strip()), 0)
    return LineChange(line=first + at + 1, text=lines[at].strip()[:MAX_CHARS], removed=removed)
