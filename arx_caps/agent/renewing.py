# SPDX-License-Identifier: Apache-2.0
"""Renew what is used before its time is over, and let what is not used run out.

The mint sees no tool calls, so a session's idle limit is the life of its token; who knows that a session is at work is
the process it works in.  A thread looks a few times in each span; it holds no session alive that nobody else holds.
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
            # What is refused now is refused to whoever uses the session, who is told so then.
            _log.warning("%r is not renewed any more: %s", session, error)
            return
        del session
