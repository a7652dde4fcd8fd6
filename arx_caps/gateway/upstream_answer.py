# SPDX-License-Identifier: Apache-2.0
"""What the gateway reads of an upstream's answer, over HTTP or from a process, and the error of one that fails."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol


class Parts(Protocol):
    """The body of an answer."""

    def iter_any(self) -> AsyncIterator[bytes]:
        """Yield it in parts, as they come."""
        ...


class UpstreamAnswer(Protocol):
    """What the gateway reads of an answer: one of aiohttp, or of a process."""

    @property
    def status(self) -> int:
        """Its status."""
        ...

    @property
    def content_type(self) -> str:
        """The type of its content, without parameters."""
        ...

    @property
    def raw_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """Its headers."""
        ...

    @property
    def content(self) -> Parts:
        """Its body."""
        ...


class UpstreamError(Exception):
    """An upstream did not answer, or not as HTTP wants it; the text has no secret.

    Attributes:
        sent: Whether the upstream may have got the request.
        timed_out: Whether it was waited for in vain.
    """

    def __init__(self, text: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(text)
        self.sent, self.timed_out = sent, timed_out
