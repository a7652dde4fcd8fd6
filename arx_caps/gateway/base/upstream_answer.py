# SPDX-License-Identifier: Apache-2.0
"""What the gateway reads of an upstream's answer, over HTTP or from a process, and the error of one that fails."""

import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, Protocol

_QUIET_S: Final = 60.0

_log = logging.getLogger(__name__)


class Parts(Protocol):
    """The body of an answer."""

    def iter_any(self) -> AsyncIterator[bytes]:
        """Yield it in parts, as they come."""


class UpstreamAnswer(Protocol):
    """What the gateway reads of an answer: one of aiohttp, or of a process."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def content_type(self) -> str:
        """The type of its content, without parameters."""

    @property
    def raw_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Its headers."""

    @property
    def content(self) -> Parts:
        """Its body."""


class UpstreamError(Exception):
    """An upstream did not answer, or not as HTTP wants it; the text has no secret.

    Attributes:
        sent: Whether the upstream may have got the request.
        timed_out: Whether it was waited for in vain.
        why: The cause, for the gateway's log and for no client; it has no secret either.
    """

    def __init__(self, text: str, *, sent: bool, timed_out: bool = False, why: str = "") -> None:
        super().__init__(text)
        self.sent, self.timed_out, self.why = sent, timed_out, why


class LendingError(UpstreamError):
    """A call that needs a person's account has none, or was refused for it; the text is for the model and the person.

    Attributes:
        code: Its code, such as ``connection_missing``.
        status: The status of an answer of plain HTTP.
        data: Further members of a problem: the link, the scopes.
        wait_s: After how many seconds it may be tried again; 0 if a wait changes nothing.
    """

    def __init__(
        self, text: str, code: str, status: int, data: Mapping[str, Any], *, wait_s: int = 0, sent: bool = False
    ) -> None:
        super().__init__(text, sent=sent)
        self.code, self.status, self.data, self.wait_s = code, status, data, wait_s


class FailureLog:
    """Writes the failures of one upstream to the log, each once a minute: its clients may call it often."""

    def __init__(self) -> None:
        self._again_at: dict[str, float] = {}  # monotonic clock, s; by the texts of the errors, which are few

    def note(self, error: UpstreamError) -> None:
        """Write an error.

        Args:
            error: The error of a call.
        """
        text, now = str(error), time.monotonic()
        if now >= self._again_at.get(text, 0.0):
            self._again_at[text] = now + _QUIET_S
            _log.error("%s%s", text, f": {error.why}" if error.why else "")
