# SPDX-License-Identifier: Apache-2.0
"""The thread that renews a session, or extends a task, while the process uses it.  CONTROL 2.1, 2.3.

The mint sees no tool calls, so only the process that makes them knows what is in use.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from arx_verifier.errors import ArxError, StoreError, UnavailableError

LOOKS: Final = 8  # in one span between two renewals
LEAST_S: Final = 0.02

_log = logging.getLogger(__name__)


def start_renewal(renew: Callable[[], float | None], span_s: float, over: threading.Event, *, name: str) -> None:
    """Call a method again and again, in a thread that ends with the process, the method's object or ``over``.

    Args:
        renew: A method of what is renewed, which is not kept alive by this.  It renews if that is due, and returns the
            seconds between two renewals, or None when none will follow.
        span_s: Seconds between two renewals, as far as is known.
        over: Ends the thread when set.
        name: The thread's name.
    """
    held: weakref.WeakMethod[Callable[[], float | None]] = weakref.WeakMethod(renew)
    threading.Thread(target=_renew, args=(held, span_s, over), name=name, daemon=True).start()


def passes(error: ArxError) -> bool:
    """Return whether a renewal that failed may succeed later: the mint was not there, or a freeze may be thawed."""
    return isinstance(error, StoreError | UnavailableError) or error.code == "frozen"


def _renew(held: "weakref.WeakMethod[Any]", span_s: float, over: threading.Event) -> None:
    left: float | None = span_s
    while left is not None and not over.wait(max(left / LOOKS, LEAST_S)):
        renew = held()
        # A weak reference: a running thread must not keep what the application dropped.
        if renew is None:
            return
        try:
            left = renew()
        except ArxError as error:
            # What was ended on purpose meanwhile is not reported as lost.
            if over.is_set():
                return
            # No caller waits for this thread: the next use is refused as well, with the reason.
            again = passes(error)
            _log.warning("%r %s: %s", renew.__self__, "was not renewed yet" if again else "is renewed no more", error)
            if not again:
                return
        # Or this frame would hold it until the next round, and it could not be collected meanwhile.
        del renew
