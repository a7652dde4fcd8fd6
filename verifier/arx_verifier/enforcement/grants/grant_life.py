# SPDX-License-Identifier: Apache-2.0
"""The life of a granted call: when its grant is rechecked, what a recheck ends, and what may leave.  SPEC 11.

Nothing here waits, sends, records or reads a clock: times and the results of rechecks are passed in.  ``loop_calls``
adds timers and a task, ``running_calls`` a thread; adapters report what they are about to send.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from arx_verifier.enforcement.grants.call_effect import CallEffect
from arx_verifier.errors import ArxError, UnavailableError

RECHECK_MS: Final = 250  # a quarter of the default lease: the longest delay that it adds to a kill


LifeState: TypeAlias = Literal["granted", "due", "open", "ended"]
"""What a granted call may do.

``granted``: it works, and no part of an answer leaves.  ``due``: the same, without a lease, so that no part may leave
before a recheck allows it.  ``open``: parts of an answer leave.  ``ended``: nothing may leave any more, which is final.
"""


class GrantLife(msgspec.Struct, eq=False, kw_only=True):
    """The state of one granted call.

    Attributes:
        due: From when on a recheck must allow each part of an answer, monotonic clock, s.
        state: What the call may do.
        reason: Why it was ended; None while it may go on, and of a call that was over by itself.
        effect: What its answer shows, for the record of it; None if its tool gets none.
    """

    due: float = 0.0
    state: LifeState = "granted"
    reason: ArxError | None = None
    effect: CallEffect | None = None

    def leave(self, now: float) -> bool:
        """Note that a part of an answer is about to leave; return whether a recheck must allow it first.

        Args:
            now: The time, monotonic clock, s.
        """
        if self.state == "ended":
            return False
        is_due = now >= self.due or self.state == "due"
        self.state = "open"
        return is_due

    def take(self, refused: ArxError | None, now: float, pause: float) -> bool:
        """Take the result of a recheck; return whether it ends the call.

        Args:
            refused: Why the token may not go on; None if it may.
            now: The time, monotonic clock, s.
            pause: The longest time to the next recheck, s.
        """
        if self.state == "ended":
            return False
        if refused is None:
            self.due = now + pause
            if self.state == "due":
                self.state = "granted"
            return False
        if isinstance(refused, UnavailableError) and self.state != "open":
            # No data leaves before the next recheck.  Stopping a tool half-way because the store is slow would do harm
            # and protect no data.  A kill, a freeze and the token's time still end it at once.
            self.state = "due"
            return False
        return self.finish(refused)

    def answered(self) -> None:
        """Note that the whole answer has left: what still runs sends nothing more."""
        if self.state == "open":
            self.state = "granted"

    def finish(self, reason: ArxError | None = None) -> bool:
        """End the call; return whether it had not ended before, which is true once.

        Args:
            reason: Why; None if it is over by itself.
        """
        if self.state == "ended":
            return False
        self.state, self.reason = "ended", reason
        return True
