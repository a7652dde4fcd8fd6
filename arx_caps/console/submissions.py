# SPDX-License-Identifier: Apache-2.0
"""Forms that must not act twice: a click that is repeated while the first answer is on its way."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

FORMS: Final = 1000  # whose outcome is remembered
_Outcome = TypeVar("_Outcome")


class Submissions(Generic[_Outcome]):
    """What came of the forms of one page, by the number that each has and all that was typed into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, tuple[threading.Lock, list[_Outcome]]] = OrderedDict()

    def once(self, form: Iterable[str], make: Callable[[], _Outcome]) -> _Outcome:
        """Return what ``make`` returned for this form, and call it if nothing did; an error is not kept.

        Args:
            form: Who sent it, its number, and what it says: the browser's Back shows a form with its old number, in
                which something else may be typed.
            make: Does what the form asks for.
        """
        sent = hashlib.sha256("\0".join(form).encode()).hexdigest()
        with self._lock:
            turn, made = self._made.setdefault(sent, (threading.Lock(), []))
            while len(self._made) > FORMS:
                self._made.popitem(last=False)
        with turn:
            if not made:
                made.append(make())
            return made[0]
