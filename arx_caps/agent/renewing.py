# SPDX-License-Identifier: Apache-2.0
"""Renew what is used before its time is over, and let what is not used run out.

The mint sees no tool calls.  So a session's idle limit is the life of its token, and only the process that uses it
knows that it is at work.  A thread looks a few times in each span; it keeps no session that nobody else refers to.
"""

import logging
import threading
import weakref
from typing import Final, Protocol

from arx_verifier.errors import ArxError, StoreError, UnavailableError

LOOKS: Final = 8  # in one span between two renewals
LEAST_S: Final = 0.02

_log = logging.getLogger(__name__)


class Renewable(Protocol):
    """What can be renewed."""

    def renew_if_due(self) -> float | None:
        """Renew it if that is due; return the seconds of its span, None when it is over."""
        ...


def keep(session: Renewable, span_s: float, over: threading.Event) -> threading.Thread:
    """Renew a session by itself while it is used.

    Args:
        session: The session; not kept alive by this.
        span_s: Seconds between two renewals, as far as is known.
        over: Set when nobody needs it any more.

    Returns:
        The thread, which ends with the process, the session or ``over``.
    """
    thread = threading.Thread(
        target=_keep, args=(weakref.ref(session), span_s, over), name="arx-session-renewal", daemon=True
    )
    thread.start()
    return thread


def _keep(held: "weakref.ref[Renewable]", span_s: float, over: threading.Event) -> None:
    left: float | None = span_s
    while left is not None and not over.wait(max(left / LOOKS, LEAST_S)):
        session = held()
        if session is None:
            return
        try:
            left = session.renew_if_due()
        except (StoreError, UnavailableError) as error:
            _log.warning("%r could not be renewed yet: %s", session, error)
        except ArxError as error:
            # Nobody waits for this thread: whoever uses the session next is refused as well, and is told why.
            _log.warning("%r is not renewed any more: %s", session, error)
            return
        del session
